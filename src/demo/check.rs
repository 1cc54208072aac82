//! Is this directory a state that the demo's writer really went through?
//!
//! For each thread the newest record found says which step the state must at least be after. Up to the next write only steps
//! without a record follow, and each is tried: the directory must be exactly what one of them leaves, with every record in its
//! slot, none missing, none too many, no name too many or too few. Between threads the records' clocks must hold: a record that
//! was begun after another thread had completed step n proves that step n belongs to the state too.
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::Path;

use super::record::{RECORD, Record};
use super::writer::{LOG, Line, OLD_LOG, Op, TABLE, THREADS, thread_dir};

/// What a right directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// For each thread the step after which its part of the state is exactly this.
    pub steps: Vec<u64>,
    /// Number of records found.
    pub records: usize,
}

impl State {
    /// Fails if the state lacks a step that a line reports before `point_ns`, or holds one that was not yet begun then.
    ///
    /// # Errors
    /// The thread that is wrong.
    pub fn is_of(&self, point_ns: u64, lines: &[Line]) -> Result<(), String> {
        let before = lines.iter().rev().find(|line| line.ready_ns < point_ns);
        let after = lines.iter().find(|line| line.begun_ns > point_ns);
        for (thread, &step) in self.steps.iter().enumerate() {
            if let Some(least) = before.map(|line| line.steps[thread]).filter(|least| step < *least) {
                return Err(format!("thread {thread} is at step {step}, and had completed {least} before T"));
            }
            // One more may have been done, and not yet been counted.
            if let Some(most) = after.map(|line| line.steps[thread] + 1).filter(|most| step > *most) {
                return Err(format!("thread {thread} is at step {step}, and after T at most {most} had begun"));
            }
        }
        Ok(())
    }
}

/// Says whether `dir`, the writer's directory or a backup of it, is one state that existed.
///
/// # Errors
/// What is wrong with it, in words.
pub fn check_tree(dir: &Path) -> Result<State, String> {
    for name in names(dir)? {
        if name != ".hotbackup" && !(0..THREADS).any(|thread| dir.join(&name) == thread_dir(dir, thread)) {
            return Err(format!("{name} is not of the writer"));
        }
    }
    let mut state = State { steps: Vec::new(), records: 0 };
    let mut clocks = Vec::new();
    for thread in 0..THREADS {
        let found = Found::read(dir, thread).map_err(|what| format!("thread {thread}: {what}"))?;
        state.steps.push(found.place().map_err(|what| format!("thread {thread}: {what}"))?);
        state.records += found.files.values().map(Vec::len).sum::<usize>();
        clocks.push(found.newest.clock);
    }
    for (thread, clock) in clocks.iter().enumerate() {
        for (other, (seen, step)) in clock.iter().zip(&state.steps).enumerate() {
            if seen > step {
                return Err(format!(
                    "thread {thread} had seen step {seen} of thread {other} completed, which is here only up to step {step}"
                ));
            }
        }
    }
    Ok(state)
}

fn names(dir: &Path) -> Result<Vec<String>, String> {
    let wrong = |error| format!("{}: {error}", dir.display());
    let entries = fs::read_dir(dir).map_err(wrong)?;
    entries.map(|entry| Ok(entry.map_err(wrong)?.file_name().to_string_lossy().into_owned())).collect()
}

/// For each file of a thread, the step that each of its slots was written in.
type Files = BTreeMap<String, Vec<u64>>;

/// What is there before the first step.
fn initial(slots: usize) -> Files {
    Files::from([(TABLE.into(), vec![0; slots])])
}

/// What step `step` makes of `files`.
fn apply(files: &mut Files, step: u64, op: Op) {
    match op {
        Op::Overwrite(slot) => files.get_mut(TABLE).expect("there from the start")[slot as usize] = step,
        Op::Append => files.entry(LOG.into()).or_default().push(step),
        Op::Create => drop(files.insert(LOG.into(), Vec::new())),
        Op::Rename => {
            let log = files.remove(LOG).unwrap_or_default();
            files.insert(OLD_LOG.into(), log);
        }
    }
}

/// One thread's directory as it is.
struct Found {
    files: Files,
    newest: Record,
}

impl Found {
    fn read(dir: &Path, thread: usize) -> Result<Self, String> {
        let dir = thread_dir(dir, thread);
        let mut found = Self { files: Files::new(), newest: Record::default() };
        for name in names(&dir)? {
            let slots = found.file(&dir.join(&name), thread as u64).map_err(|what| format!("{name}: {what}"))?;
            found.files.insert(name, slots);
        }
        Ok(found)
    }

    fn file(&mut self, path: &Path, thread: u64) -> Result<Vec<u64>, String> {
        let data = path.symlink_metadata().map_err(|error| error.to_string())?;
        if !data.is_file() || !data.len().is_multiple_of(RECORD as u64) {
            return Err("is not a file of a whole number of records".into());
        }
        let mut file = BufReader::with_capacity(1 << 20, File::open(path).map_err(|error| error.to_string())?);
        let mut bytes = [0; RECORD];
        let read = |slot| {
            file.read_exact(&mut bytes).map_err(|error| error.to_string())?;
            let record = Record::decode(&bytes).ok_or(format!("slot {slot} holds no record, or a torn one"))?;
            if (record.thread, record.slot) != (thread, slot) {
                return Err(format!("slot {slot} holds the record of thread {} slot {}", record.thread, record.slot));
            }
            if record.step > self.newest.step {
                self.newest = record;
            }
            Ok(record.step)
        };
        (0..data.len() / RECORD as u64).map(read).collect()
    }

    /// The step after which the thread's directory was exactly this.
    fn place(&self) -> Result<u64, String> {
        let slots = self.files.get(TABLE).map_or(0, Vec::len);
        if slots == 0 {
            return Err(format!("{TABLE} is missing or empty"));
        }
        let op = |step| Op::of(step, slots as u64);
        let (mut files, mut step) = (initial(slots), 0);
        while step < self.newest.step {
            step += 1;
            apply(&mut files, step, op(step));
        }
        let difference = difference(&files, &self.files);
        loop {
            if files == self.files {
                return Ok(step);
            }
            step += 1;
            if matches!(op(step), Op::Overwrite(_) | Op::Append) {
                let newest = self.newest.step;
                return Err(format!("the newest record is of step {newest}, and then this never was: {difference}"));
            }
            apply(&mut files, step, op(step));
        }
    }
}

/// The first thing that differs, for the reader of a failed check.
fn difference(expected: &Files, found: &Files) -> String {
    for name in expected.keys().chain(found.keys()) {
        let (Some(right), Some(held)) = (expected.get(name), found.get(name)) else {
            return format!("{name} {}", if found.contains_key(name) { "should not be there" } else { "is missing" });
        };
        if right.len() != held.len() {
            return format!("{name} has {} records and should have {}", held.len(), right.len());
        }
        if let Some(slot) = (0..held.len()).find(|&slot| held[slot] != right[slot]) {
            return format!("{name} slot {slot} holds step {} and should hold step {}", held[slot], right[slot]);
        }
    }
    "nothing differs".into()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
