//! Causes as numbers of errno(3), which is what the library's callers know. `docs/library.md` lists them.
use std::io;

use nix::errno::Errno;

use crate::session::Error;

/// The number for a failed backup.
pub(super) fn of(error: &Error) -> i32 {
    let errno = match error {
        Error::Tracer(error) => of_tracer(error),
        Error::Copier(error) => of_copier(error),
        Error::Discover(_) | Error::Limits(_) => Errno::EINVAL,
    };
    errno as i32
}

fn of_tracer(error: &hotbackup_tracer::Error) -> Errno {
    use hotbackup_tracer::Error;
    match error {
        Error::Busy(_) => Errno::EBUSY,
        Error::NotPermitted { .. } | Error::AlreadyTraced { .. } | Error::UnreadFilter { .. } => Errno::EPERM,
        Error::KernelTooOld { .. } => Errno::ENOSYS,
        Error::NoRoom { .. } => Errno::ENOMEM,
        _ => Errno::EIO,
    }
}

fn of_copier(error: &hotbackup_copier::Error) -> Errno {
    use hotbackup_copier::Error;
    match error {
        Error::DestNotEmpty { .. } => Errno::ENOTEMPTY,
        Error::DestNotDirectory { .. } | Error::SourceNotDirectory { .. } => Errno::ENOTDIR,
        Error::DestParentMissing { .. } | Error::SourceNotFound { .. } => Errno::ENOENT,
        Error::DestInsideSource { .. } | Error::DestsOverlap { .. } | Error::SourcesOverlap { .. } => Errno::EINVAL,
        Error::DestFull { .. }
        | Error::DestOutOfInodes { .. }
        | Error::DestTooSmall { .. }
        | Error::ReserveReached { .. } => Errno::ENOSPC,
        Error::DestOverQuota { .. } => Errno::ENOSPC,
        Error::DestReadOnly { .. } => Errno::EROFS,
        Error::DestCannotHold { .. } => Errno::ENOTSUP,
        Error::DestBusy { .. } => Errno::EBUSY,
        Error::TooManyOpenFiles { .. } => Errno::EMFILE,
        Error::Cancelled => Errno::ECANCELED,
        Error::DestIo { source, .. } | Error::SourceUnreadable { source, .. } => of_io(source),
        _ => Errno::EIO,
    }
}

fn of_io(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotbackup_copier::Error as Copier;

    #[test]
    fn what_the_system_said_is_passed_on() {
        let failed = |errno: Errno| Copier::DestIo { op: "open", path: "/x".into(), source: errno.into() };
        for errno in [Errno::ENOENT, Errno::EACCES, Errno::EIO] {
            assert_eq!(of(&Error::Copier(failed(errno))), errno as i32);
        }
        let own = Copier::DestIo { op: "find", path: "/x".into(), source: io::Error::other("gone") };
        assert_eq!(of(&Error::Copier(own)), Errno::EIO as i32);
    }
}
