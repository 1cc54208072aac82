//! Whoever hangs is replaced within its lease, and the target goes on: a supervisor, a keeper, a twin, and the process
//! that holds threads by ptrace.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

mod common {
    pub mod backup;
    pub mod guest;
    pub mod helpers;
}
use common::backup::{self, Outcome, alone, verify};
use common::guest::{Guest, Linked, check_rings};
use common::helpers::{keepers, kill_one, pair, wait_until};

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "32", "100"])
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

fn assert_right(guest: &mut Guest, outcome: &Outcome) {
    outcome.report();
    verify(&outcome.dest);
    check_rings(&outcome.dest, 4).unwrap_or_else(|wrong| panic!("{wrong}\n{}", outcome.report()));
    guest.assert_goes_on();
}

/// A whole backup, which must be right.
fn back_up(guest: &mut Guest, name: &str) {
    let outcome = backup::take(guest.pid(), &guest.beside(name), &["--source", path(&guest.dir)]);
    assert_right(guest, &outcome);
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
        kill(hung, Signal::SIGSTOP).expect("the keeper lives");
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
    for (round, point) in ["end", "start"].into_iter().enumerate() {
        let dest = guest.beside(&format!("stopped{round}"));
        let source = ["--source", path(&guest.dir), "--throttle", "200KiB", "--point", point];
        let mut running = backup::start(guest.pid(), &dest, &source);
        running.wait_for_copying();
        running.signal(Signal::SIGSTOP);
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
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for &keeper in &before {
            kill(keeper, signal).expect("the keeper lives");
        }
    }
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

/// The state of a process's first thread, as in proc_pid_stat(5).
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

/// No thread of the guest is held by ptrace or stopped.
fn assert_not_stopped(pid: i32) {
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("the guest lives").flatten() {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        assert!(!matches!(state, Some('t' | 'T')), "a thread is left stopped: {stat}");
    }
}
