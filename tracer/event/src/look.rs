//! What the error of a *look* means: of stat, open, readlink, readdir or read, in the source, at the destination or in /proc.
//!
//! A look that fails says one of very different things: that nothing is there, or nothing about what is there. Taking
//! the second for the first leaves something out of a backup that succeeds; the other way round, a backup fails because a
//! file was removed. So there is one table for all of hotbackup, and who looks decides by what it says.
use std::io;

use nix::errno::Errno;

/// What went wrong with a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LookError {
    /// What was looked for is not there: nothing is, or something of another kind, or a process that has ended.
    Gone,
    /// Nothing can ever be there: the file system allows no such name. A call that names it fails as well.
    Never,
    /// What lay on the way was changing, or a signal came: the same look may succeed the next time.
    Again,
    /// We could not look: it says nothing about what is there.
    Ours(Lack),
    /// The disk failed, or the file system: it says nothing about what is there. So does every error that is not in
    /// the table.
    Disk,
}

/// What we lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lack {
    /// Descriptors: too many files are open.
    Files,
    /// Memory.
    Memory,
    /// The right to look.
    Rights,
    /// A kernel that can do that.
    Kernel,
}

impl LookError {
    /// Of an errno. Not of readlink(2), see [`Self::of_readlink`].
    pub fn of(errno: i32) -> Self {
        match Errno::from_raw(errno) {
            Errno::ENOENT | Errno::ENOTDIR | Errno::ESRCH | Errno::ESTALE => Self::Gone,
            // It is a symbolic link, a directory, a socket or a device by now; or links that lead to one another.
            Errno::ELOOP | Errno::EISDIR | Errno::ENXIO => Self::Gone,
            Errno::ENAMETOOLONG | Errno::EINVAL | Errno::EILSEQ => Self::Never,
            // EXDEV: a directory was moved out of the root that openat2(2) was to stay in, while it was in there.
            Errno::EAGAIN | Errno::EINTR | Errno::EXDEV => Self::Again,
            Errno::EMFILE | Errno::ENFILE => Self::Ours(Lack::Files),
            Errno::ENOMEM | Errno::ENOBUFS => Self::Ours(Lack::Memory),
            Errno::EACCES | Errno::EPERM => Self::Ours(Lack::Rights),
            Errno::ENOSYS => Self::Ours(Lack::Kernel),
            _ => Self::Disk,
        }
    }

    /// Of an errno of readlink(2), where EINVAL says that it is no symbolic link by now.
    pub fn of_readlink(errno: i32) -> Self {
        if errno == Errno::EINVAL as i32 { Self::Gone } else { Self::of(errno) }
    }

    /// Whether what was looked for is not there, as far as is known now, or can never be.
    pub fn is_nothing(self) -> bool {
        matches!(self, Self::Gone | Self::Never)
    }
}

impl From<&io::Error> for LookError {
    /// What is no errno (a file that ends too early, say) is the disk's.
    fn from(error: &io::Error) -> Self {
        error.raw_os_error().map_or(Self::Disk, Self::of)
    }
}

/// Whether a look failed because what was looked for is not there (any more).
pub fn is_gone(error: &io::Error) -> bool {
    LookError::from(error) == LookError::Gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::OpenOptionsExt;

    fn of(error: Errno) -> LookError {
        LookError::of(error as i32)
    }

    #[test]
    fn each_errno_means_one_thing() {
        let table: [(LookError, &[Errno]); 8] = [
            (
                LookError::Gone,
                &[
                    Errno::ENOENT,
                    Errno::ENOTDIR,
                    Errno::ESRCH,
                    Errno::ESTALE,
                    Errno::ELOOP,
                    Errno::EISDIR,
                    Errno::ENXIO,
                ],
            ),
            (LookError::Never, &[Errno::ENAMETOOLONG, Errno::EINVAL, Errno::EILSEQ]),
            (LookError::Again, &[Errno::EAGAIN, Errno::EINTR, Errno::EXDEV]),
            (LookError::Ours(Lack::Files), &[Errno::EMFILE, Errno::ENFILE]),
            (LookError::Ours(Lack::Memory), &[Errno::ENOMEM, Errno::ENOBUFS]),
            (LookError::Ours(Lack::Rights), &[Errno::EACCES, Errno::EPERM]),
            (LookError::Ours(Lack::Kernel), &[Errno::ENOSYS]),
            (LookError::Disk, &[Errno::EIO, Errno::EUCLEAN, Errno::ETIMEDOUT, Errno::ENOTCONN, Errno::EREMOTEIO]),
        ];
        for (meaning, errnos) in table {
            for errno in errnos {
                assert_eq!(of(*errno), meaning, "{errno}");
                assert_eq!(meaning.is_nothing(), matches!(meaning, LookError::Gone | LookError::Never));
            }
        }
    }

    #[test]
    fn whatever_is_not_known_says_nothing_about_what_is_there() {
        for errno in (1..4096).filter(|errno| Errno::from_raw(*errno) == Errno::UnknownErrno) {
            assert_eq!(LookError::of(errno), LookError::Disk, "{errno}");
        }
        assert_eq!(LookError::from(&io::Error::from(io::ErrorKind::UnexpectedEof)), LookError::Disk);
        assert!(!is_gone(&io::Error::other("words")));
    }

    #[test]
    fn the_kernel_says_it_so() {
        let temp = std::env::temp_dir().join(format!("hotbackup-look-{}", std::process::id()));
        fs::create_dir(&temp).unwrap();
        let at = |name: &str| temp.join(name);
        fs::write(at("file"), b"").unwrap();
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let nofollow = |name| fs::File::options().read(true).custom_flags(nix::libc::O_NOFOLLOW).open(at(name));
        let looks = [
            fs::metadata(at("none")).map(drop),
            fs::metadata(at("file/below")).map(drop),
            fs::metadata(at("loop")).map(drop),
            nofollow("link").map(drop),
            fs::File::options().write(true).open(&temp).map(drop),
            fs::File::open(at("socket")).map(drop),
        ];
        let found = looks.map(|look| look.unwrap_err());
        let no_name = fs::metadata(at(&"n".repeat(256))).unwrap_err();
        let no_link = fs::read_link(at("file")).unwrap_err().raw_os_error().unwrap();
        fs::remove_dir_all(&temp).unwrap();
        for error in &found {
            assert!(is_gone(error), "{error}");
        }
        assert_eq!(LookError::from(&no_name), LookError::Never);
        assert_eq!((LookError::of_readlink(no_link), LookError::of(no_link)), (LookError::Gone, LookError::Never));
    }
}
