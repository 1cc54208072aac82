//! How a row is proven: a guest makes the one change at each [`Moment`], and the backup is compared with the source as it
//! was at the point in time.
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use hotbackup_copier::Error;
use nix::libc;
use tempfile::TempDir;

use crate::call;
use crate::common::backup::{scratch, verify};
use crate::common::disk::{self, Loop, Mount};
use crate::common::driver::Driver;
use crate::common::guest::Linked;
use crate::common::moment::{MOMENTS, Moment, back_up};
use crate::common::snapshot::Snapshot;

/// A guest, its data directory, and a place beside it on the same file system.
pub struct Bench {
    /// The guest.
    pub guest: Driver,
    /// Its data directory and working directory, which is backed up.
    pub dir: PathBuf,
    /// A directory beside that one.
    pub outside: PathBuf,
    /// Where the backup goes.
    pub dest: PathBuf,
    _volume: Option<Volume>,
    _scratch: TempDir,
}

impl Bench {
    /// With a guest that was used before, which goes to the new directory, or a new one.
    pub fn new(fs: Fs, guest: Option<Driver>) -> Self {
        let scratch = scratch();
        let volume = match fs {
            Fs::Here => None,
            Fs::Xfs => Some(Volume::new(scratch.path(), &["mkfs.xfs", "-q", "-m", "reflink=1"])),
            Fs::XfsExchanging => Some(Volume::exchanging(scratch.path())),
            Fs::Tmpfs => Some(Volume::in_memory(scratch.path())),
            Fs::Btrfs => Some(Volume::new(scratch.path(), &["mkfs.btrfs", "--quiet"])),
            Fs::Ext4 => Some(Volume::new(scratch.path(), &["mkfs.ext4", "-q", "-O", "^metadata_csum"])),
        };
        let base = volume.as_ref().map_or(scratch.path(), |volume| &volume.at);
        let (dir, outside) = (base.join("data"), base.join("outside"));
        for path in [&dir, &outside] {
            fs::create_dir(path).expect("a directory");
        }
        let guest = match guest {
            Some(mut guest) => {
                call!(guest, libc::SYS_chdir, &dir);
                guest
            }
            None => Driver::start(&dir, Linked::Dynamically),
        };
        let dest = scratch.path().join("backup");
        Self { guest, dir, outside, dest, _volume: volume, _scratch: scratch }
    }

    /// A file in the data directory, with content that tells its blocks apart.
    pub fn file(&self, name: &str, size: usize) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(&path, content(size)).expect("written");
        path
    }

    /// The same beside the data directory.
    pub fn file_outside(&self, name: &str, size: usize) -> PathBuf {
        let path = self.outside.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(&path, content(size)).expect("written");
        path
    }

    /// A directory in the data directory.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::create_dir_all(&path).expect("made");
        path
    }
}

/// Bytes of which no two blocks are alike.
pub fn content(size: usize) -> Vec<u8> {
    let word = |at: usize| (at as u64 / 8 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    (0..size).step_by(8).flat_map(word).take(size).collect()
}

/// Which file system a row is proven on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fs {
    /// The one with the target directory.
    Here,
    /// On a loop device of its own.
    Xfs,
    /// The same, with exchanges of ranges between files, which mkfs.xfs knows from 6.10 on.
    XfsExchanging,
    /// In memory.
    Tmpfs,
    /// On a loop device of its own.
    Btrfs,
    /// On a loop device of its own.
    Ext4,
}

/// A file system on a loop device, unmounted when dropped, and then detached.
struct Volume {
    at: PathBuf,
    _mount: Mount,
    _device: Option<Loop>,
}

impl Volume {
    fn new(scratch: &Path, make: &[&str]) -> Self {
        Self::mounted(scratch, &image(scratch, make))
    }

    fn in_memory(scratch: &Path) -> Self {
        let at = scratch.join("volume");
        fs::create_dir(&at).expect("a mount point");
        run("mount", &["-t", "tmpfs", "none", path(&at)]);
        Self { at: at.clone(), _mount: Mount(at), _device: None }
    }

