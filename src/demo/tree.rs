//! A thread's directory in memory: what it holds after each step of the plan.
use std::collections::{BTreeMap, BTreeSet};

use super::plan::{LOG, LOG_DIR, Op, PUNCHED, SPILL, TABLES};

/// The value of a slot nothing was written to.
pub const EMPTY: u64 = 0;

/// The value of a slot last written in `step`.
pub fn written(step: u64) -> u64 {
    step + 1
}

/// A thread's directory as the plan has it: for each slot of each file, which step wrote it last.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// Directories below the thread's own.
    pub dirs: BTreeSet<String>,
    /// For each file its slots: [`EMPTY`] or [`written`].
    pub files: BTreeMap<String, Vec<u64>>,
}

impl Tree {
    /// What is there before the first step.
    pub fn initial(table_slots: u64) -> Self {
        let mut tree = Self::default();
        tree.dirs.insert(LOG_DIR.into());
        for table in TABLES {
            tree.files.insert(table.into(), vec![written(0); table_slots as usize]);
        }
        tree.files.insert(SPILL.into(), Vec::new());
        tree.files.insert(LOG.into(), Vec::new());
        tree
    }

    /// The tree after `op`, which is step `step`. A second name shares no slots here, as the plan never writes to
    /// a file that has two.
    pub fn apply(&mut self, step: u64, op: &Op) {
        match op {
            Op::Write { file, slot, records, .. } => {
                let slots = self.slots(file);
                let (from, to) = (*slot as usize, (*slot + *records) as usize);
                if slots.len() < to {
                    slots.resize(to, EMPTY);
                }
                slots[from..to].fill(written(step));
            }
            Op::Resize { file, slots, .. } => self.slots(file).resize(*slots as usize, EMPTY),
            Op::Punch { file, slot } => self.slots(file)[*slot as usize..(*slot + PUNCHED) as usize].fill(EMPTY),
            Op::Create(name) => {
                self.files.insert(name.to_string(), Vec::new());
            }
            Op::Rename(from, to) => self.rename(from, to),
            Op::Link(from, to) => {
                let slots = self.slots(from).clone();
                self.files.insert(to.to_string(), slots);
            }
            Op::Unlink(name) => {
                self.files.remove(name.as_ref());
            }
            Op::MkDir(name) => {
                self.dirs.insert(name.to_string());
            }
            Op::RmDir(name) => {
                self.dirs.remove(name.as_ref());
            }
        }
    }

    fn slots(&mut self, file: &str) -> &mut Vec<u64> {
        self.files.get_mut(file).expect("the plan names files that exist")
    }

    fn rename(&mut self, from: &str, to: &str) {
        if let Some(slots) = self.files.remove(from) {
            self.files.insert(to.into(), slots);
            return;
        }
        self.dirs.remove(from);
        self.dirs.insert(to.into());
        let inside: Vec<String> =
            self.files.keys().filter(|name| name.starts_with(&format!("{from}/"))).cloned().collect();
        for old in inside {
            let slots = self.files.remove(&old).expect("just listed");
            self.files.insert(format!("{to}{}", &old[from.len()..]), slots);
        }
    }

    /// The greatest value of any slot: [`written`] of the newest step that left a record.
    pub fn newest(&self) -> u64 {
        self.files.values().flatten().copied().max().unwrap_or(EMPTY)
    }
}
