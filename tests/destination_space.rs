//! The disk that the destination shares with the server is not the backup's to fill: what does not fit is refused before the
//! first byte, and a backup gives up before the server's reserve is touched, whoever fills the disk.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

mod common {
    pub mod acks;
    pub mod backup;
    pub mod destination;
    pub mod disk;
    pub mod filler;
    pub mod guest;
    pub mod load;
    pub mod mongod;
    pub mod random;
}
use common::backup::{self, Outcome, Running, alone, scratch};
use common::destination::{BOUND_MS, add_files, assert_next_succeeds, rings, start, text};
use common::disk::{Volume, run};
use common::filler::{fill, fill_down_to, free, total};
use common::guest::{Guest, Linked, compile};
use common::load;
use common::mongod::{Mongod, Opts};

const MIB: u64 = 1 << 20;

/// A guest and its data on a file system of its own.
struct Shared {
    // In the order in which they go.
    guest: Guest,
    volume: Volume,
    outer: TempDir,
}

impl Shared {
    fn new(kind: &str, mib: u64, more: &[&str]) -> Self {
        let outer = scratch();
        let volume = Volume::new(kind, mib, more, outer.path().join("volume"));
        let guest = guest_in(&volume.at.join("data"));
        Self { guest, volume, outer }
    }

    fn dest(&self) -> PathBuf {
        self.volume.at.join("backup")
    }

    /// Data that the guest leaves alone.
    fn add(&self, mib: u64) {
        fs::write(self.guest.dir.join("ballast"), vec![7; (mib * MIB) as usize]).expect("written");
        sync(&self.volume.at);
    }

    /// Leaves so many KiB beyond the reserve; negative, less than that.
    fn leave(&self, kib: i64) -> PathBuf {
        let reserve = (total(&self.volume.at).0 / 10).cast_signed();
        fill_down_to(&self.volume.at, (reserve + kib * 1024).cast_unsigned())
    }

    /// A backup that was refused or given up left nothing, and the guest alone.
    fn assert_given_up(&mut self, outcome: &Outcome, words: &[&str]) {
        let said = outcome.failure("dest_too_small");
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
        self.guest.assert_goes_on();
    }
}

fn sync(at: &Path) {
    run("sync", &["--file-system".as_ref(), at.as_os_str()]);
}

fn guest_in(dir: &Path) -> Guest {
    fs::create_dir_all(dir).expect("made");
    let mut command = Command::new(compile("punctual_rings", Linked::Dynamically));
    // 2 MiB in all.
    command.arg(dir).args(["4", "40", "200", &BOUND_MS.to_string()]);
    let beside = TempDir::new_in(dir.parent().expect("a parent")).expect("a directory");
    Guest::spawn(beside, dir.to_owned(), command)
}

const EXT4: [&str; 2] = ["-m", "0"];

#[test]
fn what_does_not_fit_with_the_reserve_is_refused_before_anything_is_written() {
    let _alone = alone();
    for (kind, mib, more) in [("ext4", 96, &EXT4[..]), ("xfs", 300, &[])] {
        let mut shared = Shared::new(kind, mib, more);
        shared.add(mib * 45 / 100);
        let outcome = start(&shared.guest, &shared.dest(), &[]).finish();
        let reserve = format!("and {} of these", total(&shared.volume.at).0 / 10);
        shared.assert_given_up(&outcome, &["does not fit", "bytes", "--reserve", &reserve]);
        assert!(outcome.events.iter().all(|event| event["bytes_copied"].as_u64().unwrap_or(0) == 0));
        // It would without a reserve.
        let (needed, left) = (mib * 46 / 100 * MIB, free(&shared.volume.at).0);
        if needed + 4 * MIB < left {
            let outcome = start(&shared.guest, &shared.dest(), &["--reserve", "0"]).finish();
            outcome.report();
        }
        drop(shared);
    }
}

/// A long file of holes is no reason: its data fits.
#[test]
fn what_is_counted_are_data_and_not_lengths() {
    let _alone = alone();
    let mut shared = Shared::new("ext4", 96, &EXT4);
    File::create(shared.guest.dir.join("ballast")).and_then(|file| file.set_len(1 << 36)).expect("a hole");
    start(&shared.guest, &shared.dest(), &[]).finish().report();
    shared.guest.assert_goes_on();
}

