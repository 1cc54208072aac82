//! What a captured pwrite(2) costs at a patched site, and by a notification. `cargo bench --bench hot_sites`
//!
//! Three writers: one that hotbackup never touches, one whose calls are captured at their sites, one whose calls are notified.
//! Each round measures all of them in each state, one after the other; a figure is what a call takes more than the bare one
//! of its round, and printed are medians over the rounds. Before that, how long a grace takes among many threads.
//! `HOTBACKUP_BENCH_ROUNDS`, `HOTBACKUP_BENCH_MS` (a window), `HOTBACKUP_BENCH_GRACES`.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

#[path = "../tests/common"]
mod common {
    pub mod backup;
    pub mod guest;
    pub mod nobody;
}
use common::backup::{self, Running, number_from, scratch};
use common::guest::{Guest, Linked, compile};
use common::nobody::follow;

/// A program that writes as it is told.
struct Writer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    scratch: TempDir,
}

/// What a call took, in nanoseconds, and how many there were in a second.
#[derive(Clone, Copy)]
struct Taken {
    median: f64,
    p99: f64,
}

impl Writer {
    fn start(linked: Linked) -> Self {
        let scratch = scratch();
        let dir = scratch.path().join("data");
        std::fs::create_dir(&dir).expect("a data directory");
        let mut command = Command::new(compile("times_writes", linked));
        let mut child =
            command.arg(&dir).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the writer starts");
        let input = child.stdin.take().expect("it is piped");
        let mut output = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        output.read_line(&mut line).expect("it says that it is ready");
        Self { child, input, output, scratch }
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn dir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    fn time(&mut self, threads: usize, size: usize, ms: u64) -> Taken {
        writeln!(self.input, "{threads} {size} {ms}").expect("it listens");
        let mut line = String::new();
        self.output.read_line(&mut line).expect("it answers");
        let numbers: Vec<f64> = line.split_whitespace().map(|word| word.parse().expect("a number")).collect();
        Taken { median: numbers[0], p99: numbers[1] }
    }

    /// A backup that only captures until it is told to end: it tracks, or drains. Nothing is copied but what a call is about to change.
    fn follow(&mut self, capture: &str, phase: &str) -> Running {
        let (source, dest) = (self.dir(), self.scratch.path().join("backup"));
        let source = source.to_str().expect("a plain name");
        let point = if phase == "drain" { "start" } else { "end" };
        let more = ["--source", source, "--capture", capture, "--throttle", "0", "--point", point];
        let mut running = backup::start(self.pid(), &dest, &more);
        running.wait_for_phase(phase);
        running
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const STATES: [&str; 6] = [
    "at its site, tracked",
    "at its site, drained",
    "at its site, between",
    "notified, tracked",
    "notified, drained",
    "notified, between",
];

fn main() {
    // `cargo test --benches` asks benches to list or run tests; there are none here.
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }
    grace("16", "0");
    grace("1000", "100000");
    let (rounds, ms) = (number_from("HOTBACKUP_BENCH_ROUNDS", 5), number_from("HOTBACKUP_BENCH_MS", 200));
    let dynamic =
        [(1, 512), (1, 4096), (1, 65_536), (2, 4096), (4, 4096), (16, 4096)].map(|of| (Linked::Dynamically, of));
    let all = dynamic.into_iter().chain([(1, 4096), (4, 4096)].map(|of| (Linked::Statically, of)));
    for (linked, (threads, size)) in all {
        let [mut bare, mut sites, mut notified] = [(); 3].map(|()| Writer::start(linked));
        let mut took: Vec<Vec<(Taken, Taken)>> = vec![Vec::new(); STATES.len()];
        bare.time(threads, size, ms);
        for _ in 0..rounds {
            for (writer, capture, first) in [(&mut sites, "auto", 0), (&mut notified, "notify", 3)] {
                for (state, phase) in ["track", "drain"].into_iter().enumerate() {
                    let running = writer.follow(capture, phase);
                    // Its sites are found, and its descriptors; and what it writes to is saved.
                    for _ in 0..4 {
                        writer.time(threads, size, ms.max(100));
                    }
                    took[first + state].push((bare.time(threads, size, ms), writer.time(threads, size, ms)));
                    running.signal(Signal::SIGTERM);
                    let _ = running.finish();
                }
                took[first + 2].push((bare.time(threads, size, ms), writer.time(threads, size, ms)));
            }
        }
        println!("{threads} threads, {size} bytes, linked {linked:?}");
        for (state, took) in STATES.iter().zip(&took) {
            let by = |of: &dyn Fn(Taken) -> f64| median(took.iter().map(|(bare, it)| of(*it) - of(*bare)));
            let ratio = median(took.iter().map(|(bare, it)| it.median / bare.median));
            let bare = median(took.iter().map(|(bare, _)| bare.median));
            println!(
                "  {state:22} p50 {bare:7.0} ns bare, {:+7.0} ns, ratio {ratio:.3}; p99 {:+8.0} ns",
                by(&|taken| taken.median),
                by(&|taken| taken.p99)
            );
        }
    }
}

/// How long a grace takes among so many threads that write at patched sites.
fn grace(threads: &str, pause_us: &str) {
    let guest = Guest::start("rings", Linked::Dynamically, &[threads, "64", pause_us]);
    let tracer = follow(guest.pid(), true);
    // Until hardly any call is shown any more.
    let limit = Instant::now() + Duration::from_secs(60);
    loop {
        let shown = tracer.received();
        std::thread::sleep(Duration::from_millis(500));
        if tracer.received() - shown < 50 || Instant::now() > limit {
            break;
        }
    }
    let mut took: Vec<f64> = (0..number_from("HOTBACKUP_BENCH_GRACES", 1000))
        .map(|_| {
            let began = Instant::now();
            tracer.grace().expect("a grace");
            began.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    println!(
        "a grace among {threads} threads that write every {pause_us} us: p50 {:.0} us, p99 {:.0} us, longest {:.0} us",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

fn median(all: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
