//! What a backup costs a mongod under inserting clients: throughput against a bare server, as ratios from one run.
//!
//! Three servers run: one that hotbackup never touches, and two attached to. Every round measures each mode once, so that
//! what the machine does beside falls on all alike, and a ratio is taken within its round; printed are medians. A third server's calls
//! are captured at their sites (`--capture auto`), where those of the second are notified. Sizes
//! can be set: `HOTBACKUP_BENCH_ROUNDS`, `HOTBACKUP_BENCH_SECONDS` (a window), `HOTBACKUP_BENCH_MIB` (data to copy).
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, CollectionOptions, WriteConcern};
use nix::sys::signal::Signal;
use tempfile::TempDir;

#[path = "../tests/common"]
mod common {
    pub mod acks;
    pub mod backup;
    pub mod guest;
    pub mod load;
    pub mod mongod;
    pub mod random;
}
use common::backup::{self, Outcome, number_from, scratch};
use common::guest::{Guest, Linked};
use common::load;
use common::mongod::{self, Mongod, Opts};

const CLIENTS: usize = 4;
const WAYS: [&str; 2] = ["notify", "auto"];
const MODES: [&str; 5] = ["bare", "keeper alone", "tracked, copying paused", "beside cp -a", "copying unthrottled"];

/// A server with data, and where its copies go.
struct Subject {
    server: Mongod,
    scratch: TempDir,
    /// How its calls are captured.
    capture: &'static str,
}

impl Subject {
    fn start(mebibytes: u64, capture: &'static str) -> Self {
        let scratch = scratch();
        let dbpath = scratch.path().join("db");
        fs::create_dir(&dbpath).expect("a data directory");
        let server = Mongod::start(&Opts { dbpath, ..Opts::default() });
        load::fill(&server.uri(), mebibytes);
        Self { server, scratch, capture }
    }

    fn dest(&self) -> PathBuf {
        self.scratch.path().join("copy")
    }
}

fn main() {
    // `cargo test --benches` asks benches to list or run tests; there are none here.
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }
    let rounds = number_from("HOTBACKUP_BENCH_ROUNDS", 5);
    let window = Duration::from_secs(number_from("HOTBACKUP_BENCH_SECONDS", 3));
    let mebibytes = number_from("HOTBACKUP_BENCH_MIB", 192);
    let untouched = Subject::start(mebibytes, "none");
    let subjects = WAYS.map(|capture| Subject::start(mebibytes, capture));
    let mut holds = WAYS.map(|_| Vec::new());
    for (subject, holds) in subjects.iter().zip(&mut holds) {
        let first = take(subject);
        println!(
            "first backup, {}: attach stop {:?} us, hold {} us",
            subject.capture,
            first.stop_us(),
            first.hold_us()
        );
        holds.push(first.hold_us());
    }
    let mut figures: [Vec<Vec<f64>>; 2] = WAYS.map(|_| vec![Vec::new(); MODES.len()]);
    for round in 0..rounds {
        // Each round begins with another mode: none profits from always following the same.
        for turn in 0..MODES.len() {
            let mode = (turn + usize::try_from(round).expect("few rounds")) % MODES.len();
            for (way, subject) in subjects.iter().enumerate() {
                let uri = subject.server.uri();
                let holds = &mut holds[way];
                figures[way][mode].push(match MODES[mode] {
                    "bare" => inserts(&untouched.server.uri(), window),
                    "keeper alone" => inserts(&uri, window),
                    "tracked, copying paused" => tracked(subject, window),
                    "beside cp -a" => beside(&untouched.server.uri(), window, || cp(&untouched)),
                    _ => beside(&uri, window, || holds.push(take(subject).hold_us())),
                });
            }
        }
    }

    for ((way, figures), holds) in WAYS.iter().zip(&figures).zip(&holds) {
        println!("\n--capture {way}\n{:<26}{:>12}{:>14}", "insert throughput", "per second", "ratio to bare");
        for (name, figures_of_mode) in MODES.iter().zip(figures) {
            let ratio = median_ratio(figures_of_mode, &figures[0]);
            println!("{name:<26}{:>12.0}{ratio:>14.3}", median(figures_of_mode.clone()));
        }
        println!("copying unthrottled / beside cp -a: {:.3}", median_ratio(&figures[4], &figures[3]));
        percentiles("hold of mongod, ms", holds.iter().map(|&us| us as f64 / 1000.0).collect());
    }
    percentiles("attach stop, us", attach_stops(number_from("HOTBACKUP_BENCH_ATTACHES", 25)));
    subjects.into_iter().for_each(|subject| subject.server.stop());
    untouched.server.stop();
}

