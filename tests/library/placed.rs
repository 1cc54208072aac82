//! Several sources and destinations in one call, and destinations that become the backup.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::bench::{Host, names};
use crate::common::backup::{number_from, scratch, verify};
use crate::common::snapshot::Snapshot;
use crate::library::{Linked, host, run};

/// How many numbers were appended; they must be all from 1.
fn count(path: &Path) -> u64 {
    let content = fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let numbers = content.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes")));
    (1..).zip(numbers).map(|(expected, found)| assert_eq!(found, expected, "{path:?}")).count() as u64
}

#[test]
fn several_pairs_are_of_one_point_in_time() {
    let mut host = Host::start();
    let (first, second) = (host.data(), host.dest("second"));
    host.ask(&format!("alternate {} {}", first.join("log").display(), second.join("log").display()));
    for round in 0..number_from("HOTBACKUP_ROUNDS", 4) {
        let (a, b) = (host.dest(&format!("a-{round}")), host.dest(&format!("b-{round}")));
        host.start_backup("one", &[(&first, &a), (&second, &b)]);
        host.end("one").assert_complete();
        let (a, b) = (count(&a.join("log")), count(&b.join("log")));
        assert!(a == b || a == b + 1, "{a} numbers in the first, {b} in the second");
    }
}

#[test]
fn sources_that_share_files_links_and_renames_are_right_on_two_file_systems() {
    let mut host = Host::start();
    let (a, b) = (host.data(), host.dest("b"));
    fs::write(a.join("both"), vec![5; 70_000]).unwrap();
    fs::hard_link(a.join("both"), b.join("shared")).unwrap();
    fs::hard_link(a.join("both"), b.join("again")).unwrap();
    fs::write(a.join("wanders"), vec![6; 200_000]).unwrap();
    symlink(b.join("shared"), a.join("across")).unwrap();
    symlink(a.join("both"), a.join("within")).unwrap();
    let (to_a, to_b) = (host.dest("to-a"), host.dest("to-b"));
    let nothing: Option<&str> = None;
    mount(nothing, &to_b, Some("tmpfs"), MsFlags::empty(), nothing).expect("a tmpfs can be mounted");
    host.tell("keep 1");
    host.start_backup("one", &[(&a, &to_a), (&b, &to_b)]);
    host.wait_until_state("1 1");
    // Copied for the one, and then it belongs to the other.
    let moved = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        host.ask(&format!("rename {} {}", a.join("wanders").display(), b.join("wandered").display()));
        host.tell("keep 0");
        host.end("one").assert_complete();
        let read = |path: &Path| fs::read(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        assert_eq!(names(&to_a), ["across", "both", "within"]);
        assert_eq!(names(&to_b), ["again", "shared", "wandered"]);
        assert_eq!(read(&to_a.join("both")), vec![5; 70_000]);
        assert_eq!(read(&to_b.join("shared")), vec![5; 70_000]);
        assert_eq!(read(&to_b.join("wandered")), vec![6; 200_000]);
        let inode = |name: &str| fs::metadata(to_b.join(name)).unwrap().ino();
        assert_eq!(inode("shared"), inode("again"));
        // No link leads to the live files.
        assert_eq!(fs::read_link(to_a.join("across")).unwrap(), to_b.join("shared"));
        assert_eq!(fs::read_link(to_a.join("within")).unwrap(), Path::new("both"));
    }));
    umount2(&to_b, MntFlags::MNT_DETACH).expect("it can be unmounted");
    moved.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

