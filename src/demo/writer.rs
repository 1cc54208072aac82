//! The demo writer: threads that carry out their [`Plan`]s as fast as they may, and die at once, with a message, when
//! any call of theirs fails or does less than asked. A backup that harms its target shows here.
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FallocateFlags, OFlag, fallocate, open};
use nix::sys::stat::Mode;
use nix::sys::uio::pwritev;
use nix::unistd::{ftruncate, truncate};
use serde::{Deserialize, Serialize};

use super::plan::{Cut, How, LOG, LOG_DIR, Name, Op, PUNCHED, Plan, SPILL, TABLES};
use super::record::{CLOCKED, RECORD, Record};

/// The file in the writer's directory that says what run it is. Written last: once it is there, the directory is in
/// the state before the first step or a later one.
pub const RUN_FILE: &str = "writer.json";
/// How often the writer reports.
pub const REPORT_EVERY: Duration = Duration::from_millis(100);

/// What the demo writer is to do.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Directory to write in: new or empty
    #[arg(long)]
    pub dir: PathBuf,
    /// Number of writing threads
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub threads: u32,
    /// Stop after this long (default: run until killed)
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Fixes what is written where
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Bytes of table files, over all threads
    #[arg(long, default_value = "16MiB", value_parser = crate::cli::size::bytes)]
    pub data: u64,
    /// fdatasync the log after each N steps of a thread, as a database commits (0: never)
    #[arg(long, default_value_t = 0)]
    pub commit: u64,
    /// Hash this many bytes before each step, as a database works between its writes
    #[arg(long, default_value = "0", value_parser = crate::cli::size::bytes)]
    pub work: u64,
    /// Pause this many microseconds before each step
    #[arg(long, default_value_t = 0)]
    pub pause_us: u64,
    /// Die when the process that started this one does
    #[arg(long)]
    pub die_with_parent: bool,
}

/// What [`RUN_FILE`] holds: enough to replay every plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Fixes the plans.
    pub seed: u64,
    /// Number of threads.
    pub threads: u32,
    /// Records in each table file.
    pub table_slots: u64,
}

/// One line of the writer's output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Milliseconds since the first step.
    pub elapsed_ms: u64,
    /// Steps done, over all threads.
    pub ops: u64,
    /// Longest single call so far, in microseconds.
    pub max_call_us: u64,
    /// Longest single call since the line before, in microseconds.
    pub recent_max_call_us: u64,
    /// For each thread the last step it completed.
    pub steps: Vec<u64>,
}

/// The directory of one thread.
pub fn thread_dir(root: &Path, thread: u32) -> PathBuf {
    root.join(format!("t{thread:04}"))
}

/// Prepares the directory, runs the threads, and prints a [`Line`] of JSON every [`REPORT_EVERY`]. A call of the run
/// itself that fails ends the process with [`crate::exit::WRITER_HARMED`].
///
/// # Errors
/// The directory is not empty or cannot be prepared, or standard output is gone.
pub fn run(options: &Options) -> io::Result<()> {
    if options.die_with_parent {
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    }
    let per_table = options.data / u64::from(options.threads) / TABLES.len() as u64 / RECORD as u64;
    let run = Run { seed: options.seed, threads: options.threads, table_slots: (per_table / 8 * 8).max(64) };
    prepare(&options.dir, run)?;
    // What was laid down is on disk before anything is measured.
    nix::unistd::syncfs(File::open(&options.dir)?)?;
    let shared = Shared {
        run,
        steps: (0..run.threads).map(|_| AtomicU64::new(0)).collect(),
        max_call_ns: AtomicU64::new(0),
        recent_max_call_ns: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..run.threads {
            let shared = &shared;
            std::thread::Builder::new()
                .name(format!("writer-{thread}"))
                .stack_size(256 << 10)
                .spawn_scoped(scope, move || Worker::new(shared, options, thread).work())?;
        }
        let end = options.seconds.map(|seconds| start + Duration::from_secs_f64(seconds));
        let mut next = start;
        let result = loop {
            if let Err(error) = shared.report(start) {
                break Err(error);
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                break Ok(());
            }
            next += REPORT_EVERY;
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        };
        shared.stop.store(true, Ordering::Relaxed);
        result
    })?;
    shared.report(start)
}

