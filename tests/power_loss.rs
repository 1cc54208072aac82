//! Power lost at any moment leaves no backup under the final name, or a complete one; and a backup that has reported
//! success is there whatever is lost later.
//!
//! A whole backup is recorded below its file system: every write to the disk and every flush. Then, in a second pass, the
//! disk is built as a power failure could have left it: everything up to a flush, and of what was written after that,
//! any part. Each such disk is mounted (which replays its journal), looked at, and every few of them must take the next
//! backup.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotbackup_copier::io::{Direct, Io};
use hotbackup_copier::{Backup, Control, Monitor, Point, Quiesce, Source, Spec, Tuning};
use tempfile::TempDir;

mod common {
    pub mod backup;
    pub mod disk;
    pub mod random;
}
use common::backup::{alone, number_from, scratch, seed};
use common::disk::{Disk, Loop, Mount, Step, make_file_system, run};
use common::random::Random;

/// Large enough for the smallest file systems.
const DISK: usize = 40 << 20;
/// A disk loses writes in units of at least this.
const UNIT: usize = 4096;

static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// Parts of what was written after each flush that are tried.
fn parts_tried() -> u64 {
    number_from("HOTBACKUP_POWER_CUTS", 1)
}

/// How everything is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syncs {
    EachFile,
    Whole,
}

/// The syncs that are left out, to see that it is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeftOut {
    None,
    Files,
    Everything,
}

struct Lazy(LeftOut);

impl Io for Lazy {
    fn sync(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let is_file = || File::from(fd.try_clone_to_owned().expect("an fd")).metadata().expect("its status").is_file();
        match self.0 {
            LeftOut::Everything => Ok(()),
            LeftOut::Files if is_file() => Ok(()),
            _ => Direct.sync(fd),
        }
    }

    fn sync_all(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if self.0 == LeftOut::None { Direct.sync_all(fd) } else { Ok(()) }
    }
}

/// Nobody writes to the source.
struct Still;
impl Quiesce for Still {
    fn grace(&self) -> Result<(), String> {
        Ok(())
    }
}
impl Monitor for Still {}

/// What is backed up: files of all sizes, a hole, a link, directories.
fn make_source() -> TempDir {
    let source = scratch();
    let at = |name: &str| source.path().join(name);
    fs::create_dir_all(at("dir/deep")).expect("made");
    for (index, name) in ["a", "dir/b", "dir/deep/c", "dir/d", "e"].iter().enumerate() {
        let bytes: Vec<u8> = (0..index * 150_000 + 11).map(|at| (at * 7 + index + at / 4096) as u8).collect();
        fs::write(at(name), bytes).expect("written");
    }
    fs::write(at("empty"), "").expect("written");
    File::create(at("hole")).and_then(|file| file.write_all_at(b"end", 300_000)).expect("written");
    fs::hard_link(at("a"), at("dir/linked")).expect("linked");
    std::os::unix::fs::symlink("a", at("symlink")).expect("linked");
    source
}

fn back_up(source: &Path, dest: &Path, syncs: Syncs, left_out: LeftOut) {
    let sync_each_below = if syncs == Syncs::Whole { 0 } else { 512 };
    let root = File::open(source).expect("there").into();
    let spec = Spec {
        sources: vec![Source { root, path: source.to_owned(), name: None }],
        dest: dest.to_owned(),
        point: Point::End,
        exclude: Vec::new(),
        tuning: Tuning { sync_each_below, ..Tuning::default() },
        pid: std::process::id().cast_signed(),
        root: None,
    };
    let backup = Backup::<()>::prepare_with(spec, Arc::new(Lazy(left_out))).expect("prepared");
    backup.run(&Still, &Still, &Control::default()).expect("a backup");
}

/// A backup, as the disk saw it.
struct Recording {
    source: TempDir,
    /// The disk before it.
    before: Vec<u8>,
    steps: Vec<Step>,
    /// How many of the steps had been done when success was reported.
    reported: usize,
}

