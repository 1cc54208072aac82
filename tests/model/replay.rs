//! The guest that makes random calls, live and again.
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::guest::{Linked, compile};
use crate::order::Times;
use crate::settings::Settings;

/// The kinds of calls that the guest can make.
pub fn kinds() -> Vec<String> {
    let output = Command::new(program()).arg("kinds").output().expect("the guest starts");
    assert!(output.status.success(), "the guest does not name its kinds of calls");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

fn program() -> PathBuf {
    compile("random_calls", Linked::Dynamically)
}

/// Threads that make nothing for this long hang.
const STANDSTILL: Duration = Duration::from_secs(30);

/// The guest that is backed up, killed when dropped.
pub struct Live {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    dir: PathBuf,
    threads: usize,
    /// When its threads made their calls.
    pub times: Times,
}

impl Live {
    /// Starts its threads. Their times go to a file beside the directory.
    pub fn start(settings: &Settings, dir: &Path) -> Self {
        let Settings { seed, threads, pause_us, eventfd, .. } = settings;
        let times = dir.with_file_name("times");
        let mut command = Command::new(program());
        command.args(["live", &seed.to_string(), &settings.left_out(), &threads.to_string(), &pause_us.to_string()]);
        command.arg(u8::from(*eventfd).to_string()).args([&times, dir]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("the guest starts");
        let orders = child.stdin.take().expect("piped");
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        assert_eq!(line(&mut answers), "ready");
        Self { child, orders, answers, dir: dir.to_owned(), threads: *threads, times: Times::open(&times) }
    }

    /// How many steps all its threads have counted.
    pub fn steps(&self) -> u64 {
        (0..self.threads).map(|thread| steps(&self.dir, thread)).sum()
    }

    /// Has its threads stop between two steps, or go on.
    pub fn rest(&mut self, rest: bool) {
        let (order, answer) = if rest { ("rest", "rests") } else { ("go", "goes") };
        writeln!(self.orders, "{order}").expect("the guest listens: see its message above");
        assert_eq!(line(&mut self.answers), answer);
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Fails when it has ended, or one of its threads stands still.
    pub fn assert_goes_on(&mut self) {
        let counted = || -> Vec<u64> { (0..self.threads).map(|thread| steps(&self.dir, thread)).collect() };
        let (before, began) = (counted(), Instant::now());
        while !before.iter().zip(counted()).all(|(before, now)| now > *before) {
            let ended = self.child.try_wait().expect("our child");
            assert!(ended.is_none(), "the guest ended with {ended:?}: see its message above");
            assert!(began.elapsed() < STANDSTILL, "a thread of the guest stands still");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One thread's calls, made again; killed when dropped.
pub struct Replay {
    child: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What they returned.
    pub times: Times,
    /// What they lead to so far.
    pub dir: PathBuf,
}

impl Replay {
    /// Has them made in a directory, in the subtree that is there or a new one.
    pub fn start(settings: &Settings, thread: usize, dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let times = dir.with_extension("times");
        let _ = fs::remove_file(&times);
        let mut child = Command::new(program())
            .args(["replay", &settings.seed.to_string(), &settings.left_out(), &thread.to_string()])
            .args([&times, dir])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the replay starts");
        let orders = child.stdin.take().expect("piped");
        let mut answers = BufReader::new(child.stdout.take().expect("piped"));
        assert_eq!(line(&mut answers), "ready");
        Self { child, orders, answers, times: Times::open(&times), dir: dir.to_owned() }
    }

    /// Begins to go on to a number of steps.
    pub fn begin(&mut self, steps: u64) {
        writeln!(self.orders, "to {steps}").expect("the replay listens: see its message above");
    }

    /// Waits until it is there.
    pub fn wait(&mut self, steps: u64) {
        let said = line(&mut self.answers);
        assert_eq!(said.split(' ').next(), Some(&*steps.to_string()), "the replay went too far");
    }

    /// Begins to make the next step's call without counting it.
    pub fn begin_half(&mut self) {
        writeln!(self.orders, "half").expect("the replay listens: see its message above");
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn line(from: &mut impl BufRead) -> String {
    let mut line = String::new();
    from.read_line(&mut line).expect("text");
    assert!(!line.is_empty(), "the guest ended: see its message above");
    line.trim_end().to_owned()
}

fn words(path: &Path) -> Vec<u64> {
    let content = fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    content.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes"))).collect()
}

/// How many steps a thread had counted, in a tree. (The hash of their results stands beside it in the file, and is
/// compared with it.)
pub fn steps(dir: &Path, thread: usize) -> u64 {
    words(&dir.join(format!("t{thread}/counter")))[0]
}

/// The records of a log: thread and step.
pub fn log(path: &Path) -> Vec<(u64, u64)> {
    words(path).chunks_exact(2).map(|record| (record[0], record[1])).collect()
}
