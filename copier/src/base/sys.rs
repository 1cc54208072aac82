//! File system calls in the form that the copier needs: identities, times as nanoseconds, no path that leads astray.
use hotbackup_event::FileId;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Statx, StatxFlags, StatxTimestamp};
use rustix::io::Errno;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// A moment as the kernel tells it: seconds since the epoch, and nanoseconds after that. Kept apart, as one number of
/// nanoseconds would end in the year 2262, and begin in 1677.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time {
    pub sec: i64,
    pub nsec: u32,
}

impl Time {
    /// As one number, large enough for every time.
    pub fn nanos(self) -> i128 {
        i128::from(self.sec) * 1_000_000_000 + i128::from(self.nsec)
    }
}

/// What is kept of a file's status.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub size: u64,
    pub mtime: Time,
    pub atime: Time,
    pub ctime: Time,
    /// Type and permissions.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
}

/// What a name or an fd leads to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Found {
    pub id: FileId,
    pub stat: Stat,
    /// Bytes that are allocated for it. Where fewer than the file is long, holes are worth looking for.
    pub allocated: u64,
}

impl Found {
    /// Bytes of holes, as far as that tells.
    pub fn holes(&self) -> u64 {
        self.stat.size.saturating_sub(self.allocated)
    }
}

/// The kinds of entries that are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    Fifo,
    Socket,
    Device,
}

impl Stat {
    pub fn kind(&self) -> Kind {
        match self.mode & 0o170_000 {
            0o100_000 => Kind::File,
            0o040_000 => Kind::Dir,
            0o120_000 => Kind::Symlink,
            0o010_000 => Kind::Fifo,
            0o140_000 => Kind::Socket,
            _ => Kind::Device,
        }
    }

    /// The permission bits, setuid and its kin included.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o7777
    }
}

/// A birth time tells files apart, as the tracer makes it: whatever it says, the same number is the same time.
fn nanos(t: StatxTimestamp) -> i64 {
    t.tv_sec.saturating_mul(1_000_000_000).saturating_add(i64::from(t.tv_nsec))
}

fn time(t: StatxTimestamp) -> Time {
    Time { sec: t.tv_sec, nsec: t.tv_nsec }
}

fn found(s: Statx) -> Found {
    let has_btime = StatxFlags::from_bits_retain(s.stx_mask).contains(StatxFlags::BTIME);
    Found {
        id: FileId {
            dev: u64::from(s.stx_dev_major) << 32 | u64::from(s.stx_dev_minor),
            ino: s.stx_ino,
            btime_ns: if has_btime { nanos(s.stx_btime) as u64 } else { 0 },
        },
        stat: Stat {
            size: s.stx_size,
            mtime: time(s.stx_mtime),
            atime: time(s.stx_atime),
            ctime: time(s.stx_ctime),
            mode: u32::from(s.stx_mode),
            uid: s.stx_uid,
            gid: s.stx_gid,
            nlink: s.stx_nlink,
        },
        allocated: s.stx_blocks.saturating_mul(512),
    }
}

const WANTED: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// The status of what `name` in `dir` is, itself, not of what it may lead to.
pub(crate) fn stat_at(dir: impl AsFd, name: &OsStr) -> io::Result<Found> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    Ok(found(rustix::fs::statx(dir, name, flags, WANTED)?))
}

/// The status of an open file.
pub(crate) fn stat_fd(fd: impl AsFd) -> io::Result<Found> {
    Ok(found(rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, WANTED)?))
}

/// Whether an open directory is where something is mounted.
pub(crate) fn is_mount_point(fd: impl AsFd) -> io::Result<bool> {
    let s = rustix::fs::statx(fd, "", AtFlags::EMPTY_PATH, WANTED)?;
    Ok(s.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::CLOEXEC).union(OFlags::NOCTTY).union(OFlags::NONBLOCK);

/// Opens a file to read it, without a trace of that in its access time where that is allowed.
pub(crate) fn open_file(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = READ | OFlags::NOFOLLOW;
    match rustix::fs::openat(&dir, name, flags | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => Ok(rustix::fs::openat(&dir, name, flags, Mode::empty())?),
        other => Ok(other?),
    }
}

/// Opens for reading what an `O_PATH` fd holds, even when it has no name any more.
pub(crate) fn reopen(fd: impl AsFd) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    match rustix::fs::openat(CWD, &path, READ | OFlags::NOATIME, Mode::empty()) {
        Err(Errno::PERM) => Ok(rustix::fs::openat(CWD, &path, READ, Mode::empty())?),
        other => Ok(other?),
    }
}

/// Opens a directory below another.
pub(crate) fn open_dir(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// Makes a directory that only we may enter, whatever the umask says, and opens it.
pub(crate) fn make_dir(dir: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    rustix::fs::mkdirat(&dir, name, Mode::RWXU)?;
    match open_dir(&dir, name) {
        Err(error) if error.raw_os_error() == Some(Errno::ACCESS.raw_os_error()) => {
            rustix::fs::chmodat(&dir, name, Mode::RWXU, AtFlags::empty())?;
            open_dir(&dir, name)
        }
        other => other,
    }
}

/// The path of an open file, for messages.
pub(crate) fn fd_path(fd: impl AsFd) -> PathBuf {
    path_of(fd).unwrap_or_else(|_| PathBuf::from("?"))
}

/// The path of an open file, for telling inside from outside. As the kernel tells it: seen from the root of the mount
/// namespace that the file was opened in. Fails with `ENAMETOOLONG` when it is longer than a page.
pub(crate) fn path_of(fd: impl AsFd) -> rustix::io::Result<PathBuf> {
    let link = format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd());
    Ok(OsString::from_vec(rustix::fs::readlink(link, Vec::new())?.into_bytes()).into())
}

