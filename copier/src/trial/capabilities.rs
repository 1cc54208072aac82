//! What a file system can hold, whatever the source is. Each thing is done, and then looked at.
use super::ground::Ground;
use crate::Error;
use crate::base::sys::{self, Kind, Time};
use hotbackup_event::change::Change;
use rustix::fs::{AtFlags, FsWord, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What the destination can hold. The default: everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Names that differ by case only are two.
    pub case_apart: bool,
    /// Names that differ by their Unicode normal form only are two.
    pub forms_apart: bool,
    /// Any bytes may be in a name, and come back as they were given.
    pub any_names: bool,
    /// The longest name of plain letters, in bytes.
    pub longest_name: usize,
    pub symlinks: bool,
    /// Owner and times of a symbolic link are its own, and are not set where it leads.
    pub link_metadata: bool,
    pub hard_links: bool,
    pub fifos: bool,
    pub holes: bool,
    pub owners: bool,
    pub modes: bool,
    /// The setuid, setgid and sticky bits.
    pub set_ids: bool,
    pub attributes: bool,
    /// The largest value that one extended attribute may have, in bytes.
    pub largest_attribute: usize,
    pub acls: bool,
    /// To so many nanoseconds times are kept.
    pub precision_ns: u64,
    /// What is shown of a time may not be what is kept of it.
    pub shows_other_times: bool,
    /// The times of the source are within what is kept.
    pub time_range: bool,
    /// The longest file, in bytes, as far as that is known.
    pub largest_file: u64,
    /// A destination that becomes the backup is ours to describe: it has no other owner, or he does not matter.
    pub top: bool,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            case_apart: true,
            forms_apart: true,
            any_names: true,
            longest_name: NAME_MAX,
            symlinks: true,
            link_metadata: true,
            hard_links: true,
            fifos: true,
            holes: true,
            owners: true,
            modes: true,
            set_ids: true,
            attributes: true,
            largest_attribute: LARGEST,
            acls: true,
            precision_ns: 1,
            shows_other_times: false,
            time_range: true,
            largest_file: u64::MAX,
            top: true,
        }
    }
}

const NAME_MAX: usize = 255;
/// XATTR_SIZE_MAX: the most that the kernel passes on.
const LARGEST: usize = 64 << 10;
/// Somebody whom nothing belongs to.
const STRANGER: u32 = 54_321;

impl Capabilities {
    pub(super) fn find(ground: &Ground<'_>) -> Result<Self, Error> {
        let mut found = Self::default();
        let file = ground.plain("plain")?;
        found.top = !ground.stage.is_inside() || ground.is_ours(ground.stage.place().0)?;
        found.try_names(ground)?;
        found.try_kinds(ground, &file)?;
        // Before the owner is another.
        found.try_attributes(ground, &file)?;
        found.try_modes(ground, &file)?;
        found.try_times(ground, &file)?;
        found.try_owner(ground, &file)?;
        if rustix::fs::fstatfs(&ground.dir).is_ok_and(|stat| stat.f_type == MSDOS) {
            found.largest_file = u64::from(u32::MAX);
        }
        ground.stage.sync_dir(&ground.dir).map_err(|error| ground.failed(Change::SyncDir, error))?;
        Ok(found)
    }

    fn try_names(&mut self, ground: &Ground<'_>) -> Result<(), Error> {
        let dir = ground.sub("names")?;
        let mut made = Vec::new();
        let mut make = |name: &[u8]| -> Result<bool, Error> {
            let name = OsStr::from_bytes(name);
            let is_made = ground.file(&dir, name)?.is_some();
            if is_made {
                made.push(name.to_owned());
            }
            Ok(is_made)
        };
        self.case_apart = make(b"Case")? && make(b"cASE")?;
        let composed = make("form-\u{e9}".as_bytes())?;
        self.forms_apart = composed && make("form-e\u{301}".as_bytes())?;
        let odd: [&[u8]; 13] = [
            b"o-\xff\xfe",
            b"o:",
            b"o\\",
            b"o*?\"<>|",
            b"o\x01",
            b"o\n",
            b"o\x7f",
            b"o.",
            b"o ",
            b" o",
            b"CON",
            b"nul.x",
            b"o~1",
        ];
        self.any_names = composed;
        for name in odd {
            self.any_names &= make(name)?;
        }
        let (mut works, mut fails) = (1, NAME_MAX + 1);
        let mut len = NAME_MAX;
        while works + 1 < fails {
            if make(&vec![b'n'; len])? {
                works = len
            } else {
                fails = len
            }
            len = works.midpoint(fails);
        }
        self.longest_name = works;
        let there = sys::names(&dir).map_err(|error| ground.failed(Change::Create, error))?;
        let there: HashSet<OsString> = there.into_iter().collect();
        if made.iter().any(|name| !there.contains(name)) {
            // Names are changed, so each that is not plain must be tried.
            (self.any_names, self.case_apart, self.forms_apart) = (false, false, false);
        }
        Ok(())
    }

