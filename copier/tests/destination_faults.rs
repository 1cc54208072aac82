//! A destination that moves away, stands still or fails late: nothing is published that cannot be found, nothing is
//! removed that is not ours, and the target waits for none of it.
#![forbid(unsafe_code)]
mod common;

use common::faulty::{Faulty, Kind};
use common::{AtPhase, BLOCK, Bench, Quiet, pattern, until};
use hotbackup_copier::io::{Direct, Io};
use hotbackup_copier::{Control, Error, Phase, Point, verify};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A source, and a destination in a directory of its own.
fn bench() -> Bench {
    let mut bench = Bench::new();
    fs::create_dir(bench.source.join("dir")).unwrap();
    for (name, len) in [("a", 200_000), ("dir/b", 70_000), ("dir/empty", 0)] {
        fs::write(bench.source.join(name), pattern(1, len)).unwrap();
    }
    let volume = bench.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    bench.dest = volume.join("dest");
    bench
}

fn names(dir: impl Into<PathBuf>) -> Vec<OsString> {
    let mut names: Vec<_> = fs::read_dir(dir.into()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    names
}

/// Counts the syncs of one backup.
fn syncs(bench: &Bench) -> u64 {
    let io = Arc::new(Faulty::default());
    let (backup, target) = bench.prepare_with(Point::End, &io);
    backup.run(&*target.calls, &Quiet, &Control::default()).unwrap();
    fs::remove_dir_all(&bench.dest).unwrap();
    io.count(Kind::Sync)
}

#[test]
fn a_name_that_cannot_be_made_durable_is_taken_back() {
    for empty_directory in [false, true] {
        let bench = bench();
        let last = syncs(&bench) - 1;
        if empty_directory {
            fs::create_dir(&bench.dest).unwrap();
        }
        let io = Arc::new(Faulty::failing(Kind::Sync, last, Errno::IO));
        let (backup, target) = bench.prepare_with(Point::End, &io);
        let result = backup.run(&*target.calls, &Quiet, &Control::default());
        assert!(matches!(&result, Err(Error::DestIo { op: "sync", path, .. }) if *path == bench.dest), "{result:?}");
        assert!(io.failed.load(Ordering::SeqCst));
        // As it was before: nothing, or the empty directory.
        assert_eq!(names(bench.dest.parent().unwrap()).len(), usize::from(empty_directory));
        assert!(!empty_directory || names(&bench.dest).is_empty());
        bench.back_up(Point::End).unwrap();
    }
}

/// Moves the destination's directory away in a phase and puts another into its place, in which everything has the names
/// that the backup's own things have.
fn moved_away(at: Phase, control: &Control) -> (Bench, Result<(), Error>) {
    let bench = bench();
    let (volume, away) = (bench.dir.path().join("volume"), bench.dir.path().join("away"));
    let (backup, target) = bench.prepare(Point::End);
    let moves = AtPhase::new(|phase| {
        if phase == at {
            let staged = names(&volume);
            assert_eq!(staged.len(), 1);
            fs::rename(&volume, &away).unwrap();
            fs::create_dir_all(volume.join(&staged[0]).join(".hotbackup")).unwrap();
            fs::write(volume.join(&staged[0]).join("precious"), b"x").unwrap();
            if at == Phase::Drain {
                control.cancel();
            }
        }
    });
    let result = backup.run(&*target.calls, &moves, control).map(drop);
    assert!(names(&away).is_empty(), "left behind: {:?}", names(&away));
    let left = names(&volume);
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(volume.join(&left[0]).join("precious").exists(), "somebody else's file was removed");
    (bench, result)
}

#[test]
fn a_destination_that_is_moved_away_fails_the_backup_and_nothing_is_left_or_removed_elsewhere() {
    for at in [Phase::Track, Phase::Hold, Phase::Publish] {
        let (bench, result) = moved_away(at, &Control::default());
        assert!(matches!(&result, Err(Error::DestIo { op: "find", .. })), "{at:?}: {result:?}");
        let said = result.unwrap_err().to_string();
        assert!(said.contains("volume") && said.contains("mount it again"), "{said}");
        assert!(!bench.dest.exists());
    }
}

#[test]
fn a_cancelled_backup_whose_destination_was_moved_removes_its_own_things_only() {
    let (_bench, result) = moved_away(Phase::Drain, &Control::default());
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
}

/// Moves the destination's directory away in the instant in which the backup gets its name.
struct MovesLate {
    syncs: AtomicU64,
    at: u64,
    bench: Bench,
}

impl Io for MovesLate {
    fn sync(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        if self.syncs.fetch_add(1, Ordering::SeqCst) == self.at {
            fs::rename(self.bench.dir.path().join("volume"), self.bench.dir.path().join("away")).unwrap();
        }
        Direct.sync(fd)
    }
}

#[test]
fn a_backup_that_cannot_be_found_under_its_name_is_not_published() {
    let bench = bench();
    let at = syncs(&bench) - 1;
    let io = Arc::new(MovesLate { syncs: 0.into(), at, bench });
    let (backup, target) = io.bench.prepare_with(Point::End, &io);
    let result = backup.run(&*target.calls, &Quiet, &Control::default());
    assert!(matches!(&result, Err(Error::DestIo { op: "find", .. })), "{result:?}");
    assert!(names(io.bench.dir.path().join("away")).is_empty());
}

#[test]
fn cancelling_lets_a_waiting_call_go_while_the_destination_stands_still() {
    let mut bench = bench();
    // Room for one write; and whoever waits for more waits far longer than this test.
    bench.tuning.before_image_bytes = 0;
    bench.tuning.max_wait = Duration::from_secs(600);
    fs::write(bench.source.join("big"), pattern(2, 64 * BLOCK as usize)).unwrap();
    let io = Arc::new(Faulty::default());
    let (backup, target) = bench.prepare_with(Point::Start, &io);
    let (control, big) = (Control::new(Some(0)), bench.source.join("big"));
    std::thread::scope(|scope| {
        let drains = AtPhase::new(|phase| {
            if phase == Phase::Drain {
                io.writes.shut(true);
                control.set_throttle(None);
                // More before-images than there is room for.
                scope.spawn(|| {
                    for block in 0..64 {
                        target.pwrite(&big, block * BLOCK, b"new");
                    }
                });
            }
        });
        let (control, calls, io) = (&control, &target.calls, &io);
        let canceller = scope.spawn(move || {
            until("a call waits for room", || calls.parked() == 1);
            // Not one that is about to be let go.
            let mut since = Instant::now();
            while since.elapsed() < Duration::from_millis(200) {
                if calls.parked() != 1 {
                    since = Instant::now();
                }
                std::thread::yield_now();
            }
            control.cancel();
            until("no call waits any more", || calls.parked() == 0);
            let standing_still = io.writes.is_shut();
            io.writes.shut(false);
            standing_still
        });
        let result = backup.run(&**calls, &drains, control);
        assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
        assert!(canceller.join().unwrap());
    });
    assert!(names(bench.dest.parent().unwrap()).is_empty());
}

/// Remembers how each file was made, and how it is synced.
#[derive(Default)]
struct Watches {
    made: Mutex<Vec<OsString>>,
    synced_as_written: AtomicU64,
    synced_otherwise: AtomicU64,
    whole: AtomicU64,
}

impl Io for Watches {
    fn create(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
        self.made.lock().unwrap().push(name.to_owned());
        Direct.create(dir, name)
    }

    fn sync(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let writable = rustix::fs::fcntl_getfl(fd)?.contains(rustix::fs::OFlags::RDWR);
        let is_file = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode).is_file();
        match (is_file, writable) {
            (true, true) => self.synced_as_written.fetch_add(1, Ordering::SeqCst),
            (true, false) => self.synced_otherwise.fetch_add(1, Ordering::SeqCst),
            _ => 0,
        };
        Direct.sync(fd)
    }

    fn sync_all(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.whole.fetch_add(1, Ordering::SeqCst);
        Direct.sync_all(fd)
    }
}

