//! The demo and its writer, as commands.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hotbackup::demo::check::check_tree;
use hotbackup::demo::writer::Line;
use hotbackup::exit::Cause;
use serde_json::Value;

const HOTBACKUP: &str = env!("CARGO_BIN_EXE_hotbackup");

/// Demos beside each other would measure each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// It writes until its standard input is closed.
fn writer(dir: &Path) -> Child {
    Command::new(HOTBACKUP)
        .args(["demo-writer", "--data", "2MiB", "--dir"])
        .arg(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the writer starts")
}

/// The next thing that a writer reports.
fn report(out: &mut impl BufRead) -> Line {
    let mut line = String::new();
    out.read_line(&mut line).expect("text");
    serde_json::from_str(&line).unwrap_or_else(|error| panic!("not a report ({error}): {line:?}"))
}

#[test]
fn a_writer_that_is_to_end_leaves_the_state_it_reports() {
    let keep = tempfile::tempdir().expect("a directory");
    let dir = keep.path().join("data");
    let mut child = writer(&dir);
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    while report(&mut out).steps.iter().any(|step| *step < 1_000) {}
    // Closes its standard input.
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let last = out.lines().last().expect("it reports at its end").expect("text");
    let last: Line = serde_json::from_str(&last).expect("JSON");
    let state = check_tree(&dir).expect("a state that existed");
    assert_eq!(state.steps, last.steps);
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_state_that_existed() {
    let keep = tempfile::tempdir().expect("a directory");
    for round in 0..8 {
        let dir = keep.path().join(round.to_string());
        let mut child = writer(&dir);
        let mut out = BufReader::new(child.stdout.take().expect("piped"));
        let least = (0..2).map(|_| report(&mut out)).last().expect("two");
        child.kill().expect("our child");
        child.wait().expect("our child");
        let state = check_tree(&dir).unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
        let lacks = state.steps.iter().zip(&least.steps).any(|(step, least)| step < least);
        assert!(!lacks, "round {round}: {:?} are there, and {:?} had been reported", state.steps, least.steps);
    }
}

#[test]
fn a_writer_whose_call_fails_says_so_and_dies() {
    let keep = tempfile::tempdir().expect("a directory");
    let dir = keep.path().join("data");
    let mut child = writer(&dir);
    let until = child.stdin.take();
    let mut out = BufReader::new(child.stdout.take().expect("piped"));
    report(&mut out);
    fs::rename(dir.join("thread1"), dir.join("gone")).expect("renamed");
    let output = child.wait_with_output().expect("it dies");
    drop(until);
    assert_eq!(output.status.code(), Some(Cause::WriterHarmed.code().into()));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("thread 1 step"), "{words}");
}

#[test]
fn a_writer_wants_an_empty_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("mine"), "").expect("written");
    let output = writer(dir.path()).wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(Cause::DemoFailed.code().into()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"));
}

#[test]
fn the_demo_is_right_and_leaves_nothing_behind() {
    let _alone = alone();
    let keep = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let output = Command::new(HOTBACKUP)
        .args(["demo", "--seconds", "1", "--data", "32MiB"])
        .env("TMPDIR", keep.path())
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let (screen, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{screen}\n{words}", output.status);
    for part in ["before", "during", "after", "ratio", "writers held", "RIGHT"] {
        assert!(screen.contains(part), "{part} is missing in {screen}");
    }
    assert_eq!(fs::read_dir(keep.path()).expect("there").count(), 0, "nothing is left");
}

#[test]
fn the_demo_in_a_directory_can_be_checked_again() {
    let _alone = alone();
    let keep = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let dir = keep.path().join("demo");
    let output = Command::new(HOTBACKUP)
        .args(["demo", "--seconds", "0.5", "--data", "16MiB", "--json", "--dir"])
        .arg(&dir)
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert!(output.status.success(), "{}: {events:?}", String::from_utf8_lossy(&output.stderr));
    let result = events.last().expect("a result");
    assert_eq!((&result["event"], &result["wrong"]), (&"result".into(), &Value::Null));
    assert!(result["during"]["per_second"].as_f64().expect("a rate") > 0.0);
    for phase in ["attach", "track", "hold", "drain", "publish", "done"] {
        assert!(events.iter().any(|event| event["event"] == "phase" && event["phase"] == phase), "{phase}");
    }
    check_tree(&dir.join("backup")).expect("still right");
    let verified = Command::new(HOTBACKUP).arg("verify").arg(dir.join("backup")).output().expect("it starts");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
}

#[test]
fn the_demo_refuses_a_directory_that_is_not_empty() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("mine"), "").expect("written");
    let output = Command::new(HOTBACKUP)
        .args(["demo", "--dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(Cause::DemoFailed.code().into()));
    assert!(dir.path().join("mine").exists());
}
