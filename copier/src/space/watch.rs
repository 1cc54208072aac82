//! Looking at what is free, at each step.
use crate::base::sys;
use crate::interface::spec::Reserve;
use crate::{Error, Source};
use rustix::fs::{StatVfs, fstatvfs};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const GIB: u64 = 1 << 30;

/// A file system as a directory on it shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Figures {
    /// Bytes.
    pub total: u64,
    pub free: u64,
    /// 0 where there is no limit to them.
    pub inodes: u64,
    pub free_inodes: u64,
    /// Space is given out in such units.
    pub unit: u64,
}

impl Figures {
    /// What others than root may use.
    fn new(s: StatVfs) -> Self {
        let unit = s.f_frsize.max(1);
        let bytes = |blocks: u64| blocks.saturating_mul(unit);
        Self {
            total: bytes(s.f_blocks),
            free: bytes(s.f_bavail),
            inodes: s.f_files,
            free_inodes: s.f_favail.min(s.f_ffree),
            unit,
        }
    }

    pub fn of(dir: impl AsFd) -> Option<Self> {
        fstatvfs(dir).ok().map(Self::new).filter(|figures| figures.total > 0)
    }
}

impl Reserve {
    /// Bytes and inodes that are left free.
    pub(crate) fn of(self, figures: &Figures) -> (u64, u64) {
        let share = |all: u64, percent: f64| (all as f64 * percent / 100.0) as u64;
        match self {
            Self::Usual => {
                let total = figures.total;
                let bytes = share(total, 5.0).clamp(GIB, 8 * GIB).min(share(total, 10.0));
                (bytes, share(figures.inodes, 5.0))
            }
            Self::Bytes(bytes) => {
                let percent = bytes as f64 * 100.0 / figures.total as f64;
                (bytes, share(figures.inodes, percent.min(100.0)))
            }
            Self::Percent(percent) => (share(figures.total, percent), share(figures.inodes, percent)),
            Self::Off => (0, 0),
        }
    }
}

/// A file system that is not to be filled.
#[derive(Debug)]
struct Kept {
    dir: OwnedFd,
    /// Of a directory on it.
    path: PathBuf,
    reserve: (u64, u64),
}

/// What is looked at.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    kept: Vec<Kept>,
    /// Room beforehand: on the destination's file system, and on what is filled through it.
    checked: Vec<Checked>,
    /// When it was looked at without need, in microseconds since the first time.
    looked: AtomicU64,
    began: OnceLock<Instant>,
}

/// A file system that what is to be copied must fit on.
#[derive(Debug)]
struct Checked {
    dir: OwnedFd,
    path: PathBuf,
    reserve: (u64, u64),
    /// At most so much comes to it, whatever is copied: the holes of a loop device's file.
    at_most: u64,
    /// Whether inodes are made on it.
    inodes: bool,
}

impl Watch {
    /// What a backup of these sources must leave alone when it writes to `dest`, a directory of its own.
    pub fn new(dest: &OwnedFd, dest_path: &Path, sources: &[Source], reserve: Reserve) -> std::io::Result<Self> {
        let mut watch = Self::default();
        let Some(figures) = Figures::of(dest).filter(|_| reserve != Reserve::Off) else { return Ok(watch) };
        let dev = sys::stat_fd(dest)?.id.dev;
        let backing = sys::backing_of(dev);
        let (mut shared, path) = (false, dest_path.to_owned());
        for source in sources {
            let source_dev = sys::stat_fd(&source.root)?.id.dev;
            shared |= source_dev == dev || is_same(dest, &source.root);
            if let Some((backing_dev, holes)) = backing
                && backing_dev == source_dev
                && holes > 0
                && let Some(figures) = Figures::of(&source.root)
            {
                let (reserve, path) = (reserve.of(&figures), source.path.clone());
                let dir = || source.root.try_clone();
                watch.kept.push(Kept { dir: dir()?, path: path.clone(), reserve });
                watch.checked.push(Checked { dir: dir()?, path, reserve, at_most: holes, inodes: false });
            }
        }
        let reserve = if shared { reserve.of(&figures) } else { (0, 0) };
        if shared {
            watch.kept.push(Kept { dir: dest.try_clone()?, path: path.clone(), reserve });
        }
        watch.checked.push(Checked { dir: dest.try_clone()?, path, reserve, at_most: u64::MAX, inodes: true });
        Ok(watch)
    }

