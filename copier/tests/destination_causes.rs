//! Each error of each change at the destination has its cause; what is only metadata is told and no error; nothing is left; and nobody
//! can read a backup who could not read its source.
#![forbid(unsafe_code)]
mod common;

use common::faulty::Faulty;
use common::{AtPhase, Bench, Permit, pattern, target_of};
use hotbackup_copier::{Backup, Control, Error, Monitor, Phase, Point, Report, verify};
use hotbackup_event::change::Change;
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// A source with some of everything.
fn bench() -> Bench {
    let bench = Bench::new();
    fs::create_dir(bench.source.join("dir")).unwrap();
    fs::write(bench.source.join("file"), pattern(1, 100_000)).unwrap();
    fs::write(bench.source.join("dir/file"), pattern(2, 10)).unwrap();
    fs::hard_link(bench.source.join("file"), bench.source.join("linked")).unwrap();
    symlink("file", bench.source.join("symlink")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, bench.source.join("fifo"), rustix::fs::Mode::RUSR).unwrap();
    rustix::fs::setxattr(bench.source.join("file"), "user.kept", b"value", XattrFlags::empty()).unwrap();
    File::options().write(true).open(bench.source.join("file")).unwrap().set_len(90_000).unwrap();
    bench
}

/// Arms a fault when a phase begins, and keeps the warnings.
struct Watch<'a> {
    io: &'a Faulty,
    at: Phase,
    warnings: Mutex<Vec<String>>,
}

impl Monitor for Watch<'_> {
    fn phase(&self, phase: Phase) {
        if phase == self.at {
            self.io.armed.store(true, Ordering::SeqCst);
        }
    }

    fn warning(&self, text: &str) {
        self.warnings.lock().unwrap().push(text.to_owned());
    }
}

/// Takes a backup in which every change of a kind fails, from a phase on. Returns its warnings, too.
fn with_fault(bench: &Bench, at: Phase, change: Change, errno: Errno) -> (Result<Report, Error>, Vec<String>) {
    let io = Arc::new(Faulty::changing(change, errno, false));
    let (backup, target) = bench.prepare_with(Point::End, &io);
    let watch = Watch { io: &io, at, warnings: Mutex::default() };
    let result = backup.run(&*target.calls, &watch, &Control::default());
    assert!(io.failed.load(Ordering::SeqCst), "{change:?} never came");
    (result, watch.warnings.into_inner().unwrap())
}

