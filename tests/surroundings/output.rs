//! Readers that do not read, are gone, or have no room: nothing waits for them but the result.

use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::backup::{HOTBACKUP, alone, verify};
use crate::common::guest::Guest;
use crate::common::process::{path, wait_until};
use crate::rings;

/// A pipe that takes in nothing more, and what it is full of.
fn full_pipe() -> (PipeReader, PipeWriter, usize) {
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let set = |writer: &PipeWriter, flags: OFlag| fcntl(writer.as_fd(), FcntlArg::F_SETFL(flags)).expect("it is open");
    set(&writer, OFlag::O_NONBLOCK);
    let mut full = 0;
    while let Ok(count) = writer.write(&[b'\n'; 4096]) {
        full += count;
    }
    set(&writer, OFlag::empty());
    (reader, writer, full)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stuck {
    Out,
    Err,
    Both,
}

/// Each with words for people, and with JSON where that goes there.
const ALL: [(Stuck, &[&str]); 4] =
    [(Stuck::Out, &["--json"]), (Stuck::Out, &[]), (Stuck::Err, &[]), (Stuck::Both, &["--json"])];

/// A command with a pipe for its output that nobody reads. Nothing that is left of it can keep the pipe open.
fn start(stuck: Stuck, mut command: Command, writer: PipeWriter) -> Child {
    let other = || Stdio::null();
    let stream = || Stdio::from(writer.try_clone().expect("a descriptor"));
    command.stdin(Stdio::null());
    match stuck {
        Stuck::Out => command.stdout(stream()).stderr(other()),
        Stuck::Err => command.stdout(other()).stderr(stream()),
        Stuck::Both => command.stdout(stream()).stderr(stream()),
    };
    command.spawn().expect("it starts")
}

fn backup(guest: &Guest, more: &[&str]) -> Command {
    let mut command = Command::new(HOTBACKUP);
    command.args(["backup", "--pid", &guest.pid().to_string(), "--source", path(&guest.dir)]).args(more);
    command.arg(guest.beside("backup"));
    command
}

fn wait_for_end(child: &mut Child) -> ExitStatus {
    let mut status = None;
    wait_until("its end", || {
        status = child.try_wait().expect("our child");
        status.is_some()
    });
    status.expect("just seen")
}

fn end(child: &mut Child) -> ExitStatus {
    kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).expect("it lives");
    wait_for_end(child)
}

fn wait_for_backup(guest: &Guest) {
    wait_until("a backup", || guest.beside("backup/.hotbackup/manifest.json").exists());
}

#[test]
fn a_reader_that_does_not_read_keeps_no_backup_and_no_cancel_waiting() {
    let _alone = alone();
    let mut guest = rings();
    for (stuck, json) in ALL {
        let (reader, writer, _) = full_pipe();
        let paused = [json, &["--throttle", "0"]].concat();
        let mut child = start(stuck, backup(&guest, &paused), writer.try_clone().expect("a descriptor"));
        let staged = guest.beside(&format!(".backup.hotbackup-partial-{}", child.id()));
        wait_until("a staging directory", || staged.join(".hotbackup/data").exists());
        guest.assert_goes_on();
        assert_eq!(end(&mut child).code(), Some(130), "{stuck:?} {json:?}");
        assert!(!staged.exists() && !guest.beside("backup").exists(), "{stuck:?}: something is left");
        guest.assert_goes_on();
        // All through, with all there is to be logged.
        let mut command = backup(&guest, json);
        command.env("HOTBACKUP_LOG", "trace");
        let mut child = start(stuck, command, writer);
        wait_for_backup(&guest);
        guest.assert_goes_on();
        if stuck == Stuck::Err {
            assert!(wait_for_end(&mut child).success(), "{json:?}: nobody waits for words that are not the result");
        } else {
            // The result waits for its reader, but not when told to end.
            assert_eq!(end(&mut child).code(), Some(70), "{stuck:?} {json:?}");
        }
        verify(&guest.beside("backup"));
        fs::remove_dir_all(guest.beside("backup")).expect("our own backup");
        drop(reader);
    }
}