/// The target of a symbolic link.
pub(crate) fn read_link(dir: impl AsFd, name: &OsStr) -> io::Result<OsString> {
    Ok(OsString::from_vec(rustix::fs::readlinkat(dir, name, Vec::new())?.into_bytes()))
}

/// The names in an open directory, apart from `.` and `..`. Reads from its beginning each time.
pub(crate) fn names(dir: impl AsFd) -> io::Result<Vec<OsString>> {
    rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(0))?;
    let mut buffer = Vec::with_capacity(64 << 10);
    let mut entries = rustix::fs::RawDir::new(dir, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = match entry {
            // The directory was removed; only an empty one can be.
            Err(Errno::NOENT) => break,
            entry => entry?,
        };
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

/// Extended attributes: name and value.
pub(crate) type Attributes = Vec<(CString, Vec<u8>)>;

/// All extended attributes of an open file that can be read; none where the file system has none.
pub(crate) fn xattrs(fd: impl AsFd) -> io::Result<Attributes> {
    xattrs_by(|buffer| rustix::fs::flistxattr(&fd, buffer), |name, buffer| rustix::fs::fgetxattr(&fd, name, buffer))
}

/// The same of what `name` in `dir` is, itself: a symbolic link, or what is not to be opened.
pub(crate) fn xattrs_at(dir: impl AsFd, name: &OsStr) -> io::Result<Attributes> {
    let path = path_at(dir, name);
    xattrs_by(|buffer| rustix::fs::llistxattr(&path, buffer), |name, buffer| rustix::fs::lgetxattr(&path, name, buffer))
}

/// A path to `name` in `dir`, for calls that take no directory.
pub(crate) fn path_at(dir: impl AsFd, name: &OsStr) -> PathBuf {
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_fd().as_raw_fd()));
    path.push(name);
    path
}

fn xattrs_by(
    list: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
    get: impl Fn(&CStr, &mut [u8]) -> Result<usize, Errno>,
) -> io::Result<Attributes> {
    let names = match read_growing(list) {
        Ok(names) => names,
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut all = Vec::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let name = CString::new(name).unwrap_or_default();
        match read_growing(|buffer| get(&name, buffer)) {
            Ok(value) => all.push((name, value)),
            // Removed since it was listed, or not ours to read.
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    all.sort();
    Ok(all)
}

/// Calls `read` with a buffer that grows until what is read fits.
fn read_growing(mut read: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut small = [0; 256];
    match read(&mut small) {
        Ok(n) => return Ok(small[..n].to_vec()),
        Err(Errno::RANGE) => {}
        Err(error) => return Err(error),
    }
    let mut buffer = vec![0; 4 << 10];
    loop {
        match read(&mut buffer) {
            Ok(n) => {
                buffer.truncate(n);
                return Ok(buffer);
            }
            Err(Errno::RANGE) if buffer.len() < 1 << 20 => buffer.resize(buffer.len() * 4, 0),
            Err(error) => return Err(error),
        }
    }
}

/// Raises the number of files that may be open at once as far as allowed: every directory of the sources is kept open.
pub(crate) fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // With CAP_SYS_RESOURCE the hard limit is no more than a default: the kernel's own is this one.
    let most = std::fs::read_to_string("/proc/sys/fs/nr_open").ok().and_then(|text| text.trim().parse().ok());
    if let Some(most) = most
        && limit.maximum.is_some_and(|maximum| maximum < most)
        && setrlimit(Resource::Nofile, Rlimit { current: Some(most), maximum: Some(most) }).is_ok()
    {
        return;
    }
    // Cannot fail in a way that matters: without it, opening too many files is an error of its own.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// How many files this process may have open at once.
pub(crate) fn open_files() -> usize {
    use rustix::process::{Resource, getrlimit};
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize)
}

/// Whether nothing is there. At a destination what cannot be looked at for another reason, as a mount that its server knows no more or a
/// link that leads to itself, is not missing: nothing can be made there either.
pub(crate) fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Whether we may do with what is another's as its owner may (CAP_FOWNER).
pub(crate) fn may_do_as_owners_may() -> bool {
    use rustix::thread::{CapabilitySet, capabilities};
    capabilities(None).is_ok_and(|ours| ours.effective.contains(CapabilitySet::FOWNER))
}

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_nanos() as u64
}

/// Whether a directory is on overlayfs (`linux/magic.h`), where a file or directory becomes another one when it is copied to the upper layer.
pub(crate) fn is_on_overlayfs(dir: &OwnedFd) -> io::Result<bool> {
    const OVERLAYFS: rustix::fs::FsWord = 0x794c_7630;
    Ok(rustix::fs::fstatfs(dir)?.f_type == OVERLAYFS)
}

/// Where a loop device, or what is made of one, keeps what is written to it: the device that its file is on, and how many bytes
/// of that file are holes.
pub(crate) fn backing_of(dev: u64) -> Option<(u64, u64)> {
    let (major, minor) = (dev >> 32, dev & u64::from(u32::MAX));
    let mut left = vec![PathBuf::from(format!("/sys/dev/block/{major}:{minor}")).canonicalize().ok()?];
    // Devices are made of others, but not of themselves.
    while let Some(at) = left.pop() {
        // Of a partition it is that of the whole device.
        for file in [at.join("loop/backing_file"), at.join("../loop/backing_file")] {
            if let Ok(path) = std::fs::read_to_string(file)
                && let Ok(found) = stat_at(CWD, OsStr::new(path.trim_end_matches('\n')))
            {
                return Some((found.id.dev, found.holes()));
            }
        }
        let below = std::fs::read_dir(at.join("slaves")).into_iter().flatten().flatten();
        left.extend(below.filter_map(|entry| entry.path().canonicalize().ok()));
    }
    None
}
