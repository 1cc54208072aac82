//! Every kind of damage to every kind of entry is found, and all of it is listed.
#![forbid(unsafe_code)]
mod common;

use common::{Bench, Quiet, pattern};
use hotbackup_copier::{Error, Point, Problem, verify};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::Path;

fn backup() -> Bench {
    let bench = Bench::new();
    fs::create_dir(bench.source.join("dir")).unwrap();
    fs::write(bench.source.join("file"), pattern(1, 200_000)).unwrap();
    fs::write(bench.source.join("dir/file"), pattern(2, 10)).unwrap();
    fs::write(bench.source.join("empty"), b"").unwrap();
    fs::hard_link(bench.source.join("file"), bench.source.join("linked")).unwrap();
    symlink("file", bench.source.join("symlink")).unwrap();
    bench.back_up(Point::End).unwrap();
    bench
}

/// Damages a backup, leaving the times of the damaged entry's directory as they were.
fn damaged(damage: impl FnOnce(&Path)) -> Vec<Problem> {
    let bench = backup();
    let dirs = [bench.dest.clone(), bench.dest.join("dir")];
    let times = dirs.each_ref().map(|dir| fs::metadata(dir).unwrap().modified().unwrap());
    damage(&bench.dest);
    for (dir, time) in dirs.iter().zip(times) {
        if let Ok(dir) = File::open(dir) {
            dir.set_modified(time).unwrap();
        }
    }
    verify(&bench.dest, &Quiet).unwrap().problems
}

fn keeping_its_time(path: &Path, change: impl FnOnce(&File)) {
    let file = File::options().write(true).open(path).unwrap();
    let time = file.metadata().unwrap().modified().unwrap();
    change(&file);
    file.set_modified(time).unwrap();
}

fn only(problems: &[Problem], path: &str, what: &str) {
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].path == Path::new(path) && problems[0].what.contains(what), "{problems:?}");
}

#[test]
fn an_intact_backup_has_no_problem() {
    let bench = backup();
    let report = verify(&bench.dest, &Quiet).unwrap();
    assert_eq!((report.problems.len(), report.entries, report.bytes), (0, 7, 200_010));
}

#[test]
fn one_changed_bit() {
    for at in [0, 131_071, 199_999] {
        let problems = damaged(|dest| {
            keeping_its_time(&dest.join("file"), |file| {
                let mut byte = [0];
                File::open(dest.join("file")).unwrap().read_exact_at(&mut byte, at).unwrap();
                file.write_all_at(&[byte[0] ^ 1], at).unwrap();
            });
        });
        only(&problems, "file", "other content");
    }
}

#[test]
fn a_file_cut_short_or_grown() {
    for len in [0, 199_999, 200_001] {
        let problems = damaged(|dest| keeping_its_time(&dest.join("file"), |file| file.set_len(len).unwrap()));
        assert!(problems.iter().any(|p| p.what.contains(&format!("{len} bytes instead of 200000"))), "{problems:?}");
    }
}

#[test]
fn missing_entries() {
    only(&damaged(|dest| fs::remove_file(dest.join("empty")).unwrap()), "empty", "missing");
    only(&damaged(|dest| fs::remove_file(dest.join("symlink")).unwrap()), "symlink", "missing");
    let problems = damaged(|dest| fs::remove_dir_all(dest.join("dir")).unwrap());
    let paths: Vec<_> = problems.iter().map(|problem| problem.path.to_str().unwrap()).collect();
    assert_eq!(paths, ["dir", "dir/file"]);
}

#[test]
fn entries_too_many() {
    only(&damaged(|dest| fs::write(dest.join("dir/extra"), b"x").unwrap()), "dir/extra", "not in the manifest");
    only(&damaged(|dest| fs::create_dir(dest.join("extra")).unwrap()), "extra", "not in the manifest");
}

#[test]
fn another_mode() {
    let change = |name: &'static str| {
        damaged(move |dest| fs::set_permissions(dest.join(name), Permissions::from_mode(0o711)).unwrap())
    };
    only(&change("empty"), "empty", "mode 0711");
    only(&change("dir"), "dir", "mode 0711");
}

#[test]
fn another_time() {
    let problems = damaged(|dest| File::open(dest.join("empty")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap());
    only(&problems, "empty", "was modified");
}

#[test]
fn another_kind_or_target() {
    let problems = damaged(|dest| {
        fs::remove_file(dest.join("symlink")).unwrap();
        fs::create_dir(dest.join("symlink")).unwrap();
    });
    only(&problems, "symlink", "is a directory instead of a symlink");
    let problems = damaged(|dest| {
        fs::remove_file(dest.join("symlink")).unwrap();
        symlink("empty", dest.join("symlink")).unwrap();
    });
    assert!(problems.iter().any(|problem| problem.what.contains("does not lead to file")), "{problems:?}");
}

#[test]
fn a_link_that_is_a_copy() {
    let problems = damaged(|dest| {
        let time = fs::metadata(dest.join("file")).unwrap().modified().unwrap();
        fs::remove_file(dest.join("linked")).unwrap();
        fs::copy(dest.join("file"), dest.join("linked")).unwrap();
        File::open(dest.join("linked")).unwrap().set_modified(time).unwrap();
    });
    only(&problems, "linked", "not the same file as file");
}

#[test]
fn all_problems_are_listed() {
    let problems = damaged(|dest| {
        fs::remove_file(dest.join("empty")).unwrap();
        fs::write(dest.join("extra"), b"").unwrap();
        fs::set_permissions(dest.join("dir/file"), Permissions::from_mode(0o777)).unwrap();
    });
    assert_eq!(problems.len(), 3, "{problems:?}");
}

#[test]
fn a_manifest_of_version_1_is_still_read() {
    let bench = backup();
    let path = bench.dest.join(".hotbackup/manifest.json");
    let mut manifest: serde_json::Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    manifest["format_version"] = 1.into();
    for entry in manifest["entries"].as_array_mut().unwrap() {
        let entry = entry.as_object_mut().unwrap();
        let time = entry.remove("mtime").unwrap();
        let ns = time[0].as_i64().unwrap() * 1_000_000_000 + time[1].as_i64().unwrap();
        entry.insert("mtime_ns".into(), ns.into());
    }
    fs::write(&path, manifest.to_string()).unwrap();
    assert_eq!(verify(&bench.dest, &Quiet).unwrap().problems, []);
    manifest["entries"][1]["mtime_ns"] = (-1).into();
    fs::write(&path, manifest.to_string()).unwrap();
    only(&verify(&bench.dest, &Quiet).unwrap().problems, "dir", "instead of -1 s and 999999999 ns");
}

#[test]
fn no_manifest_or_one_that_is_not_understood_is_an_error() {
    let bench = backup();
    let path = bench.dest.join(".hotbackup/manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    for broken in [&text[..text.len() / 2], "", "{}", &text.replacen("\"format_version\":2", "\"format_version\":3", 1)]
    {
        fs::write(&path, broken).unwrap();
        assert!(matches!(verify(&bench.dest, &Quiet), Err(Error::ManifestBad { .. })), "{broken}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(verify(&bench.dest, &Quiet), Err(Error::ManifestMissing { .. })));
    assert!(matches!(verify(&bench.dest.join("nowhere"), &Quiet), Err(Error::ManifestMissing { .. })));
}
