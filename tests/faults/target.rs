//! Whom the faults must not harm.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::page::{Page, Span, Wait};
use super::processes;
use crate::common::backup::scratch;
use crate::common::guest::{Linked, compile};
use crate::common::names;

/// A process under load that says how far it is.
pub trait Target {
    /// Its number.
    fn pid(&self) -> i32;
    /// Its number where a supervisor that is apart from the keepers runs.
    fn pid_there(&self) -> i32 {
        let numbers = crate::common::process::status(self.pid(), "NSpid").unwrap_or_default();
        numbers.split_whitespace().next_back().and_then(|number| number.parse().ok()).unwrap_or(self.pid())
    }
    /// The arguments that name its data.
    fn source(&self) -> Vec<String>;
    /// The arguments by which what it has mapped is taken, or left out.
    fn mapped(&self, taken: bool) -> &'static [&'static str];
    /// Where backups of it may go.
    fn scratch(&self) -> &Path;
    /// What it said when it died, once it has.
    fn died(&mut self) -> Option<String>;
    /// What each of its threads has finished so far.
    fn counts(&self) -> Vec<u64>;
    /// How many calls that were.
    fn calls(&self) -> u64;
    /// Forgets which waits were the longest.
    fn begin(&mut self);
    /// The longest wait since, of all calls or those that touch a span.
    fn longest(&self, excused: &[Span], span: Option<Span>) -> Wait;
    /// The longest stall of the machine since.
    fn stall(&self) -> Duration;
    /// Whether a backup of it is a state that existed.
    fn judge(&self, dest: &Path) -> Result<(), String>;
}

/// Waits until each thread of the target has finished `more` calls.
pub fn goes_on(target: &mut dyn Target, more: u64, limit: Duration) -> Result<(), String> {
    let (before, began) = (target.counts(), Instant::now());
    loop {
        let now = target.counts();
        if before.iter().zip(&now).all(|(before, now)| *now >= before + more) {
            return Ok(());
        }
        if let Some(said) = target.died() {
            return Err(said);
        }
        if began.elapsed() > limit {
            let doing = processes::doing(target.pid());
            return Err(format!("the target stands still: {before:?}, {limit:?} later {now:?}\n{doing}"));
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// `tests/guests/every_kind_of_call.c`, killed when dropped; its keepers end with it.
pub struct Guest {
    child: Child,
    pid: i32,
    page: Page,
    dir: PathBuf,
    scratch: TempDir,
}

/// How many threads of it write.
pub const WORKERS: usize = 3;
const SLOTS: usize = 32;
const PAUSE_US: usize = 300;

impl Guest {
    /// A new one, which is ready. It may have a thread that never leaves its processor.
    pub fn start(spins: bool) -> Self {
        Self::start_by(&[], spins)
    }

    /// The same in namespaces of processes and mounts of its own, in which no cgroup can be seen.
    pub fn start_apart(spins: bool) -> Self {
        let unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];
        let hide = ["sh", "-c", "mount -t tmpfs none /sys/fs/cgroup && exec \"$@\"", "sh"];
        Self::start_by(&[&unshare[..], &hide].concat(), spins)
    }

    fn start_by(wrapper: &[&str], spins: bool) -> Self {
        let scratch = scratch();
        let (dir, page) = (scratch.path().join("data"), scratch.path().join("page"));
        fs::create_dir(&dir).expect("a data directory");
        let said = File::create(scratch.path().join("said")).expect("a file for its last words");
        let program = compile("every_kind_of_call", Linked::Dynamically);
        let words: Vec<&OsStr> = wrapper.iter().map(OsStr::new).chain([program.as_os_str()]).collect();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(&dir).arg(&page);
        command.args([WORKERS, SLOTS, PAUSE_US, usize::from(spins)].map(|number| number.to_string()));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said).process_group(0);
        let mut child = command.spawn().expect("the guest starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("stdout is text");
        assert_eq!(line, "ready\n", "{}", fs::read_to_string(scratch.path().join("said")).unwrap_or_default());
        let mut pid = child.id().cast_signed();
        if !wrapper.is_empty() {
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it lives");
            pid = children.trim().parse().expect("one child");
        }
        Self { child, pid, page: Page::open(&page), dir, scratch }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Target for Guest {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn source(&self) -> Vec<String> {
        vec!["--source".into(), self.dir.to_str().expect("a plain name").into()]
    }

    fn mapped(&self, taken: bool) -> &'static [&'static str] {
        if taken { &["--mapped", "1MiB"] } else { &["--exclude", "mapped"] }
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn died(&mut self) -> Option<String> {
        let status = self.child.try_wait().expect("our child")?;
        let said = fs::read_to_string(self.scratch.path().join("said")).unwrap_or_default();
        Some(format!("THE GUEST DIED ({status}): {}", said.trim()))
    }

    fn counts(&self) -> Vec<u64> {
        self.page.counts()
    }

    fn calls(&self) -> u64 {
        self.page.counts()[..WORKERS].iter().sum()
    }

    fn begin(&mut self) {
        self.page.begin();
    }

    fn longest(&self, excused: &[Span], span: Option<Span>) -> Wait {
        self.page.longest(excused, span)
    }

    fn stall(&self) -> Duration {
        self.page.stall()
    }

    fn judge(&self, dest: &Path) -> Result<(), String> {
        names::check(dest, WORKERS).map(drop)
    }
}
