//! Which blocks of a file the backup still lacks.
//!
//! Two bits a block. *Due*: the backup does not hold what the source holds. *Busy*: somebody is at it; in a pass the
//! blocks taken for copying, in the drain the blocks claimed to be read. A call that changes a block in a pass makes
//! it due again while it is still busy, so the two are independent of one another. Blocks beyond the end of the map
//! have no bits: they are due by definition, because they are born due when the map grows. What is due or busy is
//! *lacking*. A third bit, only in the drain, tells what the source need not show any more as the backup holds it.
use std::ops::Range;

/// The unit of tracking in bytes. Larger copies more than was changed, smaller takes more memory and more calls;
/// WiredTiger writes 4 to 128 KiB at a time.
pub(crate) const BLOCK: u64 = 64 << 10;

/// How many blocks hold `size` bytes.
fn blocks_of(size: u64) -> u64 {
    size.div_ceil(BLOCK)
}

#[derive(Debug, Default)]
pub(crate) struct BlockMap {
    size: u64,
    due: Bits,
    busy: Bits,
    /// What was claimed, and what calls that came after the point in time may have changed. Nothing in most files.
    later: Option<Box<Bits>>,
}

impl BlockMap {
    /// A file nobody has looked at: everything is due.
    pub fn new(size: u64) -> Self {
        let mut map = Self::default();
        map.resize(size);
        map
    }

    /// Takes over the file's size. What it grew by is due, and so is the block that used to be the last and was not
    /// full: the backup's copy of it ends where the file did, whatever the source shows there now.
    /// Returns by how many the blocks lacking became more.
    pub fn resize(&mut self, size: u64) -> i64 {
        let before = self.lacking(0..self.end());
        let (old, new) = (self.size, blocks_of(size));
        self.due.resize(new);
        self.busy.resize(new);
        if let Some(later) = &mut self.later {
            later.resize(new);
        }
        if size > old {
            self.due.set(old / BLOCK..new);
        }
        self.size = size;
        self.lacking(0..new) as i64 - before as i64
    }

    /// The size last taken over.
    pub fn size(&self) -> u64 {
        self.size
    }

    fn end(&self) -> u64 {
        blocks_of(self.size)
    }

    /// The blocks that a range of bytes touches, as far as the map goes.
    pub fn touched(&self, start: u64, end: u64) -> Range<u64> {
        let first = (start / BLOCK).min(self.end());
        let last = if start < end { blocks_of(end).min(self.end()) } else { first };
        first..last.max(first)
    }

    /// Makes blocks due. Returns how many were not lacking.
    pub fn mark(&mut self, blocks: Range<u64>) -> u64 {
        let all = blocks.end - blocks.start;
        let before = self.lacking(blocks.clone());
        self.due.set(blocks);
        all - before
    }

    /// How many blocks are due.
    pub fn due(&self) -> u64 {
        self.due.count()
    }

    /// How many of these are due or busy.
    fn lacking(&self, blocks: Range<u64>) -> u64 {
        self.due.count_with(&self.busy, blocks)
    }

    /// Whether nothing is due and nobody is at anything.
    pub fn is_clean(&self) -> bool {
        !self.is_open(0..self.end())
    }

    /// Whether any of these is due or busy.
    pub fn is_open(&self, blocks: Range<u64>) -> bool {
        self.due.any(blocks.clone()) || self.busy.any(blocks)
    }

    /// Whether any of these is busy.
    pub fn is_busy(&self, blocks: Range<u64>) -> bool {
        self.busy.any(blocks)
    }

    /// Pass: everything due becomes busy instead. Returns how many blocks.
    pub fn take(&mut self) -> u64 {
        debug_assert!(!self.busy.any(0..self.end()), "one pass at a time");
        let taken = self.due.count();
        self.busy = std::mem::take(&mut self.due);
        self.due.resize(self.end());
        taken
    }

    /// Pass: what was taken and not copied is due again.
    pub fn put_back(&mut self) {
        while let Some(run) = self.busy.next_run(0..self.end(), u64::MAX) {
            self.due.set(run.clone());
            self.busy.clear(run);
        }
    }

    /// The first run of busy blocks in a range, at most `max` blocks long.
    pub fn busy_run(&self, within: Range<u64>, max: u64) -> Option<Range<u64>> {
        self.busy.next_run(within, max)
    }

    /// The first run of due blocks in a range, at most `max` blocks long.
    pub fn due_run(&self, within: Range<u64>, max: u64) -> Option<Range<u64>> {
        self.due.next_run(within, max)
    }

    /// Drain: these blocks, all of them due, are ours to read.
    pub fn claim(&mut self, blocks: Range<u64>) {
        let cleared = self.due.clear(blocks.clone());
        let claimed = self.busy.set(blocks.clone());
        debug_assert_eq!((cleared, claimed), (blocks.end - blocks.start, cleared), "a claim on blocks not due");
        self.changes_later(blocks);
    }

    /// Drain: a call that came after the point in time may change these.
    pub fn changes_later(&mut self, blocks: Range<u64>) {
        if !blocks.is_empty() {
            let end = self.end();
            let later = self.later.get_or_insert_with(|| {
                let mut none = Bits::default();
                none.resize(end);
                Box::new(none)
            });
            later.set(blocks);
        }
    }