#[test]
fn a_destination_gives_the_rights_of_its_source_only_and_its_own_again_after_a_failure() {
    let mut host = Host::start();
    let (data, dest, more, other) = (host.data(), host.dest("dest"), host.path("more"), host.dest("other"));
    fs::create_dir(&more).unwrap();
    fs::write(data.join("file"), "content").unwrap();
    run(Command::new("setfacl").args(["-m", "u:12345:rwx,d:u:12345:rwx"]).arg(&dest));
    let rights = |path: &Path| -> String {
        let said = Command::new("getfacl").arg("-cpn").arg(path).output().expect("getfacl is there");
        assert!(said.status.success(), "{said:?}");
        String::from_utf8(said.stdout).expect("text")
    };
    let before = rights(&dest);
    assert!(before.contains("\nuser:12345:rwx") && before.contains("\ndefault:user:12345:rwx"), "{before}");
    // It fails at the second destination, when the first has its content already.
    host.tell("keep 1");
    host.start_backup("one", &[(&data, &dest), (&more, &other)]);
    host.wait_until_state("1 1");
    fs::write(other.join("stranger"), "").unwrap();
    host.tell("keep 0");
    host.end("one").assert_failed(Errno::ENOTEMPTY, "not empty");
    assert_eq!((names(&dest), rights(&dest)), (vec![], before));
    fs::remove_file(other.join("stranger")).unwrap();
    host.start_backup("two", &[(&data, &dest), (&more, &other)]);
    host.end("two").assert_complete();
    assert_eq!((names(&dest), rights(&dest)), (vec!["file".into()], rights(&data)));
    assert_eq!(rights(&dest.join("file")), rights(&data.join("file")));
}

#[test]
fn with_manifests_each_destination_can_be_verified() {
    let scratch = scratch();
    let mut command = Command::new(host("host.c", Linked::Shared, &[]));
    command.env("HOTBACKUP_MANIFEST", "1");
    let mut host = Host::spawn(scratch, command);
    let (a, b) = (host.data(), host.dest("b"));
    for (dir, name) in [(&a, "one"), (&b, "two")] {
        fs::write(dir.join(name), name).unwrap();
    }
    let (to_a, to_b) = (host.dest("to-a"), host.dest("to-b"));
    host.start_backup("one", &[(&a, &to_a), (&b, &to_b)]);
    host.end("one").assert_complete();
    for (from, to) in [(&a, &to_a), (&b, &to_b)] {
        // First: whoever verifies reads all of it, which is a time of it, too.
        assert!(Snapshot::of(from) == Snapshot::of(to), "{to:?} differs");
        verify(to);
    }
    fs::write(to_b.join("two"), "2wo").unwrap();
    let damaged = Command::new(crate::common::backup::HOTBACKUP).arg("verify").arg(&to_b).output().unwrap();
    assert_eq!(damaged.status.code(), Some(52), "{damaged:?}");
}

/// A host whose helpers are killed at a step.
fn struck(step: &str) -> Host {
    let scratch = scratch();
    let mut command = Command::new(host("host.c", Linked::Shared, &[]));
    let once = scratch.path().join("once");
    command.env("HOTBACKUP_FAILPOINT", format!("{step}:kill@{}", once.display()));
    let host = Host::spawn(scratch, command);
    fs::write(host.data().join("a"), "content").unwrap();
    fs::write(host.data().join("b"), "content").unwrap();
    host
}

#[test]
fn what_a_killed_backup_staged_is_removed_by_the_next_one() {
    let mut host = struck("publish.synced");
    let dest = host.dest("dest");
    host.back_up(&dest).assert_failed(Errno::EIO, "helper");
    assert_eq!(names(&dest).len(), 1);
    assert!(names(&dest)[0].starts_with(".hotbackup-partial-"));
    host.must_back_up(&dest);
    assert_eq!(names(&dest), ["a", "b"]);
}

#[test]
fn what_was_killed_while_it_was_put_into_place_is_seen_to_be_half() {
    let mut host = struck("publish.renamed");
    let dest = host.dest("dest");
    host.back_up(&dest).assert_failed(Errno::EIO, "helper");
    let left = names(&dest);
    assert!(left.len() == 2 && left[0].starts_with(".hotbackup-partial-"), "{left:?}");
    // What is there may be used by somebody: nothing of it is removed.
    host.back_up(&dest).assert_failed(Errno::ENOTEMPTY, "not empty");
    assert_eq!(names(&dest), left);
    let other = host.dest("other");
    host.must_back_up(&other);
}
