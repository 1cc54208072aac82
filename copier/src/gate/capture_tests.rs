use super::*;
use crate::{Point, Source, Spec};
use crossbeam::channel::{Receiver, unbounded};
use hotbackup_event::FileId;
use std::sync::atomic::AtomicBool;

/// Counts the calls that were let go.
struct Permit(Arc<AtomicUsize>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Bench {
    capture: Capture<Permit>,
    let_go: Arc<AtomicUsize>,
    tree: Option<Arc<Tree>>,
    jobs: (Sender<Job<Permit>>, Receiver<Job<Permit>>),
    root: FileId,
}

fn bench(lease: Duration) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let tuning = Tuning { hold_lease: lease, ..Tuning::default() };
    let root = std::fs::File::open(dir.path()).unwrap().into();
    let id = crate::base::sys::stat_fd(&root).unwrap().id;
    let spec = Spec {
        sources: vec![Source { root, path: dir.path().into(), name: None }],
        dest: dir.path().join("none"),
        point: Point::End,
        exclude: Vec::new(),
        tuning: tuning.clone(),
        pid: 1,
        root: None,
    };
    let ledger = Arc::new(Ledger::default());
    let tree = Tree::new(Arc::clone(&ledger), spec, FileId { dev: 0, ino: 0, btime_ns: 0 }).unwrap();
    let capture = Capture::new(ledger, &tuning);
    Bench { capture, let_go: Arc::default(), tree: Some(Arc::new(tree)), jobs: unbounded(), root: id }
}

impl Bench {
    fn call(&self, name: &str) {
        let effect = Effect::Entry { dir: self.root, name: name.into() };
        self.capture.admit(vec![effect], Permit(Arc::clone(&self.let_go)));
    }

    fn gone_on(&self) -> usize {
        self.let_go.load(Ordering::SeqCst)
    }

    /// Tries to fix the point in time. A tree that is not needed must come back.
    fn fix(&mut self, hold: &Hold) -> bool {
        let tree = self.tree.take().unwrap();
        let fixed = self.capture.drain(hold, Arc::clone(&tree), self.jobs.0.clone()).unwrap();
        self.tree = Arc::into_inner(tree).map(Arc::new);
        assert_eq!(self.tree.is_some(), !fixed);
        fixed
    }
}

#[test]
fn a_cut_marks_what_was_parked_and_lets_it_go_and_no_point_in_time_comes_of_it() {
    let mut bench = bench(Duration::ZERO);
    let hold = bench.capture.park().unwrap();
    bench.call("a");
    bench.call("b");
    assert_eq!((bench.gone_on(), bench.capture.ledger.entry_count()), (0, 0));
    bench.capture.tick();
    assert!(hold.is_cut() && !bench.capture.is_holding());
    assert_eq!((bench.gone_on(), bench.capture.ledger.entry_count()), (2, 2));
    assert!(!bench.fix(&hold), "a point in time came of a hold that was cut");
    bench.capture.unpark(&hold).unwrap();
    // Tracking as if nothing had been.
    bench.call("c");
    assert_eq!((bench.gone_on(), bench.capture.ledger.entry_count()), (3, 3));
}

#[test]
fn a_hold_is_not_cut_before_its_lease_is_over() {
    let bench = bench(Duration::from_secs(3600));
    let hold = bench.capture.park().unwrap();
    bench.call("a");
    bench.capture.tick();
    assert!(!hold.is_cut() && bench.capture.is_holding());
    assert_eq!(bench.gone_on(), 0);
    assert_ne!(bench.capture.lease_ends.load(Ordering::SeqCst), 0, "its lease was forgotten");
    bench.capture.unpark(&hold).unwrap();
    assert_eq!(bench.gone_on(), 1);
}

#[test]
fn a_call_on_a_device_that_nothing_known_is_on_is_not_held() {
    let bench = bench(Duration::from_secs(3600));
    let _hold = bench.capture.park().unwrap();
    let elsewhere = FileId { dev: bench.root.dev + 1, ..bench.root };
    let effect = Effect::Entry { dir: elsewhere, name: "a".into() };
    bench.capture.admit(vec![effect], Permit(Arc::clone(&bench.let_go)));
    assert_eq!((bench.gone_on(), bench.capture.ledger.entry_count()), (1, 1));
    bench.call("b");
    assert_eq!(bench.gone_on(), 1);
}

