//! A name that appears while the backup runs, and that the destination takes for one that it has: found when it is put into place at the
//! latest, and never put over the other. On exFAT, by FUSE.
#![forbid(unsafe_code)]
mod common;

use common::{AtPhase, Bench, Target};
use hotbackup_copier::{Control, Error, Phase, Point};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An exFAT, unmounted when dropped.
struct ExFat {
    device: String,
    at: PathBuf,
}

fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {} (this test needs root)", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

impl ExFat {
    fn new(dir: &Path) -> Self {
        let (image, at) = (dir.join("image"), dir.join("volume"));
        fs::File::create(&image).unwrap().set_len(32 << 20).unwrap();
        fs::create_dir(&at).unwrap();
        let device = run("losetup", &["--find", "--show", image.to_str().unwrap()]);
        let disk = Self { device, at };
        run("mkfs.exfat", &[&disk.device]);
        run("mount.exfat-fuse", &[&disk.device, disk.at.to_str().unwrap()]);
        disk
    }
}

impl Drop for ExFat {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

/// What a backup to exFAT says when its target does something in the last moment before T.
fn late(act: impl Fn(&Target, &Path) + Sync) -> Error {
    let mut bench = Bench::new();
    let disk = ExFat::new(bench.dir.path());
    fs::write(bench.source.join("collection-a.wt"), b"first").unwrap();
    bench.dest = disk.at.join("backup");
    let (backup, target) = bench.prepare(Point::End);
    let acts = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            act(&target, &bench.source);
        }
    });
    let error = backup.run(&*target.calls, &acts, &Control::default()).expect_err("it cannot be held");
    assert_eq!(fs::read_dir(&disk.at).unwrap().count(), 0, "something was left behind");
    error
}

#[test]
fn a_name_is_never_put_over_another() {
    for point in ["Collection-A.wt", "COLLECTION-A.WT"] {
        let error = late(|target, source| target.create(&source.join(point)));
        assert!(matches!(&error, Error::DestCannotHold { cause, .. } if cause.contains("the same")), "{error}");
    }
    let error = late(|target, source| target.mkdir(&source.join("Collection-A.wt")));
    assert!(matches!(&error, Error::DestCannotHold { .. }), "{error}");
}

#[test]
fn a_name_that_cannot_be_is_told_as_such() {
    for name in ["12:30", "line\nfeed"] {
        let error = late(|target, source| target.create(&source.join(name)));
        assert!(matches!(&error, Error::DestCannotHold { cause, .. } if cause.contains("no such name")), "{error}");
    }
    let error = late(|target, source| target.symlink(Path::new("somewhere"), &source.join("link")));
    assert!(matches!(&error, Error::DestCannotHold { .. }), "{error}");
}
