//! What the error of a *change* at the destination means: of making, naming, writing, syncing or describing what is to be
//! in a backup.
//!
//! One errno says different things of different calls: ENOSPC of a write is a full disk, of an extended attribute mostly a value
//! that does not fit beside the inode; EINVAL of fsync(2) on a directory is a file system that cannot do that, of rename(2) a
//! name that it does not allow. As for looks ([`crate::look`]) there is one table, and who changes decides by what it says.
use crate::look::Lack;
use nix::errno::Errno;

/// What was to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Change {
    /// Make a file.
    Create,
    /// Make a directory.
    MakeDir,
    /// Give what was staged its name.
    Place,
    /// Give a file one more name.
    Link,
    /// Make a symbolic link.
    Symlink,
    /// Make a fifo.
    Fifo,
    /// Write.
    Write,
    /// Punch a hole.
    Punch,
    /// Set a file's length.
    SetLen,
    /// Sync a file, or the file system as a whole.
    Sync,
    /// Sync a directory.
    SyncDir,
    /// Set the owner.
    Owner,
    /// Set the mode.
    Mode,
    /// Set the times.
    Times,
    /// Set an extended attribute.
    Attribute,
    /// Remove something of ours.
    Remove,
}

impl Change {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Create,
        Self::MakeDir,
        Self::Place,
        Self::Link,
        Self::Symlink,
        Self::Fifo,
        Self::Write,
        Self::Punch,
        Self::SetLen,
        Self::Sync,
        Self::SyncDir,
        Self::Owner,
        Self::Mode,
        Self::Times,
        Self::Attribute,
        Self::Remove,
    ];

    /// In words that go on with a path: "cannot ... PATH".
    pub fn verb(self) -> &'static str {
        match self {
            Self::Create | Self::MakeDir | Self::Fifo => "create",
            Self::Place => "put into place",
            Self::Link => "link",
            Self::Symlink => "make the symbolic link",
            Self::Write => "write",
            Self::Punch => "punch a hole into",
            Self::SetLen => "set the length of",
            Self::Sync | Self::SyncDir => "sync",
            Self::Owner => "set the owner of",
            Self::Mode => "set the mode of",
            Self::Times => "set the times of",
            Self::Attribute => "set an extended attribute of",
            Self::Remove => "remove",
        }
    }

    /// Whether it gives something a name that nothing had.
    pub fn names(self) -> bool {
        matches!(self, Self::Create | Self::MakeDir | Self::Place | Self::Link | Self::Symlink | Self::Fifo)
    }

    /// Whether it is about what a file is, not about what is in it or what it is called.
    pub fn describes(self) -> bool {
        matches!(self, Self::Owner | Self::Mode | Self::Times | Self::Attribute)
    }
}

/// What went wrong with a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChangeError {
    /// No room is left: blocks, inodes, or quota.
    Full,
    /// The file system is read-only by now.
    ReadOnly,
    /// Something has that name already: to this file system two names are one.
    Taken,
    /// The file system allows no such name.
    Name,
    /// No file may be as long.
    TooLarge,
    /// There can be no (further) name of a file, or no further directory in a directory.
    Links,
    /// Nothing of that kind can be there.
    Kind,
    /// It does not fit: larger than the file system, or what is left beside the inode, can hold.
    NoFit,
    /// That is not kept here, or not ours to set.
    NotKept,
    /// Directories cannot be synced on their own.
    Unsynced,
    /// Something else is there than what we put there.
    Gone,
    /// We could not.
    Ours(Lack),
    /// The disk failed, or the file system. So does every error that is not in the table.
    Disk,
}

