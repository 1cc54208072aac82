//! The strict guests in C: compiled, started, watched, and their directories judged.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::backup::scratch;

const RECORD: usize = 4096;
const RING_FILES: u64 = 3;
/// A guest that has written nothing for this long hangs.
const STANDSTILL: Duration = Duration::from_secs(20);

/// How a guest is linked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Linked {
    /// Against the machine's C library.
    Dynamically,
    /// Into one program, without a loader or anything to preload.
    Statically,
}

/// A running guest, killed when dropped.
pub struct Guest {
    child: Child,
    stderr: Option<JoinHandle<String>>,
    /// Its data directory.
    pub dir: PathBuf,
    /// Holds the data directory and whatever a test puts beside it.
    pub scratch: TempDir,
}

impl Guest {
    /// Starts `tests/guests/<name>.c` on a new directory, and returns once it is ready. The guest's arguments are the
    /// directory and `arguments`.
    pub fn start(name: &str, linked: Linked, arguments: &[&str]) -> Self {
        Self::start_in(scratch(), name, linked, arguments)
    }

    /// The same below a scratch directory that a test has already put something into.
    pub fn start_in(scratch: TempDir, name: &str, linked: Linked, arguments: &[&str]) -> Self {
        let dir = scratch.path().join("data");
        fs::create_dir(&dir).expect("a data directory");
        let mut command = Command::new(compile(name, linked));
        command.arg(&dir).args(arguments);
        Self::spawn(scratch, dir, command)
    }

    /// Starts a program as process `number`, which must be free. [`Self::pid`] is another's then: the one that waits for it.
    pub fn start_as(number: i32, program: &Path, arguments: &[&str]) -> Self {
        let scratch = scratch();
        let dir = scratch.path().join("data");
        fs::create_dir(&dir).expect("a data directory");
        let mut command = Command::new(compile("as_process", Linked::Dynamically));
        command.arg(number.to_string()).arg(program).arg(&dir).args(arguments);
        Self::spawn(scratch, dir, command)
    }

    /// Starts a guest by a command; returns once it is ready. The data directory lies below the scratch directory.
    pub fn spawn(scratch: TempDir, dir: PathBuf, mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("the guest starts");
        let mut line = String::new();
        let mut out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        out.read_line(&mut line).expect("stdout is text");
        let mut err = child.stderr.take().expect("stderr is piped");
        let stderr = Some(std::thread::spawn(move || {
            let mut text = String::new();
            let _ = err.read_to_string(&mut text);
            text
        }));
        let mut guest = Self { child, stderr, dir, scratch };
        if line != "ready\n" {
            guest.assert_alive();
            panic!("the guest said {line:?}");
        }
        guest
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// A path beside the data directory.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Fails when the guest has ended: it ends only when a call of its own went wrong.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("our child") {
            let said = self.stderr.take().and_then(|reader| reader.join().ok()).unwrap_or_default();
            panic!("the guest ended with {status}: {said}");
        }
    }

    /// When each of the files that it keeps writing to was written to last.
    fn written(&self) -> Vec<(i64, i64)> {
        files(&self.dir).iter().map(|path| modified(path)).collect()
    }

    /// Fails when the guest has died, or when any file of its that it keeps writing to stands still.
    pub fn assert_goes_on(&mut self) {
        let (before, began) = (self.written(), Instant::now());
        while !before.iter().zip(self.written()).all(|(before, now)| *before != now) {
            self.assert_alive();
            assert!(
                began.elapsed() < STANDSTILL,
                "the guest has stood still for {STANDSTILL:?}\n{}",
                waits(self.pid())
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        self.assert_alive();
    }

    /// Waits until it has written nothing for a while; fails when it goes on all the same.
    pub fn wait_for_standstill(&self) {
        let (mut before, began) = (self.written(), Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let now = self.written();
            if before == now {
                return;
            }
            assert!(began.elapsed() < STANDSTILL, "the guest goes on though nobody answers its calls");
            before = now;
        }
    }

    /// Whether one of its threads has a seccomp filter.
    pub fn is_filtered(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the guest lives");
        status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
    }

    /// Waits for its end, which it was asked for; fails when a call of its own went wrong.
    pub fn assert_ends_well(&mut self) {
        // What it started may hold its stderr open: that is not waited for.
        let status = self.wait_for_end();
        assert!(status.success(), "the guest ended with {status}");
    }

    /// Waits for its end, however it comes.
    pub fn wait_for_end(&mut self) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                return status;
            }
            assert!(began.elapsed() < STANDSTILL, "the guest does not end\n{}", waits(self.pid()));
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Each thread of a process, and the call it is in.
fn waits(pid: i32) -> String {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return String::new() };
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default();
    let lines = threads.flatten().take(8);
    lines.map(|thread| read(thread.path().join("syscall")) + &read(thread.path().join("wchan")) + "\n").collect()
}