impl Recording {
    fn new(kind: &str, syncs: Syncs, left_out: LeftOut) -> Self {
        let source = make_source();
        let disk = Disk::new(DISK);
        let more: &[&str] = if kind == "xfs" { &["--unsupported"] } else { &["-b", "4096"] };
        make_file_system(kind, disk.device(), more);
        let mounts = scratch();
        let mount = Mount::new(disk.device(), mounts.path().join("mount"));
        if syncs == Syncs::Whole {
            // One variant makes the name, the other replaces an empty directory.
            fs::create_dir(mount.0.join("backup")).expect("made");
        }
        File::open(&mount.0).and_then(|root| Direct.sync_all(fd(&root))).expect("synced");
        let before = disk.image();
        disk.record();
        back_up(source.path(), &mount.0.join("backup"), syncs, left_out);
        let mut steps = disk.recorded();
        let reported = steps.len();
        disk.record();
        // Whoever else uses the file system may sync something at any time: here, just after the end.
        File::open(&mount.0).and_then(|root| Direct.sync(fd(&root))).expect("synced");
        mount.unmount();
        steps.append(&mut disk.recorded());
        Self { source, before, steps, reported }
    }

    fn flushes(&self) -> usize {
        self.steps.iter().filter(|step| matches!(step, Step::Flush)).count()
    }
}

fn fd(file: &File) -> BorrowedFd<'_> {
    std::os::fd::AsFd::as_fd(file)
}

/// What is found under the final name.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    Complete,
    Broken(String),
}

/// A place where disks are built and mounted.
struct Bench {
    // In the order in which it is taken down.
    device: Loop,
    file: File,
    /// Memory: a real disk would be asked to flush for each of them.
    memory: Mount,
    _at: TempDir,
}

impl Bench {
    fn new() -> Self {
        let at = scratch();
        run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "tmpfs".as_ref(), at.path().as_os_str()]);
        let memory = Mount(at.path().to_owned());
        let file = File::create_new(memory.0.join("disk")).expect("made");
        file.set_len(DISK as u64).expect("grown");
        let device = Loop::new(&memory.0.join("disk"));
        Self { device, file, memory, _at: at }
    }

    fn mount(&self, image: &[u8]) -> Mount {
        // A new file each time would be a new device each time. Most of it is zeros.
        self.file.set_len(0).and_then(|()| self.file.set_len(DISK as u64)).expect("cleared");
        for (index, piece) in image.chunks(ZEROS.len()).enumerate() {
            if *piece != ZEROS[..piece.len()] {
                self.file.write_all_at(piece, (index * ZEROS.len()) as u64).expect("written");
            }
        }
        Mount::new(&self.device.0, self.memory.0.join("mount"))
    }

    fn look(&self, image: &[u8], source: &Path, takes_the_next: bool) -> Found {
        let mount = self.mount(image);
        let dest = mount.0.join("backup");
        let found = look_at(&dest, source);
        if takes_the_next && found == Found::Nothing {
            back_up(source, &dest, Syncs::EachFile, LeftOut::None);
            assert_eq!(look_at(&dest, source), Found::Complete);
            let left = names(&mount.0).into_iter().filter(|name| name.contains("hotbackup-partial")).count();
            assert_eq!(left, 0, "the next backup left the rest of the one that was cut off");
        }
        mount.unmount();
        found
    }
}

fn names(dir: &Path) -> Vec<String> {
    let name = |entry: io::Result<fs::DirEntry>| entry.expect("readable").file_name().to_string_lossy().into_owned();
    fs::read_dir(dir).expect("readable").map(name).collect()
}

fn look_at(dest: &Path, source: &Path) -> Found {
    if !dest.exists() || names(dest).is_empty() {
        return Found::Nothing;
    }
    match hotbackup_copier::verify(dest, &Still) {
        Err(error) => return Found::Broken(error.to_string()),
        Ok(report) if !report.problems.is_empty() => return Found::Broken(format!("{:?}", report.problems)),
        Ok(_) => {}
    }
    // The manifest is part of the backup: what it says is compared with the source, too.
    match difference(source, dest) {
        Some(path) => Found::Broken(format!("{path:?} is not what it is in the source")),
        None => Found::Complete,
    }
}

fn difference(source: &Path, dest: &Path) -> Option<PathBuf> {
    for name in names(source) {
        let (here, there) = (source.join(&name), dest.join(&name));
        let same = match fs::symlink_metadata(&here).expect("there") {
            data if data.is_dir() => match difference(&here, &there) {
                None => continue,
                found => return found,
            },
            data if data.is_symlink() => fs::read_link(&here).ok() == fs::read_link(&there).ok(),
            _ => fs::read(&here).ok() == fs::read(&there).ok(),
        };
        if !same {
            return Some(there);
        }
    }
    None
}

fn apply(image: &mut [u8], at: u64, data: &[u8]) {
    image[at as usize..at as usize + data.len()].copy_from_slice(data);
}