/// Lays down what is there before the first step.
///
/// # Errors
/// The directory is not empty, or a call fails.
pub fn prepare(dir: &Path, run: Run) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    if fs::read_dir(dir)?.next().is_some() {
        return Err(io::Error::new(io::ErrorKind::DirectoryNotEmpty, format!("{} is not empty", dir.display())));
    }
    for thread in 0..run.threads {
        let own = thread_dir(dir, thread);
        fs::create_dir_all(own.join(LOG_DIR))?;
        for table in TABLES {
            let mut out = io::BufWriter::with_capacity(1 << 20, File::create_new(own.join(table))?);
            for slot in 0..run.table_slots {
                let record = Record { seed: run.seed, thread, part: 0, slot, step: 0, clock: [0; CLOCKED] };
                out.write_all(&record.encode())?;
            }
            out.flush()?;
        }
        File::create_new(own.join(SPILL))?;
        File::create_new(own.join(LOG))?;
    }
    fs::write(dir.join(RUN_FILE), serde_json::to_vec(&run)?)
}

struct Shared {
    run: Run,
    steps: Vec<AtomicU64>,
    max_call_ns: AtomicU64,
    recent_max_call_ns: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    fn report(&self, start: Instant) -> io::Result<()> {
        let recent = self.recent_max_call_ns.swap(0, Ordering::Relaxed);
        let steps: Vec<u64> = self.steps.iter().map(|step| step.load(Ordering::Acquire)).collect();
        let line = Line {
            elapsed_ms: start.elapsed().as_millis() as u64,
            ops: steps.iter().sum(),
            max_call_us: self.max_call_ns.fetch_max(recent, Ordering::Relaxed).max(recent) / 1_000,
            recent_max_call_us: recent / 1_000,
            steps,
        };
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, &line)?;
        out.write_all(b"\n")?;
        out.flush()
    }
}

