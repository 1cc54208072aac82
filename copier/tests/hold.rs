//! A hold is short, whatever the backup is stuck in: it is cut, and no point in time ever comes of one that was.
#![forbid(unsafe_code)]
mod common;

use common::faulty::Faulty;
use common::{AtPhase, Bench, Target, pattern, until};
use hotbackup_copier::{Control, Error, Phase, Point, Quiesce};
use hotbackup_event::Effect;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const AN_HOUR: Duration = Duration::from_secs(3600);

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// The files `a` and `b`.
fn bench() -> (Bench, PathBuf) {
    let bench = Bench::new();
    for name in ["a", "b"] {
        std::fs::write(bench.source.join(name), pattern(1, 100_000)).unwrap();
    }
    let a = bench.source.join("a");
    (bench, a)
}

fn assert_clean(bench: &Bench, target: &Target) {
    assert_eq!(target.calls.parked(), 0);
    target.append(&bench.source.join("a"), b"more");
    assert!(!bench.dest.exists());
    bench.assert_nothing_staged();
}

/// A grace that, in the first `stuck` holds, does not end before a call that the hold parks has run: so it ends only if
/// the hold is cut meanwhile.
struct Stuck<'a> {
    target: &'a Target,
    file: &'a Path,
    stuck: u32,
    holds: AtomicU32,
    /// When the last of those calls had run.
    ran_ns: std::sync::atomic::AtomicU64,
}

impl<'a> Stuck<'a> {
    fn new(target: &'a Target, file: &'a Path, stuck: u32) -> Self {
        Self { target, file, stuck, holds: AtomicU32::new(0), ran_ns: 0.into() }
    }
}

impl Quiesce for Stuck<'_> {
    fn grace(&self) -> Result<(), String> {
        let capture = &self.target.capture;
        if capture.is_holding() {
            let hold = self.holds.fetch_add(1, Ordering::SeqCst);
            if hold < self.stuck {
                std::thread::scope(|scope| {
                    let text = format!("call {hold}");
                    scope.spawn(move || self.target.pwrite(self.file, 0, text.as_bytes()));
                    until("a call is parked", || self.target.calls.parked() == 1);
                    // As the receiver does, which nothing holds up.
                    until("the hold is cut", || {
                        capture.tick();
                        !capture.is_holding()
                    });
                });
                self.ran_ns.store(now_ns(), Ordering::SeqCst);
            }
        }
        self.target.calls.grace()
    }
}

#[test]
fn a_hold_is_cut_at_the_end_of_its_lease_and_the_next_has_a_later_point_in_time() {
    for point in [Point::End, Point::Start] {
        let (mut bench, a) = bench();
        bench.tuning.hold_lease = Duration::from_millis(50);
        let (backup, target) = bench.prepare(point);
        let stuck = Stuck::new(&target, &a, 2);
        let report = backup.run(&stuck, &common::Quiet, &Control::default()).unwrap();
        assert!(report.hold.abandoned >= 2, "{:?}", report.hold);
        assert!(report.point_in_time_ns > stuck.ran_ns.load(Ordering::SeqCst), "the point in time is of a cut hold");
        // The last call ran before that point in time, and so it is in the backup.
        let mut expected = pattern(1, 100_000);
        expected[..6].copy_from_slice(b"call 1");
        assert!(std::fs::read(bench.dest.join("a")).unwrap() == expected);
    }
}