/// Each piece of what was written reaches the disk in `chances` of 8 cases.
fn apply_part(image: &mut [u8], steps: &[Step], random: &mut Random, chances: u64) {
    for step in steps {
        let Step::Write(at, data) = step else { unreachable!("between two flushes") };
        for (index, piece) in data.chunks(UNIT).enumerate() {
            if random.below(8) < chances {
                apply(image, at + (index * UNIT) as u64, piece);
            }
        }
    }
}

/// What a recording may leave behind, over all moments that were tried.
#[derive(Debug, Default)]
struct Outcomes {
    states: u64,
    nothing: u64,
    complete: u64,
    broken: Vec<String>,
    /// Success had been reported, and the backup is not there.
    lost: u64,
}

fn cut_everywhere(recording: &Recording, parts: u64, random: &mut Random) -> Outcomes {
    let bench = Bench::new();
    let (mut outcomes, mut image, mut done) = (Outcomes::default(), recording.before.clone(), 0);
    while done < recording.steps.len() {
        let until_flush = recording.steps[done..].iter().position(|step| matches!(step, Step::Flush));
        let unsafe_steps = &recording.steps[done..until_flush.map_or(recording.steps.len(), |at| done + at)];
        // Nothing of what came after the last flush, and parts of it.
        for part in 0..=parts {
            if part > 0 && unsafe_steps.is_empty() {
                break;
            }
            let mut state = image.clone();
            if part > 0 {
                let chances = 1 + random.next() % 7;
                apply_part(&mut state, unsafe_steps, random, chances);
            }
            let takes_the_next = outcomes.states.is_multiple_of(8);
            outcomes.states += 1;
            let moment = format!("cut after step {done} of {}, part {part}", recording.steps.len());
            match bench.look(&state, recording.source.path(), takes_the_next) {
                Found::Nothing if done >= recording.reported => {
                    outcomes.lost += 1;
                    println!("{moment}: the backup is not there, though it had been reported");
                }
                Found::Nothing => outcomes.nothing += 1,
                Found::Complete => outcomes.complete += 1,
                Found::Broken(what) => outcomes.broken.push(format!("{moment}: {what}")),
            }
        }
        for step in unsafe_steps {
            if let Step::Write(at, data) = step {
                apply(&mut image, *at, data);
            }
        }
        done += unsafe_steps.len() + 1;
    }
    println!(
        "{} flushes, {} states: {} without a backup, {} with one, {} broken, {} lost",
        recording.flushes(),
        outcomes.states,
        outcomes.nothing,
        outcomes.complete,
        outcomes.broken.len(),
        outcomes.lost
    );
    outcomes
}

fn survives(kind: &str, syncs: Syncs) {
    let _alone = alone();
    let mut random = Random::new(seed());
    let recording = Recording::new(kind, syncs, LeftOut::None);
    let outcomes = cut_everywhere(&recording, parts_tried(), &mut random);
    assert!(outcomes.broken.is_empty(), "{:#?}", outcomes.broken);
    assert_eq!(outcomes.lost, 0, "a backup that reported success is gone");
    // The moments lie on both sides of the publishing, or they prove nothing.
    assert!(outcomes.nothing > 2 && outcomes.complete > 0, "{outcomes:?}");
}

#[test]
fn power_lost_on_ext4_leaves_no_backup_or_a_complete_one_when_each_file_is_synced() {
    survives("ext4", Syncs::EachFile);
}

#[test]
fn power_lost_on_ext4_leaves_no_backup_or_a_complete_one_when_the_whole_is_synced() {
    survives("ext4", Syncs::Whole);
}

#[test]
fn power_lost_on_xfs_leaves_no_backup_or_a_complete_one_when_each_file_is_synced() {
    survives("xfs", Syncs::EachFile);
}

#[test]
fn power_lost_on_xfs_leaves_no_backup_or_a_complete_one_when_the_whole_is_synced() {
    survives("xfs", Syncs::Whole);
}

/// The check itself: it finds what is wrong with a backup that leaves its syncs out.
#[test]
fn a_backup_that_does_not_sync_is_found_broken() {
    let _alone = alone();
    let mut random = Random::new(seed());
    for syncs in [Syncs::EachFile, Syncs::Whole] {
        for left_out in [LeftOut::Files, LeftOut::Everything] {
            let recording = Recording::new("ext4", syncs, left_out);
            let outcomes = cut_everywhere(&recording, 0, &mut random);
            assert!(!outcomes.broken.is_empty(), "{syncs:?} without {left_out:?} passes: {outcomes:?}");
            if left_out == LeftOut::Everything {
                assert!(outcomes.lost > 0, "nothing was synced, and nothing was lost: {outcomes:?}");
            }
        }
    }
}
