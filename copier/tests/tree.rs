//! What a tree is made of survives, and a database started on the backup never reaches the live files.
#![forbid(unsafe_code)]
mod common;

use common::{AtPhase, Bench, Permit, Quiet, pattern, source, target_of};
use hotbackup_copier::{Backup, Control, Error, Phase, Point, Report, Spec, Tuning, verify};
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

/// Takes a backup of a source at rest, and makes sure that it verifies.
fn back_up(bench: &Bench) -> Report {
    let report = bench.back_up(Point::End).unwrap();
    let verified = verify(&bench.dest, &Quiet).unwrap();
    assert_eq!(verified.problems, []);
    report
}

fn manifest(bench: &Bench) -> serde_json::Value {
    let text = fs::read(bench.dest.join(".hotbackup/manifest.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

#[test]
fn an_empty_source_is_an_empty_backup() {
    let bench = Bench::new();
    let report = back_up(&bench);
    assert_eq!((report.files, report.directories, report.bytes_total), (0, 1, 0));
    let names: Vec<_> = fs::read_dir(&bench.dest).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, [".hotbackup"]);
    assert_eq!(fs::metadata(bench.dest.join(".hotbackup")).unwrap().permissions().mode() & 0o7777, 0o700);
}

#[test]
fn an_empty_directory_that_exists_is_replaced() {
    let bench = Bench::new();
    fs::write(bench.source.join("a"), b"a").unwrap();
    fs::create_dir(&bench.dest).unwrap();
    back_up(&bench);
    assert_eq!(fs::read(bench.dest.join("a")).unwrap(), b"a");
}

#[test]
fn modes_owners_times_and_attributes_are_kept() {
    let bench = Bench::new();
    let (dir, file) = (bench.source.join("dir"), bench.source.join("dir/file"));
    fs::create_dir(&dir).unwrap();
    fs::write(&file, pattern(1, 1000)).unwrap();
    rustix::fs::setxattr(&file, "user.a", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    rustix::fs::setxattr(&dir, "user.b", b"2", rustix::fs::XattrFlags::empty()).unwrap();
    // As root, somebody else's; whoever runs this, setuid survives.
    let _ = std::os::unix::fs::chown(&file, Some(1234), Some(2345));
    fs::set_permissions(&file, Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(&dir, Permissions::from_mode(0o1750)).unwrap();
    let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    for path in [&file, &dir, &bench.source] {
        File::open(path).unwrap().set_modified(time).unwrap();
    }
    back_up(&bench);
    for name in ["dir", "dir/file", ""] {
        let (a, b) = (fs::metadata(bench.source.join(name)).unwrap(), fs::metadata(bench.dest.join(name)).unwrap());
        assert_eq!(a.permissions(), b.permissions(), "{name}");
        assert_eq!((a.uid(), a.gid()), (b.uid(), b.gid()), "{name}");
        assert_eq!(a.modified().unwrap(), b.modified().unwrap(), "{name}");
    }
    let mut value = [0; 8];
    assert_eq!(rustix::fs::getxattr(bench.dest.join("dir/file"), "user.a", &mut value).unwrap(), 1);
    assert_eq!(rustix::fs::getxattr(bench.dest.join("dir"), "user.b", &mut value).unwrap(), 1);
}

#[test]
fn holes_stay_holes() {
    let bench = Bench::new();
    let file = File::create(bench.source.join("sparse")).unwrap();
    file.write_all_at(&pattern(1, 10_000), 5 << 20).unwrap();
    file.set_len(300 << 20).unwrap();
    drop(file);
    let report = back_up(&bench);
    let (a, b) = (fs::metadata(bench.source.join("sparse")).unwrap(), fs::metadata(bench.dest.join("sparse")).unwrap());
    assert_eq!(a.len(), b.len());
    assert!(b.blocks() <= a.blocks() + 8, "{} {}", a.blocks(), b.blocks());
    assert!(report.bytes_copied < 100_000);
}

#[test]
fn a_block_that_becomes_a_hole_between_passes_is_freed() {
    let bench = Bench::new();
    let path = bench.source.join("file");
    fs::write(&path, pattern(1, 1 << 20)).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let punch = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            target.punch(&path, 0, 1 << 20);
        }
    });
    backup.run(&*target.calls, &punch, &Control::default()).unwrap();
    let copy = fs::metadata(bench.dest.join("file")).unwrap();
    assert_eq!((copy.len(), copy.blocks()), (1 << 20, 0));
}

#[test]
fn fifos_are_made_again_and_sockets_are_told_of() {
    let bench = Bench::new();
    rustix::fs::mkfifoat(rustix::fs::CWD, bench.source.join("fifo"), rustix::fs::Mode::RUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(bench.source.join("socket")).unwrap();
    back_up(&bench);
    use std::os::unix::fs::FileTypeExt;
    assert!(fs::symlink_metadata(bench.dest.join("fifo")).unwrap().file_type().is_fifo());
    assert!(!bench.dest.join("socket").exists());
    let entries = manifest(&bench);
    let socket = entries["entries"].as_array().unwrap().iter().find(|entry| entry["path"] == "socket").unwrap();
    assert_eq!((&socket["type"], &socket["skipped"]), (&"socket".into(), &true.into()));
}

#[test]
fn names_need_not_be_utf_8_and_may_be_long() {
    let bench = Bench::new();
    let odd = OsStr::from_bytes(b"\xff\n\"\\ ");
    fs::create_dir(bench.source.join(odd)).unwrap();
    let long = "n".repeat(255);
    fs::write(bench.source.join(odd).join(&long), b"x").unwrap();
    back_up(&bench);
    assert_eq!(fs::read(bench.dest.join(odd).join(&long)).unwrap(), b"x");
}

#[test]
fn a_link_out_of_the_source_becomes_what_it_leads_to() {
    let bench = Bench::new();
    let volume = bench.dir.path().join("volume");
    fs::create_dir_all(volume.join("journal/deep")).unwrap();
    fs::write(volume.join("journal/log"), b"journal").unwrap();
    fs::write(volume.join("config"), b"config").unwrap();
    symlink("log", volume.join("journal/latest")).unwrap();
    symlink(volume.join("journal/log"), volume.join("journal/absolute")).unwrap();
    symlink(volume.join("journal"), bench.source.join("journal")).unwrap();
    symlink("../volume/config", bench.source.join("config")).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let write = AtPhase::new(|phase| match phase {
        // It is tracked like everything else.
        Phase::Hold => target.append(&volume.join("journal/log"), b" before"),
        Phase::Drain => {
            target.append(&volume.join("journal/log"), b" after");
            target.create(&volume.join("journal/new"));
            target.truncate(&volume.join("config"), 0);
        }
        _ => {}
    });
    backup.run(&*target.calls, &write, &Control::default()).unwrap();
    assert!(fs::symlink_metadata(bench.dest.join("journal")).unwrap().is_dir());
    assert!(fs::symlink_metadata(bench.dest.join("config")).unwrap().is_file());
    assert_eq!(fs::read(bench.dest.join("journal/log")).unwrap(), b"journal before");
    assert_eq!(fs::read(bench.dest.join("config")).unwrap(), b"config");
    assert!(!bench.dest.join("journal/new").exists());
    // Links inside what was followed stay inside.
    assert_eq!(fs::read_link(bench.dest.join("journal/latest")).unwrap(), Path::new("log"));
    assert_eq!(fs::read_link(bench.dest.join("journal/absolute")).unwrap(), Path::new("log"));
    assert_eq!(verify(&bench.dest, &Quiet).unwrap().problems, []);
}

#[test]
fn links_within_the_source_stay_within_the_backup() {
    let bench = Bench::new();
    fs::create_dir_all(bench.source.join("a/b")).unwrap();
    fs::write(bench.source.join("a/file"), b"x").unwrap();
    // One that only looks as if it were inside.
    let beside = bench.dir.path().join("source2");
    fs::create_dir(&beside).unwrap();
    let links = [
        ("plain", "a/file".into(), "a/file"),
        ("a/b/up", "../file".into(), "../file"),
        ("a/b/absolute", bench.source.join("a/file"), "../file"),
        ("a/b/top", bench.source.clone(), "../.."),
        ("a/around", "../../source/a/file".into(), "file"),
        ("dangling", "nowhere".into(), "nowhere"),
        ("a/absolute-dangling", bench.source.join("nowhere"), "../nowhere"),
    ];
    for (name, text, _) in &links {
        symlink(text, bench.source.join(name)).unwrap();
    }
    symlink(&beside, bench.source.join("beside")).unwrap();
    back_up(&bench);
    for (name, _, expected) in links {
        assert_eq!(fs::read_link(bench.dest.join(name)).unwrap(), Path::new(expected), "{name}");
    }
    assert!(fs::symlink_metadata(bench.dest.join("beside")).unwrap().is_dir());
}

#[test]
fn a_link_that_leads_elsewhere_by_the_hold_is_followed_there() {
    let bench = Bench::new();
    let volume = bench.dir.path().join("volume");
    for (name, text) in [("old", "old"), ("new", "new")] {
        fs::create_dir_all(volume.join(name)).unwrap();
        fs::write(volume.join(name).join("log"), text).unwrap();
    }
    symlink(volume.join("old"), bench.source.join("journal")).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let swap = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            // No call names the link itself.
            target.rename(&volume.join("old"), &volume.join("older"));
            target.rename(&volume.join("new"), &volume.join("old"));
        }
    });
    backup.run(&*target.calls, &swap, &Control::default()).unwrap();
    assert_eq!(fs::read(bench.dest.join("journal/log")).unwrap(), b"new");
}