#[test]
fn when_the_grace_is_too_slow_in_every_hold_the_backup_fails_and_says_so() {
    let (mut bench, a) = bench();
    bench.tuning.hold_lease = Duration::from_millis(20);
    bench.tuning.hold_tries = 3;
    let (backup, target) = bench.prepare(Point::End);
    let stuck = Stuck::new(&target, &a, u32::MAX);
    match backup.run(&stuck, &common::Quiet, &Control::default()) {
        Err(Error::HoldTooLong { grace_ms, lease_ms: 20, tries: 3, .. }) if grace_ms >= 20 => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(stuck.holds.load(Ordering::SeqCst), 3);
    assert_clean(&bench, &target);
}

#[test]
fn a_hold_is_not_cut_before_its_lease_is_over() {
    let (mut bench, a) = bench();
    bench.tuning.hold_lease = AN_HOUR;
    bench.tuning.hold_budget = AN_HOUR;
    let (backup, target) = bench.prepare(Point::End);
    /// Ticks while a call is parked.
    struct Ticks<'a>(&'a Target);
    impl Quiesce for Ticks<'_> {
        fn grace(&self) -> Result<(), String> {
            if self.0.capture.is_holding() {
                until("a call is parked", || self.0.calls.parked() == 1);
                (0..1000).for_each(|_| self.0.capture.tick());
                assert_eq!(self.0.calls.parked(), 1, "it was let go");
            }
            self.0.calls.grace()
        }
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until("a hold is on", || target.capture.is_holding());
            target.pwrite(&a, 0, b"after the point in time");
        });
        let report = backup.run(&Ticks(&target), &common::Quiet, &Control::default()).unwrap();
        assert_eq!(report.hold.abandoned, 0);
    });
    assert!(std::fs::read(bench.dest.join("a")).unwrap() == pattern(1, 100_000));
}

/// Marks of so many names that no hold can look at them all.
fn many_names(bench: &Bench) -> Vec<Effect> {
    let dir = common::id_of(&bench.source);
    (0..100_000).map(|n| Effect::Entry { dir, name: format!("never-there-{n}").into() }).collect()
}

#[test]
fn names_that_no_hold_can_look_up_in_time_are_looked_up_between_the_tries() {
    let (mut bench, _) = bench();
    // The first try is limited to the budget, and has more to look at than fits; the last one has the lease.
    bench.tuning.hold_tries = 2;
    bench.tuning.hold_lease = AN_HOUR;
    let (backup, target) = bench.prepare(Point::End);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            target.call(|| many_names(&bench), || ());
        }
    });
    let report = backup.run(&*target.calls, &changing, &Control::default()).unwrap();
    assert_eq!(report.hold.abandoned, 1);
}

#[test]
fn when_names_are_looked_up_too_slowly_in_every_hold_the_backup_fails_and_says_so() {
    let (mut bench, _) = bench();
    bench.tuning.hold_tries = 2;
    let (backup, target) = bench.prepare(Point::End);
    let changing = common::AtEveryPhase(|phase| {
        if phase == Phase::Hold {
            target.call(|| many_names(&bench), || ());
        }
    });
    match backup.run(&*target.calls, &changing, &Control::default()) {
        Err(error @ Error::HoldTooLong { names_ms: 1.., tries: 2, .. }) => {
            let words = error.to_string();
            assert!(words.contains("changed names") && words.contains("--hold"), "{words}");
        }
        other => panic!("{other:?}"),
    }
    assert_clean(&bench, &target);
}

#[test]
fn names_that_pile_up_while_the_destination_stands_still_fail_the_backup_and_no_call_waits() {
    let (mut bench, _) = bench();
    bench.tuning.most_entry_marks = 1000;
    let io = Arc::new(Faulty::default());
    let (backup, target) = bench.prepare_with(Point::End, &io);
    io.writes.shut(true);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| backup.run(&*target.calls, &common::Quiet, &Control::default()));
        until("the backup is stuck in a write", || io.writes.has_waiting());
        let dir = common::id_of(&bench.source);
        for n in 0..2000 {
            target.call(|| vec![Effect::Entry { dir, name: format!("n{n}").into() }], || ());
        }
        assert_eq!(target.calls.parked(), 0);
        io.writes.shut(false);
        match running.join().unwrap() {
            Err(Error::TooManyMarks { marks: 1001 }) => {}
            other => panic!("{other:?}"),
        }
    });
    assert_clean(&bench, &target);
}

#[test]
fn a_call_that_waits_too_long_for_its_before_image_goes_on_and_the_backup_fails() {
    let (mut bench, a) = bench();
    bench.tuning.max_wait = Duration::ZERO;
    let control = Control::new(Some(0));
    let (backup, target) = bench.prepare(Point::Start);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Drain {
            target.pwrite(&a, 0, b"new");
        }
    });
    match backup.run(&*target.calls, &changing, &control) {
        Err(Error::BeforeImageSlow { path, .. }) => assert_eq!(path, a),
        other => panic!("{other:?}"),
    }
    assert_clean(&bench, &target);
}
