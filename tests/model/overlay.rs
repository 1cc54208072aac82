//! Copies to an overlay's upper layer, which make another file or directory of it and which no call shows, at known
//! moments. What follows from them is in the backup, or the backup is refused; it is never left out without a word.

use std::fs;
use std::path::Path;

use hotbackup_copier::Error;
use nix::libc;

use crate::call;
use crate::common::backup::{scratch, verify};
use crate::common::driver::Driver;
use crate::common::guest::Linked;
use crate::common::moment::{MOMENTS, back_up};
use crate::common::snapshot::Snapshot;
use crate::disks::overlay;

const CREATE: i32 = libc::O_CREAT | libc::O_WRONLY;

fn right_or_refused(past: impl Fn(&Path), change: impl Fn(&mut Driver) + Sync) {
    for moment in MOMENTS {
        let scratch = scratch();
        let mounted = overlay(&scratch.path().join("overlay"), |lower| {
            fs::create_dir(lower.join("data")).expect("a directory");
            past(&lower.join("data"));
        });
        let (source, dest) = (mounted.0.join("data"), scratch.path().join("backup"));
        // The source itself is in the upper layer: what becomes another file is below it.
        fs::write(source.join("new"), []).expect("written");
        let mut guest = Driver::start(&source, Linked::Dynamically);
        let mut seen = None;
        let result = back_up(guest.pid(), &source, &dest, moment, || {
            let before = Snapshot::of(&source);
            // A copy changes the directory above; here a call explains that.
            call!(guest, libc::SYS_open, "newer", CREATE, 0o600);
            change(&mut guest);
            seen = Some((before, Snapshot::of(&source)));
        });
        guest.assert_alive();
        let (before, after) = seen.expect("the backup got as far as the moment");
        assert!(!before.differences(&after).is_empty(), "{moment:?}: nothing changed");
        match result {
            Ok(_) => {
                let expected = if moment.is_before() { &after } else { &before };
                let differences = expected.differences(&Snapshot::of(&dest));
                assert!(differences.is_empty(), "{moment:?}: the backup is wrong:\n{}", differences.join("\n"));
                verify(&dest);
            }
            Err(failure) => assert!(matches!(failure.0, Error::ForeignChange { .. }), "{moment:?}: {}", failure.0),
        }
    }
}

#[test]
fn names_made_in_a_directory_that_becomes_another_are_not_left_out() {
    right_or_refused(
        |data| fs::create_dir(data.join("d")).expect("a directory"),
        |guest| {
            call!(guest, libc::SYS_open, "d/first", CREATE, 0o600);
            call!(guest, libc::SYS_open, "d/second", CREATE, 0o600);
        },
    );
}

#[test]
fn what_is_written_by_one_of_two_names_that_come_to_lead_to_two_files_is_not_left_out() {
    right_or_refused(
        |data| {
            fs::write(data.join("a"), [1; 5000]).expect("written");
            fs::hard_link(data.join("a"), data.join("b")).expect("linked");
        },
        |guest| {
            let fd = call!(guest, libc::SYS_open, "a", libc::O_RDWR, 0);
            call!(guest, libc::SYS_pwrite64, fd, "other", 5, 100);
            call!(guest, libc::SYS_chmod, "b", 0o600);
        },
    );
}

#[test]
fn what_is_written_to_a_file_that_became_another_is_not_left_out() {
    right_or_refused(
        |data| fs::write(data.join("a"), [1; 5000]).expect("written"),
        |guest| {
            call!(guest, libc::SYS_chmod, "a", 0o600);
            let fd = call!(guest, libc::SYS_open, "a", libc::O_RDWR, 0);
            call!(guest, libc::SYS_pwrite64, fd, "other", 5, 100);
        },
    );
}

#[test]
fn the_owner_of_a_symbolic_link_that_became_another_is_not_left_out() {
    right_or_refused(
        |data| std::os::unix::fs::symlink("nowhere", data.join("link")).expect("a link"),
        |guest| {
            call!(guest, libc::SYS_lchown, "link", 7, 8);
            call!(guest, libc::SYS_lchown, "link", 9, 10);
        },
    );
}
