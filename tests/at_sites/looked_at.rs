//! Debuggers, profilers, dumps of stacks and core files, with a thread in code of ours.
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::backup::{self, alone, scratch};
use crate::common::core_pattern::CorePattern;
use crate::common::guest::{Guest, Linked};
use crate::common::process::{assert_not_stopped, assert_right, path, threads, wait_until};
use crate::harness::{follow, region, thread_inside, wait_for_sites, wait_until_all_were_looked_at};

/// Rings of `waits_in_a_write`, and its sites: those of pwrite and of write in a program with threads.
const RINGS: usize = 2;
const SITES: u64 = 2;
/// Where a stub is entered.
const ENTRY: u64 = 0x40;
const STUB: u64 = 1024;

/// A guest with a profiler's timer, whose sites are patched, between backups.
fn patched(linked: Linked) -> Guest {
    let scratch = scratch();
    let beside = scratch.path().to_owned();
    let mut guest = Guest::start_in(scratch, "waits_in_a_write", linked, &[path(&beside)]);
    let tracer = follow(&guest);
    wait_for_sites(&tracer, SITES);
    drop(tracer);
    guest.assert_goes_on();
    guest
}

fn ask(guest: &Guest, name: &str) {
    fs::write(guest.beside(name), "").expect("written");
}

fn answer(guest: &mut Guest, name: &str) -> u64 {
    wait_until(name, || {
        guest.assert_alive();
        guest.beside(name).exists()
    });
    fs::read_to_string(guest.beside(name)).expect("text").trim().parse().expect("a number")
}

/// With a thread that waits in a write there, at this address.
fn with_one_inside(linked: Linked) -> (Guest, u64) {
    let mut guest = patched(linked);
    ask(&guest, "wait");
    answer(&mut guest, "waits");
    let (_, at) = thread_inside(&guest);
    (guest, at)
}

/// Its write goes on and returns what it must, and a backup is right.
fn assert_unharmed(guest: &mut Guest) {
    assert_not_stopped(guest.pid());
    guest.assert_goes_on();
    ask(guest, "dump");
    answer(guest, "dumped");
    ask(guest, "drain");
    assert_eq!(answer(guest, "drained"), 1);
    let source = guest.dir.clone();
    let outcome = backup::take(guest.pid(), &guest.beside("backup"), &["--source", path(&source), "--capture", "auto"]);
    assert_right(&outcome, RINGS);
    guest.assert_goes_on();
}

fn gdb(arguments: &[&str], commands: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.args(["60", "gdb", "-nx", "-batch", "-iex", "set debuginfod enabled off"]).args(arguments);
    command.args(commands.iter().flat_map(|asked| ["-ex", asked]));
    let Output { stdout, stderr, .. } = command.stdin(Stdio::null()).output().expect("gdb is installed");
    String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned()
}

/// By a handler of a signal to a thread that waits there, as mongod's SIGUSR2, and by a timer's all the time.
#[test]
fn stacks_can_be_dumped_by_handlers_of_signals() {
    let _alone = alone();
    for linked in [Linked::Dynamically, Linked::Statically] {
        let (mut guest, _) = with_one_inside(linked);
        ask(&guest, "dump");
        let frames = answer(&mut guest, "dumped");
        println!("{linked:?}: {frames} frames, from the handler up to the call");
        assert!((2..10).contains(&frames), "{frames}");
        assert_unharmed(&mut guest);
    }
}

#[test]
fn gdb_finds_the_thread_and_lets_it_go_on() {
    let _alone = alone();
    let (mut guest, at) = with_one_inside(Linked::Dynamically);
    let said = gdb(&["-p", &guest.pid().to_string()], &["thread apply all backtrace", "detach"]);
    assert_tells(&said, threads(guest.pid()).len(), at);
    assert_unharmed(&mut guest);
}

#[test]
fn gdb_can_break_and_step_in_a_patched_call() {
    let _alone = alone();
    let mut guest = patched(Linked::Dynamically);
    let stubs = region(&guest).start;
    for entry in [stubs + ENTRY, stubs + STUB + ENTRY] {
        let steps = ["break pwrite64", "continue", "delete", "stepi 60", "info registers rip"];
        let place = format!("break *{entry:#x}");
        let inside = [&place, "continue", "delete", "info registers rip", "stepi 12", "info registers rip", "detach"];
        let said = gdb(&["-p", &guest.pid().to_string()], &[&steps[..], &inside].concat());
        assert!(said.contains("Breakpoint 1,") && said.contains("Breakpoint 2,"), "{said}");
        assert!(said.contains(&format!("{entry:#x}")), "{said}");
        guest.assert_goes_on();
    }
    ask(&guest, "wait");
    assert_unharmed(&mut guest);
}

