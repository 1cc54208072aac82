//! Signals that reach a target's threads while their calls are stopped: mongod's own (SIGUSR1 rotates its log, SIGUSR2 dumps every
//! thread's stack), and storms of timers as profilers make them.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod common {
    pub mod acks;
    pub mod backup;
    pub mod guest;
    pub mod load;
    pub mod mongod;
    pub mod process;
    pub mod random;
    pub mod validate;
}
use common::backup::{self, Outcome, alone, number_from, scratch, seed};
use common::guest::{Guest, Linked};
use common::load::{self, Load};
use common::mongod::{Mongod, Opts};
use common::process::{assert_right, pair, path, status, threads, wait_until};
use common::validate;

fn signal(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).expect("it lives");
}

/// Has the server dump its threads' stacks. Every thread that was there before and after must be in it, but for the one that
/// writes the dump: that is so without us.
fn dump(server: &Mongod) {
    let mut before: BTreeSet<i32> = threads(server.pid()).into_iter().collect();
    before.retain(|&tid| status(tid, "Name").as_deref() != Some("SignalHandler"));
    let log = fs::File::open(server.log()).expect("the server's log");
    let from = log.metadata().expect("readable").len();
    let mut said = String::new();
    signal(server.pid(), Signal::SIGUSR2);
    wait_until("the end of a stack dump", || {
        let mut bytes = vec![0; (log.metadata().expect("readable").len() - from) as usize];
        log.read_exact_at(&mut bytes, from).expect("a log only grows");
        said = String::from_utf8_lossy(&bytes).into_owned();
        said.contains("multithread stacktrace session end")
    });
    let after: BTreeSet<i32> = threads(server.pid()).into_iter().collect();
    let dumped: BTreeSet<i32> = said
        .lines()
        .filter(|line| line.contains("Stacktrace Record"))
        .filter_map(|line| line.split("\"tid\":").nth(1)?.split(',').next()?.parse().ok())
        .collect();
    let missing: Vec<_> = before.intersection(&after).filter(|tid| !dumped.contains(tid)).collect();
    assert!(missing.is_empty(), "threads {missing:?} of {} are not in the dump", before.len());
}

/// The clients go on, and stop; the server is unharmed, and what was backed up is right.
fn end_well(mut server: Mongod, load: Load, outcomes: &[Outcome]) {
    load.wait_for(50);
    let acks = load.stop();
    server.assert_unharmed();
    for outcome in outcomes {
        validate::assert_right(outcome, false, &acks);
    }
    server.stop();
}

/// A server under load, and where its backups may go.
fn at_work() -> (tempfile::TempDir, Mongod, Load) {
    let scratch = scratch();
    let dbpath = scratch.path().join("db");
    fs::create_dir(&dbpath).expect("a data directory");
    let server = Mongod::start(&Opts { dbpath, small_journal: true, ..Opts::default() });
    load::fill(&server.uri(), 24);
    let load = Load::start(&server.uri(), seed());
    load.wait_for(200);
    (scratch, server, load)
}

#[test]
fn a_servers_stack_dumps_are_complete_before_during_and_between_backups() {
    let _alone = alone();
    let (scratch, server, load) = at_work();
    // Without us.
    dump(&server);
    let mut outcomes = Vec::new();
    for round in 0..number_from("HOTBACKUP_ROUNDS", 4) {
        let point = ["end", "start"][round as usize % 2];
        let dest = scratch.path().join(format!("backup{round}"));
        let mut running = backup::start(server.pid(), &dest, &["--point", point, "--throttle", "16MiB"]);
        let mut dumps = 0;
        // The first as it attaches, the others in its passes, holds and drains.
        while running.is_running() {
            dump(&server);
            dumps += 1;
        }
        println!("{dumps} dumps in a backup to the {point}");
        let outcome = running.finish();
        outcome.report();
        outcomes.push(outcome);
        for _ in 0..5 {
            dump(&server);
        }
        load.wait_for(50);
    }
    // With every writer stopped, until the keeper answers in place of a supervisor that hangs.
    let mut running = backup::start(server.pid(), &scratch.path().join("hung"), &["--throttle", "4MiB"]);
    running.wait_for_copying();
    running.signal(Signal::SIGSTOP);
    dump(&server);
    running.signal(Signal::SIGCONT);
    drop(running.finish());
    end_well(server, load, &outcomes);
}

/// Has the server put its log aside. It does so only when its clock, in whole seconds, has moved on by more than one since
/// the last time, and says nothing when it does not.
fn rotate(server: &Mongod) {
    let (began, before) = (Instant::now(), server.rotated_logs().len());
    wait_until("a time at which it rotates", || began.elapsed() > Duration::from_millis(2100));
    signal(server.pid(), Signal::SIGUSR1);
    wait_until("the server to put its log aside", || server.rotated_logs().len() == before + 1);
    wait_until("the server's new log", || fs::metadata(server.log()).is_ok_and(|log| log.len() > 0));
}

#[test]
fn a_server_rotates_its_log_during_and_between_backups() {
    let _alone = alone();
    let (scratch, server, load) = at_work();
    rotate(&server);
    let mut outcomes = Vec::new();
    for point in ["end", "start"] {
        let dest = scratch.path().join(point);
        let mut running = backup::start(server.pid(), &dest, &["--point", point, "--throttle", "4MiB"]);
        running.wait_for_copying();
        rotate(&server);
        rotate(&server);
        assert!(running.is_running(), "the backup was over before the log was put aside");
        let outcome = running.finish();
        outcome.report();
        outcomes.push(outcome);
        rotate(&server);
    }
    end_well(server, load, &outcomes);
}

/// Backups of a guest under a storm of signals, and time between them.
fn storm(how: &str) {
    let mut guest = Guest::start("signals", Linked::Dynamically, &[how]);
    for round in 0..number_from("HOTBACKUP_ROUNDS", 4) {
        let point = ["end", "start"][round as usize % 2];
        let dest = guest.beside(&format!("backup{round}"));
        let source = ["--source", path(&guest.dir), "--throttle", "4MiB", "--point", point];
        assert_right(&backup::take(guest.pid(), &dest, &source), 3);
        for _ in 0..10 {
            guest.assert_goes_on();
        }
    }
    pair(guest.pid());
}

#[test]
fn a_thousand_signals_a_second_with_sa_restart_fail_no_call() {
    let _alone = alone();
    storm("restart");
}

#[test]
fn a_profiler_of_processor_time_without_sa_restart_fails_no_call() {
    let _alone = alone();
    storm("profile");
}

#[test]
fn a_call_that_a_signal_without_sa_restart_interrupts_has_not_run_and_can_be_made_again() {
    let _alone = alone();
    storm("wall");
}
