//! What each kind of file system can hold of a source, and what a backup to it says of that: a name or content that it cannot hold is
//! refused before a byte is copied; metadata that it does not keep is told, and noted, and a verification right after is content,
//! also when the file system was mounted again. Nothing is taken for kept that is not.
//!
//! The table is that of `docs/operations.md`, "On which file systems, and what is kept there".
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

mod cases;
mod disks;
#[path = "../common"]
mod common {
    pub mod backup;
    pub mod disk;
    pub mod guest;
}
use cases::{ALL, Case};
use common::backup::{Outcome, alone, scratch, take, verify};
use common::disk::run;
use common::guest::{Guest, Linked};
use disks::{Disk, Kind};

/// A guest whose source is on a file system in memory, which holds every case.
struct Source {
    guest: Guest,
    _mount: Mounted,
}

/// Unmounted after the guest is gone.
struct Mounted(TempDir);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

impl Source {
    fn new() -> Self {
        let mounted = Mounted(scratch());
        let at = mounted.0.path().as_os_str();
        run("mount", &["-t".as_ref(), "tmpfs".as_ref(), "tmpfs".as_ref(), at]);
        let inside = TempDir::new_in(mounted.0.path()).expect("a directory");
        let guest = Guest::start_in(inside, "rings", Linked::Dynamically, &["2", "16", "2000"]);
        Self { guest, _mount: mounted }
    }

    /// Backs up with some cases beside what the guest has.
    fn back_up(&mut self, cases: &[Case], dest: &Path) -> Outcome {
        let extra = self.guest.dir.join("extra");
        let _ = fs::remove_dir_all(&extra);
        fs::create_dir(&extra).expect("made");
        cases.iter().for_each(|case| case.put_into(&extra));
        let source = self.guest.dir.clone();
        let outcome = take(self.guest.pid(), dest, &["--source", source.to_str().expect("plain")]);
        // It aborts at a call that fails.
        self.guest.assert_alive();
        outcome
    }
}

/// Each kind, the name that it has in the table of the documentation, what it refuses, and what it does not keep.
const TABLE: [(Kind, &str, &[Case], &[&str]); 10] = [
    (Kind::Ext4, "ext4", &[], &["attribute", "mtime"]),
    (Kind::Ext4SmallInodes, "ext4 with inodes of 128 bytes, ext3", &[], &["attribute", "mtime"]),
    (Kind::Xfs, "xfs", &[], &["mtime"]),
    (Kind::Btrfs, "btrfs", &[], &[]),
    (Kind::Tmpfs, "tmpfs", &[], &[]),
    (
        Kind::ExFat,
        "exFAT (exfat-fuse)",
        &[
            Case::NamesByLetters,
            Case::NamesByForeignLetters,
            Case::NotUtf8,
            Case::Colon,
            Case::Backslash,
            Case::ControlCharacter,
            Case::Symlink,
            Case::LongSymlink,
            Case::Fifo,
        ],
        &["acl", "attribute", "hard_link", "holes", "mode", "mtime", "owner"],
    ),
    (Kind::Ntfs, "NTFS (ntfs-3g)", &[Case::NotUtf8], &["mode", "mtime", "owner"]),
    (Kind::NtfsPermissions, "NTFS (ntfs-3g, `permissions`)", &[Case::NotUtf8], &["acl", "mtime"]),
    (Kind::Sftp, "SFTP (sshfs)", &[Case::Fifo], &["acl", "attribute", "hard_link", "holes", "mtime"]),
    (Kind::Bindfs, "what says that it did and did not (bindfs)", &[], &["acl", "attribute", "mode", "mtime", "owner"]),
];

