//! Staged files held open from their first write until they are synced, and how a destination is synced.
//!
//! # Errors that come late
//!
//! A write ends in memory; the disk's error comes later, from the system's own writing back. It is told once to every file
//! that was open when it happened, and kept with the inode for the next one to open it. But an inode that nobody has
//! open may be dropped from memory, and its error with it: a file that is closed, and opened again hours later to sync it,
//! may sync without a word. So each staged file stays open until it is synced.
//!
//! With many files, the whole file system is synced instead (`syncfs`, which tells errors since Linux 5.8). Its errors
//! are kept with the file system, which cannot be dropped, and told to the staging directory's own descriptor, which has been
//! open from before the first write. Not every file system keeps that promise: see [`syncs_as_a_whole`].
use crate::base::sys;
use rustix::fs::FsWord;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

/// The staged files that are held open.
#[derive(Debug)]
pub(crate) struct Kept {
    open: HashMap<u64, OwnedFd>,
    most: usize,
    /// There were more than may be open: they are closed, and the file system is synced as a whole if that can be done.
    pub overflowed: bool,
}

impl Kept {
    pub fn new(most: usize) -> Self {
        Self { open: HashMap::new(), most, overflowed: false }
    }

    /// A descriptor of a file that is held open. Shares what errors it has been told.
    pub fn get(&self, number: u64) -> io::Result<Option<OwnedFd>> {
        self.open.get(&number).map(OwnedFd::try_clone).transpose()
    }

    /// Holds a file open.
    pub fn keep(&mut self, number: u64, fd: &OwnedFd) -> io::Result<()> {
        if !self.overflowed && self.open.len() < self.most {
            self.open.insert(number, fd.try_clone()?);
        } else {
            self.overflowed = true;
            self.open.clear();
        }
        Ok(())
    }

    /// The file is to be closed.
    pub fn take(&mut self, number: u64) -> Option<OwnedFd> {
        self.open.remove(&number)
    }
}

/// Whether `syncfs` on the file system of `fd` makes everything durable and tells every error. Known of those that are
/// listed. Others have each file synced by itself: overlayfs does not pass on the errors of the file system below it, and
/// most FUSE servers are never told to sync.
pub(crate) fn syncs_as_a_whole(fd: impl AsFd) -> bool {
    /// From `linux/magic.h`.
    const KNOWN: [FsWord; 5] = [
        0xef53,      // ext2, ext3, ext4
        0x5846_5342, // xfs
        0x9123_683e, // btrfs
        0xf2f5_2010, // f2fs
        0x0102_1994, // tmpfs, where there is nothing to sync
    ];
    rustix::fs::fstatfs(fd).is_ok_and(|found| KNOWN.contains(&found.f_type))
}

/// How many files are held open at most where each must be synced by itself: a quarter of what this process may have open,
/// as the sources' directories are open, too.
pub(crate) fn most_open() -> usize {
    sys::open_files() / 4
}
