//! Signals that were ignored or blocked when the command began.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::common::backup::{self, HOTBACKUP, alone};
use crate::common::process::{assert_right, path, state, status, wait_until};
use crate::{RINGS, after, rings};

/// Paused: it goes on copying for as long as it is let.
const PAUSED: [&str; 2] = ["--throttle", "0"];

fn has(pid: i32, set: &str, signal: Signal) -> bool {
    let mask = u64::from_str_radix(&status(pid, set).expect("it lives"), 16).expect("a mask");
    mask & 1 << (signal as u32 - 1) != 0
}

/// The signal comes in the midst of a backup, which must succeed all the same.
fn stays_ignored(command: Command, signal: Signal) {
    let mut guest = rings();
    let (dest, source) = (guest.beside("backup"), guest.dir.clone());
    let mut command = command;
    // The process is free by then, and may stand still for as long as it likes.
    command.env("HOTBACKUP_FAILPOINT", "publish.placed:stop");
    let running = backup::start_command(command, guest.pid(), &dest, &["--source", path(&source)]);
    wait_until("the backup to be at its fail point", || state(running.pid()) == Some('T'));
    assert!(has(running.pid(), "SigIgn", signal), "{signal} is not ignored any more");
    running.signal(signal);
    running.signal(Signal::SIGCONT);
    assert_right(&running.finish(), RINGS);
    guest.assert_goes_on();
}

#[test]
fn a_hangup_does_not_end_what_nohup_started() {
    let _alone = alone();
    let mut command = Command::new("nohup");
    command.arg(HOTBACKUP);
    stays_ignored(command, Signal::SIGHUP);
}

#[test]
fn what_a_shell_ignores_stays_ignored() {
    let _alone = alone();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGALRM] {
        stays_ignored(after(&format!("trap '' {}", &signal.as_str()[3..])), signal);
    }
}

#[test]
fn each_signal_that_asks_to_end_cancels_even_if_it_was_blocked() {
    let _alone = alone();
    let mut guest = rings();
    let source = guest.dir.clone();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGALRM] {
        let name = &signal.as_str()[3..];
        let mut command = Command::new("env");
        command.args([&format!("--default-signal={name}"), &format!("--block-signal={name}"), HOTBACKUP]);
        let dest = guest.beside(name);
        let more = [&["--source", path(&source)][..], &PAUSED].concat();
        let mut running = backup::start_command(command, guest.pid(), &dest, &more);
        running.wait_for_phase("track");
        assert!(!has(running.pid(), "SigBlk", signal), "{signal} is still blocked");
        running.signal(signal);
        running.finish().failure("cancelled");
        guest.assert_goes_on();
    }
}

#[test]
fn that_a_terminal_or_a_pipe_is_in_the_way_ends_nothing() {
    let _alone = alone();
    let guest = rings();
    let (dest, source) = (guest.beside("backup"), guest.dir.clone());
    let more = [&["--source", path(&source)][..], &PAUSED].concat();
    let mut running = backup::start(guest.pid(), &dest, &more);
    running.wait_for_phase("track");
    assert!(has(running.pid(), "SigBlk", Signal::SIGTTOU), "output from the background would stop it");
    assert!(has(running.pid(), "SigIgn", Signal::SIGPIPE), "a reader that goes would end it");
    assert!(has(running.pid(), "SigCgt", Signal::SIGXFSZ), "a limit would end it");
    running.signal(Signal::SIGTERM);
    running.finish().failure("cancelled");
}
