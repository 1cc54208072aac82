//! A set of block numbers.
//!
//! Most files have no more than 64 blocks, and then it takes no memory of its own. Else it is held in chunks: those that
//! are empty take nothing, those that are full are runs, however long, and only those that are neither have their bits. So
//! a file of 4 EiB that nobody has written to takes as much as one of 5 MiB, and each place where it was written to
//! takes a chunk at most.
use std::collections::BTreeMap;
use std::ops::Range;

/// Words in a chunk: 1024 blocks, that is, 64 MiB of a file in 128 bytes. Smaller ones take more memory for their places,
/// larger ones more where few blocks in each are set.
const WORDS: u64 = 16;
const CHUNK: u64 = WORDS * 64;

type Words = [u64; WORDS as usize];

#[derive(Debug)]
pub(crate) enum Bits {
    Few(u64),
    Many(Box<Chunks>),
}

/// No chunk is in both, and none of the mixed is empty or full.
#[derive(Debug, Default)]
pub(crate) struct Chunks {
    /// Runs of chunks that are full: where each begins, and ends. No two meet.
    full: BTreeMap<u64, u64>,
    mixed: BTreeMap<u64, Box<Words>>,
}

impl Default for Bits {
    fn default() -> Self {
        Self::Few(0)
    }
}

/// The bits of word `word` that lie in `range`.
fn mask(word: u64, range: &Range<u64>) -> u64 {
    let low = range.start.clamp(word * 64, word * 64 + 64) - word * 64;
    let high = range.end.clamp(word * 64, word * 64 + 64) - word * 64;
    match high.saturating_sub(low) {
        0 => 0,
        64 => u64::MAX,
        bits => ((1 << bits) - 1) << low,
    }
}

/// A chunk, or a run of chunks that are the same.
enum View<'a> {
    Same(u64),
    Mixed(&'a Words),
}

impl Chunks {
    /// What a chunk holds, and up to which chunk it goes on like that.
    fn view(&self, chunk: u64) -> (View<'_>, u64) {
        if let Some((_, end)) = self.full.range(..=chunk).next_back()
            && *end > chunk
        {
            return (View::Same(u64::MAX), *end);
        }
        let next = self.mixed.range(chunk..).next();
        if let Some((at, words)) = next
            && *at == chunk
        {
            return (View::Mixed(words), chunk + 1);
        }
        let full = self.full.range(chunk..).next().map_or(u64::MAX, |(at, _)| *at);
        (View::Same(0), next.map_or(u64::MAX, |(at, _)| *at).min(full))
    }

    /// A run of whole chunks is full, or empty.
    fn fill(&mut self, chunks: Range<u64>, full: bool) {
        if chunks.is_empty() {
            return;
        }
        let mixed: Vec<u64> = self.mixed.range(chunks.clone()).map(|(at, _)| *at).collect();
        mixed.iter().for_each(|at| drop(self.mixed.remove(at)));
        // Runs that meet these chunks, neighbours included where they grow together.
        let (mut start, mut end) = (chunks.start, chunks.end);
        let before = self.full.range(..chunks.start).next_back().map(|(at, end)| (*at, *end));
        if let Some((at, to)) = before
            && to >= chunks.start
        {
            self.full.remove(&at);
            if full {
                (start, end) = (at, end.max(to));
            } else {
                self.insert(at..chunks.start);
                self.insert(chunks.end..to);
            }
        }
        let inside: Vec<(u64, u64)> = self.full.range(chunks.start..=chunks.end).map(|(at, end)| (*at, *end)).collect();
        for (at, to) in inside {
            if !full && at == chunks.end {
                continue;
            }
            self.full.remove(&at);
            if full {
                end = end.max(to);
            } else {
                self.insert(chunks.end..to);
            }
        }
        if full {
            self.insert(start..end);
        }
    }

    fn insert(&mut self, run: Range<u64>) {
        if !run.is_empty() {
            self.full.insert(run.start, run.end);
        }
    }

    /// Changes some bits of one chunk. Returns how many changed.
    fn change(&mut self, chunk: u64, range: &Range<u64>, set: bool) -> u64 {
        let mut words = match self.view(chunk).0 {
            View::Same(all) if (all != 0) == set => return 0,
            View::Same(all) => [all; WORDS as usize],
            View::Mixed(words) => *words,
        };
        let mut changed = 0;
        for (index, bits) in words.iter_mut().enumerate() {
            let mask = mask(chunk * WORDS + index as u64, range);
            changed += u64::from((mask & if set { !*bits } else { *bits }).count_ones());
            *bits = if set { *bits | mask } else { *bits & !mask };
        }
        if changed == 0 {
            return 0;
        }
        if words.iter().all(|bits| *bits == 0) || words.iter().all(|bits| *bits == u64::MAX) {
            self.fill(chunk..chunk + 1, set);
        } else {
            match self.mixed.get_mut(&chunk) {
                Some(old) => **old = words,
                None => {
                    if !set {
                        self.fill(chunk..chunk + 1, false);
                    }
                    self.mixed.insert(chunk, Box::new(words));
                }
            }
        }
        changed
    }