    /// The feature is one bit in the superblock, which has a checksum.
    fn exchanging(scratch: &Path) -> Self {
        const INCOMPATIBLE: usize = 216;
        const CHECKSUM: usize = 224;
        const EXCHANGES: u8 = 1 << 6;
        let image = image(scratch, &["mkfs.xfs", "-q", "-m", "reflink=1"]);
        let mut block = [0; 512];
        let file = fs::File::options().read(true).write(true).open(&image).expect("the image");
        file.read_exact_at(&mut block, 0).expect("read");
        block[INCOMPATIBLE + 3] |= EXCHANGES;
        block[CHECKSUM..CHECKSUM + 4].fill(0);
        let sum = crc32c(&block);
        block[CHECKSUM..CHECKSUM + 4].copy_from_slice(&sum.to_le_bytes());
        file.write_all_at(&block, 0).expect("written");
        Self::mounted(scratch, &image)
    }

    fn mounted(scratch: &Path, image: &Path) -> Self {
        let at = scratch.join("volume");
        let device = Loop::new(image);
        Self { at: at.clone(), _mount: Mount::new(&device.0, at), _device: Some(device) }
    }
}

/// Castagnoli's.
fn crc32c(data: &[u8]) -> u32 {
    let step = |sum: u32, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
    !data.iter().fold(!0, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), step))
}

fn image(scratch: &Path, make: &[&str]) -> PathBuf {
    let image = scratch.join("image");
    fs::File::create(&image).and_then(|file| file.set_len(512 << 20)).expect("an image");
    run(make[0], &[&make[1..], &[path(&image)]].concat());
    image
}

fn run(program: &str, arguments: &[&str]) {
    disk::run(program, &arguments.iter().map(AsRef::as_ref).collect::<Vec<_>>());
}