/// What is expected of a kind of file system: what it refuses, and what of the rest it does not keep.
fn holds(kind: Kind) {
    let row = TABLE.iter().find(|(known, ..)| *known == kind).expect("it is in the table");
    let (_, _, refused, not_kept) = *row;
    let _alone = alone();
    let (scratch, mut source) = (scratch(), Source::new());
    let mut disk = Disk::new(kind, scratch.path());
    let dest = disk.at.join("backup");
    // All that it can hold, at once.
    let rest: Vec<Case> = ALL.into_iter().filter(|case| !refused.contains(case)).collect();
    let outcome = source.back_up(&rest, &dest);
    let report = outcome.report();
    let found: BTreeSet<&str> = named(&report["not_kept"]);
    assert_eq!(found, not_kept.iter().copied().collect(), "{kind:?}: {:#}", report["not_kept"]);
    // Told on stderr and in JSON, as a warning; and nothing else is.
    let warnings = outcome.events.iter().filter(|event| event["event"] == "warning").count();
    assert_eq!(warnings > 0, !not_kept.is_empty(), "{:#?}", outcome.events);
    assert_eq!(outcome.stderr.contains("warning"), !not_kept.is_empty(), "{}", outcome.stderr);
    let text = fs::read_to_string(dest.join(".hotbackup/manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(named(&manifest["not_kept"]), found, "the manifest says the same");
    verify(&dest);
    assert_same_content(&source.guest.dir.join("extra"), &dest.join("extra"));
    // And what was kept in memory only?
    disk.mount_again();
    verify(&dest);
    assert_same_content(&source.guest.dir.join("extra"), &dest.join("extra"));
    refused.iter().for_each(|case| refuses(&mut source, &disk, *case));
}

/// A case that a destination cannot hold, alone: named, and nothing was copied.
fn refuses(source: &mut Source, disk: &Disk, case: Case) {
    let outcome = source.back_up(&[case], &disk.at.join("refused"));
    let said = outcome.failure("dest_cannot_hold");
    assert!(said.contains("extra/") && said.contains("--exclude"), "{case:?}: {said}");
    let copied = outcome.events.iter().filter_map(|event| event["bytes_copied"].as_u64()).max();
    assert_eq!(copied.unwrap_or(0), 0, "{case:?}: told after copying");
}

fn named(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(|not| not["what"].as_str()).collect()
}

/// Every name is there, and every file is what it was.
fn assert_same_content(source: &Path, backup: &Path) {
    let names = |dir: &Path| -> BTreeSet<_> {
        fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").file_name()).collect()
    };
    assert_eq!(names(source), names(backup));
    for name in names(source) {
        let (from, to) = (source.join(&name), backup.join(&name));
        let kind = fs::symlink_metadata(&from).expect("there");
        assert_eq!(kind.file_type(), fs::symlink_metadata(&to).expect("there").file_type(), "{name:?}");
        if kind.is_symlink() {
            assert_eq!(fs::read_link(&from).expect("a link"), fs::read_link(&to).expect("a link"));
        } else if kind.is_file() && kind.size() < 64 << 20 {
            assert_eq!(fs::read(&from).expect("readable"), fs::read(&to).expect("readable"), "{name:?}");
        } else if kind.is_file() {
            assert_eq!(kind.size(), fs::metadata(&to).expect("there").size(), "{name:?}");
        }
    }
}

#[test]
fn ext4() {
    holds(Kind::Ext4);
}

#[test]
fn ext4_with_small_inodes() {
    holds(Kind::Ext4SmallInodes);
}

#[test]
fn xfs() {
    holds(Kind::Xfs);
}

#[test]
fn btrfs() {
    holds(Kind::Btrfs);
}

#[test]
fn tmpfs() {
    holds(Kind::Tmpfs);
}

#[test]
fn exfat() {
    holds(Kind::ExFat);
}

#[test]
fn ntfs() {
    holds(Kind::Ntfs);
}

#[test]
fn ntfs_with_permissions() {
    holds(Kind::NtfsPermissions);
}

#[test]
fn sftp() {
    holds(Kind::Sftp);
}

#[test]
fn bindfs() {
    holds(Kind::Bindfs);
}

#[test]
fn a_file_longer_than_the_destination_allows_is_refused_before_anything_is_copied() {
    let _alone = alone();
    let (scratch, mut source) = (scratch(), Source::new());
    refuses(&mut source, &Disk::new(Kind::Ext4, scratch.path()), Case::Hole17Tib);
}

/// `$(date -Iminutes)` has a colon.
#[test]
fn a_destination_whose_own_name_cannot_be_is_refused_before_anything_is_copied() {
    let _alone = alone();
    let (scratch, mut source) = (scratch(), Source::new());
    let disk = Disk::new(Kind::ExFat, scratch.path());
    let dest = disk.at.join("2026-11-29T02:15");
    let outcome = source.back_up(&[], &dest);
    let said = outcome.failure("dest_cannot_hold");
    assert!(said.contains("2026-11-29T02:15: its file system allows no such name"), "{said}");
}

#[test]
fn the_documented_table_is_this_one() {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).expect("the document");
    let table = text.split("## On which file systems").nth(1).expect("the section");
    let table = table.split("\n## ").next().expect("its end");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    let or_nothing = |words: Vec<&str>| if words.is_empty() { "nothing".to_owned() } else { words.join(", ") };
    assert_eq!(rows.len(), TABLE.len());
    for ((_, name, refused, not_kept), row) in TABLE.iter().zip(rows) {
        let mut words: Vec<&str> = refused.iter().map(|case| case.words()).collect();
        words.dedup();
        let expected = format!("| {name} | {} | {} | ", or_nothing(words), or_nothing(not_kept.to_vec()));
        assert!(row.starts_with(&expected), "docs/operations.md should say {expected}\nand says {row}");
    }
}