    fn try_kinds(&mut self, ground: &Ground<'_>, file: &OwnedFd) -> Result<(), Error> {
        let dir = &ground.dir;
        let made = ground.stage.may(Change::Symlink, || rustix::fs::symlinkat("plain", dir, "symlink"));
        self.symlinks = ground.holds(Change::Symlink, made, |()| {
            sys::read_link(dir, OsStr::new("symlink")).is_ok_and(|text| text == "plain")
        })?;
        self.link_metadata = self.symlinks && ground.keeps_links_apart(file)?;
        let made = ground.stage.may(Change::Link, || rustix::fs::linkat(dir, "plain", dir, "second", AtFlags::empty()));
        self.hard_links = ground.holds(Change::Link, made, |()| {
            let (first, second) = (sys::stat_fd(file), sys::stat_at(dir, OsStr::new("second")));
            first.is_ok_and(|first| second.is_ok_and(|second| first.id == second.id && second.stat.nlink == 2))
        })?;
        let made = ground.stage.may(Change::Fifo, || rustix::fs::mkfifoat(dir, "fifo", Mode::RUSR | Mode::WUSR));
        self.fifos = ground.holds(Change::Fifo, made, |()| {
            sys::stat_at(dir, OsStr::new("fifo")).is_ok_and(|found| found.stat.kind() == Kind::Fifo)
        })?;
        let sparse = ground.plain("sparse")?;
        let made = ground.works(Change::SetLen, rustix::fs::ftruncate(&sparse, 1 << 20))?;
        self.holes = made.is_some() && {
            let done = rustix::io::pwrite(&sparse, b"x", (1 << 20) - 1);
            ground.works(Change::Write, done)?;
            sys::stat_fd(&sparse).is_ok_and(|found| found.holes() > 0)
        };
        Ok(())
    }

    fn try_attributes(&mut self, ground: &Ground<'_>, file: &OwnedFd) -> Result<(), Error> {
        let fits = |len: usize| -> Result<bool, Error> {
            let value = vec![b'v'; len];
            let set = ground.stage.may(Change::Attribute, || {
                rustix::fs::fsetxattr(file, "user.hotbackup.trial", &value, XattrFlags::empty())
            });
            let mut there = vec![0; len + 1];
            ground.holds(Change::Attribute, set, |()| {
                let found = rustix::fs::fgetxattr(file, "user.hotbackup.trial", &mut *there);
                found.is_ok_and(|n| there[..n] == value)
            })
        };
        self.attributes = fits(1)?;
        let (mut works, mut fails, mut len) = (usize::from(self.attributes), LARGEST + 1, LARGEST);
        while self.attributes && works + 64 < fails {
            if fits(len)? {
                works = len
            } else {
                fails = len
            }
            len = works.midpoint(fails);
        }
        self.largest_attribute = works;
        if self.attributes {
            // Room for what comes next.
            let _ = rustix::fs::fremovexattr(file, "user.hotbackup.trial");
        }
        let list = acl_of_a_stranger();
        let set = rustix::fs::fsetxattr(file, "system.posix_acl_access", &list, XattrFlags::empty());
        self.acls = ground.holds(Change::Attribute, set, |()| {
            let mut there = [0; 256];
            rustix::fs::fgetxattr(file, "system.posix_acl_access", &mut there).is_ok_and(|n| there[..n] == list)
        })?;
        if self.acls {
            let _ = rustix::fs::fremovexattr(file, "system.posix_acl_access");
        }
        Ok(())
    }

