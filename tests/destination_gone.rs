//! A destination that fails or goes away: the target goes on, no backup is reported that is not there, what was half
//! written is removed as soon as that can be done, and with the fault removed, the next backup succeeds.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

mod common {
    pub mod backup;
    pub mod destination;
    pub mod disk;
    pub mod guest;
}
use common::backup::alone;
use common::destination::{add_files, assert_next_succeeds, catch_in_publish, dest_on, rings, start};
use common::disk::{Disk, Mount, Volume, make_file_system, names, run};
use common::guest::Guest;

/// Errors of a file system that has broken down: its own, or that it does not let itself be written to any more.
const BROKEN: [&str; 2] = ["dest_io", "dest_read_only"];

fn unmounted_lazily(point: &str, phase: &str) {
    let _alone = alone();
    let mut guest = rings(8);
    let mut volume = Volume::new("ext4", 64, &[], guest.beside("volume"));
    let dest = dest_on(&volume.at);
    let mut running = start(&guest, &dest, &["--throttle", "4MiB", "--point", point]);
    running.wait_for_phase(phase);
    running.wait_for_copying();
    volume.unmount_lazily();
    let said = running.finish().failure("dest_io");
    assert!(said.contains("mount it again"), "{said}");
    assert_eq!(names(&volume.at), [""; 0], "something was made below the mount point");
    volume.mount();
    assert_eq!(volume.names(), [""; 0], "something was left in the file system");
    assert_next_succeeds(&mut guest, &dest);
}

#[test]
fn unmounted_while_tracking_the_backup_fails_and_leaves_nothing_in_the_file_system() {
    unmounted_lazily("end", "track");
}

#[test]
fn unmounted_while_draining_the_backup_fails_and_leaves_nothing_in_the_file_system() {
    unmounted_lazily("start", "drain");
}

#[test]
fn unmounted_while_publishing_the_backup_fails_and_leaves_nothing_in_the_file_system() {
    let _alone = alone();
    let mut guest = rings(8);
    add_files(&guest, 400);
    let volume = std::cell::RefCell::new(Volume::new("ext4", 64, &[], guest.beside("volume")));
    let dest = dest_on(&volume.borrow().at);
    let unmount = || {
        // Too late, if it has its name.
        if !dest.exists() {
            volume.borrow_mut().unmount_lazily();
        }
    };
    let ((), running) = catch_in_publish(&guest, &dest, unmount);
    running.finish().failure("dest_io");
    let mut volume = volume.into_inner();
    volume.mount();
    assert_eq!(volume.names(), [""; 0], "something was left in the file system");
    assert_next_succeeds(&mut guest, &dest);
}

/// A file system that finds an error in itself, and lets nothing more be written.
fn turns_read_only(point: &str, phase: &str) {
    let _alone = alone();
    let mut guest = rings(8);
    let mut volume = Volume::new("ext4", 64, &["-e", "remount-ro"], guest.beside("volume"));
    let dest = dest_on(&volume.at);
    let mut running = start(&guest, &dest, &["--throttle", "4MiB", "--point", point]);
    running.wait_for_phase(phase);
    running.wait_for_copying();
    let device = volume.device().file_name().expect("a device").to_string_lossy().into_owned();
    fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "a test").expect("ext4 takes it");
    running.finish().failure_of(&BROKEN);
    assert!(!dest.exists());
    guest.assert_goes_on();
    volume.unmount_lazily();
    check(volume.device());
    volume.mount();
    // What could not be removed then is removed now.
    assert_next_succeeds(&mut guest, &dest);
    assert_eq!(volume.names(), ["backup"]);
}

#[test]
fn read_only_while_tracking_the_backup_fails_and_the_next_one_clears_up() {
    turns_read_only("end", "track");
}

#[test]
fn read_only_while_draining_the_backup_fails_and_the_next_one_clears_up() {
    turns_read_only("start", "drain");
}

