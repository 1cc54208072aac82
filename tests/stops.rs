//! A target that is stopped and continued by its user, as Ctrl-Z does, at any moment of a backup: nothing hangs for ever, and
//! whether it is stopped stays the user's affair.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod common {
    pub mod backup;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, Running, alone, number_from};
use common::guest::{Guest, Linked};
use common::process::{
    assert_right, assert_right_or_failed, back_up, helpers, pair, path, status, threads, wait_until,
};

const RINGS: usize = 4;

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "32", "100"])
}

fn signal(guest: &Guest, signal: Signal) {
    kill(Pid::from_raw(guest.pid()), signal).expect("the guest lives");
}

fn stop(guest: &Guest) {
    signal(guest, Signal::SIGSTOP);
    wait_until("the guest to stop", || is_stopped(guest));
}

/// Whether every thread is stopped, by job control and nobody else.
fn is_stopped(guest: &Guest) -> bool {
    threads(guest.pid()).iter().all(|&tid| status(tid, "State").is_some_and(|state| state.starts_with('T')))
}

fn start(guest: &Guest, name: &str, point: &str) -> Running {
    let source = ["--source", path(&guest.dir), "--throttle", "1MiB", "--point", point];
    backup::start(guest.pid(), &guest.beside(name), &source)
}

#[test]
fn a_target_that_stays_stopped_is_not_continued_by_an_attach_which_ends() {
    let _alone = alone();
    let mut guest = rings();
    stop(&guest);
    let outcome = start(&guest, "stopped", "end").finish();
    outcome.failure("attach_failed");
    wait_until("the guest to be stopped as before", || is_stopped(&guest));
    signal(&guest, Signal::SIGCONT);
    guest.assert_goes_on();
    back_up(&mut guest, RINGS, "next");
}

/// To be told to end is enough: nobody waits for a thread that does not run.
#[test]
fn an_attach_to_a_stopped_target_ends_at_once_when_it_is_cancelled() {
    let _alone = alone();
    for _ in 0..3 {
        let mut guest = rings();
        stop(&guest);
        let mut running = start(&guest, "cancelled", "end");
        running.wait_for_phase("attach");
        wait_until("the process that traces it", || !helpers("hotbackup-trace", guest.pid()).is_empty());
        let told = std::time::Instant::now();
        running.signal(Signal::SIGTERM);
        let outcome = running.finish();
        let took = told.elapsed();
        outcome.failure("cancelled");
        assert_eq!(outcome.status.code(), Some(130));
        assert!(took < Duration::from_secs(4), "it took {took:?} to end");
        wait_until("the guest to be stopped as before", || is_stopped(&guest));
        wait_until("the end of all helpers", || {
            ["hotbackup-trace", "hotbackup-keep", "hotbackup-reap"]
                .iter()
                .all(|kind| helpers(kind, guest.pid()).is_empty())
        });
        signal(&guest, Signal::SIGCONT);
        guest.assert_goes_on();
        assert!(!guest.is_filtered(), "an attach that was cancelled has come to a filter");
    }
}

#[test]
fn a_target_that_is_continued_while_an_attach_waits_for_it_goes_on() {
    let _alone = alone();
    for _ in 0..number_from("HOTBACKUP_ROUNDS", 4) {
        let mut guest = rings();
        stop(&guest);
        let mut running = start(&guest, "stopped", "end");
        running.wait_for_phase("attach");
        wait_until("the process that traces it", || !helpers("hotbackup-trace", guest.pid()).is_empty());
        // In between its threads are, for an instant, stopped by ptrace.
        wait_until("the guest to be stopped as before", || is_stopped(&guest));
        signal(&guest, Signal::SIGCONT);
        assert_right_or_failed(&running.finish(), RINGS, &["attach_failed"]);
        guest.assert_goes_on();
        back_up(&mut guest, RINGS, "next");
    }
}

#[test]
fn a_target_stopped_during_a_backup_is_backed_up_and_stays_stopped() {
    let _alone = alone();
    let mut guest = rings();
    for point in ["end", "start"] {
        let mut running = start(&guest, point, point);
        running.wait_for_copying();
        stop(&guest);
        let outcome = running.finish();
        assert_right(&outcome, RINGS);
        assert!(is_stopped(&guest), "somebody continued the guest");
        signal(&guest, Signal::SIGCONT);
        guest.assert_goes_on();
    }
    pair(guest.pid());
}

#[test]
fn a_stopped_target_with_a_keeper_is_backed_up_and_stays_stopped() {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, RINGS, "first");
    for point in ["end", "start"] {
        stop(&guest);
        let outcome = start(&guest, &format!("stopped-{point}"), point).finish();
        assert_right(&outcome, RINGS);
        assert_eq!(outcome.stop_us(), None);
        assert!(is_stopped(&guest), "somebody continued the guest");
        signal(&guest, Signal::SIGCONT);
        guest.assert_goes_on();
    }
}

/// Stops and continues a process for as long as `work` takes; in the end it runs.
fn while_stopped_and_continued<T>(pid: i32, work: impl FnOnce() -> T) -> T {
    let (pid, over) = (Pid::from_raw(pid), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let storm = scope.spawn(|| {
            let mut pause = 0;
            while !over.load(Ordering::SeqCst) {
                for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
                    kill(pid, signal).expect("the guest lives");
                    // From not at all to longer than a hold may take.
                    pause = (pause * 7 + 1300) % 20_011;
                    std::thread::sleep(Duration::from_micros(pause));
                }
            }
        });
        let result = work();
        over.store(true, Ordering::SeqCst);
        storm.join().expect("the guest lives");
        result
    })
}

#[test]
fn stops_and_continues_at_any_moment_harm_neither_target_nor_backup() {
    let _alone = alone();
    for round in 0..2 * number_from("HOTBACKUP_ROUNDS", 4) {
        let mut guest = rings();
        let point = ["end", "start"][round as usize % 2];
        let outcome = while_stopped_and_continued(guest.pid(), || start(&guest, "storm", point).finish());
        // The thread that is to make the calls may be stopped each time; a writer that is stopped with its call let go is
        // waited for, but the hold gives up when that takes too long too often.
        let succeeded = assert_right_or_failed(&outcome, RINGS, &["attach_failed", "quiesce"]);
        println!("round {round}: {}", if succeeded { "right" } else { outcome.stderr.trim() });
        guest.assert_goes_on();
        back_up(&mut guest, RINGS, "calm");
        let outcome = while_stopped_and_continued(guest.pid(), || start(&guest, "kept", point).finish());
        let succeeded = assert_right_or_failed(&outcome, RINGS, &["quiesce"]);
        println!("round {round}, kept: {}", if succeeded { "right" } else { outcome.stderr.trim() });
        guest.assert_goes_on();
    }
}
