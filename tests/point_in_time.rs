//! The backup of a strict guest is a state that existed at T: every thread's calls up to T, and nothing after.
//!
//! `every_kind_of_call` writes, appends, truncates, punches, links, renames and unlinks in a fixed order, and dies at the first
//! call that fails. It notes when each record was begun and ended: what had ended before T is in the backup, and what was begun
//! after T is not. So all threads are cut at one place, too.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod common {
    pub mod backup;
    pub mod guest;
    pub mod names;
    pub mod random;
}
use common::backup::{self, Outcome, alone, now, number_from, scratch, seed, verify};
use common::guest::{Guest, Linked, check_numbers, check_rings};
use common::names::{self, Held};
use common::random::Random;

const WORKERS: usize = 4;
/// With three files of records of 4 KiB for each worker, 12 MiB.
const SLOTS: &str = "256";
/// As in the guest: the records of each worker whose times are there.
const KEPT: u64 = 1 << 17;

/// When a record was begun, when it was in its ring, and when all that belongs to it was done; 0 is not yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Record {
    begun: u64,
    written: u64,
    over: u64,
}

/// The guest's file of times, as it was at some moment.
struct Times(Vec<u8>);

impl Times {
    /// The number that is noted in the place of a worker's record, and its times.
    fn in_place_of(&self, worker: usize, number: u64) -> (u64, Record) {
        let at = (worker * KEPT as usize + (number % KEPT) as usize) * 32;
        let word = |n: usize| u64::from_ne_bytes(self.0[at + 8 * n..][..8].try_into().expect("eight bytes"));
        (word(0), Record { begun: word(1), written: word(2), over: word(3) })
    }

    fn of(&self, worker: usize, number: u64) -> Record {
        let (found, record) = self.in_place_of(worker, number);
        assert!(found <= number, "the times of record {number} have been overwritten by those of {found}");
        if found == number { record } else { Record::default() }
    }

    /// How many records each worker has begun.
    fn begun(&self) -> Vec<u64> {
        let newest = |worker| (0..KEPT).map(|place| self.in_place_of(worker, place).0).max().unwrap_or(0);
        (0..WORKERS).map(newest).collect()
    }

    /// Fails if the state lacks what had ended before `point`, or holds what was begun after it.
    fn fit(&self, held: &[Held], point: u64) -> Result<(), String> {
        for (worker, &Held { newest, whole }) in held.iter().enumerate() {
            let record = if newest == 0 { Record::default() } else { self.of(worker, newest) };
            let next = self.of(worker, newest + 1);
            let lacks = if whole { next.written } else { record.over };
            if record.begun > point || lacks != 0 && lacks < point {
                return Err(format!(
                    "T is {point}, and of worker {worker} record {newest} is there ({}): {record:?}, then {next:?}",
                    if whole { "whole" } else { "begun" }
                ));
            }
        }
        Ok(())
    }
}

/// The running guest.
struct Writer {
    guest: Guest,
    times: PathBuf,
}

impl Writer {
    fn start(pause_us: &str) -> Self {
        let scratch = scratch();
        let (page, times) = (scratch.path().join("page"), scratch.path().join("times"));
        let arguments = [path(&page), &WORKERS.to_string(), SLOTS, pause_us, "0", path(&times)];
        let guest = Guest::start_in(scratch, "every_kind_of_call", Linked::Dynamically, &arguments);
        let mut writer = Self { guest, times };
        writer.assert_goes_on();
        writer
    }

    fn times(&self) -> Times {
        Times(fs::read(&self.times).expect("the guest has made its file"))
    }

    /// Fails unless the guest lives, and each of its workers goes on.
    fn assert_goes_on(&mut self) {
        let (before, began) = (self.times().begun(), Instant::now());
        while !before.iter().zip(self.times().begun()).all(|(before, now)| now > *before) {
            self.guest.assert_alive();
            assert!(began.elapsed() < Duration::from_secs(20), "workers of the guest stand still");
            std::thread::sleep(Duration::from_millis(5));
        }
        self.guest.assert_alive();
    }

    /// A backup to `dest`, and the times right after it.
    fn take(&self, dest: &str, more: &[&str]) -> (Outcome, Times) {
        let (dest, source) = (self.guest.beside(dest), self.guest.dir.clone());
        let more = [&["--source", path(&source), "--exclude", "mapped"], more].concat();
        let outcome = backup::take(self.guest.pid(), &dest, &more);
        (outcome, self.times())
    }
}

/// Fails unless the backup is a state that existed at its T. Says which.
fn judge(outcome: &Outcome, times: &Times) -> Vec<Held> {
    let point = outcome.point();
    verify(&outcome.dest);
    let held = names::check(&outcome.dest, WORKERS);
    let held = held.unwrap_or_else(|wrong| panic!("{wrong}\n{}", outcome.report()));
    times.fit(&held, point).unwrap_or_else(|wrong| panic!("{wrong}\n{}", outcome.report()));
    held
}

fn backups_at_random_moments(point: &str, throttle: &str) {
    let _alone = alone();
    let mut random = Random::new(seed());
    let mut writer = Writer::start("100");
    for round in 0..number_from("HOTBACKUP_ROUNDS", 4) {
        std::thread::sleep(Duration::from_millis(random.below(150)));
        let began = now();
        let more = ["--point", point, "--throttle", throttle];
        let (outcome, times) = writer.take(&format!("backup{round}"), &more);
        let ended = now();
        judge(&outcome, &times);
        writer.assert_goes_on();
        let at = (outcome.point() - began) as f64 / (ended - began) as f64;
        println!("{point}: T at {:.0} % of the backup, hold {} us", at * 100.0, outcome.hold_us());
        let passes = outcome.report()["passes"].as_u64();
        match point {
            "start" => assert_eq!(passes, Some(0), "something was copied before T"),
            _ => assert!(passes > Some(0), "nothing was copied before T"),
        }
    }
}

fn path(path: &Path) -> &str {
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
    // Copying is slower than the guest, which writes everywhere without a pause.
    let _alone = alone();
    let mut writer = Writer::start("0");
    let (outcome, times) = writer.take("backup", &["--throttle", "8MiB"]);
    judge(&outcome, &times);
    writer.assert_goes_on();
}

#[test]
fn the_state_of_another_moment_is_found_out() {
    let _alone = alone();
    let mut writer = Writer::start("100");
    let (first, times) = writer.take("early", &[]);
    let early = judge(&first, &times);
    writer.assert_goes_on();
    let (second, times) = writer.take("late", &[]);
    let late = judge(&second, &times);
    assert!(times.fit(&early, first.point()).is_ok(), "the times of both are there");
    assert!(times.fit(&early, second.point()).is_err(), "what had ended before T is missing");
    assert!(times.fit(&late, first.point()).is_err(), "what was begun after T is there");
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
        check_numbers(&dest).unwrap_or_else(|wrong| panic!("{wrong}: {}", outcome.report()));
        guest.assert_goes_on();
    }
}
