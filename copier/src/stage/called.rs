//! What a staging directory is called.
use crate::base::sys;
use crate::base::util::shortened;
use hotbackup_event::change::{Change, ChangeError};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;

/// What follows the destination's name in that of its staging directory, before the number of the process.
pub(super) const PARTIAL: &str = ".hotbackup-partial-";
/// So much of the destination's name is in that of its staging directory: with what comes before and after, no name is longer than the
/// 255 bytes that it may have.
const MOST: usize = 200;

/// What the name of a destination's staging directory begins with.
pub(super) fn beginning(last: &OsStr) -> OsString {
    let mut name = OsString::from(".");
    name.push(shortened(last, MOST));
    name.push(PARTIAL);
    name
}

/// Whether a staging directory could not be made because its file system allows no such name, which holds the destination's own; not
/// because the directory that it was to be in is gone.
pub(super) fn is_refused(parent: &OwnedFd, error: &io::Error) -> bool {
    let cause = error.raw_os_error().map(|errno| ChangeError::of(Change::MakeDir, errno));
    cause == Some(ChangeError::Name) && sys::stat_fd(parent).is_ok_and(|found| found.stat.nlink > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_name_there_is_as_much_as_leaves_room() {
        assert_eq!(beginning(OsStr::new("backup")), ".backup.hotbackup-partial-");
        let long = "\u{20ac}".repeat(85);
        let name = beginning(OsStr::new(&long));
        assert!(name.to_str().is_some_and(|name| name.starts_with(".\u{20ac}")), "{name:?}");
        assert!(name.len() + "4194304".len() <= 255 && name.len() > 200, "{name:?}");
    }
}