#[test]
fn perf_tells_of_time_in_our_code_and_the_calls_go_on() {
    let _alone = alone();
    let mut guest = patched(Linked::Dynamically);
    let (ours, data) = (region(&guest), guest.beside("perf.data"));
    let record = ["record", "-q", "-e", "cpu-clock", "-g", "-o", path(&data), "-p", &guest.pid().to_string()];
    let output = Command::new("perf").args(record).args(["--", "sleep", "1"]).output().expect("perf is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let output =
        Command::new("perf").args(["script", "-i", path(&data), "-F", "ip"]).output().expect("perf is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    let is_ours = |word: &str| u64::from_str_radix(word, 16).is_ok_and(|at| ours.contains(&at));
    assert!(said.split_whitespace().any(is_ours), "{ours:x?}: {said}");
    ask(&guest, "wait");
    assert_unharmed(&mut guest);
}

/// Its breakpoint, or whatever else it writes, must not be copied with the page.
#[test]
fn a_page_in_which_a_debugger_has_changed_something_is_left_alone() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["2", "64", "200"]);
    // The last byte of the padding behind its first return.
    let asked = ["x/i (char *)pwrite64 + 28", "set var *((char *)pwrite64 + 31) = 1", "detach"];
    let said = gdb(&["-p", &guest.pid().to_string()], &asked);
    assert!(said.contains("nop"), "the C library has changed: {said}");
    guest.assert_goes_on();
    let tracer = follow(&guest);
    wait_until_all_were_looked_at(&tracer);
    assert_eq!(tracer.sites(), Some(0));
    drop(tracer);
    guest.assert_goes_on();
}

fn assert_core_tells(guest: &Guest, core: &Path, threads: usize, at: u64) {
    let program = fs::read_link(format!("/proc/{}/exe", guest.pid()));
    let program = program.unwrap_or_else(|_| crate::common::guest::compile("waits_in_a_write", Linked::Dynamically));
    let said = gdb(&[path(&program), path(core)], &["thread apply all backtrace"]);
    assert_tells(&said, threads, at);
}

/// Every thread is found, and the one in our code there.
fn assert_tells(said: &str, threads: usize, at: u64) {
    println!("{said}");
    assert_eq!(said.lines().filter(|line| line.starts_with("Thread ")).count(), threads, "{said}");
    // Before or behind its syscall.
    let is_there = [at, at - 2].iter().any(|at| said.contains(&format!("{at:016x} in ?? ()")));
    assert!(is_there, "not at {at:x}: {said}");
}

#[test]
fn gcore_finds_the_thread_and_lets_it_go_on() {
    let _alone = alone();
    let (mut guest, at) = with_one_inside(Linked::Dynamically);
    let (prefix, pid) = (guest.beside("core"), guest.pid());
    let output = Command::new("gcore").args(["-o", path(&prefix), &pid.to_string()]).output().expect("gdb's");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_core_tells(&guest, &guest.beside(&format!("core.{pid}")), threads(pid).len(), at);
    assert_unharmed(&mut guest);
}

#[test]
fn the_kernels_core_file_tells_where_the_thread_was() {
    let _alone = alone();
    let (mut guest, at) = with_one_inside(Linked::Dynamically);
    let count = threads(guest.pid()).len();
    let pattern = format!("{}/core.%p", path(guest.scratch.path()));
    let _pattern = CorePattern::set(&pattern);
    let limit =
        Command::new("prlimit").args(["--core=unlimited:unlimited", "--pid", &guest.pid().to_string()]).status();
    assert!(limit.expect("util-linux").success());
    kill(Pid::from_raw(guest.pid()), Signal::SIGABRT).expect("ours");
    let status = guest.wait_for_end();
    assert!(!status.success());
    let core = guest.beside(&format!("core.{}", guest.pid()));
    assert_core_tells(&guest, &core, count, at);
}
