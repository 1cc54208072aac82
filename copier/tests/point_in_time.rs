//! The backup is the tree as every finished call left it at one moment, whatever is going on.
#![forbid(unsafe_code)]
mod common;

use common::model::{Model, Op};
use common::random::{Random, seeds};
use common::{Bench, Quiet, Target, target_of};
use hotbackup_copier::{Backup, Control, Point, Report, verify};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// What one thread did: each operation, when it was let go at the earliest, and when it had finished.
struct Log {
    dir: PathBuf,
    ops: Vec<(Op, u64, u64)>,
}

/// Changes a subtree of its own until told to stop.
fn work(target: &Target, root: &Path, dir: &str, seed: u64, stop: &AtomicBool, ready: &Barrier) -> Log {
    let (mut model, mut random, mut ops) = (Model::default(), Random::new(seed), Vec::new());
    let top = root.join(dir);
    let mut ready = Some(ready);
    while !stop.load(Ordering::Relaxed) {
        let op = model.plan(&mut random);
        let before = now();
        op.run(target, &top);
        let after = now();
        model.apply(&op);
        ops.push((op, before, after));
        // There is something to copy from the start.
        if ops.len() == 60 {
            ready.take().unwrap().wait();
        }
    }
    Log { dir: dir.into(), ops }
}

/// The subtree in the backup is the state after a whole number of operations, and after one that fits its time: what had
/// finished before it is there, what began after it is not.
fn check(log: &Log, report: &Report) {
    let time = report.point_in_time_ns;
    let finished = log.ops.iter().filter(|(_, _, after)| *after < time).count();
    // A call that was parked in the hold began, for us, before the point in time, and ran after it.
    let begun = log.ops.iter().filter(|(_, before, _)| *before <= time).count();
    let mut model = Model::default();
    log.ops[..finished].iter().for_each(|(op, _, _)| model.apply(op));
    let mut differences = Vec::new();
    for upto in finished..=begun {
        match model.difference(&report.dest.join(&log.dir)) {
            None => return,
            Some(difference) => differences.push((upto, difference)),
        }
        if let Some((op, _, _)) = log.ops.get(upto) {
            model.apply(op);
        }
    }
    let last = &log.ops[finished.saturating_sub(5)..log.ops.len().min(begun + 2)];
    panic!("{}: no state of the source: {differences:#?}\nlast operations: {last:#?}", log.dir.display());
}

/// Returns how many holds were given up.
fn run(seed: u64, point: Point, cut: bool) -> u32 {
    let mut bench = Bench::new();
    let mut random = Random::new(seed);
    if cut {
        // Whichever hold is on when the ticker comes is cut, at whatever step it is.
        (bench.tuning.hold_lease, bench.tuning.hold_budget) = (Duration::ZERO, Duration::from_secs(60));
        bench.tuning.hold_tries = u32::MAX;
    }
    bench.tuning.hold_below = [0, 100_000, 8 << 20][random.below(3) as usize];
    bench.tuning.max_passes = 1 + random.below(4) as u32;
    bench.tuning.max_entry_marks = [3, 1000][random.below(2) as usize];
    let threads = 1 + random.below(4) as usize;
    let (backup, target) = target_of(Backup::prepare(bench.spec(point)).unwrap());
    let stop = Arc::new(AtomicBool::new(false));
    let ready = Barrier::new(threads + 1);
    // A rate now and then, so that copying takes as long as a good many operations.
    let control = Control::new([None, Some(4 << 20), Some(20 << 20)][random.below(3) as usize]);
    for thread in 0..threads {
        std::fs::create_dir(bench.source.join(format!("t{thread}"))).unwrap();
    }
    let (logs, report) = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (target, source, stop, ready) = (&target, &bench.source, &*stop, &ready);
                let seed = seed * 100 + thread as u64;
                scope.spawn(move || work(target, source, &format!("t{thread}"), seed, stop, ready))
            })
            .collect();
        if cut {
            scope.spawn(|| {
                let mut random = Random::new(seed);
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_micros(random.below(4_000)));
                    target.capture.tick();
                }
            });
        }
        ready.wait();
        let report = backup.run(&*target.calls, &Quiet, &control);
        stop.store(true, Ordering::Relaxed);
        (workers.into_iter().map(|worker| worker.join().unwrap()).collect::<Vec<_>>(), report)
    });
    let report = report.unwrap_or_else(|error| panic!("seed {seed} {point:?}: {error}"));
    for log in &logs {
        check(log, &report);
    }
    let verified = verify(&report.dest, &Quiet).unwrap();
    assert_eq!(verified.problems, [], "seed {seed}");
    report.hold.abandoned
}

#[test]
fn the_end_is_one_moment_for_all_threads() {
    seeds(40).for_each(|seed| {
        run(seed, Point::End, false);
    });
}

#[test]
fn the_start_is_one_moment_for_all_threads() {
    seeds(40).for_each(|seed| {
        run(seed, Point::Start, false);
    });
}

/// Holds are cut at random moments: in their grace, while names are looked up, when the point in time is about to be
/// fixed, while what was parked goes on.
#[test]
fn no_cut_of_a_hold_makes_the_backup_another_state() {
    let cuts: u32 = seeds(30).map(|seed| run(seed, Point::End, true) + run(seed, Point::Start, true)).sum();
    assert!(cuts > 0, "no hold was cut");
}
