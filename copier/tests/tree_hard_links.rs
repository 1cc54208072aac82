//! What has several names in a source has them in its backup, whatever it is.
#![forbid(unsafe_code)]
mod common;

use common::{Bench, Quiet, pattern};
use hotbackup_copier::{Point, Report, verify};
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

/// Takes a backup of a source at rest, and makes sure that it verifies.
fn back_up(bench: &Bench) -> Report {
    let report = bench.back_up(Point::End).unwrap();
    assert_eq!(verify(&bench.dest, &Quiet).unwrap().problems, []);
    report
}

#[test]
fn hard_links_stay_links() {
    let bench = Bench::new();
    fs::create_dir(bench.source.join("dir")).unwrap();
    fs::write(bench.source.join("a"), pattern(1, 100_000)).unwrap();
    fs::hard_link(bench.source.join("a"), bench.source.join("dir/b")).unwrap();
    let report = back_up(&bench);
    let inode = |name: &str| fs::metadata(bench.dest.join(name)).unwrap().ino();
    assert_eq!(inode("a"), inode("dir/b"));
    assert_eq!((report.files, report.bytes_total, report.bytes_copied), (1, 100_000, 100_000));
}

#[test]
fn links_between_what_has_no_content_stay_links() {
    let bench = Bench::new();
    let at = |name: &str| bench.source.join(name);
    fs::create_dir(at("dir")).unwrap();
    symlink("nowhere", at("symlink")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at("fifo"), rustix::fs::Mode::RUSR).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for name in ["symlink", "fifo", "socket"] {
        fs::hard_link(at(name), at(&format!("dir/{name}"))).unwrap();
    }
    fs::write(at("other"), b"").unwrap();
    back_up(&bench);
    for name in ["symlink", "fifo"] {
        let inode = |path: &Path| fs::symlink_metadata(bench.dest.join(path)).unwrap().ino();
        assert_eq!(inode(Path::new(name)), inode(&Path::new("dir").join(name)), "{name}");
    }
    let text = fs::read(bench.dest.join(".hotbackup/manifest.json")).unwrap();
    let entries: serde_json::Value = serde_json::from_slice(&text).unwrap();
    let link_of = |path: &str| {
        let entry = entries["entries"].as_array().unwrap().iter().find(|entry| entry["path"] == path);
        entry.unwrap()["hardlink_of"].as_str().map(str::to_owned)
    };
    for name in ["symlink", "fifo", "socket"] {
        // The walk comes to the directory first.
        assert_eq!(link_of(name).as_deref(), Some(&*format!("dir/{name}")));
        assert_eq!(link_of(&format!("dir/{name}")), None);
    }
    assert_eq!(link_of("other"), None);
    // Two of one content are not one.
    fs::remove_file(bench.dest.join("symlink")).unwrap();
    symlink("nowhere", bench.dest.join("symlink")).unwrap();
    let problems = verify(&bench.dest, &Quiet).unwrap().problems;
    assert!(problems.iter().any(|problem| problem.what == "is not the same file as dir/symlink"), "{problems:?}");
}

#[test]
fn two_names_of_a_link_that_need_different_texts_are_two_links() {
    let bench = Bench::new();
    fs::create_dir_all(bench.source.join("a/b")).unwrap();
    fs::write(bench.source.join("file"), b"content").unwrap();
    symlink(bench.source.join("file"), bench.source.join("a/link")).unwrap();
    fs::hard_link(bench.source.join("a/link"), bench.source.join("a/b/link")).unwrap();
    fs::hard_link(bench.source.join("a/link"), bench.source.join("a/same")).unwrap();
    back_up(&bench);
    let text = |name: &str| fs::read_link(bench.dest.join(name)).unwrap();
    let texts = [text("a/link"), text("a/same"), text("a/b/link")];
    assert_eq!(texts, ["../file", "../file", "../../file"].map(PathBuf::from));
    let inode = |name: &str| fs::symlink_metadata(bench.dest.join(name)).unwrap().ino();
    assert_eq!(inode("a/link"), inode("a/same"));
    assert_ne!(inode("a/link"), inode("a/b/link"));
}