impl ChangeError {
    /// Of an errno.
    pub fn of(change: Change, errno: i32) -> Self {
        let errno = Errno::from_raw(errno);
        let (names, describes) = (change.names(), change.describes());
        match errno {
            Errno::ENOSPC if change == Change::Attribute => Self::NoFit,
            Errno::E2BIG | Errno::ERANGE if change == Change::Attribute => Self::NoFit,
            Errno::ENOSPC | Errno::EDQUOT => Self::Full,
            Errno::EROFS => Self::ReadOnly,
            Errno::EMFILE | Errno::ENFILE => Self::Ours(Lack::Files),
            Errno::ENOMEM | Errno::ENOBUFS => Self::Ours(Lack::Memory),
            Errno::EEXIST | Errno::ENOTEMPTY | Errno::EISDIR | Errno::ENOTDIR if names => Self::Taken,
            Errno::EMLINK if names => Self::Links,
            Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EXDEV if change == Change::Link => Self::Links,
            Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS if matches!(change, Change::Symlink | Change::Fifo) => {
                Self::Kind
            }
            Errno::ENAMETOOLONG | Errno::EILSEQ | Errno::EINVAL | Errno::ENOENT if names => Self::Name,
            Errno::EFBIG | Errno::EOVERFLOW if !names && !describes => Self::TooLarge,
            Errno::EINVAL | Errno::EOPNOTSUPP | Errno::ENOSYS if change == Change::SyncDir => Self::Unsynced,
            Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EINVAL if describes => {
                Self::NotKept
            }
            Errno::EOVERFLOW | Errno::ERANGE | Errno::ENAMETOOLONG if describes => Self::NotKept,
            Errno::ENOENT | Errno::ENOTDIR | Errno::ESTALE => Self::Gone,
            Errno::EPERM | Errno::EACCES => Self::Ours(Lack::Rights),
            Errno::ENOSYS | Errno::EOPNOTSUPP => Self::Ours(Lack::Kernel),
            _ => Self::Disk,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_errno_means_different_things_of_different_changes() {
        use Change::*;
        let table = [
            (Write, Errno::ENOSPC, ChangeError::Full),
            (Create, Errno::EDQUOT, ChangeError::Full),
            (Attribute, Errno::ENOSPC, ChangeError::NoFit),
            (Attribute, Errno::E2BIG, ChangeError::NoFit),
            // Quota is no matter of what fits.
            (Attribute, Errno::EDQUOT, ChangeError::Full),
            (Attribute, Errno::EOPNOTSUPP, ChangeError::NotKept),
            (Owner, Errno::EPERM, ChangeError::NotKept),
            (Times, Errno::EINVAL, ChangeError::NotKept),
            (Place, Errno::EEXIST, ChangeError::Taken),
            (MakeDir, Errno::EEXIST, ChangeError::Taken),
            (Place, Errno::ENOENT, ChangeError::Name),
            (Create, Errno::EILSEQ, ChangeError::Name),
            (MakeDir, Errno::ENAMETOOLONG, ChangeError::Name),
            (Link, Errno::EMLINK, ChangeError::Links),
            (MakeDir, Errno::EMLINK, ChangeError::Links),
            (Link, Errno::EPERM, ChangeError::Links),
            (Symlink, Errno::ENOSYS, ChangeError::Kind),
            (Write, Errno::EFBIG, ChangeError::TooLarge),
            (SetLen, Errno::EFBIG, ChangeError::TooLarge),
            (SyncDir, Errno::EINVAL, ChangeError::Unsynced),
            (Sync, Errno::EINVAL, ChangeError::Disk),
            (SyncDir, Errno::EIO, ChangeError::Disk),
            (Remove, Errno::ENOENT, ChangeError::Gone),
            (Write, Errno::EACCES, ChangeError::Ours(Lack::Rights)),
            (Punch, Errno::EOPNOTSUPP, ChangeError::Ours(Lack::Kernel)),
        ];
        for (change, errno, meaning) in table {
            assert_eq!(ChangeError::of(change, errno as i32), meaning, "{change:?} {errno}");
        }
    }

    #[test]
    fn some_mean_the_same_of_all_and_what_is_not_known_is_the_disks() {
        for change in Change::ALL {
            let of = |errno: Errno| ChangeError::of(change, errno as i32);
            assert_eq!(of(Errno::EROFS), ChangeError::ReadOnly);
            assert_eq!(of(Errno::EDQUOT), ChangeError::Full);
            assert_eq!(of(Errno::EMFILE), ChangeError::Ours(Lack::Files));
            assert_eq!(of(Errno::ENOMEM), ChangeError::Ours(Lack::Memory));
            for errno in [Errno::EIO, Errno::EUCLEAN, Errno::ETIMEDOUT, Errno::EREMOTEIO, Errno::EBADF] {
                assert_eq!(of(errno), ChangeError::Disk, "{change:?} {errno}");
            }
            for errno in (1..4096).filter(|errno| Errno::from_raw(*errno) == Errno::UnknownErrno) {
                assert_eq!(ChangeError::of(change, errno), ChangeError::Disk, "{change:?} {errno}");
            }
        }
    }
}
