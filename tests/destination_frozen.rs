//! A destination that stands still for a while: the target waits for nothing of it beyond what is promised, and the
//! backup waits where it can.
#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

mod common {
    pub mod backup;
    pub mod destination;
    pub mod disk;
    pub mod guest;
}
use common::backup::{alone, number_from};
use common::destination::{
    BOUND_MS, add_files, assert_next_succeeds, assert_right, catch_in_publish, dest_on, rings, start,
};
use common::disk::{Frozen, Volume};
use common::guest::Guest;

/// In the drain calls may wait: longer than any call of the guest may take, so that none can have waited for the thaw.
const PAST_THE_BOUND: u64 = BOUND_MS / 1000 + 2;
/// Elsewhere the guest is seen to go on.
const A_WHILE: u64 = 2;

fn volume(guest: &Guest) -> Volume {
    Volume::new("ext4", 128, &[], guest.beside("volume"))
}

/// Stays frozen, and watches the guest go on, whose own check of each call runs all the while.
fn stay_frozen(guest: &mut Guest, frozen: Frozen, seconds: u64) {
    let seconds = Duration::from_secs(number_from("HOTBACKUP_FROZEN_S", seconds));
    let began = Instant::now();
    while began.elapsed() < seconds {
        guest.assert_goes_on();
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(frozen);
}

#[test]
fn frozen_while_tracking_the_backup_waits_and_succeeds() {
    let _alone = alone();
    let mut guest = rings(8);
    let volume = volume(&guest);
    let dest = dest_on(&volume.at);
    let mut running = start(&guest, &dest, &["--throttle", "4MiB"]);
    running.wait_for_copying();
    let frozen = Frozen::new(&volume.at);
    stay_frozen(&mut guest, frozen, A_WHILE);
    assert!(running.is_running(), "it did not wait");
    running.finish().report();
    assert_right(&mut guest, &dest);
}

#[test]
fn frozen_while_publishing_the_backup_waits_and_succeeds() {
    let _alone = alone();
    let mut guest = rings(8);
    add_files(&guest, 400);
    let volume = volume(&guest);
    let dest = dest_on(&volume.at);
    let (frozen, mut running) = catch_in_publish(&guest, &dest, || Frozen::new(&volume.at));
    stay_frozen(&mut guest, frozen, A_WHILE);
    assert!(running.is_running(), "it did not wait");
    running.finish().report();
    assert_right(&mut guest, &dest);
}

#[test]
fn frozen_while_draining_the_backup_is_given_up_and_the_target_goes_on() {
    let _alone = alone();
    // More than before-images may take of memory.
    let mut guest = rings(48);
    let volume = volume(&guest);
    let dest = dest_on(&volume.at);
    let mut running = start(&guest, &dest, &["--throttle", "1MiB", "--point", "start"]);
    running.wait_for_phase("drain");
    let frozen = Frozen::new(&volume.at);
    stay_frozen(&mut guest, frozen, PAST_THE_BOUND);
    running.finish().failure("before_images_full");
    assert_eq!(volume.names(), [""; 0]);
    assert_next_succeeds(&mut guest, &dest);
}

/// Waits until so many of the backup's threads are in calls that no signal interrupts, and stay there.
fn wait_until_stuck(pid: i32, threads: usize) {
    let began = Instant::now();
    let mut stuck = 0;
    while stuck < 20 {
        stuck = if stuck_threads(pid) == threads { stuck + 1 } else { 0 };
        assert!(began.elapsed() < Duration::from_secs(30), "the backup does not wait for its destination");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn stuck_threads(pid: i32) -> usize {
    let stats = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs").flatten();
    let stats = stats.map(|thread| std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default());
    stats.filter(|stat| stat.contains(" (command) D ")).count()
}

fn cancelled_while_frozen(point: &str, phase: &str, seconds: u64) {
    let _alone = alone();
    let mut guest = rings(48);
    let volume = volume(&guest);
    let dest = dest_on(&volume.at);
    let mut running = start(&guest, &dest, &["--throttle", "8MiB", "--point", point]);
    running.wait_for_phase(phase);
    running.wait_for_copying();
    let frozen = Frozen::new(&volume.at);
    // The one that runs it; in the drain also the one that writes before-images.
    wait_until_stuck(running.pid(), if phase == "drain" { 2 } else { 1 });
    running.signal(Signal::SIGTERM);
    stay_frozen(&mut guest, frozen, seconds);
    // Not that before-images filled up: nobody waited for them any more.
    running.finish().failure("cancelled");
    assert_eq!(volume.names(), [""; 0]);
    assert_next_succeeds(&mut guest, &dest);
}

#[test]
fn cancelled_while_tracking_to_a_frozen_destination_the_target_goes_on_at_once() {
    cancelled_while_frozen("end", "track", A_WHILE);
}

#[test]
fn cancelled_while_draining_to_a_frozen_destination_the_target_goes_on_at_once() {
    cancelled_while_frozen("start", "drain", PAST_THE_BOUND);
}
