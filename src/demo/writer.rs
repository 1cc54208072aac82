//! The demo's writer, a process of its own: threads that change files as fast as they may, and die at once, with a message,
//! when any call of theirs fails or does less than asked. A backup that harms its target shows here.
//!
//! Step n of a thread is one changing call, fixed by n alone (`Op::of`). So there is one right content of its directory after
//! each step, and [`check`](super::check) can say which one a backup holds, if any.
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use super::record::{RECORD, Record};

/// How many threads write.
pub(super) const THREADS: usize = 4;
/// How often the writer reports.
const REPORT_EVERY: Duration = Duration::from_millis(100);
/// What a thread hashes before each step: a database parses, sorts and compresses between its writes.
const WORK: usize = 64 << 10;
/// A log is put aside after so many steps.
const LOG_STEPS: u64 = 128;

/// Overwrites fall into a window of this many slots, as a database's do; it moves on through the table.
const WINDOW: u64 = 256;

/// Overwritten in place, as a database does with its tables.
pub(super) const TABLE: &str = "table";
/// What is appended to.
pub(super) const LOG: &str = "log";
/// The log before that.
pub(super) const OLD_LOG: &str = "log.old";

/// One step: one changing call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Op {
    /// Overwrite a slot of the table.
    Overwrite(u64),
    /// Append to the log.
    Append,
    /// Make the log.
    Create,
    /// Put the log aside, over the one before.
    Rename,
}

impl Op {
    /// Step `step`, from 1, of a thread whose table has `slots` slots.
    pub(super) fn of(step: u64, slots: u64) -> Self {
        match step % LOG_STEPS {
            1 => Self::Create,
            0 => Self::Rename,
            place if place % 4 == 0 => Self::Append,
            // An odd factor spreads the steps over the window.
            _ => Self::Overwrite((step / 8 + (step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) % WINDOW) % slots),
        }
    }
}

/// What the writer is to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Directory to write in: new or empty
    #[arg(long)]
    pub dir: PathBuf,
    /// Bytes of tables, over all threads
    #[arg(long, value_parser = crate::cli::size::bytes)]
    pub data: u64,
}

/// One line of the writer's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// When it was begun, in nanoseconds since 1970: what had been done by then is in it.
    pub begun_ns: u64,
    /// When it was ready: what was begun later is not in it.
    pub ready_ns: u64,
    /// For each thread the last step it completed.
    pub steps: Vec<u64>,
    /// The longest single call since the line before, in microseconds.
    pub longest_us: u64,
}

/// The directory of one thread.
pub(super) fn thread_dir(dir: &Path, thread: usize) -> PathBuf {
    dir.join(format!("thread{thread}"))
}

/// Prepares the directory and writes until standard input is at its end; prints a [`Line`] of JSON now and then, and one at
/// the end. A call of the threads that fails ends the process with [`crate::exit::WRITER_HARMED`].
///
/// # Errors
/// The directory is not empty or cannot be prepared, or standard output is gone.
pub fn run(options: &Options) -> io::Result<()> {
    let slots = (options.data / (THREADS * RECORD) as u64).max(16);
    prepare(&options.dir, slots)?;
    // What was laid down is on disk before anything is measured.
    nix::unistd::syncfs(File::open(&options.dir)?)?;
    let shared = Shared::default();
    let (ends, end) = channel();
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        let _ = ends.send(());
    });
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (shared, dir) = (&shared, thread_dir(&options.dir, thread));
            scope.spawn(move || {
                let (mut worker, work) = (Worker::new(shared, dir, thread, slots), vec![0x5a_u8; WORK]);
                while !shared.stop.load(Ordering::Relaxed) {
                    std::hint::black_box(blake3::hash(&work));
                    worker.step();
                }
            });
        }
        let reported = loop {
            let reported = shared.report();
            if reported.is_err() || end.recv_timeout(REPORT_EVERY) != Err(RecvTimeoutError::Timeout) {
                break reported;
            }
        };
        shared.stop.store(true, Ordering::Relaxed);
        reported
    })?;
    shared.report()
}

