//! What following costs SQLite that commits in a loop, and Redis with `appendfsync always`, by notifications and at call sites.
//! `cargo bench --bench programs_at_sites`
//!
//! As in `hot_sites`: of each program three run, one that hotbackup never touches, one whose calls are captured at their sites where
//! that can be, one whose calls are notified. Each round measures all of them in each state; a ratio is taken to the bare one of its
//! round, and printed are medians. `HOTBACKUP_BENCH_ROUNDS`, `HOTBACKUP_BENCH_COMMITS`.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use tempfile::TempDir;

#[path = "../tests/common"]
mod common {
    pub mod backup;
}
use common::backup::{self, Running, number_from, scratch};

/// A program that commits as often as it is told.
enum Program {
    Sqlite { child: Child, input: ChildStdin, output: BufReader<ChildStdout>, scratch: TempDir },
    Redis { child: Child, scratch: TempDir },
}

impl Program {
    fn sqlite() -> Self {
        let (scratch, dir) = place();
        let mut command = Command::new("sqlite3");
        command.arg(dir.join("db")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("apt-get install sqlite3");
        let mut input = child.stdin.take().expect("it is piped");
        let output = BufReader::new(child.stdout.take().expect("it is piped"));
        // The cost of the calls, not of the disk.
        writeln!(input, "pragma journal_mode=wal; pragma synchronous=off; create table t(a, b);").expect("it listens");
        let mut this = Self::Sqlite { child, input, output, scratch };
        this.commit(1);
        this
    }

    fn redis() -> Self {
        let (scratch, dir) = place();
        let mut command = Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--unixsocket"]);
        command.arg(scratch.path().join("socket")).arg("--dir").arg(&dir).stdout(Stdio::null());
        let child = command.spawn().expect("apt-get install redis-server");
        let limit = Instant::now();
        while !scratch.path().join("socket").exists() {
            assert!(limit.elapsed().as_secs() < 30, "Redis does not listen");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Self::Redis { child, scratch }
    }

    fn parts(&self) -> (&Child, &Path) {
        match self {
            Self::Sqlite { child, scratch, .. } | Self::Redis { child, scratch } => (child, scratch.path()),
        }
    }

    /// Seconds that so many commits take.
    fn commit(&mut self, count: u64) -> f64 {
        let began = Instant::now();
        match self {
            Self::Sqlite { input, output, .. } => {
                for number in 0..count {
                    writeln!(input, "insert into t values({number}, 'a row of a few bytes');").expect("it listens");
                }
                writeln!(input, "select 'done';").expect("it listens");
                let mut line = String::new();
                while line != "done\n" {
                    line.clear();
                    assert!(output.read_line(&mut line).expect("text") > 0, "SQLite has ended");
                }
            }
            Self::Redis { scratch, .. } => {
                let mut command = Command::new("redis-benchmark");
                command.arg("-s").arg(scratch.path().join("socket"));
                command.args(["-t", "set", "-c", "8", "--csv", "-n", &count.to_string()]);
                let output = command.output().expect("apt-get install redis-tools");
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        began.elapsed().as_secs_f64()
    }

    /// A backup that only captures: nothing is copied until it is told to.
    fn track(&self, capture: &str) -> Running {
        let (child, scratch) = self.parts();
        let (source, dest) = (scratch.join("data"), scratch.join("backup"));
        let source = source.to_str().expect("a plain name");
        // SQLite maps its index of the log for writing.
        let more = ["--source", source, "--capture", capture, "--throttle", "0", "--exclude", "db-shm"];
        let mut running = backup::start(child.id().cast_signed(), &dest, &more);
        running.wait_for_phase("track");
        running
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let (Self::Sqlite { child, .. } | Self::Redis { child, .. }) = self;
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn place() -> (TempDir, PathBuf) {
    let scratch = scratch();
    let dir = scratch.path().join("data");
    std::fs::create_dir(&dir).expect("a data directory");
    (scratch, dir)
}

const STATES: [&str; 4] = ["at its sites, tracked", "at its sites, between", "notified, tracked", "notified, between"];

fn main() {
    // `cargo test --benches` asks benches to list or run tests; there are none here.
    if std::env::args().any(|argument| argument == "--test" || argument == "--list") {
        return;
    }
    let (rounds, commits) = (number_from("HOTBACKUP_BENCH_ROUNDS", 5), number_from("HOTBACKUP_BENCH_COMMITS", 20_000));
    for (name, start) in [("SQLite", Program::sqlite as fn() -> Program), ("Redis", Program::redis)] {
        let [mut bare, mut sites, mut notified] = [(); 3].map(|()| start());
        let mut took: Vec<Vec<(f64, f64)>> = vec![Vec::new(); STATES.len()];
        bare.commit(commits);
        for _ in 0..rounds {
            for (program, capture, first) in [(&mut sites, "auto", 0), (&mut notified, "notify", 2)] {
                let running = program.track(capture);
                // Its sites are found, and its descriptors.
                program.commit(commits / 4);
                took[first].push((bare.commit(commits), program.commit(commits)));
                running.signal(Signal::SIGTERM);
                let _ = running.finish();
                took[first + 1].push((bare.commit(commits), program.commit(commits)));
            }
        }
        println!("{name}");
        for (state, took) in STATES.iter().zip(&took) {
            let bare = median(took.iter().map(|(bare, _)| bare * 1e6 / commits as f64));
            let ratio = median(took.iter().map(|(bare, it)| it / bare));
            println!("  {state:22} {bare:7.1} us a commit bare, ratio {ratio:.3}");
        }
    }
}

fn median(all: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = all.collect();
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}