    fn try_modes(&mut self, ground: &Ground<'_>, file: &OwnedFd) -> Result<(), Error> {
        let dir = ground.sub("modes")?;
        let holds = |fd: &OwnedFd, mode: u32| {
            let set = ground.stage.may(Change::Mode, || rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)));
            ground.holds(Change::Mode, set, |()| sys::stat_fd(fd).is_ok_and(|found| found.stat.permissions() == mode))
        };
        self.modes = holds(file, 0o461)? && holds(&dir, 0o751)? && holds(file, 0o600)? && holds(&dir, 0o700)?;
        self.set_ids = holds(file, 0o6750)? && holds(&dir, 0o3750)?;
        Ok(())
    }

    fn try_times(&mut self, ground: &Ground<'_>, file: &OwnedFd) -> Result<(), Error> {
        // An odd second, and every digit of a nanosecond.
        let wanted = Time { sec: 1_700_000_001, nsec: 987_654_321 };
        let lost = ground.time_lost(file, wanted)?;
        self.precision_ns = [1, 100, 1000, 1_000_000, 10_000_000, 1_000_000_000, 2_000_000_000]
            .into_iter()
            .find(|precision| lost < u128::from(*precision))
            .unwrap_or(u64::MAX);
        let fuse = rustix::fs::fstatfs(&ground.dir).is_ok_and(|stat| stat.f_type == FUSE);
        // A kernel's file system shows what it will keep. A FUSE server may show what it was told, and keep it as FAT does.
        self.shows_other_times = fuse && self.precision_ns >= 1_000_000_000;
        Ok(())
    }

    /// Whether owners are kept, where it is ours to set them at all.
    fn try_owner(&mut self, ground: &Ground<'_>, file: &OwnedFd) -> Result<(), Error> {
        let (uid, gid) = (Uid::from_raw(STRANGER), Gid::from_raw(STRANGER + 1));
        let set = ground.stage.may(Change::Owner, || rustix::fs::fchown(file, Some(uid), Some(gid)));
        self.owners = ground.holds(Change::Owner, set, |()| {
            sys::stat_fd(file).is_ok_and(|found| (found.stat.uid, found.stat.gid) == (STRANGER, STRANGER + 1))
        })?;
        Ok(())
    }
}

/// From `linux/magic.h`.
const MSDOS: FsWord = 0x4d44;
const FUSE: FsWord = 0x6573_5546;

impl Ground<'_> {
    fn sub(&self, name: &str) -> Result<OwnedFd, Error> {
        sys::make_dir(&self.dir, OsStr::new(name)).map_err(|error| self.failed(Change::MakeDir, error))
    }

    /// Whether a directory that is there is ours to describe: it is given the mode that it has.
    fn is_ours(&self, dir: &OwnedFd) -> Result<bool, Error> {
        let found = sys::stat_fd(dir).map_err(|error| self.failed(Change::Mode, error))?;
        let mode = Mode::from_raw_mode(found.stat.permissions());
        Ok(self.works(Change::Mode, self.stage.may(Change::Mode, || rustix::fs::fchmod(dir, mode)))?.is_some())
    }

    /// Whether the time of the link `symlink` can be set, and not that of the file that it leads to.
    fn keeps_links_apart(&self, file: &OwnedFd) -> Result<bool, Error> {
        let look = |error| self.failed(Change::Times, error);
        let before = sys::stat_fd(file).map_err(look)?.stat.mtime;
        let time = Timespec { tv_sec: 1_000_000_000, tv_nsec: 0 };
        let times = Timestamps { last_access: time, last_modification: time };
        let set = || rustix::fs::utimensat(&self.dir, "symlink", &times, AtFlags::SYMLINK_NOFOLLOW);
        let is_set = self.works(Change::Times, self.stage.may(Change::Times, set))?.is_some();
        let link = sys::stat_at(&self.dir, OsStr::new("symlink")).map_err(look)?.stat.mtime;
        Ok(is_set && link.sec == time.tv_sec && sys::stat_fd(file).map_err(look)?.stat.mtime == before)
    }

    /// By how many nanoseconds a time that is set is another afterwards.
    pub(super) fn time_lost(&self, file: &OwnedFd, wanted: Time) -> Result<u128, Error> {
        let time = Timespec { tv_sec: wanted.sec, tv_nsec: wanted.nsec.into() };
        let times = Timestamps { last_access: time, last_modification: time };
        let set = self.stage.may(Change::Times, || rustix::fs::futimens(file, &times));
        let Some(()) = self.works(Change::Times, set)? else { return Ok(u128::MAX) };
        let found = sys::stat_fd(file).map_err(|error| self.failed(Change::Times, error))?;
        Ok(found.stat.mtime.nanos().abs_diff(wanted.nanos()))
    }
}

/// An access list as the kernel takes it (`linux/posix_acl_xattr.h`): the owner, a stranger, the group, the mask, and others.
fn acl_of_a_stranger() -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let entries =
        [(0x01_u16, 6_u16, NOBODY), (0x02, 4, STRANGER), (0x04, 0, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

/// A name that every file system takes as it is.
pub(super) fn is_plain(name: &OsStr) -> bool {
    let bytes = name.as_bytes();
    let letters = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte));
    // DOS has devices of three and four letters, whatever comes after a dot.
    let stem = bytes.split(|byte| *byte == b'.').next().unwrap_or_default();
    letters && !bytes.ends_with(b".") && !(3..=4).contains(&stem.len())
}

/// What names that differ by the case of plain letters have in common.
pub(super) fn folded(name: &OsStr) -> OsString {
    OsString::from_vec(name.as_bytes().to_ascii_lowercase())
}
