//! Whatever goes wrong, the target goes on, nothing half-written is left, and the error says what it was.
#![forbid(unsafe_code)]
mod common;

use common::faulty::{Faulty, Kind};
use common::{AtPhase, Bench, Calls, Permit, Quiet, Target, pattern, target_of};
use hotbackup_copier::{Backup, Control, Error, Phase, Point, Quiesce};
use rustix::io::Errno;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A source with a few files, so that a backup does each kind of operation more than once.
fn bench() -> Bench {
    let bench = Bench::new();
    std::fs::create_dir(bench.source.join("dir")).unwrap();
    for (name, len) in [("a", 200_000), ("b", 70_000), ("dir/c", 10), ("dir/empty", 0)] {
        std::fs::write(bench.source.join(name), pattern(1, len)).unwrap();
    }
    std::fs::File::create(bench.source.join("hole")).unwrap().set_len(1 << 20).unwrap();
    bench
}

/// Nothing is left, no call waits, and the next backup succeeds.
fn assert_clean(bench: &Bench, target: &Target) {
    assert_eq!(target.calls.parked(), 0);
    // A call after the end is let go at once.
    target.append(&bench.source.join("a"), b"more");
    assert!(!bench.dest.exists());
    bench.assert_nothing_staged();
    bench.back_up(Point::End).unwrap();
}

fn run_with(bench: &Bench, io: Arc<Faulty>, point: Point) -> (Result<(), Error>, Target) {
    let (backup, target) = bench.prepare_with(point, &io);
    let changing = AtPhase::new(|phase| {
        // Something for each phase to do.
        let a = bench.source.join("a");
        match phase {
            Phase::Hold => target.pwrite(&a, 0, b"before the point in time"),
            Phase::Drain => target.truncate(&a, 100),
            _ => {}
        }
    });
    (backup.run(&*target.calls, &changing, &Control::default()).map(drop), target)
}

#[test]
fn an_error_of_the_destination_at_any_step_fails_the_backup_and_nothing_else() {
    for point in [Point::End, Point::Start] {
        for kind in [Kind::Create, Kind::Write, Kind::SetLen, Kind::Sync] {
            let mut number = 0;
            loop {
                let bench = bench();
                let io = Arc::new(Faulty::failing(kind, number, Errno::NOSPC));
                let (result, target) = run_with(&bench, Arc::clone(&io), point);
                if !io.failed.load(Ordering::SeqCst) {
                    result.unwrap();
                    break;
                }
                match result {
                    Err(Error::DestFull { .. }) => {}
                    other => panic!("{kind:?} {number}: {other:?}"),
                }
                // Even the very last sync, which comes after the backup has its name: the name is taken back.
                assert_clean(&bench, &target);
                number += 1;
            }
            assert!(number > 0, "{kind:?} never happens");
        }
    }
}

#[test]
fn an_error_of_the_source_at_any_read_names_the_file() {
    for point in [Point::End, Point::Start] {
        for number in 0.. {
            let bench = bench();
            let io = Arc::new(Faulty::failing(Kind::Read, number, Errno::IO));
            let (result, target) = run_with(&bench, Arc::clone(&io), point);
            if !io.failed.load(Ordering::SeqCst) {
                result.unwrap();
                break;
            }
            match result {
                Err(Error::SourceUnreadable { path, .. }) => assert!(path.starts_with(&bench.source), "{path:?}"),
                // Hashing reads what was staged.
                Err(Error::DestIo { path, .. }) => assert!(path.starts_with(bench.dir.path()), "{path:?}"),
                other => panic!("read {number}: {other:?}"),
            }
            assert_clean(&bench, &target);
        }
    }
}

#[test]
fn cancelling_in_any_phase_lets_the_target_go_and_leaves_nothing() {
    for point in [Point::End, Point::Start] {
        for at in [Phase::Track, Phase::Hold, Phase::Drain, Phase::Publish] {
            let bench = bench();
            let (backup, target) = bench.prepare(point);
            let control = Control::default();
            let cancel = AtPhase::new(|phase| {
                if phase == at {
                    control.cancel();
                }
            });
            let result = backup.run(&*target.calls, &cancel, &control);
            assert!(matches!(result, Err(Error::Cancelled)), "{at:?}: {result:?}");
            assert_clean(&bench, &target);
        }
    }
}

#[test]
fn going_blind_fails_the_backup_until_everything_is_saved() {
    for at in [Phase::Track, Phase::Hold, Phase::Drain, Phase::Publish] {
        let bench = bench();
        let (backup, target) = bench.prepare(Point::End);
        let blind = AtPhase::new(|phase| {
            if phase == at {
                target.capture.blind("the process made an io_uring".into());
            }
        });
        let result = backup.run(&*target.calls, &blind, &Control::default());
        if at == Phase::Publish {
            result.unwrap();
        } else {
            assert!(matches!(&result, Err(Error::Blind(cause)) if cause.contains("io_uring")), "{at:?}: {result:?}");
            assert_clean(&bench, &target);
        }
    }
}