fn path(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

/// What must become of a backup.
#[derive(Clone, Copy)]
pub enum Outcome {
    /// It is right.
    Right,
    /// It is right, and holds nothing of the change, of which change times alone tell.
    Unkept,
    /// Before the point it must fail for this cause; after it, it is right or fails for it.
    Refused(fn(&Error) -> bool),
    /// Before the point it is right; after it, right too or failed for this cause.
    RightOrRefused(fn(&Error) -> bool),
}

/// Proves that a change is in a backup exactly if it came before the point in time. `set_up` makes the tree and opens
/// what is to be open at attach; what it returns makes the change.
pub fn proven<C>(set_up: impl Fn(&mut Bench) -> C)
where
    C: FnOnce(&mut Bench) + Send,
{
    proven_at(&MOMENTS, Fs::Here, set_up);
}

/// The same on a file system.
pub fn proven_on<C>(fs: Fs, set_up: impl Fn(&mut Bench) -> C)
where
    C: FnOnce(&mut Bench) + Send,
{
    proven_at(&MOMENTS, fs, set_up);
}

/// The same at some moments only. The guest stays, from one backup to the next.
pub fn proven_at<C>(moments: &[Moment], fs: Fs, set_up: impl Fn(&mut Bench) -> C)
where
    C: FnOnce(&mut Bench) + Send,
{
    let mut guest = None;
    for &moment in moments {
        guest = Some(at(moment, Bench::new(fs, guest), Outcome::Right, &set_up));
    }
}

/// Proves that a change of which a backup holds nothing does not fail it.
pub fn unkept_on<C>(fs: Fs, set_up: impl Fn(&mut Bench) -> C)
where
    C: FnOnce(&mut Bench) + Send,
{
    let mut guest = None;
    for moment in MOMENTS {
        guest = Some(at(moment, Bench::new(fs, guest), Outcome::Unkept, &set_up));
    }
}

/// Proves that a change which cannot be followed fails the backup for its cause.
pub fn refused<C>(cause: fn(&Error) -> bool, set_up: impl Fn(&mut Bench) -> C)
where
    C: FnOnce(&mut Bench) + Send,
{
    refused_on(Fs::Here, cause, set_up);
}

/// The same on a file system.
pub fn refused_on<C>(fs: Fs, cause: fn(&Error) -> bool, set_up: impl Fn(&mut Bench) -> C)
where
    C: FnOnce(&mut Bench) + Send,
{
    for moment in MOMENTS {
        at(moment, Bench::new(fs, None), Outcome::Refused(cause), &set_up);
    }
}

/// Proves that a change which is found out late is in a backup if it came before the point in time, and not in one that
/// succeeds if it came after it.
pub fn found_out<C>(cause: fn(&Error) -> bool, set_up: impl Fn(&mut Bench) -> C)
where
    C: FnOnce(&mut Bench) + Send,
{
    found_out_on(Fs::Here, cause, set_up);
}

/// The same on a file system.
pub fn found_out_on<C>(fs: Fs, cause: fn(&Error) -> bool, set_up: impl Fn(&mut Bench) -> C)
where
    C: FnOnce(&mut Bench) + Send,
{
    for moment in MOMENTS {
        at(moment, Bench::new(fs, None), Outcome::RightOrRefused(cause), &set_up);
    }
}

fn at<C>(moment: Moment, mut bench: Bench, outcome: Outcome, set_up: &impl Fn(&mut Bench) -> C) -> Driver
where
    C: FnOnce(&mut Bench) + Send,
{
    let change = set_up(&mut bench);
    let (pid, dir, dest) = (bench.guest.pid(), bench.dir.clone(), bench.dest.clone());
    let mut seen = None;
    let result = back_up(pid, &dir, &dest, moment, || {
        let times = || if matches!(outcome, Outcome::Unkept) { change_times(&dir) } else { BTreeMap::new() };
        let before = (Snapshot::of(&dir), times());
        change(&mut bench);
        let after = (Snapshot::of(&dir), times());
        seen = Some((before, after));
    });
    bench.guest.assert_alive();
    let Some(((before, first), (after, last))) = seen else {
        panic!("{moment:?}: the backup failed too soon: {:?}", result.err())
    };
    let expected = if moment.is_before() { &after } else { &before };
    match (result, outcome) {
        (Ok(report), outcome) => {
            let must_fail = moment.is_before() && matches!(outcome, Outcome::Refused(_));
            assert!(!must_fail, "{moment:?}: the backup succeeded");
            compare(moment, expected, &dest, &format!("{report:?}"));
        }
        (Err(failure), outcome) => {
            let may_fail = match outcome {
                Outcome::Right | Outcome::Unkept => false,
                Outcome::Refused(cause) => cause(&failure.0),
                Outcome::RightOrRefused(cause) => !moment.is_before() && cause(&failure.0),
            };
            assert!(may_fail, "{moment:?}: the backup failed: {}", failure.0);
            assert!(!dest.exists(), "{moment:?}: a failed backup left {dest:?}");
        }
    }
    let differences = before.differences(&after);
    let changed = match outcome {
        Outcome::Unkept => differences.is_empty() && first != last,
        _ => !differences.is_empty(),
    };
    let proof = changed || matches!(outcome, Outcome::Refused(_));
    assert!(proof, "{moment:?}: nothing is proven by these changes: {differences:?}");
    bench.guest
}

/// When each entry was last changed in any way.
fn change_times(dir: &Path) -> BTreeMap<PathBuf, (i64, i64)> {
    let mut times = BTreeMap::new();
    let mut next = vec![dir.to_owned()];
    while let Some(path) = next.pop() {
        let data = path.symlink_metadata().expect("it is there");
        if data.is_dir() {
            let entries = fs::read_dir(&path).expect("readable");
            next.extend(entries.map(|entry| entry.expect("readable").path()));
        }
        times.insert(path, (data.ctime(), data.ctime_nsec()));
    }
    times
}

/// Fails unless a backup is what is expected.
pub fn compare(moment: Moment, expected: &Snapshot, dest: &Path, report: &str) {
    let differences = expected.differences(&Snapshot::of(dest));
    assert!(differences.is_empty(), "{moment:?}: the backup is wrong:\n{}\n{report}", differences.join("\n"));
    verify(dest);
}
