//! Mounts that come, go or move while a backup runs.
//!
//! A file system that is mounted on a directory hides what is there, from the target and from us, and whoever does it need
//! not be followed: another process in the same mount namespace, or one in another from which mounts propagate. So the
//! target's table of mounts is looked at before the sources are opened, in every grace (also that of the hold), and after the
//! drain; what stands on the way to a source, or below it, must be the same. The kernel says by poll(2) whether the
//! table has changed at all (proc_pid_mounts(5)), so that most looks cost nothing.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::process::{Process, to_os};
use crate::error::{Error, errno};

/// One mount.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    /// Number, that of the mount it stands on, device, and which directory of the file system it shows.
    what: [Vec<u8>; 4],
    /// Where, seen from the target's root.
    at: PathBuf,
}

/// The target's mounts, as they were at first.
pub struct MountTable {
    file: File,
    /// The target's root, as links in /proc show it.
    root: PathBuf,
    first: Vec<Mount>,
    sources: Vec<PathBuf>,
    changed: AtomicBool,
}

impl MountTable {
    /// Looks at the mounts of the target for the first time.
    ///
    /// # Errors
    /// [`Error::Os`]
    pub fn of(process: &Process) -> Result<Self, Error> {
        let failed = |errno| Error::Os { pid: process.pid(), operation: "reading the table of mounts", errno };
        let file = File::from(process.open_file("mountinfo", OFlag::O_RDONLY).map_err(failed)?);
        let root = readlinkat(process.proc(), format!("{}/root", process.pid()).as_str()).map_err(failed)?;
        let first = read(&file).map_err(failed)?;
        Ok(Self { file, root: root.into(), first, sources: Vec::new(), changed: AtomicBool::new(false) })
    }

    /// Which directories matter from now on, as links in /proc show them.
    pub fn watch(&mut self, sources: &[PathBuf]) {
        let seen =
            |place: &PathBuf| place.strip_prefix(&self.root).map_or(place.clone(), |below| Path::new("/").join(below));
        self.sources = sources.iter().map(seen).collect();
    }

    /// Why the sources are not what they were, if a mount on the way to them or below them came, went or moved.
    pub fn change(&self) -> Option<String> {
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLPRI)];
        // Said once for each change; what was found once stays so.
        let is_new = poll(&mut fds, PollTimeout::ZERO) != Ok(0);
        if !self.changed.fetch_or(is_new, Ordering::SeqCst) && !is_new {
            return None;
        }
        let now = match read(&self.file) {
            Ok(now) => now,
            Err(errno) => return Some(format!("the target's table of mounts could not be read: {errno}")),
        };
        let at = self.difference(&now)?;
        Some(format!(
            "at {} something was mounted, unmounted or moved, so that what is below the source is not what it was: \
             take the backup again",
            at.display()
        ))
    }

    /// Where the tables differ, as far as it matters.
    fn difference<'a>(&'a self, now: &'a [Mount]) -> Option<&'a Path> {
        let matters = |mount: &&Mount| {
            self.sources.iter().any(|source| mount.at.starts_with(source) || source.starts_with(&mount.at))
        };
        let missing =
            |from: &'a [Mount], other: &[Mount]| from.iter().filter(matters).find(|mount| !other.contains(mount));
        missing(now, &self.first).or_else(|| missing(&self.first, now)).map(|mount| mount.at.as_path())
    }
}

/// The whole table. The file is read in parts, each of whole lines; it begins anew at offset 0.
fn read(file: &File) -> Result<Vec<Mount>, Errno> {
    let (mut text, mut part) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match file.read_at(&mut part, text.len() as u64).map_err(|error| errno(&error))? {
            0 => return Ok(text.split(|&byte| byte == b'\n').filter_map(parse).collect()),
            length => text.extend(&part[..length]),
        }
    }
}

/// `ID PARENT MAJOR:MINOR ROOT PLACE ...` (proc_pid_mountinfo(5))
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&byte| byte == b' ').map(<[u8]>::to_vec);
    let what = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
    Some(Mount { what, at: PathBuf::from(to_os(&unescaped(&fields.next()?))) })
}

/// Blanks and the like stand there as `\040`.
fn unescaped(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        let code = behind.get(..3).filter(|_| first == b'\\').map(OsStr::from_bytes).and_then(OsStr::to_str);
        let (byte, behind) = match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => (byte, &behind[3..]),
            None => (first, behind),
        };
        plain.push(byte);
        rest = behind;
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(lines: &[&str]) -> Vec<Mount> {
        lines.iter().filter_map(|line| parse(line.as_bytes())).collect()
    }

    const ROOT: &str = "20 1 8:1 / / rw - ext4 /dev/sda1 rw";
    const DATA: &str = r"30 20 8:2 / /data\040of/db rw - xfs /dev/sdb rw";
    const BELOW: &str = r"40 30 0:50 / /data\040of/db/a/b rw - tmpfs none rw";
    const BESIDE: &str = r"41 20 0:51 / /data\040of/db2 rw - tmpfs none rw";
    const ABOVE: &str = r"42 20 0:52 / /data\040of rw - tmpfs none rw";

    #[test]
    fn what_stands_on_the_way_to_a_source_or_below_it_matters() {
        let process = Process::open(std::process::id() as i32).unwrap();
        let mut mounts = MountTable::of(&process).unwrap();
        mounts.watch(&[PathBuf::from("/data of/db")]);
        for (before, after, at) in [
            (vec![ROOT, DATA], vec![ROOT, DATA], None),
            (vec![ROOT, DATA], vec![ROOT, DATA, BESIDE], None),
            (vec![ROOT, DATA], vec![ROOT, DATA, BELOW], Some("/data of/db/a/b")),
            (vec![ROOT, DATA, BELOW], vec![ROOT, DATA], Some("/data of/db/a/b")),
            (vec![ROOT, DATA], vec![ROOT, DATA, ABOVE], Some("/data of")),
            (vec![ROOT, DATA], vec![ROOT], Some("/data of/db")),
            (vec![ROOT], vec!["21 1 8:1 / / rw - ext4 /dev/sda1 rw"], Some("/")),
            (vec![ROOT], vec!["20 1 8:1 / / ro - ext4 /dev/sda1 ro"], None),
        ] {
            mounts.first = table(&before);
            assert_eq!(mounts.difference(&table(&after)), at.map(Path::new), "{before:?} {after:?}");
        }
    }
}
