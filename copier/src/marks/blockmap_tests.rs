use super::*;
use proptest::prelude::*;

/// What one block is, the slow and obvious way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct State {
    due: bool,
    busy: bool,
}

#[derive(Debug, Clone)]
enum Op {
    Resize(u64),
    SameSize,
    Mark(u64, u64),
    Take,
    PutBack,
    Done(u64, u64),
    ClaimNext(u64, u64, u64),
}

fn op() -> impl Strategy<Value = Op> {
    // Up to 200 blocks, so that there is one word and several, and ends that are not multiples of a block.
    let bytes = 0..200 * BLOCK;
    prop_oneof![
        bytes.clone().prop_map(Op::Resize),
        Just(Op::SameSize),
        (bytes.clone(), bytes.clone()).prop_map(|(a, b)| Op::Mark(a, b)),
        bytes.clone().prop_map(|a| Op::Mark(a, u64::MAX)),
        bytes.clone().prop_map(|a| Op::Mark(a, a)),
        Just(Op::Take),
        Just(Op::PutBack),
        (0..200u64, 0..200u64).prop_map(|(a, b)| Op::Done(a.min(b), a.max(b))),
        (bytes.clone(), bytes, 1..20u64).prop_map(|(a, b, max)| Op::ClaimNext(a, b, max)),
    ]
}

/// The same, on one state a block.
#[derive(Default)]
struct Oracle {
    size: u64,
    blocks: Vec<State>,
}

impl Oracle {
    fn resize(&mut self, size: u64) {
        let old = self.size;
        self.blocks.resize(size.div_ceil(BLOCK) as usize, State { due: true, busy: false });
        if size > old && !old.is_multiple_of(BLOCK) {
            self.blocks[(old / BLOCK) as usize].due = true;
        }
        self.size = size;
    }

    fn lacking(&self) -> i64 {
        self.blocks.iter().filter(|b| b.due || b.busy).count() as i64
    }

    fn touched(&self, start: u64, end: u64) -> Vec<usize> {
        (0..self.blocks.len()).filter(|b| (*b as u64 + 1) * BLOCK > start && (*b as u64) * BLOCK < end).collect()
    }

    /// The first run of due blocks among these.
    fn due_run(&self, among: &[usize], max: u64) -> Vec<usize> {
        let due = |b: &&usize| self.blocks[**b].due;
        among.iter().skip_while(|b| !due(b)).take_while(due).take(max as usize).copied().collect()
    }
}

