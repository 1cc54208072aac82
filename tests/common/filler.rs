//! Fills file systems, but for what is to be left.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs::File;
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

/// Takes all the room there is but so many KiB, with a file named `filler`.
pub fn fill(volume: &Path, leave_kib: u64) -> PathBuf {
    let path = volume.join("filler");
    let file = File::create(&path).expect("made");
    let mut done = 0;
    // In ever smaller pieces.
    let mut piece: i64 = 16 << 20;
    while piece >= 4096 {
        match fallocate(&file, FallocateFlags::empty(), done, piece) {
            Ok(()) => done += piece,
            Err(_) => piece /= 2,
        }
    }
    let len = (done as u64).saturating_sub(leave_kib << 10);
    file.set_len(len).and_then(|()| file.sync_all()).expect("cut");
    path
}

/// Bytes that are free for anybody, and inodes.
pub fn free(at: &Path) -> (u64, u64) {
    let found = nix::sys::statvfs::statvfs(at).expect("a file system");
    (found.blocks_available() * found.fragment_size(), found.files_available())
}

/// Bytes and inodes in all.
pub fn total(at: &Path) -> (u64, u64) {
    let found = nix::sys::statvfs::statvfs(at).expect("a file system");
    (found.blocks() * found.fragment_size(), found.files())
}

/// Takes room until so many bytes are free, and never more than that.
pub fn fill_down_to(volume: &Path, leave: u64) -> PathBuf {
    let path = volume.join("filler");
    let file = File::create(&path).expect("made");
    let mut len = 0;
    loop {
        let spare = free(volume).0.saturating_sub(leave) & !4095;
        if spare == 0 {
            return path;
        }
        let piece = spare.min(4 << 20).cast_signed();
        fallocate(&file, FallocateFlags::empty(), len, piece).expect("there is room");
        len += piece;
        // Some file systems count late.
        file.sync_all().expect("synced");
    }
}
