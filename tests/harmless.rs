//! kill -9 of the backup at any instant, the attach included: the target goes on without one failed call, and the next
//! backup succeeds, through the keeper wherever a filter had been installed.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

mod common {
    pub mod backup;
    pub mod guest;
}
use common::backup::{self, HOTBACKUP, alone, number_from, seed, verify};
use common::guest::{Guest, Linked, check_rings};

/// How often a backup is killed, over all tests here.
fn faults() -> u64 {
    number_from("HOTBACKUP_FAULTS", 60)
}

/// Moments at which to kill, different in every round: xorshift64.
struct Moments(u64);

impl Moments {
    /// Between zero and one.
    fn share(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Between zero and `most`, with every order of magnitude down to 100 us as likely as the next.
    fn below(&mut self, most: Duration) -> Duration {
        let least = 100e-6_f64;
        Duration::from_secs_f64(least * (most.as_secs_f64() / least).powf(self.share()))
    }
}

fn rings(linked: Linked) -> Guest {
    Guest::start("rings", linked, &["4", "32", "100"])
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

/// Starts a backup and kills it after `moment`, counted from when its process exists.
fn kill_after(guest: &Guest, round: u64, point: &str, moment: Duration) {
    let dest = guest.beside(&format!("killed{round}"));
    let running =
        backup::start(guest.pid(), &dest, &["--source", path(&guest.dir), "--throttle", "4MiB", "--point", point]);
    let began = Instant::now();
    // Spinning for the last stretch: a sleep would come too late for the shortest moments.
    if let Some(long) = moment.checked_sub(Duration::from_millis(2)) {
        std::thread::sleep(long);
    }
    while began.elapsed() < moment {
        std::hint::spin_loop();
    }
    running.kill();
    // Either it had finished before, or it must not look finished.
    if dest.exists() {
        verify(&dest);
        check_rings(&dest, 4).expect("a state that existed");
    }
}

/// A whole backup: right, and through the keeper if the guest was filtered before.
fn back_up(guest: &mut Guest, name: &str) {
    let filtered = guest.is_filtered();
    let dest = guest.beside(name);
    let began = Instant::now();
    let outcome = loop {
        let outcome = backup::take(guest.pid(), &dest, &["--source", path(&guest.dir)]);
        // The keeper may not have had a CPU yet to see that its supervisor is dead.
        let busy = outcome.events.last().is_some_and(|event| event["kind"] == "busy");
        if !busy || began.elapsed() > Duration::from_secs(2) {
            break outcome;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let stop = outcome.stop_us();
    // Where none was there yet, a thread may have been on its way to install it.
    assert!(stop.is_none() || !filtered, "filtered before, and yet the attach stopped a thread for {stop:?} us");
    verify(&dest);
    check_rings(&dest, 4).unwrap_or_else(|wrong| panic!("{wrong}\n{}", outcome.report()));
    std::fs::remove_dir_all(&dest).expect("our own backup");
    guest.assert_goes_on();
}

/// How long after its start a backup has installed its filter.
fn time_to_filter(linked: Linked) -> Duration {
    let guest = rings(linked);
    let began = Instant::now();
    let running = backup::start(guest.pid(), &guest.beside("backup"), &["--source", path(&guest.dir)]);
    while !guest.is_filtered() {
        assert!(began.elapsed() < Duration::from_secs(20), "no filter is installed");
        std::thread::yield_now();
    }
    let taken = began.elapsed();
    running.finish().report();
    taken
}

fn killed_at_the_attach(linked: Linked, rounds: u64) {
    let _alone = alone();
    let mut moments = Moments(seed() | 1);
    let (mut before, mut after) = (0, 0);
    // When the filter is installed depends on the machine and what else it does: the moments follow it, so that about
    // half of the kills come before it and half after, most of them close to it.
    let mut centre = time_to_filter(linked);
    for round in 0..rounds {
        let mut guest = rings(linked);
        kill_after(&guest, round, "end", centre.mul_f64(0.6 + 0.8 * moments.share()));
        guest.assert_goes_on();
        if guest.is_filtered() {
            after += 1;
            centre = centre.mul_f64(0.9);
        } else {
            before += 1;
            centre = centre.mul_f64(1.11);
        }
        back_up(&mut guest, "next");
    }
    println!("killed {before} times before a filter was there, {after} times after, the last at about {centre:?}");
    assert!(
        rounds < 20 || (before > 0 && after > 0),
        "the attach was never met: {before} kills before it, {after} after"
    );
}

#[test]
fn a_backup_killed_while_it_attaches_harms_nothing() {
    killed_at_the_attach(Linked::Dynamically, faults() / 3);
}

#[test]
fn a_backup_killed_while_it_attaches_to_a_static_program_harms_nothing() {
    killed_at_the_attach(Linked::Statically, faults() / 6);
}

#[test]
fn a_backup_killed_at_any_later_moment_harms_nothing() {
    let _alone = alone();
    let mut moments = Moments(seed() | 1);
    let mut guest = rings(Linked::Dynamically);
    back_up(&mut guest, "first");
    for round in 0..faults() / 2 {
        let point = if round % 2 == 0 { "end" } else { "start" };
        kill_after(&guest, round, point, moments.below(Duration::from_millis(500)));
        guest.assert_goes_on();
        if round % 5 == 4 {
            back_up(&mut guest, &format!("next{round}"));
        }
    }
}

#[test]
fn a_second_backup_goes_through_the_keeper_and_stops_no_thread() {
    let _alone = alone();
    let mut guest = rings(Linked::Dynamically);
    for round in 0..4 {
        back_up(&mut guest, &format!("backup{round}"));
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", guest.pid())).expect("alive");
    let filters = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:")).expect("since Linux 5.9");
    assert_eq!(filters.trim(), "1", "each backup added a filter");
}

#[test]
fn check_with_a_probe_sees_every_call_and_harms_nothing() {
    let _alone = alone();
    for linked in [Linked::Dynamically, Linked::Statically] {
        let mut guest = rings(linked);
        let mut check = Command::new(HOTBACKUP);
        check.args(["check", "--probe", "--pid", &guest.pid().to_string(), "--source"]).arg(&guest.dir);
        let output = check.output().expect("it starts");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        println!("{said}");
        assert!(output.status.success(), "{said}");
        guest.assert_goes_on();
    }
}
