//! Files with writable shared mappings: with `--mapped` they are in the backup as they were at the point in time, to the
//! single store; where that cannot be done, the backup fails and says why. Whatever happens, the target goes on.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod common {
    pub mod backup;
    pub mod guest;
}
use common::backup::{self, alone, number_from, scratch, verify};
use common::guest::{Guest, Linked};

const WRITERS: usize = 4;
const SLOTS: u64 = 512;
const WORDS: usize = 64;
const LONG: u64 = 65536;

fn start(sleepers: usize, pause_us: u64) -> Guest {
    let scratch = scratch();
    let trigger = scratch.path().join("trigger");
    let numbers = [WRITERS.to_string(), sleepers.to_string(), pause_us.to_string()];
    let [writers, sleepers, pause] = &numbers;
    let arguments = [writers, sleepers, pause, path(&trigger)];
    Guest::start_in(scratch, "mapped_records", Linked::Dynamically, &arguments)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

fn words(dir: &Path, name: &str) -> Vec<u64> {
    let content = fs::read(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    content.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().expect("eight bytes"))).collect()
}

/// Whether a directory is a state of the guest's that existed.
fn check(dir: &Path) -> Result<(), String> {
    let clock = words(dir, "clock");
    let counts: Vec<u64> = (0..WRITERS).map(|i| words(dir, &format!("count-{i}"))[0]).collect();
    for i in 0..WRITERS {
        let (count, next) = (counts[i], counts[(i + 1) % WRITERS]);
        if !(count.saturating_sub(1)..=count).contains(&clock[i]) {
            return Err(format!("writer {i} has counted {count}, and its clock says {}", clock[i]));
        }
        let records = words(dir, &format!("map-{i}"));
        for slot in 0..SLOTS {
            let record = &records[slot as usize * WORDS..][..WORDS];
            // The newest up to the count that belongs here; 0 before the first.
            let newest = |upto: u64| upto.saturating_sub((upto + SLOTS - slot) % SLOTS);
            let (whole, begun) = (newest(count), newest(count + 1));
            let is_next = |word: &u64| begun == count + 1 && *word == begun;
            let stored = record.iter().enumerate().filter(|(at, _)| *at != 1).map(|(_, word)| word);
            let stored: Vec<u64> = stored.copied().collect();
            let next_ones = stored.iter().take_while(|word| is_next(word)).count();
            if !stored[next_ones..].iter().all(|word| *word == whole) {
                return Err(format!("writer {i} has counted {count}; slot {slot} holds {record:?}"));
            }
            if record[1] > next {
                return Err(format!("writer {i} has seen {} of one that has counted {next}", record[1]));
            }
        }
    }
    let (left, right) = (words(dir, "left"), words(dir, "right"));
    let newest = left.iter().max().copied().unwrap_or(0);
    for (at, (left, right)) in left.iter().zip(&right).enumerate() {
        let is_newest = *left == newest && right < left;
        // What was stored here a lap ago is overwritten by now.
        let is_old = left + LONG <= newest;
        if (left != right && !is_newest) || is_old {
            return Err(format!("word {at} holds {left} and {right}, and the newest is {newest}"));
        }
    }
    let count = words(dir, "again-count").first().copied().unwrap_or(0);
    let again = words(dir, "again");
    let newest = (0..3).map(|third| again[third * 8192]).max().unwrap_or(0);
    if !(count..=count + 1).contains(&newest) {
        return Err(format!("what is mapped again and again holds {newest}, and has counted {count}"));
    }
    Ok(())
}

fn states_that_existed(point: &str, sleepers: usize, pause_us: u64) {
    let _alone = alone();
    let mut guest = start(sleepers, pause_us);
    for round in 0..number_from("HOTBACKUP_ROUNDS", 4) {
        let dest = guest.beside(&format!("backup-{round}"));
        let throttle = if round % 2 == 0 { "1GiB" } else { "16MiB" };
        let more = ["--source", path(&guest.dir), "--point", point, "--mapped", "8MiB", "--throttle", throttle];
        let outcome = backup::take(guest.pid(), &dest, &[&more[..], &["--hold", "2s", "--lease", "5s"]].concat());
        let mapped = &outcome.report()["mapped"];
        println!("{mapped}");
        assert!(mapped["files"].as_u64() >= Some(WRITERS as u64 + 3), "{mapped}");
        verify(&dest);
        check(&dest).unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
        guest.assert_alive();
    }
}

#[test]
fn what_is_mapped_is_as_it_was_at_the_end() {
    states_that_existed("end", 7, 50);
}