#[test]
fn a_link_to_a_directory_that_holds_it_is_refused_by_name() {
    let bench = Bench::new();
    let volume = bench.dir.path().join("volume");
    fs::create_dir_all(volume.join("dir")).unwrap();
    symlink(&bench.source, volume.join("dir/inside")).unwrap();
    symlink(&volume, bench.source.join("out")).unwrap();
    back_up(&bench);
    fs::remove_dir_all(&bench.dest).unwrap();
    // Around the source: it would hold itself.
    symlink(bench.dir.path(), bench.source.join("around")).unwrap();
    match bench.back_up(Point::End) {
        Err(Error::SymlinkLoop { path }) => assert_eq!(path, bench.source.join("around")),
        Err(Error::DestInsideSource { .. }) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_excluded_is_neither_copied_nor_watched() {
    let mut bench = Bench::new();
    bench.exclude = vec!["/*.log".into(), "cache/".into(), "deep/**/tmp*".into()];
    for name in ["a.log", "cache/x", "deep/a/b/tmp1", "deep/a/kept", "deep/b.log"] {
        let path = bench.source.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, b"x").unwrap();
    }
    let (backup, target) = bench.prepare(Point::End);
    let change = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            // Nobody is told of this.
            fs::write(bench.source.join("a.log"), b"changed").unwrap();
            fs::write(bench.source.join("cache/x"), b"changed").unwrap();
        }
        if phase == Phase::Drain {
            target.rename(&bench.source.join("cache"), &bench.source.join("was-cache"));
        }
    });
    backup.run(&*target.calls, &change, &Control::default()).unwrap();
    assert!(!bench.dest.join("a.log").exists() && !bench.dest.join("cache").exists());
    assert!(!bench.dest.join("deep/a/b/tmp1").exists());
    assert!(bench.dest.join("deep/a/kept").exists() && bench.dest.join("deep/b.log").exists());
}

