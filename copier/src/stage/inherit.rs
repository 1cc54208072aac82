//! What a new directory inherits from the one it is in, and what is taken from the staging directory again: a default ACL, which
//! every file below would inherit in turn, with rights for users who may not read the source; the group, and with it the setgid bit.
//! What is in the backup has the rights that the source has, and no others.
use rustix::fs::Mode;
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;

/// The access list of what it is on, and the one that is inherited from it.
pub(crate) const LISTS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// Makes a new directory one that only we may enter, and from which nothing is inherited.
pub(super) fn nothing(dir: &OwnedFd) -> io::Result<()> {
    for list in LISTS {
        match rustix::fs::fremovexattr(dir, list) {
            // There is none, or the file system knows no such thing.
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let ours = rustix::process::getegid();
    if rustix::fs::fstat(dir)?.st_gid != ours.as_raw() {
        // Where that is not ours to set, everything in the backup is given its own group later, or a mode that gives it no rights.
        let _ = rustix::fs::fchown(dir, None, Some(ours));
    }
    match rustix::fs::fchmod(dir, Mode::RWXU) {
        // A file system that keeps no modes.
        Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        other => Ok(other?),
    }
}