#[test]
fn what_was_let_go_or_has_failed_is_not_released() {
    let released = bench(Duration::from_secs(3600));
    released.capture.release().unwrap();
    assert!(released.capture.release().is_err());
    let failed = bench(Duration::from_secs(3600));
    failed.capture.ledger.fail(Error::Cancelled);
    assert!(failed.capture.release().is_err(), "it had failed elsewhere, and the gate had not been told yet");
}

#[test]
fn the_end_of_a_hold_waits_for_a_call_that_another_thread_takes_from_the_queue() {
    let bench = bench(Duration::from_secs(3600));
    let hold = bench.capture.park().unwrap();
    bench.capture.in_hand.store(1, Ordering::SeqCst);
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            bench.capture.unpark(&hold).unwrap();
            ended.store(true, Ordering::SeqCst);
        });
        while bench.capture.is_holding() {
            std::thread::yield_now();
        }
        (0..1_000).for_each(|_| std::thread::yield_now());
        assert!(!ended.load(Ordering::SeqCst), "the hold counts as ended while a call of it has not gone on");
        bench.capture.in_hand.store(0, Ordering::SeqCst);
    });
    assert!(ended.load(Ordering::SeqCst));
}

#[test]
fn the_end_of_an_earlier_lease_does_not_cut_the_next_hold() {
    let bench = bench(Duration::from_secs(3600));
    let hold = bench.capture.park().unwrap();
    bench.call("a");
    // As one who looked at the lease of the hold before this one.
    bench.capture.lease_ends.store(1, Ordering::SeqCst);
    bench.capture.tick();
    assert!(!hold.is_cut() && bench.capture.is_holding());
    assert_eq!(bench.gone_on(), 0);
}

#[test]
fn a_tick_lets_go_what_the_one_who_fixed_the_point_in_time_leaves_lying() {
    let bench = bench(Duration::ZERO);
    let hold = bench.capture.park().unwrap();
    bench.call("a");
    let drain =
        Drain::new(Arc::clone(&bench.capture.ledger), Arc::clone(bench.tree.as_ref().unwrap()), bench.jobs.0.clone());
    assert!(bench.capture.leave(&hold, Gate::Draining(drain)).unwrap());
    assert_eq!(bench.gone_on(), 0);
    bench.capture.tick();
    assert_eq!(bench.gone_on(), 1);
    assert_eq!(bench.capture.ledger.entry_count(), 0, "it was marked, though it comes after the point in time");
}

#[test]
fn letting_go_lets_go_what_was_parked_and_what_is_in_the_queue() {
    let bench = bench(Duration::from_secs(3600));
    let hold = bench.capture.park().unwrap();
    bench.call("a");
    assert!(bench.capture.leave(&hold, Gate::Tracking).unwrap());
    bench.capture.let_go();
    assert_eq!(bench.gone_on(), 1);
    assert!(bench.capture.unpark(&hold).is_err());
}

#[test]
fn either_the_cut_or_the_point_in_time_wins_and_never_both() {
    let (mut cut, mut fixed) = (0, 0);
    for round in 0..2_000 {
        let mut bench = bench(Duration::ZERO);
        let hold = bench.capture.park().unwrap();
        (0..3).for_each(|n| bench.call(&n.to_string()));
        let tree = bench.tree.take().unwrap();
        let won = std::thread::scope(|scope| {
            scope.spawn(|| {
                (0..round % 50).for_each(|_| std::hint::spin_loop());
                bench.capture.tick();
            });
            bench.capture.drain(&hold, tree, bench.jobs.0.clone()).unwrap()
        });
        assert_eq!(bench.gone_on(), 3);
        assert_eq!(won, !hold.is_cut());
        // Marked: it ran while tracking. Not marked: it ran after the point in time.
        assert_eq!(bench.capture.ledger.entry_count(), if won { 0 } else { 3 });
        *if won { &mut fixed } else { &mut cut } += 1;
    }
    println!("{cut} cut, {fixed} fixed");
}