#[test]
fn each_file_is_synced_through_the_descriptor_that_it_was_written_through() {
    for point in [Point::End, Point::Start] {
        let bench = bench();
        let io = Arc::new(Watches::default());
        let (backup, target) = bench.prepare_with(point, &io);
        let a = bench.source.join("a");
        let writes = AtPhase::new(|phase| {
            if phase != Phase::Publish {
                target.pwrite(&a, 0, b"changed");
            }
        });
        backup.run(&*target.calls, &writes, &Control::default()).unwrap();
        let mut made = io.made.lock().unwrap().clone();
        let all = made.len();
        made.sort();
        made.dedup();
        assert_eq!(made.len(), all, "a file was opened twice, so one of its errors may be lost: {made:?}");
        // Three files and the manifest.
        assert_eq!((all, io.synced_as_written.load(Ordering::SeqCst)), (4, 4));
        assert_eq!(io.synced_otherwise.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn more_files_than_are_held_open_are_all_synced() {
    let mut bench = bench();
    bench.tuning.sync_each_below = 2;
    let io = Arc::new(Watches::default());
    let (backup, target) = bench.prepare_with(Point::End, &io);
    backup.run(&*target.calls, &Quiet, &Control::default()).unwrap();
    let each = io.synced_as_written.load(Ordering::SeqCst) + io.synced_otherwise.load(Ordering::SeqCst);
    // The whole file system and the manifest; or each where the file system does not sync as a whole.
    match io.whole.load(Ordering::SeqCst) {
        1 => assert_eq!(each, 1),
        0 => assert_eq!(each, 4),
        more => panic!("{more} times"),
    }
    assert!(verify(&bench.dest, &Quiet).unwrap().problems.is_empty());
}
