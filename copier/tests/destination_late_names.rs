//! A name that appears while the backup runs, and that the destination takes for one that it has: found when it is put into place at the
//! latest, and never put over the other. On exFAT, by FUSE.
#![forbid(unsafe_code)]
mod common;

use common::volume::Volume;
use common::{AtPhase, Bench, Target};
use hotbackup_copier::{Control, Error, Phase, Point};
use std::fs;
use std::path::Path;

/// What a backup to exFAT says when its target does something in the last moment before T.
fn late(act: impl Fn(&Target, &Path) + Sync) -> Error {
    let mut bench = Bench::new();
    let disk = Volume::exfat(bench.dir.path());
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
