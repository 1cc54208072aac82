//! Runs `hotbackup` as an operator would, and reads what it says in JSON.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tempfile::TempDir;

/// The command under test.
pub const HOTBACKUP: &str = env!("CARGO_BIN_EXE_hotbackup");
/// A backup in these tests takes seconds; one that takes this long hangs.
const LIMIT: Duration = Duration::from_secs(120);

/// Heavy tests run one after the other: beside each other they only measure the lack of CPUs.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    // A test that failed leaves nothing half-done behind the lock.
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Puts a file of 16 MiB into a source, which nobody writes: copying it takes as long as the throttle says. What a guest
/// writes again and again may all be saved as before-images at once, and its backup be over before anything is done to it.
pub fn add_ballast(source: &Path) {
    std::fs::write(source.join("ballast"), vec![b'b'; 16 << 20]).expect("the ballast is written");
}

/// A directory on the disk that holds the target directory, open to targets of other users.
pub fn scratch() -> TempDir {
    let directory = TempDir::with_prefix_in("hotbackup-", env!("CARGO_TARGET_TMPDIR")).expect("a scratch directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    directory
}

/// The number in an environment variable, or `usual` when it is not set.
pub fn number_from(variable: &str, usual: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text:?}")),
        Err(_) => usual,
    }
}

/// Realtime now, in nanoseconds since the epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(since.as_nanos()).expect("the clock is before 2554")
}

/// A seed for what is random in a test: `HOTBACKUP_SEED`, or the clock; printed, so that a failure can be run again.
pub fn seed() -> u64 {
    let seed = number_from("HOTBACKUP_SEED", now() % 1_000_000_000);
    println!("HOTBACKUP_SEED={seed}");
    seed
}

/// `hotbackup backup --json`, running.
pub struct Running {
    child: Child,
    out: Option<BufReader<ChildStdout>>,
    err: Option<JoinHandle<String>>,
    events: Vec<Value>,
    dest: PathBuf,
}

/// How a backup ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// All it printed on stdout, line by line.
    pub events: Vec<Value>,
    /// All it printed on stderr.
    pub stderr: String,
    /// Where the backup was to appear.
    pub dest: PathBuf,
    /// Whether a finished backup was there at its end.
    published: bool,
}

/// Starts a backup of `pid` to `dest`; `more` are further arguments.
pub fn start(pid: i32, dest: &Path, more: &[&str]) -> Running {
    start_failing(pid, dest, more, "")
}

/// The same with fail points, as in `hold.parked:stop` (see `tracer/event/src/failpoint.rs`).
pub fn start_failing(pid: i32, dest: &Path, more: &[&str], failpoints: &str) -> Running {
    let mut command = Command::new(HOTBACKUP);
    command.env("HOTBACKUP_FAILPOINT", failpoints);
    start_command(command, pid, dest, more)
}

/// The same by a command that runs hotbackup in some other way, as another user for one.
pub fn start_command(mut command: Command, pid: i32, dest: &Path, more: &[&str]) -> Running {
    let mut child = command
        .args(["backup", "--json", "--pid", &pid.to_string()])
        .args(more)
        .arg(dest)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hotbackup starts");
    let out = child.stdout.take().map(BufReader::new);
    let mut err = child.stderr.take().expect("stderr is piped");
    // Read at once, or a talkative backup would wait for us.
    let err = std::thread::spawn(move || {
        let mut text = Vec::new();
        // The keeper may hold the pipe: what it never says is not an error.
        let _ = err.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    Running { child, out, err: Some(err), events: Vec::new(), dest: dest.to_owned() }
}

/// Takes a backup of `pid` to `dest`.
pub fn take(pid: i32, dest: &Path, more: &[&str]) -> Outcome {
    start(pid, dest, more).finish()
}

impl Running {
    /// The backup's process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Reads on until the backup says that it is in `phase`; fails when it ends before.
    pub fn wait_for_phase(&mut self, phase: &str) {
        assert!(self.comes_to_phase(phase), "the backup ended before phase {phase}: {:#?}", self.events);
    }

    /// Reads on until the backup says that it is in `phase`, or has ended. Says whether it came to it.
    pub fn comes_to_phase(&mut self, phase: &str) -> bool {
        while let Some(event) = self.read() {
            if event["event"] == "phase" && event["phase"] == phase {
                return true;
            }
        }
        false
    }

    /// Reads on until it has copied something.
    pub fn wait_for_copying(&mut self) {
        while let Some(event) = self.read() {
            if event["bytes_copied"].as_u64().is_some_and(|bytes| bytes > 0) {
                return;
            }
        }
        panic!("the backup ended before it copied anything: {:#?}", self.events);
    }

    /// Reads on until it only captures, which it does as long as nothing may be copied (`--throttle 0`): everything has been looked at
    /// by the time it tells how many files there are a second time.
    pub fn wait_for_only_capturing(&mut self) {
        let mut told = 0;
        while let Some(event) = self.read() {
            told += u32::from(event["files_total"].as_u64().is_some_and(|files| files > 0));
            if told == 2 {
                return;
            }
        }
        panic!("the backup ended before it only captured: {:#?}", self.events);
    }

    /// Reads on until it has said that it failed.
    pub fn wait_for_error(&mut self) {
        while let Some(event) = self.read() {
            if event["event"] == "error" {
                return;
            }
        }
        panic!("the backup ended without an error: {:#?}", self.events);
    }

    /// Reads on until it has copied `more` bytes after a moment, in milliseconds since it was started or before: what it
    /// says of earlier moments may still be to be read.
    pub fn wait_for_more(&mut self, after_ms: u128, more: u64) {
        let mut first = None;
        while let Some(event) = self.read() {
            let (Some(at), Some(copied)) = (event["elapsed_ms"].as_u64(), event["bytes_copied"].as_u64()) else {
                continue;
            };
            if u128::from(at) < after_ms {
                continue;
            }
            if copied >= *first.get_or_insert(copied) + more {
                return;
            }
        }
        panic!("the backup ended before it copied {more} bytes more: {:#?}", self.events);
    }

    fn read(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.out.as_mut()?.read_line(&mut line).expect("stdout is text");
        if line.is_empty() {
            return None;
        }
        let event: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("not JSON ({error}): {line:?}"));
        self.events.push(event.clone());
        Some(event)
    }

    /// Kills the backup with SIGKILL and reaps it.
    pub fn kill(mut self) {
        self.child.kill().expect("our child can be killed");
        self.child.wait().expect("our child can be reaped");
    }

    /// Sends the backup a signal.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).expect("our child can be signalled");
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Outcome {
        let mut out = self.out.take().expect("read once");
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).expect("stdout is text");
            text
        });
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            if began.elapsed() > LIMIT {
                let stacks = stacks(self.pid());
                let _ = self.child.kill();
                panic!("the backup has not ended within {LIMIT:?}; its threads:\n{stacks}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let rest = reader.join().expect("stdout can be read");
        for line in rest.lines() {
            let event = serde_json::from_str(line).unwrap_or_else(|error| panic!("not JSON ({error}): {line:?}"));
            self.events.push(event);
        }
        let stderr = self.err.take().expect("read once").join().expect("stderr can be read");
        let published = self.dest.join(".hotbackup/manifest.json").exists();
        Outcome { status, events: self.events, stderr, dest: self.dest, published }
    }
}

