//! What long runs found, at known moments.

use std::fs;

use nix::libc;

use crate::call;
use crate::common::backup::{scratch, verify};
use crate::common::driver::{Driver, bytes};
use crate::common::guest::Linked;
use crate::common::moment::{MOMENTS, back_up};
use crate::common::snapshot::Snapshot;

#[test]
fn a_path_through_a_descriptor_that_only_the_target_has_is_followed() {
    for moment in MOMENTS {
        let scratch = scratch();
        let (source, dest) = (scratch.path().join("data"), scratch.path().join("backup"));
        fs::create_dir_all(source.join("d")).expect("a directory");
        let mut guest = Driver::start(&source, Linked::Dynamically);
        let fd = call!(guest, libc::SYS_open, ".", libc::O_RDONLY, 0);
        // We have none of that number, so that the path leads nowhere if it is taken for ours.
        call!(guest, libc::SYS_dup2, fd, 987);
        let mut seen = None;
        let result = back_up(guest.pid(), &source, &dest, moment, || {
            let before = Snapshot::of(&source);
            // Something else explains why the directory has changed.
            call!(guest, libc::SYS_mkdir, "d/e", 0o700);
            call!(guest, libc::SYS_setxattr, "/proc/self/fd/987/d", "user.a", bytes(b"new"), 3, 0);
            seen = Some((before, Snapshot::of(&source)));
        });
        let (before, after) = seen.expect("the backup got as far as the moment");
        result.unwrap_or_else(|failure| panic!("{moment:?}: {}", failure.0));
        let differences = if moment.is_before() { &after } else { &before }.differences(&Snapshot::of(&dest));
        assert!(differences.is_empty(), "{moment:?}: the backup is wrong:\n{}", differences.join("\n"));
        verify(&dest);
    }
}
