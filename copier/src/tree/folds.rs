//! Whether a directory folds names, and which names may be one: what [`super::folding`] rests on.
use hotbackup_event::look::LookError;
use rustix::fs::{FsWord, Mode, OFlags, openat};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Whether a directory folds names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Folds {
    /// Each name is one of its own.
    No,
    /// Some are the same.
    Yes,
    /// Nothing tells.
    #[default]
    Unknown,
}

impl Folds {
    /// Of a directory, by what is listed in it.
    pub(super) fn of(dir: &OwnedFd, names: &[OsString]) -> Self {
        // Found, and not asked for anything: it may be a mount that answers nobody, which is left out for its name.
        let only_found = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let is_there = |name: &OsStr| match openat(dir, name, only_found, Mode::empty()) {
            Ok(_) => Some(true),
            Err(errno) if LookError::of(errno.raw_os_error()).is_nothing() => Some(false),
            Err(_) => None,
        };
        for name in names {
            let Some(other) = other_case(name) else { continue };
            if names.contains(&other) {
                return Self::No;
            }
            // In this order: what is there in the end was there before. Who it is says nothing: some FUSE servers make
            // another file of each name that something is asked for by.
            match (is_there(&other), is_there(name)) {
                (Some(true), Some(true)) => return Self::Yes,
                (Some(false), Some(true)) => return Self::No,
                // It is gone by now, or nobody knows.
                _ => {}
            }
        }
        Self::Unknown
    }
}

/// A name with the case of its letters turned, as far as they are ASCII's; `None` if there are none.
fn other_case(name: &OsStr) -> Option<OsString> {
    let turned = name.as_bytes().iter().map(|byte| match byte {
        byte if byte.is_ascii_lowercase() => byte.to_ascii_uppercase(),
        byte => byte.to_ascii_lowercase(),
    });
    let turned = OsString::from_vec(turned.collect());
    (turned != name).then_some(turned)
}

/// Whether two names may be one where names are folded. What becomes of other letters than ASCII's is for the file system to say,
/// as are dots and spaces at the end, and short names.
pub(crate) fn may_be_same(a: &OsStr, b: &OsStr) -> bool {
    a.as_bytes().eq_ignore_ascii_case(b.as_bytes()) || !is_plain(a) || !is_plain(b)
}

/// Whether a name can only be the same as one that differs by the case of its letters.
fn is_plain(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    bytes.is_ascii()
        && !bytes.contains(&b'~')
        && !bytes.contains(&b':')
        && !bytes.ends_with(b".")
        && !bytes.ends_with(b" ")
}

/// Names that calls said in one directory, to be asked about each of many.
pub(super) struct Said {
    lower: HashSet<Vec<u8>>,
    /// All of them can only be the same as one that differs by case.
    plain: bool,
}

impl Said {
    pub fn of(names: &HashSet<OsString>) -> Self {
        let lower = names.iter().map(|name| name.as_bytes().to_ascii_lowercase()).collect();
        Self { lower, plain: names.iter().all(|name| is_plain(name)) }
    }

    /// Whether one of them [may be](may_be_same) this name.
    pub fn may_mean(&self, name: &OsStr) -> bool {
        !self.plain || !is_plain(name) || self.lower.contains(&name.as_bytes().to_ascii_lowercase())
    }
}

/// Whether normal forms are names of their own where cases are: so it is in these, and elsewhere nobody knows.
pub(super) fn keeps_forms_apart(dir: &OwnedFd) -> bool {
    // From `linux/magic.h`: ext4, XFS, btrfs, tmpfs, overlayfs, f2fs, ramfs.
    const APART: [FsWord; 7] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010, 0x8584_58f6];
    rustix::fs::fstatfs(dir).is_ok_and(|found| APART.contains(&found.f_type))
}

/// Whether a name may be another one's, in a directory of which that is known.
pub(super) fn may_fold(dir: &OwnedFd, folds: Folds, name: &OsStr) -> bool {
    match folds {
        Folds::Yes => true,
        Folds::Unknown if !name.is_ascii() => true,
        Folds::Unknown => other_case(name).is_some(),
        Folds::No => !name.is_ascii() && !keeps_forms_apart(dir),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_names_may_be_one() {
        let same = |a: &str, b: &str| may_be_same(OsStr::new(a), OsStr::new(b));
        assert!(same("Collection-7.wt", "COLLECTION-7.WT"));
        assert!(!same("collection-7.wt", "collection-8.wt"));
        // K may be the sign of Kelvin; and what a short name is short for only the file system knows.
        assert!(same("\u{212a}", "k") && same("COLLEC~1", "collection-7.wt") && same("a. ", "a"));
        // Of many at once it is the same.
        let names = ["Collection-7.wt", "COLLECTION-7.WT", "collection-8.wt", "\u{212a}", "k", "COLLEC~1", "a. ", "a"];
        for (a, b) in names.iter().flat_map(|a| names.iter().map(move |b| (a, b))) {
            let said = Said::of(&HashSet::from([OsString::from(a), OsString::from("beside")]));
            assert_eq!(said.may_mean(OsStr::new(b)), same(a, b), "{a} {b}");
        }
    }

    #[test]
    fn a_directory_tells_by_its_names() {
        let temp = tempfile::tempdir().unwrap();
        let dir: OwnedFd = std::fs::File::open(temp.path()).unwrap().into();
        let names = |all: &[&str]| all.iter().map(OsString::from).collect::<Vec<_>>();
        assert_eq!(Folds::of(&dir, &names(&["0", "17"])), Folds::Unknown);
        // It is not there by now.
        assert_eq!(Folds::of(&dir, &names(&["gone"])), Folds::Unknown);
        std::fs::write(temp.path().join("a.wt"), "").unwrap();
        assert_eq!(Folds::of(&dir, &names(&["gone", "a.wt"])), Folds::No);
        // Two names of one file say nothing of their kind.
        std::fs::hard_link(temp.path().join("a.wt"), temp.path().join("A.WT")).unwrap();
        assert_eq!(Folds::of(&dir, &names(&["A.WT", "a.wt"])), Folds::No);
    }
}