    /// Drain: of one word of blocks, those that the backup has held since before the point in time and that no call is
    /// known to have changed since they were copied: the source still shows them.
    fn kept_of(&self, word: u64) -> u64 {
        let later = self.later.as_ref().map_or(0, |later| later.as_slice()[word as usize]);
        let (due, busy) = (self.due.as_slice()[word as usize], self.busy.as_slice()[word as usize]);
        !(due | busy | later) & mask(word, &(0..self.end()))
    }

    /// How many such blocks there are.
    pub fn kept(&self) -> u64 {
        words(&(0..self.end())).map(|word| u64::from(self.kept_of(word).count_ones())).sum()
    }

    /// One of them, by its number among them.
    pub fn nth_kept(&self, mut n: u64) -> Option<u64> {
        for word in words(&(0..self.end())) {
            let mut bits = self.kept_of(word);
            let count = u64::from(bits.count_ones());
            if n < count {
                for _ in 0..n {
                    bits &= bits - 1;
                }
                return Some(word * 64 + u64::from(bits.trailing_zeros()));
            }
            n -= count;
        }
        None
    }

    /// Whether this is one of them.
    pub fn is_kept(&self, block: u64) -> bool {
        block < self.end() && self.kept_of(block / 64) & (1 << (block % 64)) != 0
    }

    /// Copied, or read: nobody is at these any more. Returns how many are no longer lacking: not those that were marked since.
    pub fn done(&mut self, blocks: Range<u64>) -> u64 {
        let end = self.end();
        let blocks = blocks.start.min(end)..blocks.end.min(end);
        let before = self.lacking(blocks.clone());
        self.busy.clear(blocks.clone());
        before - self.lacking(blocks)
    }
}

/// A set of block numbers. Most files have no more than 64 blocks, and then it takes no memory of its own.
#[derive(Debug)]
enum Bits {
    Few(u64),
    Many(Box<[u64]>),
}

impl Default for Bits {
    fn default() -> Self {
        Self::Few(0)
    }
}

/// The bits of word `word` that lie in `range`.
fn mask(word: u64, range: &Range<u64>) -> u64 {
    let low = range.start.max(word * 64) - word * 64;
    let high = range.end.min(word * 64 + 64) - word * 64;
    if high - low == 64 { u64::MAX } else { ((1 << (high - low)) - 1) << low }
}

/// The words that hold a range of bits.
fn words(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { range.start / 64..range.end.div_ceil(64) }
}

impl Bits {
    fn as_slice(&self) -> &[u64] {
        match self {
            Self::Few(word) => std::slice::from_ref(word),
            Self::Many(words) => words,
        }
    }

    fn as_mut(&mut self) -> &mut [u64] {
        match self {
            Self::Few(word) => std::slice::from_mut(word),
            Self::Many(words) => words,
        }
    }

    /// Room for `len` bits; bits beyond are dropped, new ones are clear.
    fn resize(&mut self, len: u64) {
        let count = len.div_ceil(64).max(1) as usize;
        if count != self.as_slice().len() {
            let mut words = self.as_slice().to_vec();
            words.resize(count, 0);
            *self = if count == 1 { Self::Few(words[0]) } else { Self::Many(words.into()) };
        }
        let last = (count as u64 - 1) * 64;
        self.as_mut()[count - 1] &= if len > last { mask(last / 64, &(last..len)) } else { 0 };
    }

    fn set(&mut self, range: Range<u64>) -> u64 {
        let all = self.as_mut();
        words(&range).fold(0, |added, word| {
            let (bits, mask) = (&mut all[word as usize], mask(word, &range));
            let new = mask & !*bits;
            *bits |= mask;
            added + u64::from(new.count_ones())
        })
    }

    fn clear(&mut self, range: Range<u64>) -> u64 {
        let all = self.as_mut();
        words(&range).fold(0, |cleared, word| {
            let (bits, mask) = (&mut all[word as usize], mask(word, &range));
            let old = mask & *bits;
            *bits &= !mask;
            cleared + u64::from(old.count_ones())
        })
    }

    fn any(&self, range: Range<u64>) -> bool {
        words(&range).any(|word| self.as_slice()[word as usize] & mask(word, &range) != 0)
    }

    fn count(&self) -> u64 {
        self.as_slice().iter().map(|word| u64::from(word.count_ones())).sum()
    }

    /// How many bits of a range are set here or there.
    fn count_with(&self, other: &Self, range: Range<u64>) -> u64 {
        let both = words(&range).map(|word| {
            let bits = self.as_slice()[word as usize] | other.as_slice()[word as usize];
            u64::from((bits & mask(word, &range)).count_ones())
        });
        both.sum()
    }

    /// The first bit at or after `range.start` that is set (or clear), or `range.end`.
    fn find(&self, range: Range<u64>, set: bool) -> u64 {
        for word in words(&range) {
            let bits = self.as_slice()[word as usize];
            let hits = if set { bits } else { !bits } & mask(word, &range);
            if hits != 0 {
                return word * 64 + u64::from(hits.trailing_zeros());
            }
        }
        range.end
    }

    fn next_run(&self, within: Range<u64>, max: u64) -> Option<Range<u64>> {
        let start = self.find(within.clone(), true);
        if start >= within.end {
            return None;
        }
        let end = self.find(start..within.end.min(start.saturating_add(max)), false);
        Some(start..end)
    }
}

#[cfg(test)]
#[path = "blockmap_tests.rs"]
mod tests;
