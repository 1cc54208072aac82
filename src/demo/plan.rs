//! What a thread of the demo writer does, step by step: one changing system call a step, all of it fixed by the
//! seed. The writer carries the plan out; the checker replays it on a [`Tree`](super::tree::Tree) in memory. So for any directory there
//! is an exact answer to the question whether it is the state after some step.
//!
//! One property keeps the checker's search short: the newest record survives every step until the next record
//! is written. Steps that destroy records (truncate, punch, unlink) never touch the newest one.
use std::borrow::Cow;
use std::collections::VecDeque;

use super::record::mix;

/// A path relative to the thread's directory.
pub type Name = Cow<'static, str>;

/// Files that are overwritten in place, as a database does with its tables.
pub const TABLES: [&str; 3] = ["table-0", "table-1", "table-2"];
/// A file that grows by vectored writes and is cut, grown by truncation and emptied.
pub const SPILL: &str = "spill";
/// The log segment that records are appended to.
pub const LOG: &str = "log/current";
/// Directory of the log segments.
pub const LOG_DIR: &str = "log";

/// Slots that a hole punch covers: one 4 KiB page.
pub const PUNCHED: u64 = 8;
const SEGMENT_RECORDS: u64 = 64;
const SEGMENTS_KEPT: u64 = 4;
const DIRS_KEPT: u64 = 3;
const SPILL_LIMIT: u64 = 256;
/// Overwrites fall into a window of this many slots, as a database's do; the window moves on through the table.
const WINDOW: u64 = 2_048;
/// Slots that the window moves on by, and after how many rounds.
const WINDOW_STEP: u64 = 256;
const WINDOW_ROUNDS: u64 = 256;
/// One overwrite in this many falls anywhere.
const STRAY: u64 = 128;

/// By which call records are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// pwrite64
    Pwrite,
    /// pwritev
    Pwritev,
    /// write, at the fd's own position or appending
    Write,
    /// writev
    Writev,
}

/// By which call a length is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// ftruncate
    Fd,
    /// truncate
    Path,
    /// open with O_TRUNC
    Reopen,
}

/// One step: one system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Write `records` records from `slot` on.
    Write {
        /// The file.
        file: Name,
        /// First slot written.
        slot: u64,
        /// Number of records.
        records: u64,
        /// The call.
        how: How,
    },
    /// Set the length to `slots` records.
    Resize {
        /// The file.
        file: Name,
        /// New length in records.
        slots: u64,
        /// The call.
        how: Cut,
    },
    /// Punch a hole over [`PUNCHED`] slots.
    Punch {
        /// The file.
        file: Name,
        /// First slot.
        slot: u64,
    },
    /// Create an empty file (O_CREAT | O_EXCL).
    Create(Name),
    /// Rename a file or directory, over whatever is there.
    Rename(Name, Name),
    /// A second name for a file.
    Link(Name, Name),
    /// Remove a file's name.
    Unlink(Name),
    /// Create a directory.
    MkDir(Name),
    /// Remove an empty directory.
    RmDir(Name),
}

/// The endless sequence of one thread's steps.
#[derive(Debug, Clone)]
pub struct Plan {
    random: u64,
    table_slots: u64,
    step: u64,
    round: u64,
    pending: VecDeque<Op>,
    log_slots: u64,
    segment: u64,
    spill_slots: u64,
    dirs: u64,
}

impl Plan {
    /// The plan of `thread` in the run `seed`, with tables of `table_slots` records (at least 64).
    pub fn new(seed: u64, thread: u32, table_slots: u64) -> Self {
        assert!(table_slots >= 64, "tables hold at least 64 records");
        Self {
            random: mix(seed ^ mix(u64::from(thread) + 1)),
            table_slots,
            step: 0,
            round: 0,
            pending: VecDeque::new(),
            log_slots: 0,
            segment: 0,
            spill_slots: 0,
            dirs: 0,
        }
    }

    /// The number of the last step handed out; 0 before the first.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// The next step.
    pub fn advance(&mut self) -> Op {
        self.step += 1;
        if self.pending.is_empty() {
            self.plan_round();
        }
        self.pending.pop_front().expect("a round holds at least one step")
    }

    /// The step that [`Self::advance`] would hand out.
    pub fn peek(&mut self) -> &Op {
        if self.pending.is_empty() {
            self.plan_round();
        }
        self.pending.front().expect("a round holds at least one step")
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = mix(self.random);
        self.random % limit
    }

    /// A round writes once to each lane in a fixed order, and now and then does something rarer.
    fn plan_round(&mut self) {
        self.round += 1;
        for table in 0..TABLES.len() {
            self.overwrite(table);
            match table {
                0 => self.append(),
                1 => self.spill(),
                _ => {}
            }
        }
        // What follows comes directly after a write to the last table and destroys nothing of that.
        if self.round.is_multiple_of(11) {
            self.cut();
        }
        if self.round.is_multiple_of(17) {
            let table = self.below(TABLES.len() as u64 - 1) as usize;
            let slot = self.below(self.table_slots / PUNCHED) * PUNCHED;
            self.pending.push_back(Op::Punch { file: TABLES[table].into(), slot });
        }
        if self.round.is_multiple_of(23) {
            self.replace();
        }
        if self.round.is_multiple_of(41) {
            self.directory();
        }
    }

    fn overwrite(&mut self, table: usize) {
        let slot = if self.below(STRAY) == 0 {
            self.below(self.table_slots)
        } else {
            let start = self.round / WINDOW_ROUNDS * WINDOW_STEP;
            (start + self.below(WINDOW.min(self.table_slots))) % self.table_slots
        };
        self.pending.push_back(Op::Write { file: TABLES[table].into(), slot, records: 1, how: How::Pwrite });
    }

