//! The kernel as a writer, for somebody who is not followed: a loop device, swap or process accounting on a file of the
//! source. It is found before the backup or at its end, or by what it has written, and fails the backup. (Core files:
//! `core_files.rs`; what the target asks for itself: `rows/`.)
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hotbackup_copier::Error;
use nix::libc::{self, O_RDWR};
use tempfile::TempDir;

mod common {
    pub mod backup;
    pub mod disk;
    pub mod driver;
    pub mod guest;
    pub mod moment;
    pub mod snapshot;
}
use common::backup::{HOTBACKUP, alone, scratch, verify};
use common::disk::{Loop, Volume, run};
use common::driver::{Driver, bytes};
use common::guest::Linked;
use common::moment::{MOMENTS, Moment, back_up};
use common::snapshot::Snapshot;

const SIZE: usize = 300_000;

struct Bench {
    guest: Driver,
    data: PathBuf,
    dest: PathBuf,
    /// Beside the source.
    base: PathBuf,
    _volume: Option<Volume>,
    _scratch: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self::on(|_| None)
    }

    /// On a file system in a volume of its own, or where all tests work.
    fn on(volume: impl Fn(&Path) -> Option<Volume>) -> Self {
        let scratch = scratch();
        let volume = volume(scratch.path());
        let base = volume.as_ref().map_or(scratch.path(), |volume| &volume.at).to_owned();
        let (data, dest) = (base.join("data"), base.join("backup"));
        fs::create_dir(&data).expect("made");
        let content: Vec<u8> = (0..SIZE).map(|at| (at / 4096) as u8).collect();
        fs::write(data.join("file"), content).expect("written");
        Self { guest: Driver::start(&data, Linked::Dynamically), data, dest, base, _volume: volume, _scratch: scratch }
    }

    fn file(&self) -> PathBuf {
        self.data.join("file")
    }

    /// A backup during which `change` is made; it must fail and name `name`, for a cause with these words.
    fn assert_fails(&mut self, moment: Moment, name: &str, words: &str, change: impl FnOnce() + Send) {
        let result = back_up(self.guest.pid(), &self.data, &self.dest, moment, change);
        match result {
            Err(failure) => {
                let named = matches!(&failure.0, Error::Untraceable { path, cause }
                    if path.ends_with(name) && cause.contains(words));
                assert!(named, "{moment:?}: {}", failure.0);
            }
            Ok(report) => panic!("{moment:?}: the backup succeeded: {report:?}"),
        }
        assert!(!self.dest.exists(), "{moment:?}: a failed backup left {:?}", self.dest);
        self.guest.assert_alive();
    }

    fn assert_right(&mut self) {
        let before = Snapshot::of(&self.data);
        back_up(self.guest.pid(), &self.data, &self.dest, Moment::AfterPointAndCopy, || {})
            .unwrap_or_else(|failure| panic!("{}", failure.0));
        assert_eq!(before.differences(&Snapshot::of(&self.dest)), Vec::<String>::new());
        verify(&self.dest);
        fs::remove_dir_all(&self.dest).expect("removed");
    }
}

const BY_LOOP: &str = "through a loop device";

#[test]
fn a_loop_device_on_a_file_of_the_source_fails_the_backup() {
    let mut bench = Bench::new();
    let mut device = Loop::new(&bench.file());
    for moment in MOMENTS {
        bench.assert_fails(moment, "data/file", BY_LOOP, || {});
    }
    device.detach();
    assert!(device.wait_until_free());
    bench.assert_right();
}

#[test]
fn one_that_comes_during_the_backup_fails_it() {
    for moment in MOMENTS {
        let mut bench = Bench::new();
        let (file, mut device) = (bench.file(), None);
        bench.assert_fails(moment, "data/file", BY_LOOP, || device = Some(Loop::new(&file)));
    }
}

/// Its path leads nowhere: it is known by its number.
#[test]
fn one_on_a_file_that_has_another_name_by_now_fails_the_backup() {
    let mut bench = Bench::new();
    let _device = Loop::new(&bench.file());
    fs::hard_link(bench.file(), bench.data.join("other")).expect("linked");
    fs::remove_file(bench.file()).expect("removed");
    bench.assert_fails(Moment::AfterPoint, "data/other", BY_LOOP, || {});
}

#[test]
fn one_that_only_reads_or_is_on_a_file_beside_the_source_does_not_matter() {
    let mut bench = Bench::new();
    let beside = bench.base.join("beside");
    fs::write(&beside, vec![0; SIZE]).expect("written");
    let _devices = [Loop::reading(&bench.file()), Loop::new(&beside)];
    bench.assert_right();
}