#[test]
fn moving_a_directory_decides_anew_what_is_excluded_in_it() {
    let mut bench = Bench::new();
    bench.exclude = vec!["in/*.tmp".into(), "out/x".into()];
    fs::create_dir(bench.source.join("in")).unwrap();
    fs::write(bench.source.join("in/a.tmp"), b"a").unwrap();
    fs::write(bench.source.join("in/x"), b"x").unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let change = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            target.rename(&bench.source.join("in"), &bench.source.join("out"));
        }
    });
    backup.run(&*target.calls, &change, &Control::default()).unwrap();
    assert!(bench.dest.join("out/a.tmp").exists() && !bench.dest.join("out/x").exists());
}

#[test]
fn a_malformed_exclude_is_refused() {
    let mut bench = Bench::new();
    bench.exclude = vec!["a[".into()];
    assert!(matches!(bench.back_up(Point::End), Err(Error::BadExclude { pattern, .. }) if pattern == "a["));
    bench.assert_nothing_staged();
}

#[test]
fn a_restored_backup_can_be_backed_up_itself() {
    let mut bench = Bench::new();
    fs::write(bench.source.join("a"), b"a").unwrap();
    back_up(&bench);
    bench.source = std::mem::replace(&mut bench.dest, bench.dir.path().join("second"));
    back_up(&bench);
    assert_eq!(fs::read(bench.dest.join("a")).unwrap(), b"a");
}