fn kind(result: &Result<Report, Error>) -> &'static str {
    match result {
        Ok(_) => "fine",
        Err(Error::DestFull { .. }) => "full",
        Err(Error::DestOverQuota { .. }) => "quota",
        Err(Error::DestReadOnly { .. }) => "read-only",
        Err(Error::DestCannotHold { .. }) => "cannot hold",
        Err(Error::TooManyOpenFiles { .. }) => "files",
        Err(Error::DestIo { .. }) => "io",
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn each_error_of_each_change_has_its_cause_and_nothing_is_left() {
    use Change::*;
    let cases = [
        (Create, Errno::NOSPC, "full"),
        (Create, Errno::DQUOT, "quota"),
        (Create, Errno::MFILE, "files"),
        (MakeDir, Errno::NOSPC, "full"),
        (MakeDir, Errno::MLINK, "cannot hold"),
        (MakeDir, Errno::EXIST, "cannot hold"),
        (Place, Errno::EXIST, "cannot hold"),
        (Place, Errno::NOENT, "cannot hold"),
        (Place, Errno::NAMETOOLONG, "cannot hold"),
        (Place, Errno::ILSEQ, "cannot hold"),
        (Place, Errno::ROFS, "read-only"),
        (Place, Errno::IO, "io"),
        (Link, Errno::NOSPC, "full"),
        (Link, Errno::EXIST, "cannot hold"),
        (Symlink, Errno::NAMETOOLONG, "cannot hold"),
        (Symlink, Errno::PERM, "cannot hold"),
        (Fifo, Errno::OPNOTSUPP, "cannot hold"),
        (Write, Errno::FBIG, "cannot hold"),
        (Write, Errno::NOSPC, "full"),
        (Write, Errno::DQUOT, "quota"),
        (Write, Errno::IO, "io"),
        (Sync, Errno::NOSPC, "full"),
        (Sync, Errno::INVAL, "io"),
        (SyncDir, Errno::IO, "io"),
        (Owner, Errno::IO, "io"),
        (Owner, Errno::DQUOT, "quota"),
        (Mode, Errno::ROFS, "read-only"),
        (Times, Errno::IO, "io"),
        (Attribute, Errno::DQUOT, "quota"),
        (Attribute, Errno::IO, "io"),
    ];
    for (change, errno, expected) in cases {
        let bench = bench();
        // What is done while it is copied, and what is done when it is published.
        let at = if matches!(change, Create | Write) { Phase::Track } else { Phase::Publish };
        let (result, _) = with_fault(&bench, at, change, errno);
        assert_eq!(kind(&result), expected, "{change:?} {errno}: {result:?}");
        assert!(!bench.dest.exists());
        bench.assert_nothing_staged();
    }
}

/// What is wrong with a disk, or with a server, is told with what to do, whatever was being done; and nothing is left.
#[test]
fn a_file_system_that_breaks_is_told_by_its_cause_with_what_to_do() {
    use Change::*;
    let causes = [
        (Errno::UCLEAN, "fsck"),
        (Errno::NODEV, "attach it"),
        (Errno::STALE, "mount it again"),
        (Errno::TXTBSY, "end that first"),
        (Errno::NOTCONN, "mount it again"),
    ];
    for (errno, words) in causes {
        for change in [Create, MakeDir, Write, Sync, SyncDir, Place, Link, Symlink, Owner, Mode, Times, Attribute] {
            let bench = bench();
            let at = if matches!(change, Create | Write) { Phase::Track } else { Phase::Publish };
            let (result, _) = with_fault(&bench, at, change, errno);
            let said = result.as_ref().map(|_| String::new()).unwrap_or_else(ToString::to_string);
            assert_eq!(kind(&result), "io", "{change:?} {errno}: {said}");
            assert!(said.contains(words), "{change:?} {errno}: {said}");
            assert!(!bench.dest.exists());
            bench.assert_nothing_staged();
        }
    }
}

/// What cannot be kept, by name.
fn not_kept(report: &Report) -> Vec<&str> {
    let mut all: Vec<&str> = report.not_kept.iter().map(|not| &*not.what).collect();
    all.dedup();
    all
}

#[test]
fn metadata_that_cannot_be_kept_is_told_and_noted_and_verify_is_content() {
    use Change::*;
    let cases = [
        (Owner, Errno::PERM, "owner"),
        (Mode, Errno::PERM, "mode"),
        (Mode, Errno::OPNOTSUPP, "mode"),
        (Attribute, Errno::OPNOTSUPP, "attribute"),
        (Attribute, Errno::NOSPC, "attribute"),
        (Times, Errno::OPNOTSUPP, "mtime"),
        (Link, Errno::PERM, "hard_link"),
        (Link, Errno::MLINK, "hard_link"),
    ];
    for (change, errno, expected) in cases {
        // The trial finds it, and it is told before anything is copied; or it comes later.
        let late = matches!(change, Attribute | Link);
        for at in [Phase::Track, Phase::Publish].into_iter().take(1 + usize::from(late)) {
            let bench = bench();
            let foreign = bench.source.join("dir/file");
            std::os::unix::fs::chown(&foreign, Some(12_345), Some(54_321)).unwrap();
            let (result, warnings) = with_fault(&bench, at, change, errno);
            let report = result.unwrap_or_else(|error| panic!("{change:?} {errno}: {error}"));
            assert!(not_kept(&report).contains(&expected), "{change:?} {errno}: {:?}", report.not_kept);
            assert!(!warnings.is_empty(), "{change:?} {errno} was not told");
            let found = verify(&bench.dest, &common::Quiet).unwrap().problems;
            assert!(found.is_empty(), "{change:?} {errno}: {found:?}");
            assert_eq!(fs::read(bench.dest.join("linked")).unwrap(), &pattern(1, 100_000)[..90_000]);
            let text = fs::read_to_string(bench.dest.join(".hotbackup/manifest.json")).unwrap();
            let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert!(manifest["not_kept"].as_array().unwrap().iter().any(|not| not["what"] == expected), "{manifest}");
        }
    }
}

#[test]
fn where_everything_is_kept_nothing_is_told() {
    let bench = bench();
    let io = Faulty::default();
    let watch = Watch { io: &io, at: Phase::Done, warnings: Mutex::default() };
    let (backup, target) = bench.prepare(Point::End);
    let report = backup.run(&*target.calls, &watch, &Control::default()).unwrap();
    assert_eq!((report.not_kept, watch.warnings.into_inner().unwrap()), (vec![], vec![]));
}

#[test]
fn a_directory_that_cannot_be_synced_is_no_reason_to_fail() {
    for errno in [Errno::INVAL, Errno::OPNOTSUPP] {
        let bench = bench();
        let (result, warnings) = with_fault(&bench, Phase::Track, Change::SyncDir, errno);
        result.unwrap();
        assert!(warnings.iter().any(|words| words.contains("sync directories")), "{warnings:?}");
    }
}

#[test]
fn an_attribute_that_does_not_fit_is_named_and_the_destination_is_not_called_full() {
    let bench = bench();
    // Larger than what ext4 keeps beside an inode; other file systems keep it.
    let large = rustix::fs::setxattr(bench.source.join("file"), "user.large", &[7; 3000], XattrFlags::empty());
    if large.is_err() {
        return;
    }
    let (result, warnings) = with_fault(&bench, Phase::Publish, Change::Attribute, Errno::NOSPC);
    let report = result.unwrap();
    let words: Vec<&str> = report.not_kept.iter().map(|not| &*not.words).collect();
    assert!(words.iter().any(|words| words.contains("user.large does not fit")), "{words:?}");
    assert!(warnings.iter().any(|words| words.contains("user.large does not fit")), "{warnings:?}");
}

/// An access list: tags, permissions and numbers, as the kernel takes it.
fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, allowed, id) in entries {
        list.extend([&tag.to_le_bytes()[..], &allowed.to_le_bytes(), &id.to_le_bytes()].concat());
    }
    list
}