    fn change_all(&mut self, range: Range<u64>, set: bool) -> u64 {
        if range.is_empty() {
            return 0;
        }
        let whole = range.start.div_ceil(CHUNK)..range.end / CHUNK;
        if whole.start >= whole.end {
            let (first, last) = (range.start / CHUNK, (range.end - 1) / CHUNK);
            let changed = self.change(first, &range, set);
            return changed + if last > first { self.change(last, &range, set) } else { 0 };
        }
        let mut changed = 0;
        if range.start < whole.start * CHUNK {
            changed += self.change(whole.start - 1, &range, set);
        }
        if range.end > whole.end * CHUNK {
            changed += self.change(whole.end, &range, set);
        }
        let inside = whole.start * CHUNK..whole.end * CHUNK;
        let mut there = 0;
        self.scan(inside.clone(), |bits, words| {
            there += u64::from(bits.count_ones()) * words;
            None::<()>
        });
        changed += if set { inside.end - inside.start - there } else { there };
        self.fill(whole, set);
        changed
    }

    fn scan<T>(&self, range: Range<u64>, mut found: impl FnMut(u64, u64) -> Option<T>) -> Option<T> {
        walk(&[Side::Many(self)], range, &mut found)
    }
}

impl Bits {
    /// Room for `len` bits; bits beyond are dropped, new ones are clear.
    pub fn resize(&mut self, len: u64) {
        match self {
            Self::Few(bits) => {
                *bits &= mask(0, &(0..len));
                if len > 64 {
                    let mut chunks = Chunks::default();
                    let mut words = [0; WORDS as usize];
                    words[0] = *bits;
                    if *bits != 0 {
                        chunks.mixed.insert(0, Box::new(words));
                    }
                    *self = Self::Many(Box::new(chunks));
                }
            }
            Self::Many(chunks) => {
                chunks.change_all(len..u64::MAX / CHUNK * CHUNK, false);
                if len <= 64 {
                    let first = chunks.mixed.get(&0).map_or(0, |words| words[0]);
                    *self = Self::Few(first);
                }
            }
        }
    }

    pub fn set(&mut self, range: Range<u64>) -> u64 {
        self.change(range, true)
    }

    pub fn clear(&mut self, range: Range<u64>) -> u64 {
        self.change(range, false)
    }

    fn change(&mut self, range: Range<u64>, set: bool) -> u64 {
        match self {
            Self::Few(bits) => {
                let mask = mask(0, &range);
                let changed = (mask & if set { !*bits } else { *bits }).count_ones();
                *bits = if set { *bits | mask } else { *bits & !mask };
                u64::from(changed)
            }
            Self::Many(chunks) => chunks.change_all(range, set),
        }
    }

    pub fn any(&self, range: Range<u64>) -> bool {
        scan(&[self], range, |bits, _| (bits != 0).then_some(())).is_some()
    }

    /// How many bits of a range are set.
    pub fn count(&self, range: Range<u64>) -> u64 {
        let mut count = 0;
        scan(&[self], range, |bits, words| {
            count += u64::from(bits.count_ones()) * words;
            None::<()>
        });
        count
    }

    /// The first bit at or after `range.start` that is set (or clear), or `range.end`.
    fn find(&self, range: Range<u64>, set: bool) -> u64 {
        let mut word = range.start / 64;
        let found = scan(&[self], range.clone(), |bits, words| {
            // What lies outside of the range reads as clear.
            let hits = if set { bits } else { !bits & if words == 1 { mask(word, &range) } else { u64::MAX } };
            if hits != 0 {
                return Some(word * 64 + u64::from(hits.trailing_zeros()));
            }
            word += words;
            None
        });
        found.unwrap_or(range.end)
    }

    pub fn next_run(&self, within: Range<u64>, max: u64) -> Option<Range<u64>> {
        let start = self.find(within.clone(), true);
        if start >= within.end {
            return None;
        }
        let end = self.find(start..within.end.min(start.saturating_add(max)), false);
        Some(start..end)
    }
}

/// Goes through the words that hold a range, in order: what the sets together hold of it (bits outside are clear), and how
/// many words in a row hold just that. Ends when `found` says something. Takes as many steps as there is to tell apart.
pub(crate) fn scan<T>(sets: &[&Bits], range: Range<u64>, mut found: impl FnMut(u64, u64) -> Option<T>) -> Option<T> {
    if range.is_empty() {
        return None;
    }
    let mut sides = [Side::Few(0), Side::Few(0), Side::Few(0)];
    assert!(sets.len() <= sides.len(), "no more sets than there are");
    for (side, bits) in sides.iter_mut().zip(sets) {
        *side = match bits {
            Bits::Few(bits) => Side::Few(*bits),
            Bits::Many(chunks) => Side::Many(chunks),
        };
    }
    walk(&sides[..sets.len()], range, &mut found)
}