#[test]
fn several_sources_go_to_directories_of_their_own() {
    let bench = Bench::new();
    let second = bench.dir.path().join("second");
    fs::create_dir(&second).unwrap();
    fs::write(bench.source.join("a"), b"a").unwrap();
    fs::write(second.join("b"), b"b").unwrap();
    // From one into the other.
    symlink(second.join("b"), bench.source.join("link")).unwrap();
    let spec = |first, other| Spec {
        sources: vec![source(&bench.source, first), source(&second, other)],
        dest: bench.dest.clone(),
        point: Point::End,
        exclude: vec![],
        tuning: Tuning::default(),
        pid: 1,
        root: None,
    };
    assert!(matches!(Backup::<Permit>::prepare(spec(None, Some("x"))), Err(Error::SourcesOverlap { .. })));
    assert!(matches!(Backup::<Permit>::prepare(spec(Some("x"), Some("x"))), Err(Error::SourcesOverlap { .. })));
    let (backup, target) = target_of(Backup::prepare(spec(Some("one"), Some("two"))).unwrap());
    let report = backup.run(&*target.calls, &Quiet, &Control::default()).unwrap();
    assert_eq!(report.directories, 2);
    assert_eq!(fs::read(bench.dest.join("one/a")).unwrap(), b"a");
    assert_eq!(fs::read_link(bench.dest.join("one/link")).unwrap(), Path::new("../two/b"));
    assert_eq!(verify(&bench.dest, &Quiet).unwrap().problems, []);
}

#[test]
fn a_renamed_file_or_directory_is_not_copied_again() {
    let bench = Bench::new();
    fs::create_dir(bench.source.join("dir")).unwrap();
    fs::write(bench.source.join("large"), pattern(1, 3 << 20)).unwrap();
    fs::write(bench.source.join("dir/large"), pattern(2, 3 << 20)).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let rename = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            target.rename(&bench.source.join("large"), &bench.source.join("renamed"));
            target.rename(&bench.source.join("dir"), &bench.source.join("renamed-dir"));
            target.rename(&bench.source.join("renamed-dir/large"), &bench.source.join("large"));
        }
    });
    let report = backup.run(&*target.calls, &rename, &Control::default()).unwrap();
    assert_eq!(report.bytes_copied, 6 << 20);
    assert!(fs::read(bench.dest.join("renamed")).unwrap() == pattern(1, 3 << 20));
    assert!(fs::read(bench.dest.join("large")).unwrap() == pattern(2, 3 << 20));
    assert!(bench.dest.join("renamed-dir").is_dir());
}

#[test]
fn a_tree_renamed_into_the_source_is_copied_whole() {
    let bench = Bench::new();
    let outside = bench.dir.path().join("outside");
    fs::create_dir_all(outside.join("deep/er")).unwrap();
    fs::write(outside.join("deep/er/file"), pattern(1, 200_000)).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let rename = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            target.rename(&outside, &bench.source.join("inside"));
        }
        if phase == Phase::Drain {
            target.truncate(&bench.source.join("inside/deep/er/file"), 0);
        }
    });
    backup.run(&*target.calls, &rename, &Control::default()).unwrap();
    assert!(fs::read(bench.dest.join("inside/deep/er/file")).unwrap() == pattern(1, 200_000));
}

#[test]
fn more_files_than_are_synced_one_by_one() {
    let mut bench = Bench::new();
    bench.tuning.sync_each_below = 10;
    for n in 0..50 {
        fs::write(bench.source.join(format!("f{n}")), pattern(n, 1000 + n as usize)).unwrap();
    }
    assert_eq!(back_up(&bench).files, 50);
}

#[test]
fn the_manifest_says_what_is_in_the_backup() {
    let bench = Bench::new();
    fs::write(bench.source.join("a"), b"hello").unwrap();
    fs::set_permissions(bench.source.join("a"), Permissions::from_mode(0o640)).unwrap();
    fs::hard_link(bench.source.join("a"), bench.source.join("b")).unwrap();
    let report = back_up(&bench);
    let manifest = manifest(&bench);
    assert_eq!(manifest["format_version"], 2);
    assert_eq!(manifest["point"], "end");
    assert_eq!(manifest["point_in_time_ns"], report.point_in_time_ns);
    assert_eq!(manifest["sources"][0]["path"], bench.source.to_str().unwrap());
    let entries = manifest["entries"].as_array().unwrap();
    let paths: Vec<_> = entries.iter().map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(paths, [".", "a", "b"]);
    assert_eq!(entries[1]["mode"], "0640");
    assert_eq!(entries[1]["size"], 5);
    assert_eq!(entries[1]["blake3"], blake3::hash(b"hello").to_hex().as_str());
    assert_eq!(entries[2]["hardlink_of"], "a");
}
