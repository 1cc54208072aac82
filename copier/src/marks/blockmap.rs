//! Which blocks of a file the backup still lacks.
//!
//! Two bits a block. *Due*: the backup does not hold what the source holds. *Busy*: somebody is at it; in a pass the
//! blocks taken for copying, in the drain the blocks claimed to be read. A call that changes a block in a pass makes
//! it due again while it is still busy, so the two are independent of one another. Blocks beyond the end of the map
//! have no bits: they are due by definition, because they are born due when the map grows. What is due or busy is
//! *lacking*. A third bit, only in the drain, tells what the source need not show any more as the backup holds it.
//!
//! A map takes memory by what happened to a file, not by how long it says it is (`bits`).
use super::bits::{Bits, scan};
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
        let (old, new) = (self.size, blocks_of(size));
        // Nothing changes before the block that holds the nearer of both ends.
        let from = old.min(size) / BLOCK;
        let before = self.lacking(from..self.end().max(from));
        self.due.resize(new);
        self.busy.resize(new);
        if let Some(later) = &mut self.later {
            later.resize(new);
        }
        if size > old {
            self.due.set(old / BLOCK..new);
        }
        self.size = size;
        self.lacking(from..new.max(from)) as i64 - before as i64
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
        self.due.count(0..self.end())
    }

    /// How many of these are due or busy.
    fn lacking(&self, blocks: Range<u64>) -> u64 {
        let mut count = 0;
        scan(&[&self.due, &self.busy], blocks, |bits, words| {
            count += u64::from(bits.count_ones()) * words;
            None::<()>
        });
        count
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
        let taken = self.due();
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

    /// Drain: a look at the blocks that the backup has held since before the point in time and that no call is known to have
    /// changed since they were copied: the source still shows them. What is lacking, or may be another by now, is not
    /// among them.
    fn not_kept(&self) -> Vec<&Bits> {
        [&self.due, &self.busy].into_iter().chain(self.later.as_deref()).collect()
    }

    /// How many such blocks there are.
    pub fn kept(&self) -> u64 {
        let mut others = 0;
        scan(&self.not_kept(), 0..self.end(), |bits, words| {
            others += u64::from(bits.count_ones()) * words;
            None::<()>
        });
        self.end() - others
    }

    /// One of them, by its number among them.
    pub fn nth_kept(&self, mut n: u64) -> Option<u64> {
        let mut word = 0;
        let found = scan(&self.not_kept(), 0..self.end(), |bits, words| {
            let each = u64::from(bits.count_zeros());
            if n >= each * words {
                n -= each * words;
                word += words;
                return None;
            }
            // Where `each` is 0 that was so.
            word += n / each;
            let mut clear = !bits;
            for _ in 0..n % each {
                clear &= clear - 1;
            }
            Some(word * 64 + u64::from(clear.trailing_zeros()))
        });
        // The last word has bits beyond the end.
        found.filter(|block| *block < self.end())
    }

    /// Whether this is one of them.
    pub fn is_kept(&self, block: u64) -> bool {
        block < self.end() && !self.not_kept().iter().any(|bits| bits.any(block..block + 1))
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

#[cfg(test)]
#[path = "blockmap_tests.rs"]
mod tests;
