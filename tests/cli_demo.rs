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

fn writer(dir: &Path, more: &[&str]) -> Child {
    Command::new(HOTBACKUP)
        .args(["demo-writer", "--threads", "3", "--data", "2MiB", "--die-with-parent", "--dir"])
        .arg(dir)
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the writer starts")
}

#[test]
fn a_writer_that_ends_by_itself_leaves_the_state_it_reports() {
    let keep = tempfile::tempdir().expect("a directory");
    let dir = keep.path().join("data");
    let output = writer(&dir, &["--seconds", "0.5", "--seed", "7", "--commit", "50", "--work", "1KiB"])
        .wait_with_output()
        .expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let last = String::from_utf8_lossy(&output.stdout).lines().last().map(str::to_owned).expect("it reports");
    let last: Line = serde_json::from_str(&last).expect("JSON");
    let summary = check_tree(&dir).expect("a state that existed");
    assert_eq!(summary.steps, last.steps);
    assert_eq!(summary.total(), last.ops);
    assert!(last.steps.iter().all(|step| *step > 0), "{last:?}");
}

#[test]
fn a_writer_killed_at_any_moment_leaves_a_state_that_existed() {
    let keep = tempfile::tempdir().expect("a directory");
    for seed in 0..8 {
        let dir = keep.path().join(seed.to_string());
        let mut child = writer(&dir, &["--seed", &seed.to_string()]);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let reports = (0..2).map(|_| lines.next().expect("a report").expect("text")).last().expect("two");
        child.kill().expect("our child");
        child.wait().expect("our child");
        let least: Line = serde_json::from_str(&reports).expect("JSON");
        let summary = check_tree(&dir).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        summary.lies_between(&least.steps, &[]).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
    }
}

#[test]
fn a_writer_whose_call_fails_says_so_and_dies() {
    let keep = tempfile::tempdir().expect("a directory");
    let dir = keep.path().join("data");
    let mut child = writer(&dir, &[]);
    BufReader::new(child.stdout.take().expect("piped")).lines().next().expect("a report").expect("text");
    fs::rename(dir.join("t0001"), dir.join("gone")).expect("renamed");
    let output = child.wait_with_output().expect("it dies");
    assert_eq!(output.status.code(), Some(Cause::WriterHarmed.code().into()));
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(words.contains("thread 1 step"), "{words}");
}

#[test]
fn a_writer_wants_an_empty_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("mine"), "").expect("written");
    let output = writer(dir.path(), &[]).wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(Cause::DemoFailed.code().into()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not empty"));
}

#[test]
fn the_demo_is_right_and_leaves_nothing_behind() {
    let _alone = alone();
    let keep = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let dir = keep.path().join("demo");
    let output = Command::new(HOTBACKUP)
        .args(["demo", "--writer", "--seconds", "1", "--data", "32MiB", "--dir"])
        .arg(&dir)
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    let (screen, words) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{screen}\n{words}", output.status);
    for part in ["before", "during", "after", "ratio", "writers held", "RIGHT"] {
        assert!(screen.contains(part), "{part} is missing in {screen}");
    }
    assert_eq!(fs::read_dir(&dir).expect("there").count(), 0, "nothing is left");
}

#[test]
fn the_demo_kept_can_be_checked_again() {
    let _alone = alone();
    let keep = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let dir = keep.path().join("demo");
    let output = Command::new(HOTBACKUP)
        .args(["demo", "--writer", "--seconds", "0.5", "--data", "16MiB", "--json", "--keep", "--dir"])
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

#[test]
fn a_mongod_that_does_not_start_is_told_with_its_own_words() {
    let output = Command::new(HOTBACKUP)
        .args(["demo", "--mongod", "/bin/false"])
        .stdin(Stdio::null())
        .output()
        .expect("it starts");
    assert_eq!(output.status.code(), Some(Cause::DemoFailed.code().into()));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mongod ended"));
}