#[test]
fn what_is_mapped_is_as_it_was_at_the_start() {
    states_that_existed("start", 7, 50);
}

#[test]
fn so_it_is_when_the_writers_never_sleep() {
    states_that_existed("end", 7, 0);
}

#[test]
fn so_it_is_with_500_threads_that_sleep_in_calls_of_many_kinds() {
    states_that_existed("end", 500, 50);
}

#[test]
fn the_check_finds_a_store_that_came_later() {
    let _alone = alone();
    let mut guest = start(0, 50);
    guest.kill();
    let copy = guest.dir.clone();
    check(&copy).expect("a dead process stores nothing");
    let bytes = |words: &[u64]| words.iter().flat_map(|word| word.to_ne_bytes()).collect::<Vec<u8>>();
    let count = words(&copy, "count-1")[0];
    for (name, at, store) in [
        ("map-1", ((count + 2) % SLOTS) as usize * WORDS + 7, count + 2),
        ("clock", 0, words(&copy, "count-0")[0] + 1),
        ("right", 100, words(&copy, "right")[100] + 1),
        ("again", 0, words(&copy, "again-count")[0] + 2),
    ] {
        let right = words(&copy, name);
        println!("{name}: {store} in word {at}");
        let mut wrong = right.clone();
        wrong[at] = store;
        fs::write(copy.join(name), bytes(&wrong)).expect("written");
        check(&copy).expect_err("a store that had not come yet");
        fs::write(copy.join(name), bytes(&right)).expect("written");
    }
    check(&copy).expect("as it was");
}

#[test]
fn without_the_option_the_backup_fails_and_names_it() {
    let _alone = alone();
    let mut guest = start(7, 50);
    let outcome = backup::take(guest.pid(), &guest.beside("backup"), &["--source", path(&guest.dir)]);
    let said = outcome.failure("untraceable");
    assert!(said.contains("--mapped") && said.contains("mapping"), "{said}");
    guest.assert_alive();
}

#[test]
fn more_than_is_allowed_is_refused() {
    let _alone = alone();
    let mut guest = start(7, 50);
    let more = ["--source", path(&guest.dir), "--mapped", "512KiB", "--hold", "2s", "--lease", "5s"];
    let said = backup::take(guest.pid(), &guest.beside("backup"), &more).failure("mapped_too_large");
    assert!(said.contains("524288 bytes") && said.contains("--mapped"), "{said}");
    guest.assert_alive();
}

#[test]
fn a_child_that_has_the_same_file_mapped_is_named_and_without_it_the_next_backup_succeeds() {
    let _alone = alone();
    let mut guest = start(7, 50);
    let more = ["--source", path(&guest.dir), "--mapped", "8MiB", "--hold", "2s", "--lease", "5s"];
    // From here on a child carries the filter.
    backup::take(guest.pid(), &guest.beside("first"), &more).report();
    fs::write(guest.beside("trigger"), "").expect("written");
    let child = || words(&guest.dir, "child")[0] as i32;
    while child() == 0 {
        std::thread::yield_now();
    }
    let child = child();
    let said = backup::take(guest.pid(), &guest.beside("backup"), &more).failure("not_frozen");
    assert!(said.contains(&format!("process {child} ")), "{said}");
    kill(Pid::from_raw(child), Signal::SIGKILL).expect("it is there");
    let dest = guest.beside("backup");
    backup::take(guest.pid(), &dest, &more).report();
    check(&dest).expect("a state that existed");
    guest.assert_alive();
}

#[test]
fn what_is_mapped_is_found_when_the_first_thread_has_ended() {
    let _alone = alone();
    let guest = start(7, 50);
    let dest = guest.beside("backup");
    let more =
        ["--source", path(&guest.dir), "--mapped", "8MiB", "--throttle", "1MiB", "--hold", "2s", "--lease", "5s"];
    let mut running = backup::start(guest.pid(), &dest, &more);
    running.wait_for_phase("track");
    kill(Pid::from_raw(guest.pid()), Signal::SIGUSR2).expect("it is there");
    let status = format!("/proc/{}/status", guest.pid());
    while !fs::read_to_string(&status).expect("its other threads are there").contains("State:\tZ") {
        assert!(running.is_running(), "the backup ended before the thread");
        std::thread::yield_now();
    }
    let outcome = running.finish();
    let mapped = &outcome.report()["mapped"];
    assert!(mapped["files"].as_u64() >= Some(WRITERS as u64 + 3), "{mapped}");
    verify(&dest);
    check(&dest).expect("a state that existed");
}
