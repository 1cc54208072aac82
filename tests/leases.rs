//! Whoever hangs is replaced within its lease, and the target goes on: a supervisor, a keeper, a twin, and the process
//! that holds threads by ptrace.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

mod common {
    pub mod backup;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, Outcome, alone};
use common::guest::{Guest, Linked};
use common::process::{assert_not_stopped, keepers, kill_one, pair, path, signal_all, state, wait_until};

const RINGS: usize = 4;

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "32", "100"])
}

fn assert_right(guest: &mut Guest, outcome: &Outcome) {
    common::process::assert_right(outcome, RINGS);
    guest.assert_goes_on();
}

fn back_up(guest: &mut Guest, name: &str) {
    common::process::back_up(guest, RINGS, name);
}

#[test]
fn a_keeper_that_is_stopped_is_ended_and_replaced_by_its_twin() {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, "first");
    for round in 0..4 {
        // In turn the one that acts, and its twin.
        let before = pair(guest.pid());
        let hung = before[round % 2];
        signal_all(&[hung], Signal::SIGSTOP);
        wait_until("the stopped keeper is replaced", || {
            let now = keepers(guest.pid());
            now.len() == 2 && !now.contains(&hung)
        });
        guest.assert_goes_on();
    }
    back_up(&mut guest, "next");
}

#[test]
fn a_supervisor_that_is_stopped_is_revoked_and_says_so_when_it_wakes() {
    let _alone = alone();
    let mut guest = rings();
    backup::add_ballast(&guest.dir);
    for (round, point) in ["end", "start"].into_iter().enumerate() {
        let dest = guest.beside(&format!("stopped{round}"));
        let source = ["--source", path(&guest.dir), "--throttle", "200KiB", "--point", point];
        let mut running = backup::start(guest.pid(), &dest, &source);
        running.wait_for_copying();
        let supervisor = running.pid();
        running.signal(Signal::SIGSTOP);
        wait_until("the supervisor is stopped", || state(supervisor) == Some('T'));
        guest.assert_goes_on();
        running.signal(Signal::SIGCONT);
        running.finish().failure("revoked");
        guest.assert_goes_on();
    }
    back_up(&mut guest, "next");
}

#[test]
fn keepers_killed_during_a_backup_are_replaced_by_the_supervisor() {
    let _alone = alone();
    let mut guest = rings();
    let dest = guest.beside("backup");
    let source = ["--source", path(&guest.dir), "--throttle", "200KiB"];
    let mut running = backup::start(guest.pid(), &dest, &source);
    running.wait_for_copying();
    let before = pair(guest.pid());
    signal_all(&before, Signal::SIGSTOP);
    signal_all(&before, Signal::SIGKILL);
    wait_until("there are other keepers", || {
        let now = keepers(guest.pid());
        now.len() == 2 && now.iter().all(|keeper| !before.contains(keeper))
    });
    // They do what the first pair was there for.
    running.kill();
    guest.assert_goes_on();
    back_up(&mut guest, "next");
}

#[test]
fn a_ptracer_that_is_stopped_with_a_thread_in_its_hands_is_ended_and_the_thread_goes_on() {
    let _alone = alone();
    for point in ["inject.thread-held", "inject.code-written", "inject.redirected", "inject.let-go"] {
        for (time, filtered) in [(1, false), (2, true)] {
            let mut guest = rings();
            let dest = guest.beside("backup");
            let failpoint = format!("{point}:stop:{time}");
            println!("{failpoint}");
            let running = backup::start_failing(guest.pid(), &dest, &["--source", path(&guest.dir)], &failpoint);
            let outcome = running.finish();
            if filtered {
                // Hung at the second injection, the one that installs the filter. The next ptracer comes no further than
                // its first, or the thread has run the code by itself.
                assert_right(&mut guest, &outcome);
            } else {
                // Each one that is started in its place hangs as well.
                outcome.failure("attach_failed");
            }
            guest.assert_goes_on();
            assert_not_stopped(guest.pid());
            back_up(&mut guest, "next");
        }
    }
}