    /// Before so many bytes are written and inodes made: fails when that would touch a reserve.
    pub fn before(&self, bytes: u64, inodes: u64) -> Result<(), Error> {
        for Kept { dir, path, reserve } in &self.kept {
            let Some(figures) = Figures::of(dir) else { continue };
            let reached = |what, free, reserve| Err(Error::ReserveReached { path: path.clone(), what, free, reserve });
            if reserve.0 > 0 && figures.free.saturating_sub(bytes) < reserve.0 {
                return reached("bytes", figures.free, reserve.0);
            }
            if reserve.1 > 0 && figures.free_inodes.saturating_sub(inodes) < reserve.1 {
                return reached("inodes", figures.free_inodes, reserve.1);
            }
        }
        Ok(())
    }

    /// The same where nothing is written, but others may have: a thousand times a second at most.
    pub fn look(&self) -> Result<(), Error> {
        if self.kept.is_empty() {
            return Ok(());
        }
        let now = 1000 + self.began.get_or_init(Instant::now).elapsed().as_micros() as u64;
        let before = self.looked.load(Ordering::Relaxed);
        if now < before + 1000 {
            return Ok(());
        }
        self.looked.store(now, Ordering::Relaxed);
        self.before(0, 0)
    }

    /// Before the first byte: whether so much can be written at all. `bytes` says how many that are, in units of what it is
    /// given.
    pub fn check(&self, bytes: impl Fn(u64) -> u64, inodes: u64) -> Result<(), Error> {
        for Checked { dir, path, reserve, at_most, inodes: makes_inodes } in &self.checked {
            let Some(figures) = Figures::of(dir) else { continue };
            let needed = bytes(figures.unit).min(*at_most);
            let small = |what, needed, free, reserve| {
                Err(Error::DestTooSmall { path: path.clone(), what, needed, free, reserve })
            };
            if needed.saturating_add(reserve.0) > figures.free {
                return small("bytes", needed, figures.free, reserve.0);
            }
            if *makes_inodes && figures.inodes > 0 && inodes.saturating_add(reserve.1) > figures.free_inodes {
                return small("inodes", inodes, figures.free_inodes, reserve.1);
            }
        }
        Ok(())
    }
}

/// Whether two directories show one file system, whatever their devices say. Somebody may write in between.
fn is_same(one: &OwnedFd, other: &OwnedFd) -> bool {
    (0..3).any(|_| match (fstatvfs(one), fstatvfs(other), fstatvfs(one)) {
        (Ok(before), Ok(between), Ok(after)) => {
            let of =
                |s: &StatVfs| (s.f_blocks.saturating_mul(s.f_frsize), s.f_bfree.saturating_mul(s.f_frsize), s.f_files);
            of(&before) == of(&between) || of(&between) == of(&after)
        }
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_reserve_fits_disks_of_every_size() {
        let usual = |total: u64| {
            Reserve::Usual.of(&Figures { total, free: total, inodes: 1000, free_inodes: 1000, unit: 4096 })
        };
        for (total, reserve) in [(64 << 20, 6_710_886), (10 * GIB, GIB), (100 * GIB, 5 * GIB), (10_000 * GIB, 8 * GIB)]
        {
            assert_eq!(usual(total), (reserve, 50), "{total}");
        }
    }

    #[test]
    fn a_reserve_is_bytes_or_a_share() {
        let figures = Figures { total: 1000, free: 10, inodes: 200, free_inodes: 10, unit: 1 };
        assert_eq!(Reserve::Bytes(100).of(&figures), (100, 20));
        assert_eq!(Reserve::Bytes(100_000).of(&figures), (100_000, 200));
        assert_eq!(Reserve::Percent(2.5).of(&figures), (25, 5));
        assert_eq!(Reserve::Bytes(0).of(&figures), (0, 0));
    }

    #[test]
    fn a_directory_and_one_below_it_show_the_same_file_system() {
        let temp = tempfile::tempdir().unwrap();
        let open = |path: &Path| sys::open_dir(rustix::fs::CWD, path.as_os_str()).unwrap();
        assert!(is_same(&open(temp.path()), &open(temp.path())));
        assert!(!is_same(&open(temp.path()), &open(Path::new("/proc"))));
    }
}