/// Inserts a second while nothing else happens.
fn inserts(uri: &str, window: Duration) -> f64 {
    beside(uri, window, || std::thread::sleep(Duration::from_millis(5)))
}

/// Inserts a second, of several clients, while `work` is repeated.
fn beside(uri: &str, window: Duration, mut work: impl FnMut()) -> f64 {
    let (end, done) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| insert(uri, &end, &done));
        }
        let measured = scope.spawn(|| {
            // Connections and caches settle first.
            std::thread::sleep(Duration::from_millis(300));
            let (before, began) = (done.load(Ordering::Relaxed), Instant::now());
            std::thread::sleep(window);
            let rate = (done.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64();
            end.store(true, Ordering::Relaxed);
            rate
        });
        while !measured.is_finished() {
            work();
        }
        measured.join().expect("a rate")
    })
}

fn insert(uri: &str, end: &AtomicBool, done: &AtomicU64) {
    let client = mongod::client(uri);
    let concern = WriteConcern::builder().w(Acknowledgment::Nodes(1)).journal(false).build();
    let options = CollectionOptions::builder().write_concern(concern).build();
    let collection = client.database("bench").collection_with_options::<Document>("inserts", options);
    while !end.load(Ordering::Relaxed) {
        collection.insert_one(doc! {"text": "x".repeat(100)}).run().expect("inserted");
        done.fetch_add(1, Ordering::Relaxed);
    }
}

fn tracked(subject: &Subject, window: Duration) -> f64 {
    let dest = subject.dest();
    let mut running = backup::start(subject.server.pid(), &dest, &["--throttle", "0", "--capture", subject.capture]);
    running.wait_for_phase("track");
    let rate = inserts(&subject.server.uri(), window);
    assert!(running.is_running(), "the backup is to wait for its throttle");
    running.signal(Signal::SIGTERM);
    running.finish().failure("cancelled");
    rate
}

fn take(subject: &Subject) -> Outcome {
    let outcome = backup::take(subject.server.pid(), &subject.dest(), &["--capture", subject.capture]);
    outcome.report();
    remove(&subject.dest());
    outcome
}

fn cp(subject: &Subject) {
    // A file may vanish under cp: what it costs is measured here, not what it is worth.
    let status =
        Command::new("cp").arg("-a").arg(&subject.server.dbpath).arg(subject.dest()).stderr(Stdio::null()).status();
    status.expect("cp starts");
    remove(&subject.dest());
}

fn remove(copy: &Path) {
    fs::remove_dir_all(copy).expect("our own copy");
}

/// How long attaching stops a thread, over as many fresh processes.
fn attach_stops(count: u64) -> Vec<f64> {
    (0..count)
        .map(|_| {
            let guest = Guest::start("rings", Linked::Dynamically, &["8", "12", "500"]);
            let source = guest.dir.to_str().expect("a plain name");
            let outcome = backup::take(guest.pid(), &guest.beside("copy"), &["--source", source]);
            outcome.stop_us().expect("a fresh process is attached to") as f64
        })
        .collect()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn median_ratio(figures: &[f64], to: &[f64]) -> f64 {
    median(figures.iter().zip(to).map(|(figure, to)| figure / to).collect())
}

fn percentiles(what: &str, mut figures: Vec<f64>) {
    figures.sort_by(f64::total_cmp);
    let at = |share: f64| figures[((figures.len() - 1) as f64 * share).round() as usize];
    println!(
        "{what} (of {}): p50 {:.2}, p90 {:.2}, p99 {:.2}, max {:.2}",
        figures.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}
