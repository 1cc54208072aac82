//! The model check on each file system. The backup and the replays are on the same one: not all can do the same.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, XFS_SUPER_MAGIC, statfs,
};
use tempfile::TempDir;

use crate::common::backup::{number_from, scratch, seed};
use crate::common::disk::{Mount, Volume, run};
use crate::replay::Replay;
use crate::settings::Settings;
use crate::states_that_existed;

/// A file system to work on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disk {
    /// That of the target directory, or of `HOTBACKUP_MODEL_DIR`.
    Here,
    /// On a loop device.
    Ext4,
    /// On a loop device; it shares blocks.
    Xfs,
    /// On a loop device.
    Btrfs,
    /// In memory.
    Tmpfs,
    /// Over a lower layer, in which the threads' subtrees have a past.
    Overlay,
}

const NAMES: [(Disk, &str); 6] = [
    (Disk::Here, "here"),
    (Disk::Ext4, "ext4"),
    (Disk::Xfs, "xfs"),
    (Disk::Btrfs, "btrfs"),
    (Disk::Tmpfs, "tmpfs"),
    (Disk::Overlay, "overlayfs"),
];

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = NAMES.iter().find(|(disk, _)| disk == self).expect("all are in the table");
        write!(f, "{name}")
    }
}

impl FromStr for Disk {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        NAMES.iter().find(|(_, name)| *name == text).map(|(disk, _)| *disk).ok_or(())
    }
}

/// A place on a file system, gone when dropped.
pub struct Ground {
    /// A directory in it.
    pub at: PathBuf,
    _volume: Option<Volume>,
    _mount: Option<Mount>,
    _scratch: TempDir,
}

/// What the threads have made in the lower layer of an overlay before it became one.
const PAST_STEPS: u64 = 600;
/// The file systems take this much, sparse: the guest, its replays and a backup, with much to spare.
const MIB: u64 = 3072;

impl Ground {
    /// Makes it for a run.
    pub fn new(settings: &Settings) -> Self {
        let scratch = match std::env::var_os("HOTBACKUP_MODEL_DIR") {
            Some(dir) if settings.on == Disk::Here => {
                TempDir::with_prefix_in("hotbackup-", dir).expect("a scratch directory")
            }
            _ => scratch(),
        };
        let at = scratch.path().join("disk");
        let (mut volume, mut mount) = (None, None);
        match settings.on {
            Disk::Here => fs::create_dir(&at).expect("a directory"),
            Disk::Ext4 => volume = Some(Volume::new("ext4", MIB, &["-b", "4096"], at.clone())),
            Disk::Xfs => volume = Some(Volume::new("xfs", MIB, &["-m", "reflink=1"], at.clone())),
            Disk::Btrfs => volume = Some(Volume::new("btrfs", MIB, &[], at.clone())),
            Disk::Tmpfs => mount = Some(mounted("tmpfs", &format!("size={MIB}m"), &at)),
            Disk::Overlay => mount = Some(overlay(&at, |lower| make_a_past(settings, lower))),
        }
        let found = statfs(&at).expect("the file system says what it is").filesystem_type();
        if let Some(wanted) = magic(settings.on) {
            assert_eq!(found, wanted, "{:?} is not {}", at, settings.on);
        }
        Self { at, _volume: volume, _mount: mount, _scratch: scratch }
    }
}

fn magic(disk: Disk) -> Option<FsType> {
    match disk {
        Disk::Here => None,
        Disk::Ext4 => Some(EXT4_SUPER_MAGIC),
        Disk::Xfs => Some(XFS_SUPER_MAGIC),
        Disk::Btrfs => Some(BTRFS_SUPER_MAGIC),
        Disk::Tmpfs => Some(TMPFS_MAGIC),
        Disk::Overlay => Some(OVERLAYFS_SUPER_MAGIC),
    }
}

fn mounted(kind: &str, options: &str, at: &Path) -> Mount {
    fs::create_dir(at).expect("a mount point");
    run("mount", &["-t".as_ref(), kind.as_ref(), "-o".as_ref(), options.as_ref(), kind.as_ref(), at.as_os_str()]);
    Mount(at.to_owned())
}

/// Mounts an overlay at a new directory; its layers are beside it. `past` makes what is in the lower one.
pub fn overlay(at: &Path, past: impl FnOnce(&Path)) -> Mount {
    let [lower, upper, work] = ["lower", "upper", "work"].map(|name| {
        let path = at.with_file_name(name);
        fs::create_dir(&path).expect("a directory");
        path.into_os_string().into_string().expect("test directories have plain names")
    });
    past(Path::new(&lower));
    mounted("overlay", &format!("lowerdir={lower},upperdir={upper},workdir={work}"), at)
}

/// Gives the guest's threads, and each replay, the same tree to begin with.
fn make_a_past(settings: &Settings, lower: &Path) {
    let past = Settings { seed: settings.seed ^ 0x5eed, ..settings.clone() };
    let data = lower.join("data");
    fs::create_dir(&data).expect("a directory");
    for thread in 0..settings.threads {
        for dir in [&data, &lower.join(format!("replay{thread}"))] {
            let mut replay = Replay::start(&past, thread, dir);
            replay.begin(PAST_STEPS);
            replay.wait(PAST_STEPS);
        }
    }
}

fn on(disk: Disk) {
    states_that_existed(&Settings::new(seed(), disk, number_from("HOTBACKUP_MODEL_BACKUPS", 4)));
}

#[test]
fn so_it_is_on_ext4() {
    on(Disk::Ext4);
}

#[test]
fn so_it_is_on_xfs() {
    on(Disk::Xfs);
}

#[test]
fn so_it_is_on_btrfs() {
    on(Disk::Btrfs);
}

#[test]
fn so_it_is_on_tmpfs() {
    on(Disk::Tmpfs);
}

#[test]
fn so_it_is_on_overlayfs_with_files_of_the_lower_layer() {
    const BACKUPS: u64 = 4;
    let all = Settings::new(seed(), Disk::Overlay, number_from("HOTBACKUP_MODEL_BACKUPS", BACKUPS));
    // A new overlay again and again: before long everything has been copied to the upper layer.
    for part in 0..all.backups.div_ceil(BACKUPS) {
        let backups = BACKUPS.min(all.backups - part * BACKUPS);
        states_that_existed(&Settings { seed: all.seed + part, backups, ..all.clone() });
    }
}
