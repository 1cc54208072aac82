//! The command line: what it refuses, in which words, on which stream, with which code.
#![forbid(unsafe_code)]

use std::fs;
use std::process::{Command, Output, Stdio};

use hotbackup::exit::Cause;
use serde_json::Value;

fn hotbackup(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_hotbackup")).args(arguments).stdin(Stdio::null()).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The command must fail for this cause, with words on stderr and nothing on stdout.
#[track_caller]
fn fails(cause: Cause, arguments: &[&str]) -> String {
    let output = hotbackup(arguments);
    let words = text(&output.stderr);
    assert_eq!(output.status.code(), Some(i32::from(cause.code())), "{arguments:?}: {words}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed {:?}", text(&output.stdout));
    assert!(!words.trim().is_empty(), "{arguments:?} said nothing");
    words
}

/// A process of ours to point at, killed at the end.
struct Sleeper(std::process::Child);

impl Sleeper {
    fn start() -> Self {
        Self(Command::new("sleep").arg("600").stdin(Stdio::null()).spawn().expect("sleep starts"))
    }

    fn pid(&self) -> String {
        self.0.id().to_string()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_log_that_no_terminal_shows_has_no_colours() {
    let sleeper = Sleeper::start();
    let mut command = Command::new(env!("CARGO_BIN_EXE_hotbackup"));
    command.args(["check", "--pid", &sleeper.pid()]).env("HOTBACKUP_LOG", "trace").stdin(Stdio::null());
    let output = command.output().expect("it starts");
    assert!(!output.stderr.is_empty(), "it logs nothing");
    assert!(!output.stderr.contains(&0x1b), "{}", text(&output.stderr));
}

#[test]
fn bad_arguments_are_usage_errors() {
    for arguments in [
        &[][..],
        &["nonsense"],
        &["backup"],
        &["backup", "/dest"],
        &["backup", "--pid", "1"],
        &["backup", "--pid", "0", "/dest"],
        &["backup", "--pid", "-5", "/dest"],
        &["backup", "--pid", "many", "/dest"],
        &["backup", "--pid", "1", "--point", "middle", "/dest"],
        &["backup", "--pid", "1", "--throttle", "fast", "/dest"],
        &["backup", "--pid", "1", "--throttle", "-1", "/dest"],
        &["backup", "--pid", "1", "/dest", "/other"],
        &["backup", "--pid", "1", "--before-images", "much", "/dest"],
        &["backup", "--pid", "1", "--before-images", "4KiB", "/dest"],
        &["backup", "--pid", "1", "--max-wait", "5", "/dest"],
        &["backup", "--pid", "1", "--max-wait", "0s", "/dest"],
        &["backup", "--pid", "1", "--max-wait", "2s", "/dest"],
        &["backup", "--pid", "1", "--hold", "long", "/dest"],
        &["backup", "--pid", "1", "--hold", "1s", "/dest"],
        &["backup", "--pid", "1", "--lease", "1ms", "/dest"],
        &["backup", "--pid", "1", "--lease", "1 hour", "/dest"],
        &["verify"],
        &["check"],
        &["rescue"],
        &["demo", "--seconds", "0"],
        &["demo", "--data", "x"],
    ] {
        fails(Cause::Usage, arguments);
    }
}

#[test]
fn a_usage_error_is_json_where_json_was_asked_for() {
    let output = hotbackup(&["backup", "--json", "--throttle", "fast", "--pid", "1", "/dest"]);
    assert_eq!(output.status.code(), Some(2));
    let event: Value = serde_json::from_slice(&output.stdout).expect("one line of JSON");
    assert_eq!((&event["event"], &event["kind"], &event["exit_code"]), (&"error".into(), &"usage".into(), &2.into()));
    assert!(event["message"].as_str().expect("words").contains("fast"), "{event}");
}

#[test]
fn help_and_version_are_no_errors() {
    for arguments in [&["--help"][..], &["--version"], &["backup", "--help"], &["help", "demo"]] {
        let output = hotbackup(arguments);
        assert!(output.status.success(), "{arguments:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{arguments:?}");
    }
    let help = text(&hotbackup(&["--help"]).stdout);
    for verb in ["backup", "verify", "check", "rescue", "demo"] {
        assert!(help.contains(verb), "{verb}");
    }
    assert!(!help.contains("demo-writer") && !help.contains("keeper"), "what is internal is not shown: {help}");
}

#[test]
fn a_process_that_is_not_there_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let dest = dir.path().join("backup");
    // Above the kernel's largest PID.
    let pid = "4194305";
    for source in [&[][..], &["--source", "/"]] {
        let arguments = [&["backup", "--pid", pid][..], source, &[dest.to_str().expect("text")]].concat();
        assert!(fails(Cause::NoSuchProcess, &arguments).contains(pid));
    }
    fails(Cause::NoSuchProcess, &["check", "--pid", pid]);
    fails(Cause::NoSuchProcess, &["rescue", "--pid", pid]);
    assert!(!dest.exists());
}

#[test]
fn an_error_is_json_where_json_was_asked_for() {
    let output = hotbackup(&["backup", "--json", "--pid", "4194305", "/nonexistent/backup"]);
    let cause = Cause::NoSuchProcess;
    assert_eq!(output.status.code(), Some(cause.code().into()));
    let line = text(&output.stdout);
    let event: Value = serde_json::from_str(line.lines().last().expect("a line")).expect("JSON");
    assert_eq!(event["event"], "error");
    assert_eq!(event["kind"], cause.name());
    assert_eq!(event["exit_code"], cause.code());
    assert!(text(&output.stderr).contains(event["message"].as_str().expect("words")), "the same words on stderr");
}

#[test]
fn a_process_without_a_known_data_directory_asks_for_one() {
    let (sleeper, dir) = (Sleeper::start(), tempfile::tempdir().expect("a directory"));
    let dest = dir.path().join("backup");
    let words = fails(Cause::SourceUnknown, &["backup", "--pid", &sleeper.pid(), dest.to_str().expect("text")]);
    assert!(words.contains("--source"), "{words}");
}

#[test]
fn nothing_to_rescue_is_told() {
    let sleeper = Sleeper::start();
    fails(Cause::NothingToRescue, &["rescue", "--pid", &sleeper.pid()]);
}

#[test]
fn each_bad_destination_or_source_has_its_own_code_and_is_left_as_it_was() {
    let (sleeper, dir) = (Sleeper::start(), tempfile::tempdir().expect("a directory"));
    let at = |name: &str| dir.path().join(name).to_str().expect("text").to_owned();
    fs::create_dir_all(at("source/inner")).expect("made");
    fs::create_dir(at("full")).expect("made");
    fs::write(at("full/file"), "mine").expect("written");
    fs::write(at("file"), "mine").expect("written");
    let source = at("source");
    let pid = sleeper.pid();
    for (cause, source, dest) in [
        (Cause::DestNotEmpty, &source, at("full")),
        (Cause::DestNotDirectory, &source, at("file")),
        (Cause::DestParentMissing, &source, at("missing/backup")),
        (Cause::DestInsideSource, &source, at("source/inner/backup")),
        (Cause::DestInsideSource, &source, at("source/backup")),
        (Cause::SourceNotFound, &at("nowhere"), at("backup")),
        (Cause::SourceNotDirectory, &at("file"), at("backup")),
    ] {
        let words = fails(cause, &["backup", "--quiet", "--pid", &pid, "--source", source, &dest]);
        assert!(words.contains(dir.path().to_str().expect("text")), "{words} names the path");
    }
    fails(Cause::Usage, &["backup", "--quiet", "--pid", &pid, "--source", &source, "--exclude", "[", &at("backup")]);
    let mut left: Vec<String> = fs::read_dir(dir.path())
        .expect("readable")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .collect();
    left.sort();
    assert_eq!(left, ["file", "full", "source"]);
    assert_eq!(fs::read_to_string(at("full/file")).expect("there"), "mine");
    assert_eq!(fs::read_dir(at("source/inner")).expect("there").count(), 0);
}

#[test]
fn verify_tells_no_backup_from_a_bad_manifest() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_str().expect("text");
    fails(Cause::ManifestMissing, &["verify", path]);
    fails(Cause::ManifestMissing, &["verify", "/nonexistent/backup"]);
    fs::create_dir(dir.path().join(".hotbackup")).expect("made");
    fs::write(dir.path().join(".hotbackup/manifest.json"), "{").expect("written");
    fails(Cause::ManifestBad, &["verify", "--quiet", path]);
}
