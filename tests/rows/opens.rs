//! Opening that cuts a file, and files that are open without a name or longer than 32 bits count.
use nix::libc::{self, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

use super::bench::{Bench, Fs, content, proven, proven_at};
use super::content::{AT, SIZE, opened};
use crate::call;
use crate::common::driver::{Arg, bytes, filled, words};
use crate::common::moment::Moment;

/// One call that opens a file, or two.
fn reopened(open: impl Fn(&mut Bench, &Arg) + Copy + Send) {
    proven(|at| {
        let file = Arg::from(&at.file("file", SIZE));
        move |at: &mut Bench| open(at, &file)
    });
}

#[test]
fn open_with_o_trunc() {
    reopened(|at, file| {
        call!(at.guest, libc::SYS_open, file.clone(), O_WRONLY | O_TRUNC, 0);
    });
}

#[test]
fn openat_with_o_trunc() {
    reopened(|at, file| {
        call!(at.guest, libc::SYS_openat, libc::AT_FDCWD, file.clone(), O_RDWR | O_TRUNC, 0);
    });
}

#[test]
fn openat_with_o_trunc_for_reading() {
    // The standard leaves it open; Linux truncates.
    reopened(|at, file| {
        call!(at.guest, libc::SYS_openat, libc::AT_FDCWD, file.clone(), O_RDONLY | O_TRUNC, 0);
    });
}

#[test]
fn openat2_with_o_trunc() {
    reopened(|at, file| {
        let how = words(&[(O_WRONLY | O_TRUNC).into(), 0, 0]);
        call!(at.guest, libc::SYS_openat2, libc::AT_FDCWD, file.clone(), how, 24);
    });
}

#[test]
fn openat2_with_o_trunc_below_a_root() {
    proven(|at| {
        let fd = {
            at.file("below/file", SIZE);
            let below = at.dir.join("below");
            at.guest.open(&below, O_RDONLY)
        };
        const RESOLVE_IN_ROOT: i64 = 0x10;
        move |at: &mut Bench| {
            let how = words(&[(O_WRONLY | O_TRUNC).into(), 0, RESOLVE_IN_ROOT]);
            call!(at.guest, libc::SYS_openat2, fd, "/../file", how, 24);
        }
    });
}

#[test]
fn creat_of_a_file_that_is_there() {
    reopened(|at, file| {
        call!(at.guest, libc::SYS_creat, file.clone(), 0o600);
    });
}

#[test]
fn o_trunc_and_less_written_than_before() {
    reopened(|at, file| {
        let fd = call!(at.guest, libc::SYS_openat, libc::AT_FDCWD, file.clone(), O_RDWR | O_TRUNC, 0);
        call!(at.guest, libc::SYS_write, fd, filled(b'n', 66_000), 66_000);
    });
}

#[test]
fn a_file_of_more_than_4_gib() {
    const FAR: i64 = (4 << 30) + 12_345;
    // Every zero of it is hashed, and hashed again to verify: two moments must do.
    proven_at(&[Moment::BeforePoint, Moment::AfterPoint], Fs::Here, |at| {
        let fd = opened(at, O_RDWR);
        call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"before"), 6, FAR);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"after!"), 6, FAR);
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"in a hole"), 9, FAR / 2);
        }
    });
}

#[test]
fn an_unlinked_file_that_is_written_to_is_nowhere() {
    proven(|at| {
        let fd = opened(at, O_RDWR);
        let file = at.dir.join("file");
        at.file("stays", 10);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_unlink, &file);
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"nowhere"), 7, AT);
        }
    });
}

#[test]
fn a_file_unlinked_before_the_backup_that_is_linked_again() {
    proven(|at| {
        let fd = at.guest.open(&at.dir, O_RDWR | libc::O_TMPFILE);
        call!(at.guest, libc::SYS_write, fd, bytes(&content(SIZE)), SIZE);
        let new = at.dir.join("new");
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"changed"), 7, AT);
            call!(at.guest, libc::SYS_linkat, fd, "", libc::AT_FDCWD, &new, libc::AT_EMPTY_PATH);
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"changed"), 7, AT + 9);
        }
    });
}