fn modified(path: &Path) -> (i64, i64) {
    fs::metadata(path).map_or((0, 0), |data| (data.mtime(), data.mtime_nsec()))
}

/// The files a guest keeps writing to: all but its ballast, what it is about to rename, and what a test has put there.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the guest's directory") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.is_file() && !["ballast", "next", "foreign"].iter().any(|name| path.ends_with(name)) {
            found.push(path);
        }
    }
    found
}

/// The guest's program, compiled unless it is newer than its source and all headers.
pub fn compile(name: &str, linked: Linked) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests");
    let source = sources.join(name).with_extension("c");
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guests");
    fs::create_dir_all(&home).expect("the target directory takes a directory");
    let lock = File::create(home.join("lock")).expect("the target directory takes a file");
    lock.lock().expect("the lock file can be locked");
    let program = home.join(format!("{name}-{linked:?}"));
    let entries = fs::read_dir(&sources).expect("the guests' sources").map(|entry| entry.expect("readable").path());
    let headers = entries.filter(|path| path.extension().is_some_and(|extension| extension == "h"));
    let newest = headers.chain([source.clone()]).map(|path| modified(&path)).max().expect("at least the source");
    if modified(&program) > newest {
        return program;
    }
    let made = program.with_extension("new");
    let mut compiler = Command::new("gcc");
    compiler.args(["-std=gnu11", "-O1", "-Wall", "-Werror", "-Wno-unused-function", "-pthread", "-o"]);
    compiler.arg(&made).arg(&source);
    if linked == Linked::Statically {
        compiler.arg("-static");
    }
    let output = compiler.output().expect("the guests need a C compiler: apt-get install gcc libc6-dev");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // A program in use must not be written to, nor a half-written one started.
    fs::rename(&made, &program).expect("a rename inside the target directory");
    program
}

/// Says whether each of the rings in `dir` is in a state that existed, and returns the newest record of each.
pub fn check_rings(dir: &Path, rings: usize) -> Result<Vec<u64>, String> {
    (0..rings).map(|ring| check_ring(&dir.join(ring.to_string()))).collect()
}

/// Says up to which number the files of `eight_byte_writes` hold all numbers, the odd and the even ones.
pub fn check_numbers(dir: &Path) -> Result<u64, String> {
    let numbers = |name: &str| -> Result<Vec<u64>, String> {
        let content = fs::read(dir.join(name)).map_err(|error| format!("{name}: {error}"))?;
        if !content.len().is_multiple_of(8) {
            return Err(format!("{name} ends within a number"));
        }
        Ok(content.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect())
    };
    let (odd, even) = (numbers("odd")?, numbers("even")?);
    let total = (odd.len() + even.len()) as u64;
    if total > 0 && odd.iter().copied().eq((1..=total).step_by(2)) && even.iter().copied().eq((2..=total).step_by(2)) {
        Ok(total)
    } else {
        Err(format!("{} odd and {} even numbers, with gaps or none", odd.len(), even.len()))
    }
}

fn check_ring(dir: &Path) -> Result<u64, String> {
    let mut held = Vec::new();
    for file in 0..RING_FILES {
        let path = dir.join(format!("ring-{file}"));
        let content = fs::read(&path).map_err(|error| format!("{path:?}: {error}"))?;
        let mut slots = Vec::new();
        for (slot, record) in content.chunks(RECORD).enumerate() {
            let first: [u8; 8] = record[..8].try_into().expect("eight bytes");
            if record.chunks(8).any(|word| word != first) {
                return Err(format!("{path:?}: slot {slot} is torn"));
            }
            slots.push(u64::from_le_bytes(first));
        }
        held.push(slots);
    }
    let newest = held.iter().flatten().max().copied().unwrap_or(0);
    for (file, slots) in (0..).zip(&held) {
        for (slot, &found) in (0..).zip(slots) {
            let right = belongs(newest, file, slot, slots.len() as u64);
            if found != right {
                return Err(format!(
                    "{dir:?}: record {newest} is there, but slot {slot} of ring-{file} holds {found}, not {right}"
                ));
            }
        }
    }
    Ok(newest)
}

/// The newest record up to `newest` that belongs to a slot of a file; 0 when there was none yet.
fn belongs(newest: u64, file: u64, slot: u64, slots: u64) -> u64 {
    // Records of the slot: (slot + lap * slots) * RING_FILES + file.
    let first = slot * RING_FILES + file;
    if first > newest {
        return 0;
    }
    let lap = slots * RING_FILES;
    first + (newest - first) / lap * lap
}
