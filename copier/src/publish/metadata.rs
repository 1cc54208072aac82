//! Metadata of one entry of the backup: where it is set, and what of it was lost.
use crate::base::sys::{self, Found, Stat};
use crate::trial::Loss;
use hotbackup_event::FileId;
use rustix::fs::{AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use std::ffi::{CStr, OsStr};
use std::io;
use std::os::fd::OwnedFd;

/// What is described: a name in a directory, or an open directory.
#[derive(Clone, Copy)]
pub(super) enum Spot<'a> {
    Entry(&'a OwnedFd, &'a OsStr),
    Dir(&'a OwnedFd),
}

/// What an entry of the backup is one of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Key {
    File(u64),
    Dir(FileId),
    Other(FileId),
}

/// What was not kept of one entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub owner: bool,
    pub mode: bool,
    pub mtime: bool,
}

impl Spot<'_> {
    pub fn chown(self, uid: Option<Uid>, gid: Option<Gid>) -> rustix::io::Result<()> {
        match self {
            Self::Entry(dir, name) => rustix::fs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
            Self::Dir(dir) => rustix::fs::fchown(dir, uid, gid),
        }
    }

    pub fn chmod(self, mode: u32) -> rustix::io::Result<()> {
        let mode = Mode::from_raw_mode(mode);
        match self {
            Self::Entry(dir, name) => rustix::fs::chmodat(dir, name, mode, AtFlags::empty()),
            Self::Dir(dir) => rustix::fs::fchmod(dir, mode),
        }
    }

    pub fn set_times(self, stat: &Stat) -> rustix::io::Result<()> {
        let time = |time: sys::Time| Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() };
        let times = Timestamps { last_access: time(stat.atime), last_modification: time(stat.mtime) };
        match self {
            Self::Entry(dir, name) => rustix::fs::utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW),
            Self::Dir(dir) => rustix::fs::futimens(dir, &times),
        }
    }

    pub fn set_attribute(self, name: &CStr, value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::Entry(dir, entry) => {
                rustix::fs::lsetxattr(sys::path_at(dir, entry), name, value, XattrFlags::empty())
            }
            Self::Dir(dir) => rustix::fs::fsetxattr(dir, name, value, XattrFlags::empty()),
        }
    }

    pub fn look(self) -> io::Result<Found> {
        match self {
            Self::Entry(dir, name) => sys::stat_at(dir, name),
            Self::Dir(dir) => sys::stat_fd(dir),
        }
    }

    /// Whether the file system is so full that nothing fits.
    pub fn is_full(self) -> bool {
        let (Self::Entry(dir, _) | Self::Dir(dir)) = self;
        rustix::fs::fstatvfs(dir).is_ok_and(|found| found.f_bavail == 0)
    }
}

impl Lost {
    /// By name.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let all = [(self.owner, Loss::Owner), (self.mode, Loss::Mode), (self.mtime, Loss::Fraction)];
        all.into_iter().filter(|(lost, _)| *lost).map(|(_, loss)| loss.name())
    }
}

pub(super) fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid))
}

/// The mode that gives nobody more than a mode with an access list did (`linux/posix_acl_xattr.h`). With a list, the mode's group bits
/// are its mask, which says nothing of the group; and whom the list names falls to the group, or to all others, without it.
pub(super) fn without_list(mode: u32, list: &[u8]) -> u32 {
    const NAMED_USER: u16 = 0x02;
    const GROUP: u16 = 0x04;
    const NAMED_GROUP: u16 = 0x08;
    let mask = mode >> 3 & 7;
    let (mut group, mut others) = (mask, mode & 7);
    for entry in list.get(4..).unwrap_or_default().chunks_exact(8) {
        let allowed = u32::from(u16::from_le_bytes([entry[2], entry[3]])) & mask;
        match u16::from_le_bytes([entry[0], entry[1]]) {
            GROUP => group &= allowed,
            NAMED_USER => (group, others) = (group & allowed, others & allowed),
            NAMED_GROUP => others &= allowed,
            _ => {}
        }
    }
    mode & !0o077 | group << 3 | others
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, allowed) in entries {
            list.extend([tag.to_le_bytes(), allowed.to_le_bytes()].concat());
            list.extend(1000_u32.to_le_bytes());
        }
        list
    }

    #[test]
    fn without_its_list_a_file_gives_nobody_more() {
        // user::rw-, user:1000:r--, group::---, mask::r--, other::---: the mode says that the group may read.
        assert_eq!(without_list(0o640, &list(&[(1, 6), (2, 4), (4, 0), (0x10, 4), (0x20, 0)])), 0o600);
        // user:1000:---: who is kept out is one of all others.
        assert_eq!(without_list(0o644, &list(&[(1, 6), (2, 0), (4, 4), (0x10, 4), (0x20, 4)])), 0o600);
        // group:1000:---, the same of a group; whoever is in the owning group as well had the more of both.
        assert_eq!(without_list(0o644, &list(&[(1, 6), (4, 4), (8, 0), (0x10, 4), (0x20, 4)])), 0o640);
        // Nobody is named who has less.
        assert_eq!(without_list(0o644, &list(&[(1, 6), (2, 6), (4, 4), (0x10, 6), (0x20, 4)])), 0o644);
        // Not a list.
        assert_eq!(without_list(0o644, &[]), 0o644);
        assert_eq!(without_list(0o4755, &list(&[(4, 5)])), 0o4755);
    }
}
