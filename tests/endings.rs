//! Every way in which a target ends, at the moments when it is held, followed or between backups; its core file; and another
//! process that gets its number.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod common {
    pub mod backup;
    pub mod core_pattern;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, HOTBACKUP, alone};
use common::core_pattern::CorePattern;
use common::guest::{Guest, Linked, compile};
use common::process::{
    assert_keepers_end, assert_right, assert_right_or_failed, back_up, keepers, pair, path, threads, wait_until,
};

const RINGS: usize = 4;

fn cores_into(directory: &Path) -> CorePattern {
    CorePattern::set(&format!("{}/core.%p", path(directory)))
}

fn ending(how: &str) -> Guest {
    let scratch = backup::scratch();
    let trigger = path(&scratch.path().join("trigger")).to_owned();
    Guest::start_in(scratch, "endings", Linked::Dynamically, &[&trigger, how])
}

fn end(guest: &mut Guest, how: &str) {
    match how {
        "kill" => guest.kill(),
        _ => {
            fs::write(guest.beside("trigger"), "").expect("written");
            guest.wait_for_end();
        }
    }
}

/// gdb must find every thread and its stack in the core file.
fn assert_core_opens(guest: &Guest, how: &str) {
    let core: PathBuf = guest.beside(&format!("core.{}", guest.pid()));
    let output = Command::new("gdb")
        .args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-ex", "thread apply all backtrace"])
        .args([&compile("endings", Linked::Dynamically), &core])
        .output()
        .expect("gdb is installed: apt-get install gdb");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    let signal = if how == "segv" { "SIGSEGV" } else { "SIGABRT" };
    assert!(said.contains(&format!("terminated with signal {signal}")), "not the core of this end: {said}");
    // Four writers, the main thread, and the one that ends them.
    assert_eq!(said.lines().filter(|line| line.starts_with("#0 ")).count(), RINGS + 2 + 1, "not every thread: {said}");
    assert!(!said.to_lowercase().contains("truncated"), "the core file is not whole: {said}");
}

const WAYS: [&str; 5] = ["exit", "exit_group", "kill", "segv", "abort"];

#[test]
fn a_target_may_end_in_any_way_while_it_is_tracked_or_drained() {
    let _alone = alone();
    for point in ["end", "start"] {
        for how in WAYS {
            println!("{how}, to the {point}");
            let mut guest = ending(how);
            let _pattern = cores_into(guest.scratch.path());
            let source = ["--source", path(&guest.dir), "--throttle", "1MiB", "--point", point];
            let mut running = backup::start(guest.pid(), &guest.beside("backup"), &source);
            running.wait_for_copying();
            end(&mut guest, how);
            let outcome = running.finish();
            // After T the source holds all that is needed.
            let succeeded = assert_right_or_failed(&outcome, RINGS, &["target_exited"]);
            assert!(!succeeded || point == "start", "it ended well, though its point lay after the target's end");
            assert!(succeeded || outcome.status.code() == Some(7));
            assert_keepers_end(guest.pid());
            if ["segv", "abort"].contains(&how) {
                assert_core_opens(&guest, how);
            }
        }
    }
}

fn stop_all(pids: &[i32]) {
    for &pid in pids {
        kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("it lives");
    }
}

fn continue_all(pids: &[i32]) {
    for &pid in pids {
        // A keeper that goes on and finds its target gone ends its twin.
        let _ = kill(Pid::from_raw(pid), Signal::SIGCONT);
    }
}

/// How many threads of a guest are in a pwrite64.
fn waiting_writers(guest: &Guest) -> usize {
    let call = |tid| fs::read_to_string(format!("/proc/{tid}/syscall")).unwrap_or_default();
    threads(guest.pid()).into_iter().filter(|&tid| call(tid).starts_with("18 ")).count()
}

#[test]
fn a_target_may_end_in_any_way_while_its_threads_wait_for_an_answer() {
    let _alone = alone();
    for (round, how) in WAYS.into_iter().enumerate() {
        println!("{how}");
        let mut guest = ending(how);
        let _pattern = cores_into(guest.scratch.path());
        let point = ["end", "start"][round % 2];
        let source = ["--source", path(&guest.dir), "--throttle", "1MiB", "--point", point];
        let mut running = backup::start(guest.pid(), &guest.beside("backup"), &source);
        running.wait_for_copying();
        // Nobody answers: soon every writer stands in its call.
        let answering: Vec<i32> = pair(guest.pid()).into_iter().chain([running.pid()]).collect();
        stop_all(&answering);
        wait_until("the writers to stand still", || waiting_writers(&guest) == RINGS);
        end(&mut guest, how);
        continue_all(&answering);
        let outcome = running.finish();
        let succeeded = assert_right_or_failed(&outcome, RINGS, &["target_exited", "revoked"]);
        assert!(!succeeded || point == "start", "it ended well, though its point lay after the target's end");
        assert_keepers_end(guest.pid());
        if ["segv", "abort"].contains(&how) {
            assert_core_opens(&guest, how);
        }
    }
}

#[test]
fn a_target_may_end_in_any_way_between_backups() {
    let _alone = alone();
    for how in WAYS {
        println!("{how}");
        let mut guest = ending(how);
        let _pattern = cores_into(guest.scratch.path());
        back_up(&mut guest, RINGS, "first");
        pair(guest.pid());
        end(&mut guest, how);
        assert_keepers_end(guest.pid());
        if ["segv", "abort"].contains(&how) {
            assert_core_opens(&guest, how);
        }
        let outcome = backup::take(guest.pid(), &guest.beside("late"), &["--source", path(&guest.dir)]);
        outcome.failure("no_such_process");
    }
}

fn hotbackup(verb: &str, pid: i32, more: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(HOTBACKUP).args([verb, "--pid", &pid.to_string()]).args(more).output();
    let output = output.expect("it starts");
    (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[test]
fn a_process_that_gets_a_dead_targets_number_is_a_new_one() {
    let _alone = alone();
    let mut old = Guest::start("rings", Linked::Dynamically, &["4", "32", "100"]);
    back_up(&mut old, RINGS, "first");
    let number = old.pid();
    // Stopped, the old one's keepers cannot end: the new one meets them.
    let stale = pair(number);
    stop_all(&stale);
    old.kill();
    let rings = compile("rings", Linked::Dynamically);
    let mut new = Guest::start_as(number, &rings, &["4", "32", "100"]);
    assert_eq!(keepers(number), stale, "the old keepers ended: this shows nothing");

    let (code, said) = hotbackup("rescue", number, &[]);
    assert_eq!(code, Some(54), "a rescue of a process that needs none: {said}");
    let (code, said) = hotbackup("check", number, &["--probe", "--source", path(&new.dir)]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("filter installed"), "the old keepers were taken for the new process's: {said}");
    let outcome = backup::take(number, &new.beside("backup"), &["--source", path(&new.dir)]);
    assert_right(&outcome, RINGS);
    new.assert_goes_on();
    continue_all(&stale);
    wait_until("the old keepers' end", || keepers(number).len() == 2);
    assert!(keepers(number).iter().all(|keeper| !stale.contains(keeper)));
    new.assert_goes_on();
    let outcome = backup::take(number, &new.beside("next"), &["--source", path(&new.dir)]);
    assert_right(&outcome, RINGS);
    assert_eq!(outcome.stop_us(), None);
    new.assert_goes_on();
}
