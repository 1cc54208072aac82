//! One release's keepers, the other's supervisor, and whoever of them is killed.

use hotbackup_event::failpoint;
use nix::sys::signal::Signal;

use crate::bench::{BOTH_WAYS, Bench, Release};
use crate::common::backup::alone;
use crate::common::process::{kill_all, kill_one, pair, wait_until};
use crate::faults::processes::keepers;

/// Where a supervisor is killed: at every step by which it takes over, answers and hands back.
const STEPS: [&str; 9] = [
    "takeover.claimed:kill",
    "takeover.watched:kill",
    "attach.receiving:kill",
    "receive.received:kill:20",
    "receive.before-answer:kill:20",
    "hold.parked:kill",
    "drain.complete:kill",
    "handover.deaf:kill",
    "handover.kept:kill",
];

#[test]
fn each_takes_over_from_the_others_keepers_and_hands_back_to_them() {
    let _alone = alone();
    for (keepers, supervisor) in BOTH_WAYS {
        let mut bench = Bench::attached_by(keepers);
        let before = pair(bench.pid());
        for release in [supervisor, keepers, supervisor, supervisor] {
            bench.back_up_kept(release);
        }
        assert_eq!(pair(bench.pid()), before, "a keeper of {keepers:?} was replaced");
    }
}

#[test]
fn a_supervisor_that_is_killed_is_followed_by_the_others_keepers() {
    let _alone = alone();
    for (keepers, supervisor) in BOTH_WAYS {
        let mut bench = Bench::attached_by(keepers);
        for step in STEPS {
            let mut command = supervisor.command();
            command.env(failpoint::VARIABLE, step);
            let outcome = bench.start(command, supervisor, &[]).finish();
            assert_eq!(outcome.status.code(), None, "{supervisor:?} did not come to {step}: {}", outcome.stderr);
            bench.assert_unharmed(&format!("{supervisor:?} was killed at {step}, with keepers of {keepers:?}"));
        }
        bench.back_up_kept(supervisor);
        bench.back_up_kept(keepers);
    }
}

#[test]
fn a_keeper_that_is_killed_is_replaced_by_its_twin_beside_the_others_supervisor() {
    let _alone = alone();
    for (of_keepers, supervisor) in BOTH_WAYS {
        let mut bench = Bench::attached_by(of_keepers);
        // It copies a byte a second: it is there until it is told to end.
        let running = {
            let mut running = bench.start(supervisor.command(), supervisor, &["--throttle", "1"]);
            running.wait_for_phase("track");
            running
        };
        for _ in 0..3 {
            pair(bench.pid());
            wait_until("a pair", || keepers(bench.pid()).pair.is_some());
            let (acting, twin) = keepers(bench.pid()).pair.expect("just seen");
            for victim in [twin, acting] {
                kill_one(victim);
                wait_until("the next", || {
                    keepers(bench.pid()).pair.is_some_and(|pair| pair.0 != victim && pair.1 != victim)
                });
            }
            bench.assert_unharmed(&format!("keepers of {of_keepers:?} were killed beside {supervisor:?}"));
        }
        running.signal(Signal::SIGTERM);
        assert_eq!(running.finish().status.code(), Some(130));
        bench.back_up_kept(supervisor);
        bench.back_up_kept(of_keepers);
    }
}

#[test]
fn keepers_that_are_all_killed_beside_a_supervisor_are_replaced_by_its_release() {
    let _alone = alone();
    for (of_keepers, supervisor) in BOTH_WAYS {
        let mut bench = Bench::attached_by(of_keepers);
        let mut running = bench.start(supervisor.command(), supervisor, &["--throttle", "1"]);
        running.wait_for_phase("track");
        let before = pair(bench.pid());
        kill_all(bench.pid());
        wait_until("another pair", || {
            keepers(bench.pid()).pair.is_some_and(|pair| !before.contains(&pair.0) && !before.contains(&pair.1))
        });
        running.signal(Signal::SIGTERM);
        assert_eq!(running.finish().status.code(), Some(130));
        bench.assert_unharmed(&format!("keepers of {supervisor:?} took the place of {of_keepers:?}'s"));
        bench.back_up_kept(of_keepers);
        bench.back_up_kept(supervisor);
    }
}

#[test]
fn a_target_that_nobody_answers_any_more_is_rescued_by_the_other() {
    let _alone = alone();
    for (keepers, other) in BOTH_WAYS {
        let mut bench = Bench::attached_by(keepers);
        kill_all(bench.pid());
        let mut rescue = other.command();
        let output = rescue.args(["rescue", "--pid", &bench.pid().to_string()]).output().expect("it starts");
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{other:?}: {}", String::from_utf8_lossy(&said));
        // What waited for the rescue is excused.
        crate::faults::target::goes_on(&mut bench.target, 5, crate::bench::STANDSTILL).expect("it goes on");
        crate::faults::target::Target::begin(&mut bench.target);
        bench.back_up_kept(keepers);
        bench.back_up_kept(other);
    }
}

/// The supervisor dies together with all keepers: what it had received is found in the memory by the other release.
#[test]
fn calls_that_one_release_received_are_answered_by_the_other() {
    let _alone = alone();
    for (first, other) in BOTH_WAYS {
        let mut bench = Bench::attached_by(first);
        let mut command = first.command();
        command.env(failpoint::VARIABLE, "receive.before-answer:stop:20");
        let running = bench.start(command, first, &[]);
        wait_until("the stop", || crate::common::process::state(running.pid()) == Some('T'));
        kill_all(bench.pid());
        running.kill();
        // It starts keepers of its own, which answer first of all.
        bench_goes_on_by_backup(&mut bench, other);
    }
}

fn bench_goes_on_by_backup(bench: &mut Bench, other: Release) {
    crate::bench::patiently(|| bench.start(other.command(), other, &[]).finish());
    crate::faults::target::goes_on(&mut bench.target, 5, crate::bench::STANDSTILL).expect("it goes on");
    crate::faults::target::Target::begin(&mut bench.target);
    bench.back_up_kept(other);
}