proptest! {
    #[test]
    fn the_map_is_what_one_state_a_block_would_be(ops in prop::collection::vec(op(), 1..60)) {
        let (mut map, mut oracle) = (BlockMap::new(0), Oracle::default());
        for op in ops {
            let before = oracle.lacking();
            // By how many the blocks that are lacking became more.
            let mut counted = 0;
            match op {
                Op::Resize(size) => {
                    counted = map.resize(size);
                    oracle.resize(size);
                }
                Op::SameSize => counted = map.resize(oracle.size),
                Op::Mark(start, end) => {
                    let blocks = map.touched(start, end);
                    let expected = if start < end { oracle.touched(start, end) } else { vec![] };
                    prop_assert_eq!(blocks.clone().map(|b| b as usize).collect::<Vec<_>>(), expected.clone());
                    counted = map.mark(blocks) as i64;
                    expected.into_iter().for_each(|b| oracle.blocks[b].due = true);
                }
                Op::Take => {
                    if oracle.blocks.iter().all(|b| !b.busy) {
                        let due = oracle.blocks.iter().filter(|b| b.due).count();
                        prop_assert_eq!(map.take(), due as u64);
                        oracle.blocks.iter_mut().for_each(|b| *b = State { due: false, busy: b.due });
                    }
                }
                Op::PutBack => {
                    map.put_back();
                    oracle.blocks.iter_mut().for_each(|b| *b = State { due: b.due | b.busy, busy: false });
                }
                Op::Done(start, end) => {
                    counted = -(map.done(start..end) as i64);
                    oracle.blocks.iter_mut().take(end as usize).skip(start as usize).for_each(|b| b.busy = false);
                }
                Op::ClaimNext(start, end, max) => {
                    let among = if start < end { oracle.touched(start, end) } else { vec![] };
                    let run = map.due_run(map.touched(start, end), max);
                    let expected = oracle.due_run(&among, max);
                    prop_assert_eq!(
                        run.clone().unwrap_or(0..0).map(|b| b as usize).collect::<Vec<_>>(), expected.clone()
                    );
                    let free = expected.iter().all(|b| !oracle.blocks[*b].busy);
                    if let Some(run) = run && free {
                        map.claim(run);
                        expected.into_iter().for_each(|b| oracle.blocks[b] = State { due: false, busy: true });
                    }
                }
            }
            let due = oracle.blocks.iter().filter(|b| b.due).count() as u64;
            prop_assert_eq!(counted, oracle.lacking() - before);
            prop_assert_eq!(map.due(), due);
            prop_assert_eq!(map.size(), oracle.size);
            for (b, state) in oracle.blocks.iter().enumerate() {
                let b = b as u64;
                prop_assert_eq!(map.is_busy(b..b + 1), state.busy);
                prop_assert_eq!(map.is_open(b..b + 1), state.busy || state.due);
            }
            let busy = oracle.blocks.iter().take_while(|b| !b.busy).count();
            let run = oracle.blocks[busy..].iter().take(3).take_while(|b| b.busy).count();
            let expected = (run > 0).then(|| busy as u64..(busy + run) as u64);
            prop_assert_eq!(map.busy_run(0..oracle.blocks.len() as u64, 3), expected);
            prop_assert_eq!(map.is_clean(), oracle.blocks.iter().all(|b| *b == State::default()));
        }
    }
}

#[test]
fn a_file_of_64_blocks_takes_no_memory_of_its_own() {
    assert!(matches!(BlockMap::new(64 * BLOCK).due, Bits::Few(u64::MAX)));
    assert!(matches!(BlockMap::new(64 * BLOCK + 1).due, Bits::Many(_)));
}

#[test]
fn growing_makes_the_rest_of_the_last_block_due() {
    let mut map = BlockMap::new(BLOCK + 10);
    map.take();
    map.done(0..2);
    assert_eq!(map.resize(BLOCK + 20), 1);
    assert_eq!(map.due_run(0..2, 9), Some(1..2));
}

/// Blocks that the backup holds as the source still shows them.
fn kept(map: &BlockMap) -> Vec<u64> {
    let all: Vec<u64> = (0..map.kept()).map_while(|n| map.nth_kept(n)).collect();
    assert_eq!((all.len() as u64, map.nth_kept(map.kept())), (map.kept(), None));
    let by_block: Vec<u64> = (0..map.end() + 2).filter(|block| map.is_kept(*block)).collect();
    assert_eq!(all, by_block);
    all
}

#[test]
fn kept_is_what_was_copied_and_neither_claimed_nor_changed_later() {
    for blocks in [6, 64, 65, 200] {
        let mut map = BlockMap::new(blocks * BLOCK - 1);
        assert!(kept(&map).is_empty());
        map.take();
        assert!(kept(&map).is_empty());
        map.done(0..blocks);
        assert_eq!(kept(&map), (0..blocks).collect::<Vec<_>>());
        map.mark(1..2);
        assert_eq!(kept(&map), [0].into_iter().chain(2..blocks).collect::<Vec<_>>());
        map.claim(1..2);
        map.done(1..2);
        assert_eq!(kept(&map), [0].into_iter().chain(2..blocks).collect::<Vec<_>>());
        map.changes_later(blocks - 2..blocks);
        assert_eq!(kept(&map), [0].into_iter().chain(2..blocks - 2).collect::<Vec<_>>());
        // Nobody looks at that in a pass, but it must not stand in the way.
        map.resize((blocks + 70) * BLOCK);
        map.take();
        map.done(0..blocks + 70);
        assert_eq!(kept(&map), [0].into_iter().chain(2..blocks - 2).chain(blocks..blocks + 70).collect::<Vec<_>>());
    }
}
