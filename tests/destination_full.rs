//! A destination that is full, at any stage of a backup: the cause is told, nothing is left, the target goes on, and with
//! room made, the next backup to the same place succeeds.
#![forbid(unsafe_code)]

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;

mod common {
    pub mod backup;
    pub mod destination;
    pub mod disk;
    pub mod filler;
    pub mod guest;
}
use common::backup::alone;
use common::destination::{add_files, assert_next_succeeds, catch_in_publish, dest_on, rings, start, text};
use common::disk::{Volume, run};
use common::filler::fill;
use common::guest::Guest;

fn volume(guest: &Guest, kind: &str) -> Volume {
    let more: &[&str] = if kind == "xfs" { &["--unsupported"] } else { &["-m", "0"] };
    Volume::new(kind, 64, more, guest.beside("volume"))
}

/// Nobody looks beforehand whether it fits.
const BLINDLY: [&str; 2] = ["--reserve", "off"];

/// Backs up to a volume that has room for a part of the data.
fn fills_up(kind: &str, more: &[&str]) {
    let _alone = alone();
    let mut guest = rings(8);
    let volume = volume(&guest, kind);
    let dest = dest_on(&volume.at);
    let filler = fill(&volume.at, 3 << 10);
    let said = start(&guest, &dest, &[more, &BLINDLY].concat()).finish().failure("dest_full");
    assert!(said.contains("volume") && said.contains("free space"), "{said}");
    assert_eq!(volume.names(), ["filler"], "something was left behind");
    fs::remove_file(filler).expect("ours");
    assert_next_succeeds(&mut guest, &dest);
}

#[test]
fn full_while_copying_on_ext4() {
    fills_up("ext4", &["--point", "end"]);
}

/// What is free is of no use where a quota is used up, and that is told. A subvolume's does not show in what is free.
#[test]
fn over_the_quota_of_a_subvolume() {
    let _alone = alone();
    let mut guest = rings(8);
    let volume = Volume::new("btrfs", 192, &[], guest.beside("volume"));
    let sub = volume.at.join("sub");
    let btrfs = |arguments: &[&str]| run("btrfs", &arguments.iter().map(OsStr::new).collect::<Vec<_>>());
    // Of an empty file system there is nothing to be counted.
    btrfs(&["quota", "enable", text(&volume.at)]);
    btrfs(&["subvolume", "create", text(&sub)]);
    btrfs(&["qgroup", "limit", "4M", text(&sub)]);
    let dest = sub.join("backup");
    let said = start(&guest, &dest, &[]).finish().failure("dest_full");
    assert!(said.contains("a quota at the destination is used up") && said.contains("raise the quota"), "{said}");
    assert_eq!(fs::read_dir(&sub).expect("readable").count(), 0, "something was left behind");
    btrfs(&["qgroup", "limit", "none", text(&sub)]);
    assert_next_succeeds(&mut guest, &dest);
}

#[test]
fn full_while_copying_on_xfs() {
    fills_up("xfs", &["--point", "end"]);
}

#[test]
fn full_while_draining() {
    fills_up("ext4", &["--point", "start"]);
}

/// Nothing is copied but what the guest is about to overwrite.
#[test]
fn full_of_before_images() {
    fills_up("ext4", &["--point", "start", "--throttle", "0"]);
}

#[test]
fn full_while_publishing() {
    let _alone = alone();
    let mut guest = rings(8);
    add_files(&guest, 400);
    let volume = volume(&guest, "ext4");
    let dest = dest_on(&volume.at);
    let (filler, running) = catch_in_publish(&guest, &dest, || Filler(fill(&volume.at, 0)));
    running.finish().failure("dest_full");
    assert_eq!(volume.names(), ["filler"], "something was left behind");
    drop(filler);
    assert_next_succeeds(&mut guest, &dest);
}

/// Removed when dropped.
struct Filler(PathBuf);

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn out_of_inodes() {
    let _alone = alone();
    let mut guest = rings(8);
    add_files(&guest, 200);
    let volume = Volume::new("ext4", 64, &["-N", "128"], guest.beside("volume"));
    let dest = dest_on(&volume.at);
    let said = start(&guest, &dest, &BLINDLY).finish().failure("dest_full");
    assert!(said.contains("no inodes left") && said.contains("remove files"), "{said}");
    assert_eq!(volume.names(), [""; 0]);
    for number in 0..200 {
        fs::remove_dir_all(guest.dir.join(format!("d{number}"))).expect("ours");
    }
    assert_next_succeeds(&mut guest, &dest);
}
