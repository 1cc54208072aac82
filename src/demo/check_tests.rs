//! What the checker must accept, and above all what it must not.
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::*;
use crate::demo::plan::{self, How, LOG, SPILL, TABLES};
use crate::demo::writer;

const RUN: Run = Run { seed: 11, threads: 3, table_slots: 64 };

/// The directory after the given steps of each thread, written without the writer's threads. `clock` says what each
/// thread had seen of the others before each step.
struct Laid {
    _keep: tempfile::TempDir,
    dir: PathBuf,
}

impl Laid {
    fn new(steps: [u64; 3]) -> Self {
        Self::with_clock(steps, |_, _| [0; CLOCKED])
    }

    fn with_clock(steps: [u64; 3], clock: impl Fn(u32, u64) -> [u64; CLOCKED]) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join("data");
        writer::prepare(&dir, RUN).unwrap();
        for (thread, steps) in (0..).zip(steps) {
            let own = thread_dir(&dir, thread);
            let mut plan = Plan::new(RUN.seed, thread, RUN.table_slots);
            for _ in 0..steps {
                let op = plan.advance();
                let step = plan.step();
                match op {
                    Op::Write { file, slot, records, .. } => {
                        let file = OpenOptions::new().write(true).open(own.join(&*file)).unwrap();
                        for part in 0..records {
                            let record = record(thread, step, slot + part, clock(thread, step));
                            file.write_all_at(&record.encode(), (slot + part) * RECORD as u64).unwrap();
                        }
                    }
                    Op::Resize { file, slots, .. } => {
                        let file = OpenOptions::new().write(true).open(own.join(&*file)).unwrap();
                        file.set_len(slots * RECORD as u64).unwrap();
                    }
                    Op::Punch { file, slot } => {
                        let file = OpenOptions::new().write(true).open(own.join(&*file)).unwrap();
                        file.write_all_at(&[0; RECORD * plan::PUNCHED as usize], slot * RECORD as u64).unwrap();
                    }
                    Op::Create(name) => drop(fs::File::create_new(own.join(&*name)).unwrap()),
                    Op::Rename(from, to) => fs::rename(own.join(&*from), own.join(&*to)).unwrap(),
                    Op::Link(from, to) => fs::hard_link(own.join(&*from), own.join(&*to)).unwrap(),
                    Op::Unlink(name) => fs::remove_file(own.join(&*name)).unwrap(),
                    Op::MkDir(name) => fs::create_dir(own.join(&*name)).unwrap(),
                    Op::RmDir(name) => fs::remove_dir(own.join(&*name)).unwrap(),
                }
            }
        }
        Self { _keep: keep, dir }
    }

    fn of(&self, thread: u32, name: &str) -> PathBuf {
        thread_dir(&self.dir, thread).join(name)
    }

    fn put(&self, thread: u32, name: &str, slot: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.of(thread, name)).unwrap();
        file.write_all_at(bytes, slot * RECORD as u64).unwrap();
    }

    fn get(&self, thread: u32, name: &str, slot: u64) -> [u8; RECORD] {
        let mut bytes = [0; RECORD];
        fs::File::open(self.of(thread, name)).unwrap().read_exact_at(&mut bytes, slot * RECORD as u64).unwrap();
        bytes
    }

    #[track_caller]
    fn refused(&self, because: &str) {
        let error = check_tree(&self.dir).expect_err("this state never was");
        assert!(error.contains(because), "{error:?} does not say {because:?}");
    }
}

fn record(thread: u32, step: u64, slot: u64, clock: [u64; CLOCKED]) -> Record {
    Record { seed: RUN.seed, thread, part: 0, slot, step, clock }
}

/// A step before `from` that overwrote a table's slot which no step up to `until` changed again.
fn lasting_overwrite(thread: u32, from: u64, until: u64) -> (u64, String, u64) {
    let mut plan = Plan::new(RUN.seed, thread, RUN.table_slots);
    let mut tree = Tree::initial(RUN.table_slots);
    let mut steps = Vec::new();
    for _ in 0..until {
        let op = plan.advance();
        tree.apply(plan.step(), &op);
        steps.push((plan.step(), op));
    }
    steps
        .iter()
        .rev()
        .filter(|(step, _)| *step < from)
        .find_map(|(step, op)| match op {
            Op::Write { file, slot, how: How::Pwrite, .. } if tree.files[&**file][*slot as usize] == written(*step) => {
                Some((*step, file.to_string(), *slot))
            }
            _ => None,
        })
        .expect("some overwrite lasts")
}

#[test]
fn every_state_that_existed_is_accepted_at_its_step() {
    for step in (0..400).chain([3_000]) {
        let laid = Laid::new([step, 0, 7]);
        let summary = check_tree(&laid.dir).unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert_eq!(summary.steps, [step, 0, 7]);
    }
}

#[test]
fn an_update_that_is_missing_while_later_ones_are_there_is_refused() {
    let laid = Laid::new([1_000, 50, 50]);
    let (step, file, slot) = lasting_overwrite(0, 900, 1_000);
    laid.put(0, &file, slot, &record(0, 0, slot, [0; CLOCKED]).encode());
    laid.refused(&format!("{file} slot {slot} holds step 0 and should hold step {step}"));
}

#[test]
fn an_update_replaced_by_zeros_is_refused() {
    let laid = Laid::new([1_000, 50, 50]);
    let (step, file, slot) = lasting_overwrite(0, 900, 1_000);
    laid.put(0, &file, slot, &[0; RECORD]);
    laid.refused(&format!("{file} slot {slot} holds nothing and should hold step {step}"));
}