#[test]
fn a_reader_that_comes_late_gets_whole_lines_and_the_result() {
    let _alone = alone();
    let mut guest = rings();
    let (mut reader, writer, full) = full_pipe();
    let mut child = start(Stuck::Out, backup(&guest, &["--json"]), writer);
    wait_for_backup(&guest);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("text");
    assert!(wait_for_end(&mut child).success());
    let lines: Vec<serde_json::Value> = text[full..]
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert_eq!(lines.last().expect("a line")["event"], "result");
    for phase in ["attach", "track", "hold", "drain", "publish", "done"] {
        assert!(lines.iter().any(|line| line["phase"] == phase), "{phase} was dropped: {text}");
    }
    guest.assert_goes_on();
}

#[test]
fn a_reader_that_is_gone_or_has_no_room_costs_only_the_report() {
    let _alone = alone();
    let mut guest = rings();
    let dest = guest.beside("backup");
    let line = format!("{HOTBACKUP} backup --pid {} --source {} {}", guest.pid(), path(&guest.dir), path(&dest));
    for (how, code) in [
        ("--json > /dev/full", 70),
        ("> /dev/full 2> /dev/full", 70),
        ("--json 2> /dev/full", 0),
        ("--quiet > /dev/full 2> /dev/full", 0),
        ("--json | head -n 1; exit ${PIPESTATUS[0]}", 70),
        ("--json | true; exit ${PIPESTATUS[0]}", 70),
        ("2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}", 0),
    ] {
        let mut command = Command::new("bash");
        command.args(["-c", &format!("{line} {how}")]).stdout(Stdio::null()).stderr(Stdio::null());
        assert_eq!(command.status().expect("a shell").code(), Some(code), "{how}");
        verify(&dest);
        fs::remove_dir_all(&dest).expect("our own backup");
        guest.assert_goes_on();
    }
    let help = Command::new("bash").args(["-c", &format!("{HOTBACKUP} --help > /dev/full")]).status();
    assert_eq!(help.expect("a shell").code(), Some(70), "help that nobody sees");
}

#[test]
fn the_other_commands_end_as_well_when_nobody_reads() {
    let _alone = alone();
    let guest = rings();
    let dest = guest.beside("backup");
    let pid = guest.pid().to_string();
    assert!(backup(&guest, &["--quiet"]).status().expect("it starts").success());
    let source = path(&guest.dir);
    for arguments in [
        &["verify", path(&dest)][..],
        &["verify", "--json", path(&dest)],
        &["check", "--pid", &pid, "--source", source],
        &["check", "--json", "--pid", &pid, "--source", source],
        &["rescue", "--pid", &pid],
    ] {
        let (_reader, writer, _) = full_pipe();
        let mut command = Command::new(HOTBACKUP);
        command.args(arguments);
        let mut child = start(Stuck::Out, command, writer);
        // It has done its work when it waits to be read.
        wait_until("it to wait for its reader", || waits_for_a_pipe(child.id()));
        assert!(!end(&mut child).success(), "{arguments:?}");
    }
    let (_reader, writer, _) = full_pipe();
    let mut command = Command::new(HOTBACKUP);
    command.args(["demo", "--data", "1MiB", "--seconds", "0.1"]);
    let mut child = start(Stuck::Both, command, writer);
    wait_until("it to wait for its reader", || waits_for_a_pipe(child.id()));
    assert!(end(&mut child).code().is_some(), "a demo that is told to end ends by itself");
}

/// Whether a thread of a process is in write(2) to its standard output.
fn waits_for_a_pipe(pid: u32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let calls = tasks.filter_map(|task| fs::read_to_string(task.path().join("syscall")).ok());
    calls.into_iter().any(|call| call.starts_with("1 0x1 "))
}