/// Where each thread of a process waits.
fn stacks(pid: i32) -> String {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return String::new() };
    let mut text = String::new();
    for thread in threads.flatten() {
        let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        text += &format!("{} {}{}\n", read("comm").trim(), read("syscall"), read("stack"));
    }
    text
}

impl Outcome {
    /// The report of a backup that succeeded; fails when it did not.
    pub fn report(&self) -> &Value {
        let last = self.events.last().unwrap_or(&Value::Null);
        assert!(self.status.success(), "{}: {last}\n{}", self.status, self.stderr);
        assert_eq!(last["event"], "result", "the last line is the result: {last}");
        assert!(self.published, "exit 0 means published");
        last
    }

    /// T in realtime nanoseconds.
    pub fn point(&self) -> u64 {
        self.report()["point_in_time_ns"].as_u64().unwrap_or_else(|| panic!("no point in time in {}", self.report()))
    }

    /// How long writers were held, in microseconds.
    pub fn hold_us(&self) -> u64 {
        self.report()["hold_us"].as_u64().unwrap_or_else(|| panic!("no hold in {}", self.report()))
    }

    /// How long the attach stopped a thread, in microseconds; `None` when the keeper was there and nothing was stopped.
    pub fn stop_us(&self) -> Option<u64> {
        self.report()["stop_us"].as_u64()
    }

    /// What a backup says that must fail for `cause`, in its error event and on stderr. Fails when it succeeded, when it
    /// gives another cause or none, or when it left anything behind.
    pub fn failure(&self, cause: &str) -> String {
        let said = self.failure_of(&[cause]);
        self.assert_nothing_left();
        said
    }

    /// The same for one of several causes, and where what was written cannot be removed just now.
    pub fn failure_of(&self, causes: &[&str]) -> String {
        assert!(!self.status.success(), "the backup succeeded: {:?}", self.events.last());
        let error = self.events.iter().find(|event| event["event"] == "error");
        let error =
            error.unwrap_or_else(|| panic!("no error in JSON: {}, {:?}\n{}", self.status, self.events, self.stderr));
        assert!(causes.iter().any(|cause| error["kind"] == *cause), "not one of {causes:?}: {error}");
        assert_eq!(self.status.code().map(i64::from), error["exit_code"].as_i64(), "{error}");
        assert!(!self.stderr.trim().is_empty(), "nothing on stderr for the operator");
        format!("{error} {}", self.stderr)
    }

    /// Fails when the destination, or a part of it under another name, is there.
    pub fn assert_nothing_left(&self) {
        assert!(!self.dest.join(".hotbackup").exists(), "{:?} looks like a backup", self.dest);
        self.assert_nothing_left_beside();
    }

    /// Fails when a part of the backup is there under another name.
    pub fn assert_nothing_left_beside(&self) {
        let name = self.dest.file_name().expect("a named destination").to_string_lossy();
        for entry in fs::read_dir(self.dest.parent().expect("a parent")).expect("readable") {
            let entry = entry.expect("readable").file_name();
            let found = entry.to_string_lossy();
            assert!(!found.starts_with(&format!(".{name}.")), "{found} was left behind");
        }
    }
}

/// `hotbackup verify` on a backup must find nothing.
pub fn verify(dest: &Path) {
    let output = Command::new(HOTBACKUP).arg("verify").arg(dest).output().expect("hotbackup starts");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "verify {dest:?}: {}\n{}", output.status, String::from_utf8_lossy(&text));
}
