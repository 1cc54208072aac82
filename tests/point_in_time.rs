//! The backup of a strict writer is a state that existed at T: every thread's calls up to some call, and nothing after.
//!
//! The writer is `hotbackup demo-writer`: it renames, appends, truncates, punches, links and unlinks besides writing, and
//! dies at the first call that fails. Its reports say what it had done when.
#![forbid(unsafe_code)]

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hotbackup::demo::check::check_tree;
use serde_json::Value;
use tempfile::TempDir;

mod common {
    pub mod backup;
    pub mod guest;
    pub mod load;
    pub mod mongod;
}
use common::backup::{self, HOTBACKUP, Outcome, alone, number_from, scratch, seed, verify};
use common::guest::{Guest, Linked, check_rings};
use common::load::{Noise, now};

/// One report of the writer: when it arrived (realtime ns), what it says of its age, and the steps of each thread.
struct Line {
    arrived: u64,
    elapsed_ms: u64,
    steps: Vec<u64>,
}

/// The running writer, killed when dropped.
struct Writer {
    child: Child,
    lines: Arc<Mutex<Vec<Line>>>,
    dir: PathBuf,
    scratch: TempDir,
}

impl Writer {
    fn start(threads: u32, seed: u64, more: &[&str]) -> Self {
        let scratch = scratch();
        let dir = scratch.path().join("data");
        let mut child = Command::new(HOTBACKUP)
            .args(["demo-writer", "--threads", &threads.to_string(), "--seed", &seed.to_string(), "--dir"])
            .arg(&dir)
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .expect("the writer starts");
        let out = child.stdout.take().expect("stdout is piped");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&lines);
        std::thread::spawn(move || {
            for text in BufReader::new(out).lines().map_while(Result::ok) {
                let arrived = now();
                let value: Value = serde_json::from_str(&text).expect("a line of JSON");
                let steps = value["steps"].as_array().expect("steps").iter().map(|n| n.as_u64().expect("a step"));
                let elapsed_ms = value["elapsed_ms"].as_u64().expect("an age");
                sink.lock().expect("one reader").push(Line { arrived, elapsed_ms, steps: steps.collect() });
            }
        });
        let writer = Self { child, lines, dir, scratch };
        writer.wait_for_lines(3);
        writer
    }

    fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    fn wait_for_lines(&self, more: usize) {
        let count = || self.lines.lock().expect("one reader").len();
        let (goal, began) = (count() + more, Instant::now());
        while count() < goal {
            assert!(began.elapsed() < Duration::from_secs(20), "the writer reports no longer: see its message above");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Fails unless the writer lives, and each of its threads goes on.
    fn assert_goes_on(&mut self) {
        let last = |writer: &Self| writer.lines.lock().expect("one reader").last().expect("a line").steps.clone();
        let (before, began) = (last(self), Instant::now());
        while !before.iter().zip(last(self)).all(|(before, now)| now > *before) {
            assert!(began.elapsed() < Duration::from_secs(20), "threads of the writer stand still");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(self.child.try_wait().expect("our child").is_none(), "the writer ended: see its message above");
    }

    /// Fails unless the backup is a state that existed at its T.
    fn judge(&self, outcome: &Outcome) {
        let point = outcome.point();
        verify(&outcome.dest);
        self.wait_for_lines(3);
        let summary = check_tree(&outcome.dest).unwrap_or_else(|wrong| panic!("{wrong}\n{:?}", outcome.events.last()));
        let lines = self.lines.lock().expect("one reader");
        // What had been reported before T is in the backup. What a report made after T does not show is not; when a
        // report was made follows from its age, and 100 ms more allow for delays of all reports alike.
        let start = lines.iter().map(|line| line.arrived - line.elapsed_ms * 1_000_000).min().expect("a line");
        let earliest = lines.iter().rev().find(|line| line.arrived < point).map_or(&[][..], |line| &line.steps);
        let after = |line: &&Line| start + line.elapsed_ms * 1_000_000 > point + 100_000_000;
        let latest = lines.iter().find(after).map_or(&[][..], |line| &line.steps);
        summary.lies_between(earliest, latest).unwrap_or_else(|wrong| panic!("{wrong}\n{}", outcome.report()));
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn backups_at_random_moments(point: &str, throttle: &str) {
    let _alone = alone();
    let seed = seed();
    let mut noise = Noise::new(seed);
    let mut writer = Writer::start(4, seed, &["--pause-us", "100", "--data", "12MiB"]);
    for round in 0..number_from("HOTBACKUP_ROUNDS", 4) {
        std::thread::sleep(Duration::from_millis(noise.next() % 150));
        let dest = writer.scratch.path().join(format!("backup{round}"));
        let began = now();
        let outcome = backup::take(
            writer.pid(),
            &dest,
            &["--source", path(&writer.dir), "--point", point, "--throttle", throttle],
        );
        let ended = now();
        writer.judge(&outcome);
        writer.assert_goes_on();
        let at = (outcome.point() - began) as f64 / (ended - began) as f64;
        println!("{point}: T at {:.0} % of the backup, hold {} us", at * 100.0, outcome.hold_us());
        if point == "start" {
            assert!(at < 0.5, "with --point start T lies at {:.0} % of the backup's time", at * 100.0);
        }
    }
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

#[test]
fn a_backup_to_the_end_is_a_state_that_existed() {
    backups_at_random_moments("end", "64MiB");
}

#[test]
fn a_backup_from_the_start_is_a_state_that_existed() {
    backups_at_random_moments("start", "64MiB");
}

#[test]
fn a_long_drain_keeps_what_blocks_held_at_the_point() {
    // The whole copy happens after T, slowly, while everything is overwritten.
    backups_at_random_moments("start", "8MiB");
}

#[test]
fn passes_that_never_catch_up_still_end_at_a_point() {
    // Copying is slower than the writer, which writes at random places without a pause.
    let _alone = alone();
    let mut writer = Writer::start(4, seed(), &["--data", "12MiB"]);
    let dest = writer.scratch.path().join("backup");
    let outcome = backup::take(writer.pid(), &dest, &["--source", path(&writer.dir), "--throttle", "8MiB"]);
    writer.judge(&outcome);
    writer.assert_goes_on();
}

fn guest_is_backed_up(name: &str, linked: Linked, arguments: &[&str], rings: usize) -> Guest {
    let _alone = alone();
    let mut guest = Guest::start(name, linked, arguments);
    for point in ["end", "start"] {
        let dest = guest.beside(&format!("backup-{point}"));
        let outcome =
            backup::take(guest.pid(), &dest, &["--source", path(&guest.dir), "--point", point, "--throttle", "32MiB"]);
        println!("{name}: {}", outcome.report());
        verify(&dest);
        let newest = check_rings(&dest, rings).unwrap_or_else(|wrong| panic!("{wrong}\n{}", outcome.report()));
        assert!(newest.iter().all(|&record| record > 0), "{name} has written: {newest:?}");
        guest.assert_goes_on();
    }
    guest
}

#[test]
fn a_dynamic_program_is_backed_up() {
    guest_is_backed_up("rings", Linked::Dynamically, &["4", "256", "100"], 4);
}

#[test]
fn a_static_program_is_backed_up() {
    guest_is_backed_up("rings", Linked::Statically, &["4", "256", "100"], 4);
}

#[test]
fn a_program_with_500_threads_is_backed_up() {
    guest_is_backed_up("rings", Linked::Dynamically, &["500", "4", "20000"], 500);
}

#[test]
fn a_program_without_privileges_is_backed_up() {
    guest_is_backed_up("unprivileged", Linked::Dynamically, &[], 2);
}

#[test]
fn a_program_whose_only_thread_never_sleeps_is_backed_up() {
    guest_is_backed_up("never_sleeps", Linked::Dynamically, &[], 1);
}

#[test]
fn a_static_program_that_never_sleeps_is_backed_up() {
    guest_is_backed_up("never_sleeps", Linked::Statically, &[], 1);
}

#[test]
fn a_thread_that_makes_a_directory_and_computes_keeps_no_other_waiting() {
    guest_is_backed_up("computes_between_names", Linked::Dynamically, &[], 1);
}

#[test]
fn a_program_whose_threads_come_and_go_is_backed_up() {
    guest_is_backed_up("threads_come_and_go", Linked::Dynamically, &[], 4);
}

#[test]
fn a_program_that_wakes_threads_through_eventfds_is_backed_up() {
    guest_is_backed_up("eventfd_wakeups", Linked::Dynamically, &[], 2);
}

#[test]
fn a_program_with_eventfds_that_reopens_its_files_is_backed_up() {
    guest_is_backed_up("reopens_files", Linked::Dynamically, &[], 1);
}

#[test]
fn eight_byte_writes_to_files_are_captured() {
    let _alone = alone();
    let mut guest = Guest::start("eight_byte_writes", Linked::Dynamically, &[]);
    for (round, point) in ["end", "start", "end", "start"].into_iter().enumerate() {
        let dest = guest.beside(&format!("backup{round}"));
        let outcome =
            backup::take(guest.pid(), &dest, &["--source", path(&guest.dir), "--point", point, "--throttle", "32MiB"]);
        verify(&dest);
        let numbers = |name: &str| -> Vec<u64> {
            let content = std::fs::read(dest.join(name)).expect("the backup holds it");
            assert!(content.len().is_multiple_of(8), "{name} ends within a number");
            content.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
        };
        let (odd, even) = (numbers("odd"), numbers("even"));
        let total = (odd.len() + even.len()) as u64;
        let expected = |first: u64| (first..=total).step_by(2).collect::<Vec<_>>();
        assert!(
            odd == expected(1) && even == expected(2),
            "{} odd and {} even numbers: {}",
            odd.len(),
            even.len(),
            outcome.report()
        );
        assert!(total > 0);
        guest.assert_goes_on();
    }
}