struct Worker<'a> {
    shared: &'a Shared,
    options: &'a Options,
    thread: u32,
    dir: PathBuf,
    files: HashMap<Name, File>,
    step: u64,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, options: &'a Options, thread: u32) -> Self {
        let dir = thread_dir(&options.dir, thread);
        Self { shared, options, thread, dir, files: HashMap::new(), step: 0 }
    }

    fn work(mut self) {
        for name in TABLES {
            self.open(name.into(), OFlag::O_RDWR);
        }
        self.open(SPILL.into(), OFlag::O_WRONLY);
        self.open(LOG.into(), OFlag::O_WRONLY | OFlag::O_APPEND);
        let mut plan = Plan::new(self.shared.run.seed, self.thread, self.shared.run.table_slots);
        let labour = vec![0x5a_u8; self.options.work as usize];
        while !self.shared.stop.load(Ordering::Relaxed) {
            if !labour.is_empty() {
                std::hint::black_box(blake3::hash(&labour));
            }
            if self.options.pause_us > 0 {
                std::thread::sleep(Duration::from_micros(self.options.pause_us));
            }
            let op = plan.advance();
            self.step = plan.step();
            self.perform(op);
            self.shared.steps[self.thread as usize].store(self.step, Ordering::Release);
            if self.options.commit > 0 && self.step.is_multiple_of(self.options.commit) {
                // Between two log segments there is nothing to sync.
                if let Some(log) = self.files.get(LOG) {
                    self.call("fdatasync", LOG, || log.sync_data());
                }
            }
        }
    }

    fn perform(&mut self, op: Op) {
        match op {
            Op::Write { file, slot, records, how } => self.write(&file, slot, records, how),
            Op::Resize { file, slots, how } => self.resize(file, slots * RECORD as u64, how),
            Op::Punch { file, slot } => {
                let (at, len) = ((slot * RECORD as u64) as i64, (PUNCHED * RECORD as u64) as i64);
                let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                let target = self.file(&file);
                self.call("fallocate", &file, || Ok(fallocate(target, flags, at, len)?));
            }
            Op::Create(name) => {
                let append = if name == LOG { OFlag::O_APPEND } else { OFlag::empty() };
                self.open(name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | append);
            }
            Op::Rename(from, to) => {
                self.forget(&from);
                self.call("rename", &from, || fs::rename(self.dir.join(&*from), self.dir.join(&*to)));
            }
            Op::Link(from, to) => {
                self.call("link", &to, || fs::hard_link(self.dir.join(&*from), self.dir.join(&*to)));
            }
            Op::Unlink(name) => self.call("unlink", &name, || fs::remove_file(self.dir.join(&*name))),
            Op::MkDir(name) => self.call("mkdir", &name, || fs::create_dir(self.dir.join(&*name))),
            Op::RmDir(name) => self.call("rmdir", &name, || fs::remove_dir(self.dir.join(&*name))),
        }
    }

    fn write(&self, name: &str, slot: u64, records: u64, how: How) {
        // Read before the call, by design: each step counted here was complete before this one began.
        let clock = std::array::from_fn(|i| self.shared.steps.get(i).map_or(0, |step| step.load(Ordering::Acquire)));
        let bytes: Vec<[u8; RECORD]> = (0..records)
            .map(|part| Record {
                seed: self.shared.run.seed,
                thread: self.thread,
                part: part as u32,
                slot: slot + part,
                step: self.step,
                clock,
            })
            .map(|record| record.encode())
            .collect();
        let slices: Vec<IoSlice<'_>> = bytes.iter().map(|record| IoSlice::new(record)).collect();
        let offset = slot * RECORD as u64;
        let mut file = self.file(name);
        let done = match how {
            How::Pwrite => self.call("pwrite64", name, || file.write_at(&bytes[0], offset)),
            How::Pwritev => self.call("pwritev", name, || Ok(pwritev(file, &slices, offset as i64)?)),
            How::Write => self.call("write", name, || file.write(&bytes[0])),
            How::Writev => self.call("writev", name, || file.write_vectored(&slices)),
        };
        if done as u64 != records * RECORD as u64 {
            self.fatal(&format!("{how:?} to {name} wrote {done} of {} bytes", records * RECORD as u64));
        }
    }

    fn resize(&mut self, name: Name, len: u64, how: Cut) {
        match how {
            Cut::Fd => {
                let file = self.file(&name);
                self.call("ftruncate", &name, || Ok(ftruncate(file, len as i64)?));
            }
            Cut::Path => self.call("truncate", &name, || Ok(truncate(&self.dir.join(&*name), len as i64)?)),
            Cut::Reopen => self.open(name, OFlag::O_WRONLY | OFlag::O_TRUNC),
        }
    }

    fn open(&mut self, name: Name, flags: OFlag) {
        let path = self.dir.join(&*name);
        let mode = Mode::from_bits_truncate(0o640);
        // nix, unlike std, does not hide an EINTR.
        let fd = self.call("open", &name, || Ok(open(&path, flags | OFlag::O_CLOEXEC, mode)?));
        self.files.insert(name, File::from(fd));
    }

    fn file(&self, name: &str) -> &File {
        self.files.get(name).unwrap_or_else(|| self.fatal(&format!("{name} is not open")))
    }

    /// A renamed file is written no more; neither is what lies in a renamed directory.
    fn forget(&mut self, name: &str) {
        self.files.retain(|open, _| open != name && !open.strip_prefix(name).is_some_and(|rest| rest.starts_with('/')));
    }

    fn call<T>(&self, call: &str, name: &str, perform: impl FnOnce() -> io::Result<T>) -> T {
        let start = Instant::now();
        let result = perform();
        // A commit waits for the disk, which says nothing about who else holds the call up.
        if call != "fdatasync" {
            self.shared.recent_max_call_ns.fetch_max(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        result.unwrap_or_else(|error| self.fatal(&format!("{call} {name}: {error}")))
    }

    fn fatal(&self, what: &str) -> ! {
        eprintln!("demo-writer: thread {} step {}: {what}", self.thread, self.step);
        std::process::exit(crate::exit::WRITER_HARMED.into())
    }
}
