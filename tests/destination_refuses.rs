//! Destinations in which something that a backup needs in the end is refused, as public reports of such tools have it: told by its own
//! name before anything is copied, with nothing left behind, or done in another way.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

mod common {
    pub mod backup;
    pub mod disk;
    pub mod guest;
}
use common::backup::{Outcome, alone, scratch, take, verify};
use common::disk::{Loop, make_file_system, run};
use common::guest::{Guest, Linked};

/// Something mounted, taken down when dropped.
struct Mounted {
    at: PathBuf,
    _device: Option<Loop>,
}

impl Mounted {
    /// A file system of its own.
    fn disk(dir: &Path, kind: &str, more: &[&str]) -> Self {
        let (image, at) = (dir.join("image"), dir.join("volume"));
        fs::File::create(&image).and_then(|file| file.set_len(256 << 20)).expect("an image");
        fs::create_dir(&at).expect("a mount point");
        let device = Loop::new(&image);
        make_file_system(kind, &device.0, more);
        run("mount", &[device.0.as_os_str(), at.as_os_str()]);
        Self { at, _device: Some(device) }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["2", "16", "2000"])
}

fn back_up(guest: &mut Guest, dest: &Path) -> Outcome {
    let source = guest.dir.clone();
    let outcome = take(guest.pid(), dest, &["--source", source.to_str().expect("plain")]);
    guest.assert_alive();
    outcome
}

/// It failed before a byte was copied, and said why.
fn assert_refused(outcome: &Outcome, words: &str) {
    let said = outcome.failure("dest_io");
    assert!(said.contains(words), "{words:?} is missing in: {said}");
    assert!(outcome.events.iter().all(|event| event["bytes_copied"].as_u64().unwrap_or(0) == 0), "told after copying");
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("readable");
    entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
}

/// What is made in a directory that is append-only can neither be renamed nor removed again (rsnapshot/rsnapshot#221,
/// QubesOS/qubes-issues#8867).
#[test]
fn a_directory_from_which_nothing_can_be_taken_is_left_alone() {
    let _alone = alone();
    let (scratch, mut guest) = (scratch(), rings());
    let disk = Mounted::disk(scratch.path(), "ext4", &[]);
    for (flag, words) in [("a", "append-only"), ("i", "immutable")] {
        let parent = disk.at.join(words);
        fs::create_dir(&parent).expect("made");
        let chattr = |what: &str| run("chattr", &[format!("{what}{flag}").as_ref(), parent.as_os_str()]);
        chattr("+");
        // Above the destination, and the destination itself, which would be replaced.
        assert_refused(&back_up(&mut guest, &parent.join("backup")), words);
        assert_refused(&back_up(&mut guest, &parent), words);
        assert_eq!(names(&parent), [""; 0]);
        chattr("-");
        back_up(&mut guest, &parent.join("backup")).report();
        verify(&parent.join("backup"));
    }
    let left: Vec<String> = names(&disk.at).into_iter().filter(|name| name.contains("partial")).collect();
    assert_eq!(left, [""; 0]);
}

/// Object stores that are mounted, and servers that allow to add only, have directories that cannot be renamed.
#[test]
fn where_no_directory_can_be_renamed_that_is_told_first() {
    let _alone = alone();
    let (scratch, mut guest) = (scratch(), rings());
    let (served, at) = (scratch.path().join("served"), scratch.path().join("at"));
    [&served, &at].iter().for_each(|dir| fs::create_dir(dir).expect("made"));
    run("bindfs", &["--rename-deny".as_ref(), served.as_os_str(), at.as_os_str()]);
    let mounted = Mounted { at: at.clone(), _device: None };
    assert_refused(&back_up(&mut guest, &at.join("backup")), "rename");
    assert_eq!(names(&served), [""; 0]);
    drop(mounted);
}

/// On FAT by fusefat, what is in a directory is not found any more once that was renamed.
#[test]
fn where_a_renamed_directory_loses_what_it_holds_that_is_told_first() {
    let _alone = alone();
    let (scratch, mut guest) = (scratch(), rings());
    let (image, at) = (scratch.path().join("image"), scratch.path().join("at"));
    fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("an image");
    fs::create_dir(&at).expect("made");
    run("mkfs.vfat", &[image.as_os_str()]);
    run("fusefat", &["-o".as_ref(), "rw+".as_ref(), image.as_os_str(), at.as_os_str()]);
    let mounted = Mounted { at: at.clone(), _device: None };
    assert_refused(&back_up(&mut guest, &at.join("backup")), "not found any more");
    assert_eq!(names(&at), [""; 0]);
    drop(mounted);
}

/// More hard links than ext4 allows (rdiff-backup/rdiff-backup#542, RsyncProject/rsync#741): the names that are too many are files of
/// their own, which is told.
#[test]
fn names_beyond_the_most_links_are_copies_and_that_is_told() {
    const MOST: u64 = 65_000;
    let _alone = alone();
    let scratch = scratch();
    let disk = Mounted::disk(scratch.path(), "ext4", &[]);
    // In memory, where there is no such limit.
    let inside = tempfile::TempDir::new_in("/dev/shm").expect("a directory");
    let mut guest = Guest::start_in(inside, "rings", Linked::Dynamically, &["2", "16", "2000"]);
    let many = guest.dir.join("many");
    fs::create_dir(&many).expect("made");
    let name = |number: u64| format!("{number:06}");
    fs::write(many.join(name(0)), "content").expect("written");
    (1..MOST + 10).for_each(|number| fs::hard_link(many.join(name(0)), many.join(name(number))).expect("linked"));
    let dest = disk.at.join("backup");
    let outcome = back_up(&mut guest, &dest);
    let report = outcome.report();
    let told = report["not_kept"].as_array().expect("a list").iter().find(|lost| lost["what"] == "hard_link");
    assert_eq!(told.and_then(|lost| lost["count"].as_u64()), Some(10), "{:#}", report["not_kept"]);
    assert!(outcome.stderr.contains("hard link"), "{}", outcome.stderr);
    verify(&dest);
    let status = |number: u64| fs::metadata(dest.join("many").join(name(number))).expect("there");
    assert_eq!((status(0).nlink(), status(0).len(), status(MOST + 9).len()), (MOST, 7, 7));
}
