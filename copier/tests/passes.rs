//! While everything is copied for the first time, the target changes it: what is copied again, and when that ends.
#![forbid(unsafe_code)]
mod common;

use common::{BLOCK, Bench, Target, entry, pattern};
use hotbackup_copier::{Control, Monitor, Phase, Point, Progress, Report};
use std::path::PathBuf;
use std::sync::Mutex;

/// Has the target do something whenever progress of the first pass is told, with how often it was before.
struct InFirstPass<F: Fn(u32) + Sync> {
    act: F,
    times: Mutex<u32>,
}

impl<F: Fn(u32) + Sync> Monitor for InFirstPass<F> {
    fn progress(&self, progress: &Progress) {
        if progress.phase == Phase::Track && progress.pass == 1 && progress.bytes_copied > 0 {
            let mut times = self.times.lock().unwrap();
            (self.act)(*times);
            *times += 1;
        }
    }
}

/// Eight files, copied slowly enough for some progress to be told on the way.
fn back_up(mut bench: Bench, act: impl Fn(u32, &Target, PathBuf) + Sync) -> (Report, u32) {
    for seed in 0..8 {
        std::fs::write(bench.source.join(format!("file{seed}")), pattern(seed, 4 * BLOCK as usize)).unwrap();
    }
    bench.tuning.hold_below = 0;
    let (backup, target) = bench.prepare(Point::End);
    let file = bench.source.join("file0");
    let monitor = InFirstPass { act: |times| act(times, &target, file.clone()), times: Mutex::default() };
    let report = backup.run(&*target.calls, &monitor, &Control::new(Some(4 << 20))).unwrap();
    let content = |path| std::fs::read(path).unwrap();
    assert!(content(bench.dest.join("file0")) == content(file.clone()));
    (report, monitor.times.into_inner().unwrap())
}

#[test]
fn what_nobody_changes_is_copied_in_one_pass() {
    let (report, _) = back_up(Bench::new(), |_, _, _| ());
    assert_eq!((report.passes, report.bytes_copied), (1, 32 * BLOCK));
}

#[test]
fn what_was_changed_in_a_pass_is_copied_in_the_next_and_nothing_else_is() {
    let (report, times) = back_up(Bench::new(), |times, target, file| {
        if times == 0 {
            target.pwrite(&file, BLOCK, b"changed");
        }
    });
    assert!(times > 1, "the pass went on after the change");
    assert_eq!((report.passes, report.bytes_copied), (2, 33 * BLOCK));
}

#[test]
fn names_that_are_marked_in_a_long_pass_do_not_pile_up() {
    let mut bench = Bench::new();
    (bench.tuning.max_entry_marks, bench.tuning.most_entry_marks) = (100, 500);
    let (_, times) = back_up(bench, |times, target, file| {
        let names = (0..300).map(|n| entry(file.with_file_name(format!("never-there-{times}-{n}"))));
        target.call(|| names.collect(), || ());
    });
    assert!(times >= 2, "as many names as there may be at most were marked only {times} times");
}