enum Side<'a> {
    Few(u64),
    Many(&'a Chunks),
}

fn walk<T>(sides: &[Side<'_>], range: Range<u64>, found: &mut impl FnMut(u64, u64) -> Option<T>) -> Option<T> {
    let (mut word, last) = (range.start / 64, range.end.div_ceil(64));
    while word < last {
        let (chunk, mut end) = (word / WORDS, u64::MAX);
        let (mut same, mut few, mut mixed) = (0, 0, [None; 3]);
        for (side, mixed) in sides.iter().zip(&mut mixed) {
            match side {
                // All of it is in the first word.
                Side::Few(bits) => {
                    few |= bits;
                    end = end.min(if word == 0 { 1 } else { u64::MAX });
                }
                Side::Many(chunks) => {
                    let (view, to) = chunks.view(chunk);
                    end = end.min(to.saturating_mul(WORDS));
                    match view {
                        View::Same(bits) => same |= bits,
                        View::Mixed(words) => *mixed = Some(words),
                    }
                }
            }
        }
        end = end.min(last);
        while word < end {
            let mut bits = same | if word == 0 { few } else { 0 };
            bits = mixed.iter().flatten().fold(bits, |bits, words| bits | words[(word % WORDS) as usize]);
            // Whole words that are all the same are one step; the first and the last may be cut.
            let whole = mask(word, &range) == u64::MAX && mixed.iter().all(Option::is_none);
            let words = if whole { (end.min(range.end / 64) - word).max(1) } else { 1 };
            if let Some(found) = found(bits & mask(word, &range), words) {
                return Some(found);
            }
            word += words;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const LEN: u64 = 6 * CHUNK + 100;

    fn ends() -> impl Strategy<Value = (u64, u64)> {
        let edge = prop_oneof![0..LEN, (0..7u64).prop_map(|n| n * CHUNK), (0..LEN / 64).prop_map(|n| n * 64)];
        (edge.clone(), edge).prop_map(|(a, b)| (a.min(b), a.max(b)))
    }

    proptest! {
        #[test]
        fn it_is_the_set_of_numbers_that_it_says(
            ops in prop::collection::vec((0..4u8, ends()), 1..40), looks in prop::collection::vec(ends(), 8)
        ) {
            let (mut bits, mut oracle, mut len) = (Bits::default(), BTreeSet::new(), LEN);
            bits.resize(len);
            for (kind, (start, end)) in ops {
                let range = start.min(len)..end.min(len);
                let before = oracle.len() as u64;
                match kind {
                    0 | 1 => {
                        let added = bits.set(range.clone());
                        oracle.extend(range);
                        prop_assert_eq!(added, oracle.len() as u64 - before);
                    }
                    2 => {
                        let gone = bits.clear(range.clone());
                        oracle.retain(|n| !range.contains(n));
                        prop_assert_eq!(gone, before - oracle.len() as u64);
                    }
                    _ => {
                        len = end;
                        bits.resize(len);
                        oracle.retain(|n| *n < len);
                        // Room again.
                        len = LEN;
                        bits.resize(len);
                    }
                }
                for (start, end) in &looks {
                    let range = *start..*end;
                    let inside = oracle.range(range.clone()).count() as u64;
                    prop_assert_eq!(bits.count(range.clone()), inside);
                    prop_assert_eq!(bits.any(range.clone()), inside > 0);
                    let first = oracle.range(range.clone()).next().copied();
                    let run = first.map(|first| {
                        let run = (first..range.end.min(first + 70)).take_while(|n| oracle.contains(n)).count() as u64;
                        first..first + run
                    });
                    prop_assert_eq!(bits.next_run(range, 70), run);
                }
                if let Bits::Many(chunks) = &bits {
                    prop_assert!(chunks.mixed.values().all(|w| w.iter().any(|b| *b != 0) && w.iter().any(|b| *b != !0)));
                    let runs: Vec<_> = chunks.full.iter().collect();
                    prop_assert!(runs.windows(2).all(|two| two[0].1 < two[1].0));
                }
            }
        }
    }

    #[test]
    fn four_exbibytes_take_no_more_than_what_is_told_apart() {
        let blocks = 1_u64 << 46;
        let mut bits = Bits::default();
        bits.resize(blocks);
        assert_eq!(bits.set(0..blocks), blocks);
        assert_eq!(bits.clear(1 << 40..(1 << 40) + 3), 3);
        assert_eq!(bits.next_run(0..blocks, u64::MAX), Some(0..1 << 40));
        assert_eq!(bits.next_run(1 << 40..blocks, u64::MAX), Some((1 << 40) + 3..blocks));
        assert_eq!(bits.count(0..blocks), blocks - 3);
        let Bits::Many(chunks) = &bits else { panic!("few") };
        assert_eq!((chunks.full.len(), chunks.mixed.len()), (2, 1));
    }
}