#[test]
fn a_later_update_while_earlier_ones_are_missing_is_refused() {
    let (early, late) = (Laid::new([500, 50, 50]), Laid::new([800, 50, 50]));
    let (_, file, slot) = lasting_overwrite(0, 800, 800);
    early.put(0, &file, slot, &late.get(0, &file, slot));
    early.refused("thread 0");
}

#[test]
fn one_file_from_an_earlier_moment_is_refused() {
    for name in [TABLES[0], TABLES[1], TABLES[2], SPILL, LOG, "turtle"] {
        let (early, late) = (Laid::new([1_500, 50, 50]), Laid::new([1_700, 50, 50]));
        fs::copy(early.of(0, name), late.of(0, name)).unwrap();
        late.refused("thread 0");
    }
}

#[test]
fn one_file_from_a_later_moment_is_refused() {
    for name in [TABLES[0], TABLES[1], TABLES[2], SPILL, LOG, "turtle"] {
        let (early, late) = (Laid::new([1_500, 50, 50]), Laid::new([1_700, 50, 50]));
        fs::copy(late.of(0, name), early.of(0, name)).unwrap();
        early.refused("thread 0");
    }
}

#[test]
fn a_torn_record_is_refused() {
    let laid = Laid::new([300, 50, 50]);
    let (_, file, slot) = lasting_overwrite(0, 300, 300);
    let mut torn = laid.get(0, &file, slot);
    torn[200..].copy_from_slice(&record(0, 0, slot, [0; CLOCKED]).encode()[200..]);
    laid.put(0, &file, slot, &torn);
    laid.refused("torn");
}

#[test]
fn a_record_in_a_wrong_slot_or_of_another_thread_or_run_is_refused() {
    let other_run = Record { seed: 12, ..record(0, 5, 3, [0; CLOCKED]) };
    for wrong in [record(0, 5, 4, [0; CLOCKED]), record(1, 5, 3, [0; CLOCKED]), other_run] {
        let laid = Laid::new([300, 50, 50]);
        laid.put(0, TABLES[0], 3, &wrong.encode());
        laid.refused("slot 3 holds the record of");
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let laid = Laid::new([300, 50, 50]);
    let file = OpenOptions::new().write(true).open(laid.of(1, TABLES[1])).unwrap();
    file.set_len(63 * RECORD as u64).unwrap();
    laid.refused("has 63 records and should have 64");
    file.set_len(63 * RECORD as u64 + 100).unwrap();
    laid.refused("whole number of records");
}

#[test]
fn a_name_too_many_or_too_few_is_refused() {
    let laid = Laid::new([300, 50, 50]);
    fs::write(laid.of(0, "extra"), []).unwrap();
    laid.refused("extra should not be there");

    let laid = Laid::new([300, 50, 50]);
    fs::create_dir(laid.of(2, "extra")).unwrap();
    laid.refused("directory extra should not be there");

    let laid = Laid::new([2_000, 50, 50]);
    fs::remove_file(laid.of(0, "turtle")).unwrap();
    laid.refused("turtle is missing");

    let laid = Laid::new([300, 50, 50]);
    fs::rename(laid.of(0, LOG), laid.of(0, "log/00000099")).unwrap();
    laid.refused("thread 0");

    let laid = Laid::new([300, 50, 50]);
    fs::write(laid.dir.join("foreign"), []).unwrap();
    laid.refused("is not of the writer");
}

#[test]
fn a_whole_thread_that_is_missing_is_refused() {
    let laid = Laid::new([300, 50, 50]);
    fs::remove_dir_all(thread_dir(&laid.dir, 2)).unwrap();
    laid.refused("thread 2");
}

#[test]
fn an_unfinished_directory_is_refused() {
    let laid = Laid::new([300, 50, 50]);
    fs::remove_file(laid.dir.join(RUN_FILE)).unwrap();
    laid.refused(RUN_FILE);
}

#[test]
fn a_symlink_in_place_of_a_file_is_refused() {
    let laid = Laid::new([300, 50, 50]);
    fs::rename(laid.of(0, SPILL), laid.dir.parent().unwrap().join("spill")).unwrap();
    std::os::unix::fs::symlink("../../spill", laid.of(0, SPILL)).unwrap();
    laid.refused("neither a file nor a directory");
}

#[test]
fn a_thread_ahead_of_what_it_had_seen_completed_elsewhere_is_refused() {
    // Thread 1's 40th step was begun after thread 0 had completed its 100th; here thread 0 is only at 99.
    let clock = |thread: u32, step: u64| {
        let mut clock = [0; CLOCKED];
        clock[0] = if thread == 1 && step >= 40 { 100 } else { 0 };
        clock
    };
    assert!(check_tree(&Laid::with_clock([100, 41, 50], clock).dir).is_ok());
    assert!(check_tree(&Laid::with_clock([99, 39, 50], clock).dir).is_ok());
    Laid::with_clock([99, 41, 50], clock).refused("thread 1 had seen step 100 of thread 0");
}

#[test]
fn a_state_outside_the_backups_own_time_is_told() {
    let summary = CheckSummary { steps: vec![5, 9], records: 0, files: 0 };
    assert_eq!(summary.lies_between(&[5, 3], &[6, 9]), Ok(()));
    assert!(summary.lies_between(&[6, 3], &[9, 9]).unwrap_err().contains("thread 0 is at step 5"));
    assert!(summary.lies_between(&[0, 0], &[9, 8]).unwrap_err().contains("thread 1 is at step 9"));
}