    fn append(&mut self) {
        let records = 1 + self.below(2);
        let how = if records == 1 { How::Write } else { How::Writev };
        self.pending.push_back(Op::Write { file: LOG.into(), slot: self.log_slots, records, how });
        self.log_slots += records;
        if self.log_slots >= SEGMENT_RECORDS {
            self.segment += 1;
            self.log_slots = 0;
            self.pending.push_back(Op::Rename(LOG.into(), segment_name(self.segment)));
            self.pending.push_back(Op::Create(LOG.into()));
            if let Some(oldest) = self.segment.checked_sub(SEGMENTS_KEPT).filter(|oldest| *oldest > 0) {
                self.pending.push_back(Op::Unlink(segment_name(oldest)));
            }
        }
    }

    fn spill(&mut self) {
        let records = 1 + self.below(4);
        let slot = self.spill_slots;
        self.pending.push_back(Op::Write { file: SPILL.into(), slot, records, how: How::Pwritev });
        self.spill_slots += records;
    }

    fn cut(&mut self) {
        let how = match self.below(8) {
            0 => Cut::Reopen,
            1..=3 => Cut::Path,
            _ => Cut::Fd,
        };
        let slots = match how {
            Cut::Reopen => 0,
            _ if self.spill_slots < SPILL_LIMIT && self.below(3) == 0 => self.spill_slots + 1 + self.below(24),
            _ => self.below(self.spill_slots.min(SPILL_LIMIT)),
        };
        self.spill_slots = slots;
        self.pending.push_back(Op::Resize { file: SPILL.into(), slots, how });
    }

    /// A small file replaced as a whole, as WiredTiger does with its turtle.
    fn replace(&mut self) {
        let new = Name::from("turtle.set");
        self.pending.push_back(Op::Create(new.clone()));
        self.pending.push_back(Op::Write { file: new.clone(), slot: 0, records: 1, how: How::Write });
        self.pending.push_back(Op::Rename(new, "turtle".into()));
    }

    /// A directory made under one name, filled, renamed, its file linked; and the oldest one taken away.
    fn directory(&mut self) {
        self.dirs += 1;
        let number = self.dirs;
        let fresh = format!("new-{number:06}");
        self.pending.extend([
            Op::MkDir(fresh.clone().into()),
            Op::Create(format!("{fresh}/data").into()),
            Op::Write { file: format!("{fresh}/data").into(), slot: 0, records: 1, how: How::Write },
            Op::Rename(fresh.into(), dir_name(number).into()),
            Op::Link(format!("{}/data", dir_name(number)).into(), format!("{}/again", dir_name(number)).into()),
        ]);
        if let Some(old) = number.checked_sub(DIRS_KEPT).filter(|old| *old > 0) {
            let old = dir_name(old);
            self.pending.extend([
                Op::Unlink(format!("{old}/data").into()),
                Op::Unlink(format!("{old}/again").into()),
                Op::RmDir(old.into()),
            ]);
        }
    }
}

fn segment_name(number: u64) -> Name {
    format!("log/{number:08}").into()
}

fn dir_name(number: u64) -> String {
    format!("dir-{number:06}")
}

#[cfg(test)]
mod tests {
    use super::super::tree::{Tree, written};
    use super::*;

    #[test]
    fn the_same_seed_plans_the_same_steps() {
        let (mut one, mut two) = (Plan::new(5, 2, 64), Plan::new(5, 2, 64));
        assert!((0..5_000).all(|_| one.advance() == two.advance()));
        let mut other = Plan::new(6, 2, 64);
        assert!((0..100).any(|_| one.advance() != other.advance()));
    }

    #[test]
    fn the_newest_record_survives_until_the_next_one() {
        let mut plan = Plan::new(1, 0, 64);
        let mut tree = Tree::initial(64);
        let mut newest = written(0);
        for _ in 0..20_000 {
            let op = plan.advance();
            tree.apply(plan.step(), &op);
            if matches!(op, Op::Write { .. }) {
                newest = written(plan.step());
            }
            assert_eq!(tree.newest(), newest, "after step {} {op:?}", plan.step());
        }
    }

    #[test]
    fn every_kind_of_step_comes_up() {
        let mut plan = Plan::new(3, 1, 64);
        let ops: Vec<Op> = (0..20_000).map(|_| plan.advance()).collect();
        for how in [How::Pwrite, How::Pwritev, How::Write, How::Writev] {
            assert!(ops.iter().any(|op| matches!(op, Op::Write { how: h, .. } if *h == how)), "{how:?}");
        }
        for how in [Cut::Fd, Cut::Path, Cut::Reopen] {
            assert!(ops.iter().any(|op| matches!(op, Op::Resize { how: h, .. } if *h == how)), "{how:?}");
        }
        for found in [
            ops.iter().any(|op| matches!(op, Op::Punch { .. })),
            ops.iter().any(|op| matches!(op, Op::Create(_))),
            ops.iter().any(|op| matches!(op, Op::Rename(..))),
            ops.iter().any(|op| matches!(op, Op::Link(..))),
            ops.iter().any(|op| matches!(op, Op::Unlink(_))),
            ops.iter().any(|op| matches!(op, Op::MkDir(_))),
            ops.iter().any(|op| matches!(op, Op::RmDir(_))),
        ] {
            assert!(found);
        }
    }

    #[test]
    fn the_tree_stays_small_however_long_the_run() {
        let mut plan = Plan::new(9, 0, 64);
        let mut tree = Tree::initial(64);
        for _ in 0..50_000 {
            let op = plan.advance();
            tree.apply(plan.step(), &op);
        }
        assert!(tree.files.len() < 24, "{} files", tree.files.len());
        assert!(tree.files[SPILL].len() < 1_024);
    }
}
