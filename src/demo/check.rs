//! Is this directory a state that the demo writer really went through?
//!
//! For each thread the newest record found says which step the state must at least be after. Up to the next write
//! only steps without a record follow, and the plan replays each of them: the directory must equal one exactly, with every
//! record in its slot, none missing, none too many, no name too many or too few. Between threads the records'
//! clocks must hold: a record that was begun after another thread had completed step n proves that step n
//! belongs to the state too.
use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::Path;

use serde::Serialize;

use super::plan::{Op, Plan};
use super::record::{CLOCKED, RECORD, Record};
use super::tree::{EMPTY, Tree, written};
use super::writer::{RUN_FILE, Run, thread_dir};

/// What a right directory holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckSummary {
    /// For each thread the step after which its part of the state is exactly this.
    pub steps: Vec<u64>,
    /// Number of records found.
    pub records: u64,
    /// Number of files found.
    pub files: u64,
}

impl CheckSummary {
    /// Steps over all threads.
    pub fn total(&self) -> u64 {
        self.steps.iter().sum()
    }

    /// Whether the state lies between two others, given as the last completed step of each thread.
    ///
    /// # Errors
    /// The thread that lies outside.
    pub fn lies_between(&self, earliest: &[u64], latest: &[u64]) -> Result<(), String> {
        for (thread, step) in self.steps.iter().enumerate() {
            if earliest.get(thread).is_some_and(|least| step < least) {
                let least = earliest[thread];
                return Err(format!("thread {thread} is at step {step}, and had completed {least} before the backup"));
            }
            if latest.get(thread).is_some_and(|most| step > most) {
                return Err(format!("thread {thread} is at step {step}, later than the backup's end"));
            }
        }
        Ok(())
    }
}

/// Says whether `dir`, the writer's directory or a backup of it, is one state that existed.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_tree(dir: &Path) -> Result<CheckSummary, String> {
    let run = read_run(dir)?;
    check_top(dir, run)?;
    let mut summary = CheckSummary { steps: Vec::new(), records: 0, files: 0 };
    let mut clocks = Vec::new();
    for thread in 0..run.threads {
        let found = Found::read(dir, run, thread).map_err(|what| format!("thread {thread}: {what}"))?;
        summary.steps.push(found.place(run, thread).map_err(|what| format!("thread {thread}: {what}"))?);
        summary.files += found.tree.files.len() as u64;
        summary.records += found.records;
        clocks.push(found.clock);
    }
    for (thread, clock) in clocks.iter().enumerate() {
        for (other, (seen, step)) in clock.iter().zip(&summary.steps).enumerate() {
            if seen > step {
                return Err(format!(
                    "thread {thread} had seen step {seen} of thread {other} completed, which is here only up to step {step}"
                ));
            }
        }
    }
    Ok(summary)
}

fn read_run(dir: &Path) -> Result<Run, String> {
    let path = dir.join(RUN_FILE);
    let text = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_slice(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// Nothing but the threads' directories, the run file, and the backup's own directory.
fn check_top(dir: &Path, run: Run) -> Result<(), String> {
    for entry in fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))? {
        let path = entry.map_err(|error| format!("{}: {error}", dir.display()))?.path();
        let known = path.ends_with(RUN_FILE)
            || path.ends_with(".hotbackup")
            || (0..run.threads).any(|thread| path == thread_dir(dir, thread));
        if !known {
            return Err(format!("{} is not of the writer", path.display()));
        }
    }
    Ok(())
}

/// One thread's directory as it is.
struct Found {
    tree: Tree,
    records: u64,
    newest: u64,
    clock: [u64; CLOCKED],
}

impl Found {
    fn read(dir: &Path, run: Run, thread: u32) -> Result<Self, String> {
        let mut found = Self { tree: Tree::default(), records: 0, newest: 0, clock: [0; CLOCKED] };
        found.directory(&thread_dir(dir, thread), "", run, thread)?;
        Ok(found)
    }

