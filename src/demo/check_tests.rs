//! What the checker must accept, and above all what it must not.
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::*;
use crate::demo::writer::{self, Shared, Worker};

const SLOTS: u64 = 64;

/// The directory after the given steps of each thread, one thread after the other. `seen` is what each thread before its own
/// first step is to have seen of thread 0.
struct Laid {
    _keep: tempfile::TempDir,
    dir: PathBuf,
}

impl Laid {
    fn new(steps: [u64; THREADS]) -> Self {
        Self::seeing(0, steps)
    }

    fn seeing(seen: u64, steps: [u64; THREADS]) -> Self {
        let keep = tempfile::tempdir().unwrap();
        let dir = keep.path().join("data");
        writer::prepare(&dir, SLOTS).unwrap();
        for (thread, steps) in steps.into_iter().enumerate() {
            let shared = Shared::default();
            shared.steps[0].store(if thread == 0 { 0 } else { seen }, Ordering::Relaxed);
            let mut worker = Worker::new(&shared, thread_dir(&dir, thread), thread, SLOTS);
            (0..steps).for_each(|_| worker.step());
        }
        Self { _keep: keep, dir }
    }

    fn of(&self, thread: usize, name: &str) -> PathBuf {
        thread_dir(&self.dir, thread).join(name)
    }

    fn put(&self, name: &str, slot: u64, bytes: &[u8]) {
        let file = OpenOptions::new().write(true).open(self.of(0, name)).unwrap();
        file.write_all_at(bytes, slot * RECORD as u64).unwrap();
    }

    #[track_caller]
    fn refused(&self, because: &str) {
        let error = check_tree(&self.dir).expect_err("this state never was");
        assert!(error.contains(because), "{error:?} does not say {because:?}");
    }
}

/// The last step up to `step` that overwrote a slot of the table, and which slot.
fn last_overwrite(step: u64) -> (u64, u64) {
    let overwrite = |step| match Op::of(step, SLOTS) {
        Op::Overwrite(slot) => Some((step, slot)),
        _ => None,
    };
    (1..=step).rev().find_map(overwrite).unwrap()
}

#[test]
fn every_state_that_existed_is_accepted_at_its_step() {
    for step in (0..300).chain([3_000]) {
        let state = check_tree(&Laid::new([step, 0, 7, 50]).dir).unwrap_or_else(|error| panic!("step {step}: {error}"));
        assert_eq!(state.steps, [step, 0, 7, 50]);
    }
}

#[test]
fn every_kind_of_step_comes_up() {
    let ops: Vec<Op> = (1..=1_000).map(|step| Op::of(step, SLOTS)).collect();
    assert!([Op::Append, Op::Create, Op::Rename].iter().all(|op| ops.contains(op)));
    assert!((0..SLOTS).all(|slot| ops.contains(&Op::Overwrite(slot))), "some slot is never overwritten");
}

#[test]
fn an_update_that_is_missing_while_later_ones_are_there_is_refused() {
    let laid = Laid::new([1_000, 50, 50, 50]);
    let (step, slot) = last_overwrite(996);
    laid.put(TABLE, slot, &Record { slot, ..Record::default() }.encode());
    laid.refused(&format!("{TABLE} slot {slot} holds step 0 and should hold step {step}"));
}

#[test]
fn a_file_from_an_earlier_or_a_later_moment_is_refused() {
    for name in [TABLE, LOG, OLD_LOG] {
        for [from, into] in [[1_500, 1_700], [1_700, 1_500]] {
            let (from, into) = (Laid::new([from, 50, 50, 50]), Laid::new([into, 50, 50, 50]));
            fs::copy(from.of(0, name), into.of(0, name)).unwrap();
            into.refused("thread 0");
        }
    }
}

#[test]
fn a_torn_record_zeros_and_a_record_from_elsewhere_are_refused() {
    let good = Record { slot: 3, step: 5, ..Record::default() };
    let mut torn = good.encode();
    torn[200..].copy_from_slice(&Record { step: 6, ..good }.encode()[200..]);
    let elsewhere = [Record { slot: 4, ..good }, Record { thread: 1, ..good }].map(|record| record.encode());
    for (bytes, because) in [(torn, "torn"), ([0; RECORD], "no record")]
        .into_iter()
        .chain(elsewhere.map(|bytes| (bytes, "slot 3 holds the record of")))
    {
        let laid = Laid::new([300, 50, 50, 50]);
        laid.put(TABLE, 3, &bytes);
        laid.refused(because);
    }
}

#[test]
fn a_file_cut_short_is_refused() {
    let laid = Laid::new([300, 50, 50, 50]);
    let file = OpenOptions::new().write(true).open(laid.of(1, LOG)).unwrap();
    let records = file.metadata().unwrap().len() / RECORD as u64;
    file.set_len((records - 1) * RECORD as u64).unwrap();
    laid.refused("thread 1");
    file.set_len((records - 1) * RECORD as u64 + 100).unwrap();
    laid.refused("whole number of records");
}

#[test]
fn a_name_too_many_or_too_few_is_refused() {
    type Change = fn(&Laid);
    let changes: [(Change, &str); 7] = [
        (|laid| fs::write(laid.of(0, "extra"), []).unwrap(), "extra should not be there"),
        (|laid| fs::create_dir(laid.of(2, "extra")).unwrap(), "extra: is not a file"),
        (|laid| fs::remove_file(laid.of(0, OLD_LOG)).unwrap(), "log.old is missing"),
        (|laid| fs::rename(laid.of(0, LOG), laid.of(0, OLD_LOG)).unwrap(), "thread 0"),
        (|laid| fs::remove_dir_all(thread_dir(&laid.dir, 2)).unwrap(), "thread 2"),
        (|laid| fs::remove_file(laid.of(0, TABLE)).unwrap(), "table is missing"),
        (|laid| fs::write(laid.dir.join("foreign"), []).unwrap(), "is not of the writer"),
    ];
    for (change, because) in changes {
        let laid = Laid::new([300, 50, 50, 50]);
        change(&laid);
        laid.refused(because);
    }
}

#[test]
fn a_symlink_in_place_of_a_file_is_refused() {
    let laid = Laid::new([300, 50, 50, 50]);
    fs::rename(laid.of(0, LOG), laid.dir.parent().unwrap().join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../../elsewhere", laid.of(0, LOG)).unwrap();
    laid.refused("is not a file");
}

#[test]
fn a_thread_ahead_of_what_it_had_seen_completed_elsewhere_is_refused() {
    assert!(check_tree(&Laid::seeing(100, [100, 41, 50, 50]).dir).is_ok());
    Laid::seeing(100, [99, 41, 50, 50]).refused("thread 1 had seen step 100 of thread 0");
}

#[test]
fn a_state_of_another_moment_is_told() {
    let state = State { steps: vec![5, 9, 0, 0], records: 0 };
    let line = |at, steps: [u64; THREADS]| Line { begun_ns: at, ready_ns: at + 1, steps: steps.into(), longest_us: 0 };
    let lines = [line(10, [1; 4]), line(20, [5, 3, 0, 0]), line(30, [6, 9, 0, 0]), line(40, [7, 10, 8, 9])];
    assert_eq!(state.is_of(25, &lines), Ok(()));
    assert!(state.is_of(35, &lines).unwrap_err().contains("thread 0 is at step 5, and had completed 6"));
    assert!(state.is_of(15, &lines).unwrap_err().contains("thread 1 is at step 9, and after T at most 4"));
}