/// Lays down what is there before the first step.
///
/// # Errors
/// The directory is not empty, or a call fails.
pub(super) fn prepare(dir: &Path, slots: u64) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, format!("{} is not empty", dir.display())));
    }
    for thread in 0..THREADS {
        fs::create_dir(thread_dir(dir, thread))?;
        let table = File::create_new(thread_dir(dir, thread).join(TABLE))?;
        let mut table = io::BufWriter::with_capacity(1 << 20, table);
        for slot in 0..slots {
            table.write_all(&Record { thread: thread as u64, slot, ..Record::default() }.encode())?;
        }
        table.flush()?;
    }
    Ok(())
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// What the threads share.
#[derive(Default)]
pub(super) struct Shared {
    /// For each thread the last step it completed.
    pub(super) steps: [AtomicU64; THREADS],
    longest_ns: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn steps(&self) -> [u64; THREADS] {
        self.steps.each_ref().map(|step| step.load(Ordering::Acquire))
    }

    fn report(&self) -> io::Result<()> {
        let (begun_ns, steps) = (now_ns(), self.steps().to_vec());
        let longest_us = self.longest_ns.swap(0, Ordering::Relaxed) / 1_000;
        let line = Line { begun_ns, ready_ns: now_ns(), steps, longest_us };
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
        out.flush()
    }
}

/// One thread's work.
pub(super) struct Worker<'a> {
    shared: &'a Shared,
    dir: PathBuf,
    thread: usize,
    slots: u64,
    step: u64,
    table: File,
    log: Option<File>,
    /// How many records the log has.
    logged: u64,
}

impl<'a> Worker<'a> {
    /// That of `thread`, before its first step.
    pub(super) fn new(shared: &'a Shared, dir: PathBuf, thread: usize, slots: u64) -> Self {
        let table = File::options().write(true).open(dir.join(TABLE));
        let table = table.unwrap_or_else(|error| fatal(thread, 0, &format!("open {TABLE}: {error}")));
        Self { shared, dir, thread, slots, step: 0, table, log: None, logged: 0 }
    }

    /// Takes the next step.
    pub(super) fn step(&mut self) {
        self.step += 1;
        match Op::of(self.step, self.slots) {
            Op::Overwrite(slot) => {
                let bytes = self.record(slot);
                let done = self.call("pwrite64", || self.table.write_at(&bytes, slot * RECORD as u64));
                self.whole(done);
            }
            Op::Append => {
                let bytes = self.record(self.logged);
                let mut log = self.log.as_ref().unwrap_or_else(|| self.fatal("there is no log"));
                let done = self.call("write", || log.write(&bytes));
                self.whole(done);
                self.logged += 1;
            }
            Op::Create => {
                let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
                // nix, unlike std, does not hide an EINTR.
                let fd = self.call("open", || Ok(open(&self.dir.join(LOG), flags, Mode::from_bits_truncate(0o640))?));
                (self.log, self.logged) = (Some(File::from(fd)), 0);
            }
            Op::Rename => {
                self.log = None;
                self.call("rename", || fs::rename(self.dir.join(LOG), self.dir.join(OLD_LOG)));
            }
        }
        self.shared.steps[self.thread].store(self.step, Ordering::Release);
    }

    fn record(&self, slot: u64) -> [u8; RECORD] {
        // Read before the call, by design: each step counted here was complete before this one began.
        Record { thread: self.thread as u64, slot, step: self.step, clock: self.shared.steps() }.encode()
    }

    fn call<T>(&self, name: &str, perform: impl FnOnce() -> io::Result<T>) -> T {
        let start = Instant::now();
        let result = perform();
        self.shared.longest_ns.fetch_max(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        result.unwrap_or_else(|error| self.fatal(&format!("{name}: {error}")))
    }

    fn whole(&self, done: usize) {
        if done != RECORD {
            self.fatal(&format!("{done} of {RECORD} bytes were written"));
        }
    }

    fn fatal(&self, what: &str) -> ! {
        fatal(self.thread, self.step, what)
    }
}

fn fatal(thread: usize, step: u64, what: &str) -> ! {
    eprintln!("demo-writer: thread {thread} step {step}: {what}");
    std::process::exit(crate::exit::WRITER_HARMED.into())
}
