//! What the tests of a failing destination share: a guest that is strict about time, too, and the backup after the fault.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};

use super::backup::{self, Running, verify};
use super::guest::{Guest, Linked, check_rings};

/// The longest that a write of the guest may take: 2 s for a before-image are promised, and the rest is the machine's.
pub const BOUND_MS: u64 = 6000;

const THREADS: usize = 4;

/// A guest whose rings hold so many MiB in all.
pub fn rings(mib: u64) -> Guest {
    let slots = (mib << 20) / (THREADS as u64 * 3 * 4096);
    let arguments = [&THREADS.to_string(), &slots.to_string(), "200", &BOUND_MS.to_string()];
    Guest::start("punctual_rings", Linked::Dynamically, &arguments.map(|argument| -> &str { argument }))
}

/// Puts so many small files into the guest's directory, which it leaves alone.
pub fn add_files(guest: &Guest, files: usize) {
    for number in 0..files {
        let dir = guest.dir.join(format!("d{number}"));
        fs::create_dir(&dir).expect("made");
        fs::write(dir.join("ballast"), number.to_string()).expect("written");
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

/// Starts a backup of the guest.
pub fn start(guest: &Guest, dest: &Path, more: &[&str]) -> Running {
    let source = ["--source", text(&guest.dir)];
    backup::start(guest.pid(), dest, &[&source, more].concat())
}

/// The fault is over: the next backup to the same place succeeds, is right, and is all that is there.
pub fn assert_next_succeeds(guest: &mut Guest, dest: &Path) {
    guest.assert_goes_on();
    let outcome = start(guest, dest, &[]).finish();
    outcome.report();
    outcome.assert_nothing_left_beside();
    verify(dest);
    check_rings(dest, THREADS).unwrap_or_else(|wrong| panic!("{wrong}\n{}", outcome.report()));
    guest.assert_goes_on();
}

/// A backup that is right, of a guest that goes on.
pub fn assert_right(guest: &mut Guest, dest: &Path) {
    verify(dest);
    check_rings(dest, THREADS).expect("a state that existed");
    guest.assert_goes_on();
}

/// Starts backups until `fault`, done as soon as one publishes, comes before it has its name. Returns what `fault` did,
/// and the backup, caught in the middle. Reading `dest` must still work.
pub fn catch_in_publish<T>(guest: &Guest, dest: &Path, fault: impl Fn() -> T) -> (T, Running) {
    for _ in 0..10 {
        let mut running = start(guest, dest, &[]);
        running.wait_for_phase("publish");
        let done = fault();
        if !dest.exists() {
            return (done, running);
        }
        drop(done);
        running.finish().report();
        fs::remove_dir_all(dest).expect("our own backup");
    }
    panic!("no backup was caught while it published");
}

/// A path for a destination on a volume.
pub fn dest_on(volume: &Path) -> PathBuf {
    volume.join("backup")
}