/// Nothing is copied, so nothing of ours fills the disk; but it is filled, and a backup that may still grow goes away.
#[test]
fn it_gives_up_when_others_fill_the_disk_while_copying_is_paused_in_any_phase() {
    let _alone = alone();
    for (point, phase) in [("end", "track"), ("start", "drain")] {
        let mut shared = Shared::new("ext4", 96, &EXT4);
        shared.add(8);
        let mut running = start(&shared.guest, &shared.dest(), &["--throttle", "0", "--point", point]);
        running.wait_for_phase(phase);
        let filler = shared.leave(-1024);
        shared.assert_given_up(&running.finish(), &["left"]);
        fs::remove_file(filler).expect("ours");
        start(&shared.guest, &shared.dest(), &[]).finish().report();
    }
}

#[test]
fn it_gives_up_when_its_own_copy_comes_to_the_reserve() {
    let _alone = alone();
    let mut shared = Shared::new("ext4", 96, &EXT4);
    shared.add(24);
    // All of it would take minutes; a MiB takes seconds.
    let mut running = start(&shared.guest, &shared.dest(), &["--throttle", "128KiB"]);
    running.wait_for_copying();
    let filler = shared.leave(1024);
    shared.assert_given_up(&running.finish(), &["was given up", "bytes"]);
    let reserve = total(&shared.volume.at).0 / 10;
    assert!(free(&shared.volume.at).0 >= reserve, "the reserve was touched");
    fs::remove_file(filler).expect("ours");
}

#[test]
fn inodes_are_left_like_bytes() {
    let _alone = alone();
    let mut shared = Shared::new("ext4", 96, &["-m", "0", "-N", "1024"]);
    add_files(&shared.guest, 300);
    let outcome = start(&shared.guest, &shared.dest(), &[]).finish();
    shared.assert_given_up(&outcome, &["does not fit", "inodes"]);
    (50..300).for_each(|number| fs::remove_dir_all(shared.guest.dir.join(format!("d{number}"))).expect("ours"));
    let mut running = start(&shared.guest, &shared.dest(), &["--throttle", "0"]);
    running.wait_for_phase("track");
    let many = shared.volume.at.join("many");
    fs::create_dir(&many).expect("made");
    let mut number = 0;
    while free(&shared.volume.at).1 >= total(&shared.volume.at).1 / 20 {
        fs::write(many.join(number.to_string()), b"").expect("made");
        number += 1;
    }
    shared.assert_given_up(&running.finish(), &["inodes"]);
}

/// The server's own disk is full already, and the destination another one: now more than ever.
#[test]
fn a_full_source_is_backed_up_elsewhere() {
    let _alone = alone();
    let mut shared = Shared::new("ext4", 64, &EXT4);
    let _filler = fill(&shared.volume.at, 64);
    let elsewhere = scratch();
    start(&shared.guest, &elsewhere.path().join("backup"), &[]).finish().report();
    shared.guest.assert_goes_on();
}

#[test]
fn a_destination_of_its_own_is_only_looked_at_beforehand() {
    let _alone = alone();
    let mut guest = rings(8);
    let volume = Volume::new("ext4", 64, &EXT4, guest.beside("volume"));
    let dest = volume.at.join("backup");
    let filler = fill(&volume.at, 3 << 10);
    let said = start(&guest, &dest, &[]).finish().failure("dest_too_small");
    assert!(said.contains("0 of these are"), "{said}");
    assert_eq!(volume.names(), ["filler"]);
    fs::remove_file(filler).expect("ours");
    assert_next_succeeds(&mut guest, &dest);
}

