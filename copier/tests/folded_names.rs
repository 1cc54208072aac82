//! Sources where upper and lower case are the same: a call says one name, and another is listed. What is listed at the point in time is
//! in the backup, each thing once, and nothing is lost that a call meant by another name. On exFAT and NTFS, by FUSE.
#![forbid(unsafe_code)]
mod common;

use common::volume::Volume;
use common::{AtPhase, BLOCK, Bench, Quiet, Target, pattern};
use hotbackup_copier::{Control, Phase, Point, verify};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

type Make = fn(&Path) -> Volume;
/// Each, and whether a file is the same whatever name it is asked for by.
const KINDS: [(Make, bool); 2] = [(Volume::exfat, false), (Volume::ntfs, true)];

/// What is in a directory, by name.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.filter(|path| path.is_file());
    files.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(&path).unwrap())).collect()
}

/// Backs up a source on such a volume while its target does something at one moment. Returns the source as it was then.
fn with_calls(
    make: Make,
    (point, at): (Point, Phase),
    files: &[(&str, &[u8])],
    act: impl Fn(&Target, &dyn Fn(&str) -> PathBuf) + Sync,
) -> (Bench, Volume, BTreeMap<String, Vec<u8>>) {
    let mut bench = Bench::new();
    let volume = make(bench.dir.path());
    bench.source = volume.at.join("source");
    fs::create_dir(&bench.source).unwrap();
    files.iter().for_each(|(name, content)| fs::write(bench.source.join(name), content).unwrap());
    let before = contents(&bench.source);
    // Nothing is copied in the drain but what calls wait for, until they were made.
    let control = Control::new(Some(if at == Phase::Drain { 0 } else { 1 << 40 }));
    let (backup, target) = bench.prepare(point);
    let acts = AtPhase::new(|phase| {
        if phase == at {
            act(&target, &|name| bench.source.join(name));
            control.set_throttle(None);
        }
    });
    backup.run(&*target.calls, &acts, &control).unwrap();
    assert_eq!(verify(&bench.dest, &Quiet).unwrap().problems, []);
    let at_point = if at == Phase::Drain { before } else { contents(&bench.source) };
    (bench, volume, at_point)
}

#[test]
fn each_thing_is_in_the_backup_once_by_the_name_that_is_listed() {
    for (make, same_file) in KINDS {
        for at in [Phase::Track, Phase::Hold] {
            let files: [(&str, &[u8]); 4] = [("log.old", b"old"), ("data", b"data"), ("one", b"1"), ("gone", b"gone")];
            let (bench, _volume, expected) = with_calls(make, (Point::End, at), &files, |target, path| {
                target.rename(&path("LOG.OLD"), &path("log.new"));
                // An open that would make it.
                target.create(&path("DATA"));
                if same_file {
                    target.append(&path("Data"), b" and more");
                }
                target.rename(&path("one"), &path("One"));
                target.unlink(&path("Gone"));
                target.create(&path("new"));
                target.append(&path(if same_file { "NEW" } else { "new" }), b"new");
            });
            assert_eq!(expected["log.new"], b"old");
            assert_eq!(expected.len(), 4, "{expected:?}");
            assert_eq!(contents(&bench.dest), expected, "{at:?}");
        }
    }
}

/// Not on exFAT: its server does not survive that an open file is removed by another name than it was opened by.
#[test]
fn what_goes_by_another_name_after_the_point_in_time_is_saved_before() {
    let (victim, replaced) = (pattern(1, 3 * BLOCK as usize), pattern(2, 1000));
    let files: [(&str, &[u8]); 3] = [("victim", &victim), ("replaced", &replaced), ("by", b"by")];
    let (bench, _volume, expected) = with_calls(Volume::ntfs, (Point::Start, Phase::Drain), &files, |target, path| {
        target.unlink(&path("VICTIM"));
        target.rename(&path("By"), &path("REPLACED"));
    });
    assert_eq!(contents(&bench.dest), expected);
}

/// A link out of the source, and a call that moves what is on its way by another name.
#[test]
fn a_name_on_the_way_of_a_link_may_be_said_in_another_case() {
    let bench = Bench::new();
    let volume = Volume::ntfs(bench.dir.path());
    let at = |name: &str| volume.at.join(name);
    for (name, content) in [("current", "old"), ("next", "new")] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("file"), content).unwrap();
    }
    symlink("../volume/current/file", bench.source.join("link")).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let moves = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            target.rename(&at("CURRENT"), &at("before"));
            target.rename(&at("NEXT"), &at("Current"));
        }
    });
    backup.run(&*target.calls, &moves, &Control::default()).unwrap();
    assert_eq!(fs::read(bench.dest.join("link")).unwrap(), b"new");
}