    fn directory(&mut self, path: &Path, prefix: &str, run: Run, thread: u32) -> Result<(), String> {
        for entry in fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))? {
            let entry = entry.map_err(|error| format!("{}: {error}", path.display()))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            let kind = entry.file_type().map_err(|error| format!("{name}: {error}"))?;
            if kind.is_dir() {
                self.directory(&entry.path(), &format!("{name}/"), run, thread)?;
                self.tree.dirs.insert(name);
            } else if kind.is_file() {
                let slots = self.file(&entry.path(), run, thread).map_err(|what| format!("{name}: {what}"))?;
                self.tree.files.insert(name, slots);
            } else {
                return Err(format!("{name} is neither a file nor a directory"));
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, run: Run, thread: u32) -> Result<Vec<u64>, String> {
        let file = fs::File::open(path).map_err(|error| error.to_string())?;
        let len = file.metadata().map_err(|error| error.to_string())?.len();
        if !len.is_multiple_of(RECORD as u64) {
            return Err(format!("{len} bytes are not a whole number of records"));
        }
        let mut file = std::io::BufReader::with_capacity(1 << 20, file);
        let mut slots = Vec::with_capacity((len / RECORD as u64) as usize);
        let mut bytes = [0; RECORD];
        for slot in 0..len / RECORD as u64 {
            file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
            let record = Record::decode(&bytes).map_err(|what| format!("slot {slot}: {what}"))?;
            let Some(record) = record else {
                slots.push(EMPTY);
                continue;
            };
            if (record.seed, record.thread, record.slot) != (run.seed, thread, slot) {
                return Err(format!(
                    "slot {slot} holds the record of thread {} slot {} of run {}",
                    record.thread, record.slot, record.seed
                ));
            }
            self.records += 1;
            if record.step >= self.newest {
                self.newest = record.step;
                self.clock = record.clock;
            }
            slots.push(written(record.step));
        }
        Ok(slots)
    }

    /// The step after which the thread's directory was exactly this.
    fn place(&self, run: Run, thread: u32) -> Result<u64, String> {
        let mut plan = Plan::new(run.seed, thread, run.table_slots);
        let mut model = Tree::initial(run.table_slots);
        while plan.step() < self.newest {
            let op = plan.advance();
            model.apply(plan.step(), &op);
        }
        let mut place = (model == self.tree).then_some(plan.step());
        let first = difference(&model, &self.tree);
        while !matches!(plan.peek(), Op::Write { .. }) {
            let op = plan.advance();
            model.apply(plan.step(), &op);
            if model == self.tree {
                place = Some(plan.step());
            }
        }
        place.ok_or_else(|| {
            let newest = self.newest;
            format!("the newest record is of step {newest}, and after that step this never was the state: {first}")
        })
    }
}

/// The first thing that differs, for the reader of a failed check.
fn difference(expected: &Tree, found: &Tree) -> String {
    if let Some(dir) = expected.dirs.symmetric_difference(&found.dirs).next() {
        let what = if found.dirs.contains(dir) { "should not be there" } else { "is missing" };
        return format!("directory {dir} {what}");
    }
    let names: BTreeSet<&String> = expected.files.keys().chain(found.files.keys()).collect();
    for name in names {
        let (expected, found) = match (expected.files.get(name), found.files.get(name)) {
            (Some(_), None) => return format!("{name} is missing"),
            (None, _) => return format!("{name} should not be there"),
            (Some(expected), Some(found)) => (expected, found),
        };
        if expected.len() != found.len() {
            return format!("{name} has {} records and should have {}", found.len(), expected.len());
        }
        if let Some(slot) = (0..found.len()).find(|slot| expected[*slot] != found[*slot]) {
            let say = |value: u64| value.checked_sub(1).map_or("nothing".into(), |step| format!("step {step}"));
            return format!("{name} slot {slot} holds {} and should hold {}", say(found[slot]), say(expected[slot]));
        }
    }
    "nothing differs".into()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