/// Devices differ, and the space is one: subvolumes, and an overlay above it.
#[test]
fn other_names_of_one_file_system_are_one() {
    let _alone = alone();
    let outer = scratch();
    let volume = Volume::new("btrfs", 256, &[], outer.path().join("volume"));
    for name in ["data", "backups"] {
        let at = volume.at.join(name);
        run("btrfs", &["subvolume".as_ref(), "create".as_ref(), at.as_os_str()]);
    }
    let guest = guest_in(&volume.at.join("data"));
    let mut shared = Shared { guest, volume, outer };
    // Below what is given out to nothing yet, a GiB at a time in larger ones.
    let dest = shared.volume.at.join("backups/backup");
    let mut running = start(&shared.guest, &dest, &["--throttle", "0"]);
    running.wait_for_phase("track");
    let _filler = shared.leave(-4096);
    shared.assert_given_up(&running.finish(), &["left"]);
    drop(shared);

    let mut shared = Shared::new("ext4", 96, &EXT4);
    let volume = shared.volume.at.clone();
    let at = |name: &str| volume.join(name);
    for name in ["lower", "upper", "work"] {
        fs::create_dir(at(name)).expect("made");
    }
    let merged = shared.outer.path().join("merged");
    fs::create_dir(&merged).expect("made");
    let options = ["lower", "upper", "work"].map(|name| format!("{name}dir={}", text(&at(name)))).join(",");
    run("mount", &["-t", "overlay", "overlay", "-o", &options, text(&merged)].map(AsRef::as_ref));
    let overlay = Unmount(merged.clone());
    let mut running = start(&shared.guest, &merged.join("backup"), &["--throttle", "0"]);
    running.wait_for_phase("track");
    let _filler = shared.leave(-1024);
    shared.assert_given_up(&running.finish(), &["left"]);
    drop(overlay);
}

/// Waits until something was copied.
fn wait_for_copying(at: &Path, running: &mut Running) {
    let began = Instant::now();
    let staged = || {
        let names = fs::read_dir(at).expect("readable").flatten().map(|entry| entry.path());
        let mut partial = names.filter(|path| text(path).contains(".hotbackup-partial-"));
        partial
            .next()
            .and_then(|path| fs::read_dir(path.join(".hotbackup/data")).ok())
            .is_some_and(|all| all.count() > 0)
    };
    while !staged() {
        assert!(running.is_running() && began.elapsed() < Duration::from_secs(60), "nothing was copied");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Unmounted when dropped.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// The destination has room of its own, which has to come from the source's disk.
#[test]
fn a_destination_in_a_file_with_holes_on_the_sources_disk_counts_there() {
    let _alone = alone();
    let mut shared = Shared::new("ext4", 128, &EXT4);
    shared.add(64);
    let inner = Volume::new("ext4", 110, &EXT4, shared.volume.at.join("inner"));
    assert!(free(&inner.at).0 > 80 * MIB);
    let outcome = start(&shared.guest, &inner.at.join("backup"), &[]).finish();
    let dir = shared.guest.dir.clone();
    shared.assert_given_up(&outcome, &["does not fit", text(&dir)]);
    drop(inner);
}

/// Room for the data twice, and a server that grows while it is backed up.
#[test]
fn a_real_mongod_never_sees_a_full_disk() {
    let _alone = alone();
    let outer = scratch();
    let volume = Volume::new("ext4", 256, &EXT4, outer.path().join("volume"));
    let dbpath = volume.at.join("db");
    fs::create_dir(&dbpath).expect("made");
    let mut server = Mongod::start(&Opts { dbpath, small_journal: true, ..Opts::default() });
    load::fill(&server.uri(), 24);
    let dest = volume.at.join("backup");
    let reserve = total(&volume.at).0 / 10;
    // What it has is copied once, and the reserve is left, but not much more.
    let _filler = fill_down_to(&volume.at, free(&volume.at).0.min(reserve + 90 * MIB));
    // Slowly, so that it is the server that takes the rest of the disk. Nobody reads what it tells meanwhile.
    let mut running = backup::start(server.pid(), &dest, &["--throttle", "128KiB", "--quiet"]);
    wait_for_copying(&volume.at, &mut running);
    let mut grown = 0;
    while running.is_running() {
        assert!(free(&volume.at).0 > 8 * MIB, "the backup stays, and the disk is nearly full");
        load::fill(&server.uri(), 3);
        grown += 3;
    }
    println!("the server grew by {grown} MiB; {} MiB are free", free(&volume.at).0 / MIB);
    let said = running.finish().failure("dest_too_small");
    assert!(said.contains("left"), "{said}");
    // There is still room for it.
    load::fill(&server.uri(), 2);
    server.assert_unharmed();
    let log = fs::read_to_string(server.log()).expect("a log");
    assert!(!log.contains("No space left") && !log.contains("error: 28"), "mongod saw a full disk");
    // What does not fit any more is refused, or the reserve is all that is left.
    backup::take(server.pid(), &dest, &[]).failure("dest_too_small");
    server.assert_unharmed();
    server.stop();
    drop(volume);
}
