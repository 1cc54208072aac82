//! What the bits of the board mean, and when.
//!
//! While tracking, a trampoline sets the bit of a block before it makes the call, and [`Source::collect`] takes it.
//!
//! In the drain it sets none: a call goes by if the bits of its blocks are set, and is notified if not; and we set them, when a
//! notified call has met nothing that it must wait for, and nothing would be noted of it a second time ([`Source::settled`]). Saved is saved, so they
//! are never taken back.
//!
//! Between the two lies a hold. From its beginning all is notified; its grace has seen everybody outside, and what they had marked was
//! collected after that, before the point in time was fixed. So when the bits are *sealed* there are none, and nobody is inside who has read
//! that they were not. A bit that is there all the same, then or later, was set by somebody of whom nothing is known (a child that was forked by a
//! handler amid a stub, say): it is told as a change that nobody delivered, which fails the backup where it matters.

use std::sync::atomic::Ordering;

use hotbackup_event::{Effect, FileId};

use super::source::{Maps, Source, Stage};
use crate::shared::board::{BLOCK, stamp};

/// A trampoline lets go by what changes no more blocks than this.
const MOST_BLOCKS: u64 = 2;

impl Source {
    /// The copier comes to the next stage. A hold may lead back to tracking; nothing leads back from a drain.
    pub fn set_stage(&self, stage: Stage) {
        if stage == Stage::Drain {
            self.seal();
        }
        self.change(|state| state.stage = stage);
    }

    fn seal(&self) {
        let mut maps = self.maps();
        for (_, words) in &maps.files {
            self.board.bits[words.start - 1].store(1, Ordering::SeqCst);
        }
        let late = self.take_bits(&maps);
        (maps.sealed, maps.late) = (true, late);
    }

    /// Whether calls may be [settled](Self::settled).
    pub fn is_draining(&self) -> bool {
        self.state().stage == Stage::Drain
    }

    /// These bytes of a file are saved, or do not belong to the backup; and that they may be changed is noted.
    pub fn settled(&self, file: FileId, start: u64, end: u64) {
        let blocks = start / BLOCK..end.div_ceil(BLOCK);
        if blocks.end.saturating_sub(blocks.start) > MOST_BLOCKS {
            return;
        }
        let mut maps = self.maps();
        let maps = &mut *maps;
        // The board may be another's by now, if this comes very late.
        if !maps.sealed || !self.board.word.is_by(stamp(self.control)) {
            return;
        }
        for &index in maps.by_file.get(&file).into_iter().flatten() {
            let words = &self.board.bits[maps.files[index as usize].1.clone()];
            let ours = maps.settled.entry(index).or_insert_with(|| vec![0; words.len()]);
            for block in blocks.clone() {
                let (at, bit) = ((block / 64) as usize, 1 << (block % 64));
                if let Some(word) = words.get(at) {
                    ours[at] |= bit;
                    word.fetch_or(bit, Ordering::SeqCst);
                }
            }
        }
    }

    /// What has been marked since the last time; in the drain, what has been that should not.
    pub fn collect(&self) -> Vec<Effect> {
        let mut maps = self.maps();
        if !maps.sealed {
            return self.take_bits(&maps);
        }
        let mut effects = std::mem::take(&mut maps.late);
        for (index, (file, words)) in maps.files.iter().enumerate() {
            let ours = maps.settled.get(&(index as u32));
            for (at, word) in self.board.bits[words.clone()].iter().enumerate() {
                let foreign = word.load(Ordering::SeqCst) & !ours.map_or(0, |ours| ours[at]);
                if foreign != 0 {
                    let start = at as u64 * 64 * BLOCK;
                    effects.push(Effect::Content { file: *file, start, end: start + 64 * BLOCK });
                }
            }
        }
        effects
    }

    fn take_bits(&self, maps: &Maps) -> Vec<Effect> {
        let mut effects = Vec::new();
        for (file, words) in &maps.files {
            let mut run: Option<(u64, u64)> = None;
            let mut end_run = |run: &mut Option<(u64, u64)>| {
                if let Some((first, last)) = run.take() {
                    effects.push(Effect::Content { file: *file, start: first * BLOCK, end: (last + 1) * BLOCK });
                }
            };
            for (index, word) in self.board.bits[words.clone()].iter().enumerate() {
                if word.load(Ordering::SeqCst) == 0 {
                    continue;
                }
                let mut bits = word.swap(0, Ordering::SeqCst);
                while bits != 0 {
                    let block = index as u64 * 64 + u64::from(bits.trailing_zeros());
                    bits &= bits - 1;
                    match &mut run {
                        Some((_, last)) if *last + 1 == block => *last = block,
                        run => {
                            end_run(run);
                            *run = Some((block, block));
                        }
                    }
                }
            }
            end_run(&mut run);
        }
        effects
    }
}