#[test]
fn check_names_the_file_behind_a_loop_device() {
    let bench = Bench::new();
    let _device = Loop::new(&bench.file());
    let mut check = Command::new(HOTBACKUP);
    check.args(["check", "--json", "--pid", &bench.guest.pid().to_string(), "--source"]).arg(&bench.data);
    let output = check.output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("text");
    let report: serde_json::Value = serde_json::from_str(text.lines().next().expect("a result")).expect("JSON");
    let items = report["items"].as_array().expect("items");
    let item = items.iter().find(|item| item["name"] == "nobody else writes").expect("the item");
    assert_eq!(item["ok"], false, "{report:#}");
    let detail = item["detail"].as_str().expect("text");
    assert!(detail.contains("data/file") && detail.contains(BY_LOOP), "{detail}");
}

/// A file as swap, until this is dropped.
struct Swap(PathBuf);

impl Swap {
    fn on(file: &Path) -> Self {
        fs::write(file, vec![0; 256 << 10]).expect("written");
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode can be set");
        run("mkswap", &[file.as_os_str()]);
        // It must be on the disk before it can be used.
        run("sync", &[file.as_os_str()]);
        run("swapon", &[file.as_os_str()]);
        Self(file.to_owned())
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        let _ = Command::new("swapoff").arg(&self.0).status();
    }
}

const BY_SWAP: &str = "uses it as swap";

fn ext4(scratch: &Path) -> Option<Volume> {
    Some(Volume::new("ext4", 64, &[], scratch.join("volume")))
}

#[test]
fn swap_on_a_file_of_the_source_fails_the_backup() {
    let mut bench = Bench::on(ext4);
    // As procfs shows it, with an escape.
    let swap = Swap::on(&bench.data.join("a swap"));
    for moment in [Moment::BeforePoint, Moment::AfterPoint] {
        bench.assert_fails(moment, "data/a swap", BY_SWAP, || {});
    }
    drop(swap);
    bench.assert_right();
}

#[test]
fn swap_that_is_switched_on_during_the_backup_fails_it() {
    for moment in [Moment::BeforePoint, Moment::AfterPoint] {
        let mut bench = Bench::on(ext4);
        let (file, mut swap) = (bench.data.join("swap"), None);
        fs::write(&file, vec![0; 256 << 10]).expect("written");
        run("mkswap", &[file.as_os_str()]);
        run("sync", &[file.as_os_str()]);
        bench.assert_fails(moment, "data/swap", BY_SWAP, || {
            run("swapon", &[file.as_os_str()]);
            swap = Some(Swap(file.clone()));
        });
    }
}

/// Another process has ended processes written down in a file of the source. Nothing tells which file that is: what is
/// written is found by the file's change time or, where the target writes to it, too, by its content.
#[test]
fn accounting_on_a_file_of_the_source_fails_the_backup_once_it_has_written() {
    let _alone = alone();
    for busy in [false, true] {
        for moment in MOMENTS {
            let mut bench = Bench::new();
            let mut other = Driver::start(&bench.base, Linked::Dynamically);
            let file = bench.file();
            let fd = bench.guest.open(&file, O_RDWR);
            let (pid, data, dest) = (bench.guest.pid(), bench.data.clone(), bench.dest.clone());
            let size = || file.metadata().expect("it is there").len();
            let mut seen = None;
            let result = back_up(pid, &data, &dest, moment, || {
                let (before, from) = (Snapshot::of(&data), size());
                call!(other, libc::SYS_acct, &file);
                run("true", &[]);
                call!(other, libc::SYS_acct, 0);
                assert!(size() > from, "nothing was written");
                if busy {
                    call!(bench.guest, libc::SYS_pwrite64, fd, bytes(b"ordinary"), 8, 100);
                }
                seen = Some((before, Snapshot::of(&data)));
            });
            let what = format!("busy: {busy}, {moment:?}");
            match result {
                Ok(report) => {
                    // Where the target writes to the file, too, its size is looked at, and what is new there is copied.
                    assert!(busy, "{what}: the backup succeeded: {report:?}");
                    let (before, after) = seen.expect("the change was made");
                    let expected = if moment.is_before() { after } else { before };
                    let differences = expected.differences(&Snapshot::of(&dest));
                    assert!(differences.is_empty(), "{what}: the backup is wrong:\n{}", differences.join("\n"));
                }
                Err(failure) => {
                    let named = matches!(&failure.0, Error::ForeignChange { path, .. } | Error::Unexplained { path, .. }
                        if path.ends_with("data/file"));
                    assert!(named, "{what}: {}", failure.0);
                }
            }
        }
    }
}