#[test]
fn a_supervisor_that_is_stopped_while_it_attaches_leaves_no_thread_stopped() {
    let _alone = alone();
    for point in ["attach.keeper-ready", "attach.page-written", "attach.installed", "attach.supervised"] {
        let mut guest = rings();
        let dest = guest.beside("backup");
        let running =
            backup::start_failing(guest.pid(), &dest, &["--source", path(&guest.dir)], &format!("{point}:stop"));
        let supervisor = running.pid();
        wait_until("the supervisor is stopped", || state(supervisor) == Some('T'));
        guest.assert_goes_on();
        assert_not_stopped(guest.pid());
        running.signal(Signal::SIGCONT);
        let outcome = running.finish();
        if outcome.status.success() {
            assert_right(&mut guest, &outcome);
        } else {
            outcome.assert_nothing_left();
        }
        guest.assert_goes_on();
        back_up(&mut guest, "next");
    }
}

#[test]
fn a_twin_answers_what_a_killed_keeper_had_received() {
    let _alone = alone();
    let mut guest = rings();
    // The keepers inherit the fail point: the third call that one receives is its last.
    let dest = guest.beside("first");
    let running = backup::start_failing(guest.pid(), &dest, &["--source", path(&guest.dir)], "keeper.received:kill:3");
    assert_right(&mut guest, &running.finish());
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(1) {
        guest.assert_goes_on();
    }
    let dead = pair(guest.pid())[0];
    kill_one(dead);
    guest.assert_goes_on();
}

#[test]
fn a_pair_that_is_stopped_is_not_handed_the_target() {
    let _alone = alone();
    let mut guest = rings();
    let dest = guest.beside("backup");
    let mut running = backup::start(guest.pid(), &dest, &["--source", path(&guest.dir), "--throttle", "1MiB"]);
    running.wait_for_copying();
    let before = pair(guest.pid());
    signal_all(&before, Signal::SIGSTOP);
    let outcome = running.finish();
    assert_right(&mut guest, &outcome);
    let now = pair(guest.pid());
    assert!(now.iter().all(|keeper| !before.contains(keeper)), "{before:?} are still there, as {now:?}");
    back_up(&mut guest, "next");
}

#[test]
fn a_supervisor_that_is_killed_while_its_ptracer_is_stopped_leaves_no_thread_held() {
    let _alone = alone();
    for time in [1, 2] {
        let mut guest = rings();
        let struck = guest.beside("struck");
        let failpoint = format!("inject.thread-held:stop:{time}@{}", path(&struck));
        let dest = guest.beside("backup");
        let running = backup::start_failing(guest.pid(), &dest, &["--source", path(&guest.dir)], &failpoint);
        wait_until("the ptracer is stopped", || struck.exists());
        running.kill();
        guest.assert_goes_on();
        assert_not_stopped(guest.pid());
        back_up(&mut guest, "next");
    }
}

#[test]
fn a_target_that_becomes_another_program_during_the_attach_is_left_alone() {
    let _alone = alone();
    let scratch = backup::scratch();
    let trigger = scratch.path().join("trigger");
    let mut guest = Guest::start_in(scratch, "becomes_another", Linked::Dynamically, &[path(&trigger)]);
    let dest = guest.beside("backup");
    let source = ["--source", path(&guest.dir)];
    let running = backup::start_failing(guest.pid(), &dest, &source, "attach.page-written:stop");
    let supervisor = running.pid();
    wait_until("the supervisor is stopped", || state(supervisor) == Some('T'));
    std::fs::write(&trigger, "").expect("written");
    wait_until("the guest to become another program", || !trigger.exists());
    running.signal(Signal::SIGCONT);
    let outcome = running.finish();
    outcome.failure("attach_failed");
    guest.assert_goes_on();
    common::process::back_up(&mut guest, 1, "next");
}

#[test]
fn keepers_leave_one_another_in_peace_however_long_the_lease() {
    let _alone = alone();
    let mut guest = rings();
    let dest = guest.beside("backup");
    let source = ["--source", path(&guest.dir), "--throttle", "300KiB", "--lease", "20s"];
    let mut running = backup::start(guest.pid(), &dest, &source);
    running.wait_for_copying();
    let before = pair(guest.pid());
    let outcome = running.finish();
    assert!(outcome.report()["phases"].as_array().is_some_and(|phases| !phases.is_empty()));
    assert_right(&mut guest, &outcome);
    assert_eq!(pair(guest.pid()), before, "a keeper was replaced");
}