#[test]
fn letting_go_from_outside_fails_the_backup() {
    for at in [Phase::Track, Phase::Hold, Phase::Drain] {
        let bench = bench();
        let (backup, target) = bench.prepare(Point::End);
        let let_go = AtPhase::new(|phase| {
            if phase == at {
                target.capture.let_go();
                target.capture.let_go();
            }
        });
        let result = backup.run(&*target.calls, &let_go, &Control::default());
        assert!(matches!(result, Err(Error::LetGo)), "{at:?}: {result:?}");
        assert_clean(&bench, &target);
    }
}

#[test]
fn a_grace_that_fails_fails_the_backup_with_its_reason() {
    /// Fails from the nth time on.
    struct Fails(Arc<Calls>, std::sync::atomic::AtomicU64);
    impl Quiesce for Fails {
        fn grace(&self) -> Result<(), String> {
            match self.1.fetch_sub(1, Ordering::SeqCst) {
                0 => Err("thread 7 does not stop".into()),
                _ => self.0.grace(),
            }
        }
    }
    // The first pass, the look before the hold, the hold.
    for number in 0..3 {
        let bench = bench();
        let (backup, target) = bench.prepare(Point::End);
        let fails = Fails(Arc::clone(&target.calls), number.into());
        let result = backup.run(&fails, &Quiet, &Control::default());
        assert!(matches!(&result, Err(Error::Quiesce(reason)) if reason.contains("thread 7")), "{result:?}");
        assert_clean(&bench, &target);
    }
}

#[test]
fn a_call_parked_in_the_hold_goes_on_when_the_hold_fails() {
    /// Parks a call in the hold, then fails.
    struct Fails<'a>(&'a Target, &'a AtomicBool);
    impl Quiesce for Fails<'_> {
        fn grace(&self) -> Result<(), String> {
            if self.1.load(Ordering::SeqCst) {
                common::until("the call is parked", || self.0.calls.parked() == 1);
                return Err("enough".into());
            }
            self.0.calls.grace()
        }
    }
    let bench = bench();
    let (backup, target) = bench.prepare(Point::End);
    let (holding, over, a) = (AtomicBool::new(false), AtomicBool::new(false), bench.source.join("a"));
    std::thread::scope(|scope| {
        let hold = AtPhase::new(|phase| {
            if phase == Phase::Hold {
                holding.store(true, Ordering::SeqCst);
            }
        });
        scope.spawn(|| {
            common::until("the hold begins", || holding.load(Ordering::SeqCst));
            // Before the gate is closed these go on at once; the one that does not is let go by the failure.
            while !over.load(Ordering::SeqCst) {
                target.append(&a, b"x");
            }
        });
        let result = backup.run(&Fails(&target, &holding), &hold, &Control::default());
        assert!(matches!(result, Err(Error::Quiesce(_))), "{result:?}");
        over.store(true, Ordering::SeqCst);
    });
    assert_clean(&bench, &target);
}

#[test]
fn a_backup_that_never_runs_lets_the_target_go_and_leaves_nothing() {
    let bench = bench();
    let (backup, target) = bench.prepare(Point::End);
    target.append(&bench.source.join("a"), b"x");
    drop(backup);
    assert_clean(&bench, &target);
}

#[test]
fn a_panic_lets_the_target_go_and_leaves_nothing() {
    for at in [Phase::Track, Phase::Hold, Phase::Drain] {
        let bench = bench();
        let (backup, target) = bench.prepare(Point::End);
        let panics = AtPhase::new(|phase| assert!(phase != at, "on purpose"));
        let run = std::panic::AssertUnwindSafe(|| backup.run(&*target.calls, &panics, &Control::default()));
        assert!(std::panic::catch_unwind(run).is_err());
        assert_clean(&bench, &target);
    }
}

#[test]
fn what_a_killed_backup_left_is_removed_by_the_next_and_what_a_running_one_has_is_not() {
    let bench = bench();
    let (running, _target) = bench.prepare(Point::End);
    let left = bench.dir.path().join(".dest.hotbackup-partial-999999999");
    std::fs::create_dir_all(left.join(".hotbackup")).unwrap();
    // Killed before it had put anything there, or while it was removed.
    let empty = bench.dir.path().join(".dest.hotbackup-partial-999999998");
    std::fs::create_dir(&empty).unwrap();
    // Somebody else's, whatever it is called.
    let foreign = bench.dir.path().join(".dest.hotbackup-partial-999999997");
    std::fs::create_dir_all(foreign.join("precious")).unwrap();
    let (other, _) = bench.prepare(Point::End);
    assert!(!left.exists() && !empty.exists());
    assert!(foreign.join("precious").exists());
    std::fs::remove_dir_all(&foreign).unwrap();
    let staged = |name: &str| bench.dir.path().join(format!(".dest.hotbackup-partial-{}{name}", std::process::id()));
    assert!(staged("").exists() && staged("-").exists());
    drop((running, other));
    bench.assert_nothing_staged();
}

/// Permits are dropped when the gate is gone, too.
#[test]
fn no_permit_outlives_the_backup() {
    let bench = bench();
    let backup: Backup<Permit> = Backup::prepare(bench.spec(Point::Start)).unwrap();
    let (backup, target) = target_of(backup);
    backup.run(&*target.calls, &Quiet, &Control::default()).unwrap();
    target.append(&bench.source.join("a"), b"after the end");
}
