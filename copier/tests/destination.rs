//! A destination that will not do is refused before anything is touched, with the reason.
#![forbid(unsafe_code)]
mod common;

use common::{Bench, Permit};
use hotbackup_copier::{Backup, Error, Point};
use std::fs;
use std::os::unix::fs::symlink;

fn refused(bench: &Bench) -> Error {
    let error = Backup::<Permit>::prepare(bench.spec(Point::End)).expect_err("refused");
    bench.assert_nothing_staged();
    error
}

#[test]
fn not_empty() {
    let bench = Bench::new();
    fs::create_dir(&bench.dest).unwrap();
    fs::write(bench.dest.join("precious"), b"x").unwrap();
    assert!(matches!(refused(&bench), Error::DestNotEmpty { .. }));
    assert!(bench.dest.join("precious").exists());
}

#[test]
fn no_directory() {
    let bench = Bench::new();
    fs::write(&bench.dest, b"x").unwrap();
    assert!(matches!(refused(&bench), Error::DestNotDirectory { .. }));
}

#[test]
fn below_a_file() {
    let mut bench = Bench::new();
    fs::write(&bench.dest, b"x").unwrap();
    bench.dest.push("below");
    assert!(matches!(refused(&bench), Error::DestNotDirectory { .. } | Error::DestParentMissing { .. }));
}

#[test]
fn no_parent() {
    let mut bench = Bench::new();
    bench.dest = bench.dir.path().join("no/such");
    assert!(matches!(refused(&bench), Error::DestParentMissing { path } if path.ends_with("no")));
}

#[test]
fn what_cannot_be_looked_at_is_not_taken_for_missing() {
    let mut bench = Bench::new();
    bench.dest = bench.dir.path().join("n".repeat(300)).join("backup");
    let error = refused(&bench);
    assert!(matches!(&error, Error::DestIo { op: "look at", .. }), "{error}");
}

#[test]
fn a_link_that_leads_to_itself_is_not_taken_for_missing() {
    let mut bench = Bench::new();
    let link = bench.dir.path().join("round");
    symlink("round", &link).unwrap();
    for dest in [link.join("backup"), link] {
        bench.dest = dest;
        let error = refused(&bench);
        assert!(matches!(&error, Error::DestIo { op: "look at", .. }), "{error}");
    }
}

#[test]
fn inside_the_source() {
    let mut bench = Bench::new();
    fs::create_dir(bench.source.join("sub")).unwrap();
    bench.dest = bench.source.join("sub/dest");
    assert!(matches!(refused(&bench), Error::DestInsideSource { .. }));
    bench.dest = bench.source.clone();
    assert!(matches!(refused(&bench), Error::DestInsideSource { .. }));
    // Through a link.
    symlink(bench.source.join("sub"), bench.dir.path().join("link")).unwrap();
    bench.dest = bench.dir.path().join("link/dest");
    assert!(matches!(refused(&bench), Error::DestInsideSource { .. }));
}

#[test]
fn around_the_source() {
    let mut bench = Bench::new();
    bench.dest = bench.dir.path().to_owned();
    assert!(matches!(refused(&bench), Error::DestInsideSource { .. }));
}

#[test]
fn beside_the_source_with_a_similar_name_is_fine() {
    let mut bench = Bench::new();
    bench.dest = bench.dir.path().join("source2");
    bench.back_up(Point::End).unwrap();
}

/// As long as a name may be (255 bytes), and what has a name of its own beside it has room.
#[test]
fn with_the_longest_name_it_is_as_with_any_other() {
    for name in ["n".repeat(255), "\u{20ac}".repeat(85)] {
        let mut bench = Bench::new();
        bench.dest = bench.dir.path().join(name);
        fs::write(bench.source.join("file"), b"content").unwrap();
        bench.back_up(Point::End).unwrap();
        assert_eq!(fs::read(bench.dest.join("file")).unwrap(), b"content");
        let removed =
            hotbackup_copier::remove_backup(bench.dir.path(), bench.dest.file_name().unwrap(), || {}).unwrap();
        assert!(removed && !bench.dest.exists());
        bench.assert_nothing_staged();
    }
}

#[test]
fn a_directory_that_a_link_of_the_source_leads_to() {
    let mut bench = Bench::new();
    let volume = bench.dir.path().join("volume");
    fs::create_dir(&volume).unwrap();
    symlink(&volume, bench.source.join("out")).unwrap();
    bench.dest = volume.join("dest");
    assert!(matches!(bench.back_up(Point::End), Err(Error::DestInsideSource { .. })));
    assert_eq!(fs::read_dir(&volume).unwrap().count(), 0);
}

#[test]
fn a_mount_point() {
    // Whatever is mounted there: it is refused before it is looked into, or because it is not empty.
    let mut bench = Bench::new();
    bench.dest = "/proc".into();
    assert!(matches!(refused(&bench), Error::DestNotEmpty { .. } | Error::DestMountPoint { .. }));
    bench.dest = "/".into();
    assert!(matches!(refused(&bench), Error::DestMountPoint { .. }));
}

#[test]
fn one_that_appears_while_the_backup_runs_is_not_overwritten() {
    let bench = Bench::new();
    fs::write(bench.source.join("a"), b"a").unwrap();
    let (backup, target) = bench.prepare(Point::End);
    fs::create_dir(&bench.dest).unwrap();
    fs::write(bench.dest.join("precious"), b"x").unwrap();
    let result = backup.run(&*target.calls, &common::Quiet, &Default::default());
    assert!(matches!(result, Err(Error::DestNotEmpty { .. })));
    assert_eq!(fs::read_dir(&bench.dest).unwrap().count(), 1);
    bench.assert_nothing_staged();
}

#[test]
fn messages_say_what_and_what_to_do() {
    let bench = Bench::new();
    fs::write(&bench.dest, b"x").unwrap();
    let text = refused(&bench).to_string();
    assert!(text.contains(bench.dest.to_str().unwrap()) && text.contains("name a new directory"), "{text}");
}