const NOBODY: u32 = u32::MAX;

fn has_list(path: &Path) -> bool {
    let mut buffer = [0; 1024];
    ["system.posix_acl_access", "system.posix_acl_default"]
        .into_iter()
        .any(|name| rustix::fs::lgetxattr(path, name, &mut buffer).is_ok())
}

#[test]
fn nothing_is_inherited_from_the_directory_that_the_backup_is_in() {
    for several in [false, true] {
        let mut bench = bench();
        let parent = bench.dir.path().join("parent");
        fs::create_dir(&parent).unwrap();
        bench.dest = parent.join("dest");
        // Whatever is made here belongs to a group, and a user may read it.
        std::os::unix::fs::chown(&parent, None, Some(54_321)).unwrap();
        fs::set_permissions(&parent, Permissions::from_mode(0o2775)).unwrap();
        let entries = [(0x01, 7, NOBODY), (0x02, 7, 12_345), (0x04, 7, NOBODY), (0x10, 7, NOBODY), (0x20, 5, NOBODY)];
        rustix::fs::setxattr(&parent, "system.posix_acl_default", &list(&entries), XattrFlags::empty()).unwrap();
        for name in ["file", "dir", "dir/file"] {
            let mode = if name == "dir" { 0o750 } else { 0o640 };
            fs::set_permissions(bench.source.join(name), Permissions::from_mode(mode)).unwrap();
        }
        let mut spec = bench.spec(Point::End);
        if several {
            spec.sources = vec![common::source(&bench.source, Some("source"))];
        }
        let (backup, target): (Backup<Permit>, _) = target_of(Backup::prepare(spec).unwrap());
        let group = fs::metadata(&bench.source).unwrap().gid();
        let looks_in = AtPhase::new(|phase| {
            if phase == Phase::Publish {
                let staged = fs::read_dir(&parent).unwrap().next().unwrap().unwrap().path();
                assert!(!has_list(&staged) && fs::metadata(&staged).unwrap().mode() & 0o7777 == 0o700, "{staged:?}");
            }
        });
        backup.run(&*target.calls, &looks_in, &Control::default()).unwrap();
        let top = if several { bench.dest.join("source") } else { bench.dest.clone() };
        for path in [
            &bench.dest,
            &bench.dest.join(".hotbackup"),
            &top,
            &top.join("dir"),
            &top.join("dir/file"),
            &top.join("file"),
        ] {
            assert!(!has_list(path), "{path:?} has an access list");
            assert_eq!(fs::metadata(path).unwrap().gid(), group, "{path:?}");
            assert_eq!(fs::metadata(path).unwrap().mode() & 0o2000, 0, "{path:?}");
        }
        assert_eq!(fs::metadata(top.join("file")).unwrap().mode() & 0o7777, 0o640);
        if several {
            assert_eq!(fs::metadata(&bench.dest).unwrap().mode() & 0o7777, 0o700);
        }
    }
}

#[test]
fn where_an_access_list_or_a_group_cannot_be_kept_the_mode_gives_nobody_more() {
    // user::rw-, user:12345:r--, group::---: the mode's group bits are the mask.
    let entries = [(0x01, 6, NOBODY), (0x02, 4, 12_345), (0x04, 0, NOBODY), (0x10, 4, NOBODY), (0x20, 0, NOBODY)];
    for (change, mode) in [(Change::Attribute, 0o600), (Change::Owner, 0o640)] {
        let bench = bench();
        let file = bench.source.join("dir/file");
        rustix::fs::setxattr(&file, "system.posix_acl_access", &list(&entries), XattrFlags::empty()).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        let (result, _) = with_fault(&bench, Phase::Track, change, Errno::PERM);
        result.unwrap();
        assert_eq!(fs::metadata(bench.dest.join("dir/file")).unwrap().mode() & 0o777, mode, "{change:?}");
        assert!(verify(&bench.dest, &common::Quiet).unwrap().problems.is_empty());
    }
    let bench = bench();
    let file = bench.source.join("dir/file");
    std::os::unix::fs::chown(&file, Some(12_345), Some(54_321)).unwrap();
    fs::set_permissions(&file, Permissions::from_mode(0o6754)).unwrap();
    let (result, _) = with_fault(&bench, Phase::Track, Change::Owner, Errno::PERM);
    result.unwrap();
    // The group is another: what all others may is what it may.
    assert_eq!(fs::metadata(bench.dest.join("dir/file")).unwrap().mode() & 0o7777, 0o744);
}