/// Repairs a file system, as an operator would.
fn check(device: &std::path::Path) {
    let began = Instant::now();
    loop {
        // 0: nothing to repair, 1: repaired. While it is still in use, which it is for a moment, 8.
        let output = Command::new("e2fsck").args(["-f", "-y"]).arg(device).output().expect("e2fsck starts");
        if matches!(output.status.code(), Some(0 | 1)) {
            return;
        }
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(began.elapsed() < Duration::from_secs(20), "{}: {said}", output.status);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A guest, and a destination on a disk that can be broken.
struct OnDisk {
    guest: Guest,
    disk: Disk,
    mount: Option<Mount>,
    at: PathBuf,
}

impl OnDisk {
    fn new(files: usize, options: &[&str]) -> Self {
        let guest = rings(8);
        add_files(&guest, files);
        let disk = Disk::new(64 << 20);
        make_file_system("ext4", disk.device(), options);
        let at = guest.beside("volume");
        let mount = Some(Mount::new(disk.device(), at.clone()));
        Self { guest, disk, mount, at }
    }

    fn dest(&self) -> PathBuf {
        dest_on(&self.at)
    }

    /// The disk is mended and its file system repaired and mounted again.
    fn repair(&mut self) {
        self.disk.mend();
        drop(self.mount.take());
        check(self.disk.device());
        self.mount = Some(Mount::new(self.disk.device(), self.at.clone()));
    }
}

impl Drop for OnDisk {
    fn drop(&mut self) {
        // Before the disk is gone.
        drop(self.mount.take());
    }
}

/// The disk below the destination fails every write, from some moment on.
fn disk_breaks(point: &str, phase: &str) {
    let _alone = alone();
    let mut on = OnDisk::new(0, &[]);
    let dest = on.dest();
    let mut running = start(&on.guest, &dest, &["--throttle", "4MiB", "--point", point]);
    running.wait_for_phase(phase);
    running.wait_for_copying();
    on.disk.break_after(0);
    running.finish().failure_of(&BROKEN);
    assert!(on.disk.has_failed());
    on.guest.assert_goes_on();
    on.repair();
    assert_next_succeeds(&mut on.guest, &dest);
}

#[test]
fn a_disk_that_breaks_while_tracking_fails_the_backup() {
    disk_breaks("end", "track");
}

#[test]
fn a_disk_that_breaks_while_draining_fails_the_backup() {
    disk_breaks("start", "drain");
}

#[test]
fn a_disk_that_breaks_while_publishing_fails_the_backup() {
    let _alone = alone();
    let mut on = OnDisk::new(400, &[]);
    let dest = on.dest();
    let ((), running) = catch_in_publish(&on.guest, &dest, || {
        if !dest.exists() {
            on.disk.break_after(0);
        }
    });
    running.finish().failure_of(&BROKEN);
    on.repair();
    assert!(!dest.exists(), "a backup that was never reported");
    assert_next_succeeds(&mut on.guest, &dest);
}

/// The disk fails for a moment, while the system writes back what was staged long ago. No call of the backup sees that;
/// it is told when the data is synced.
fn fails_for_a_moment(files: usize) {
    let _alone = alone();
    // Without a journal, which would break down for good at the first error.
    let mut on = OnDisk::new(files, &["-O", "^has_journal"]);
    let dest = on.dest();
    let began = Instant::now();
    let mut running = start(&on.guest, &dest, &["--throttle", "4MiB"]);
    running.wait_for_copying();
    run("sync", &["-f".as_ref(), on.at.as_os_str()]);
    // What is to be lost is data, and not only what describes it.
    running.wait_for_more(began.elapsed().as_millis(), 512 << 10);
    on.disk.break_after(0);
    // Somebody else syncs, and is told; that must not be all.
    let _ = Command::new("sync").arg("-f").arg(&on.at).output();
    assert!(on.disk.has_failed(), "nothing was written back");
    on.disk.mend();
    assert!(running.is_running(), "it ended too soon to prove anything");
    running.finish().failure("dest_io");
    on.repair();
    assert_next_succeeds(&mut on.guest, &dest);
}

#[test]
fn an_error_of_writing_back_is_not_lost_when_each_file_is_synced() {
    fails_for_a_moment(0);
}

#[test]
fn an_error_of_writing_back_is_not_lost_when_the_whole_is_synced() {
    fails_for_a_moment(600);
}
