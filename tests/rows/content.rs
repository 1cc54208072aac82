//! Calls that change what a file holds.
use std::fs;

use nix::libc::{self, O_APPEND, O_RDWR, O_WRONLY};

use super::bench::{Bench, Fs, proven, proven_on};
use crate::call;
use crate::common::driver::{Arg, bytes, filled, halves, vectors, words};

/// Several blocks of the backup, and a part of one.
pub const SIZE: usize = 300_000;
/// Not where a block begins.
pub const AT: i64 = 200_001;
/// "At the position", to pwritev2.
const POSITION: i64 = -1;
const RWF_APPEND: i64 = 0x10;
const RWF_NOAPPEND: i64 = 0x20;

/// A file of several blocks, opened by the guest.
pub fn opened(at: &mut Bench, flags: i32) -> i32 {
    let file = at.file("file", SIZE);
    at.guest.open(&file, flags)
}

/// The same, with its position somewhere inside.
fn positioned(at: &mut Bench) -> i32 {
    let fd = opened(at, O_RDWR);
    call!(at.guest, libc::SYS_lseek, fd, AT, libc::SEEK_SET);
    fd
}

/// Another file to take content from, opened by the guest.
pub fn other(at: &mut Bench) -> i32 {
    let path = at.outside.join("other");
    fs::write(&path, vec![b'o'; SIZE]).expect("written");
    at.guest.open(&path, O_RDWR)
}

/// A pipe with something in it: where to read from.
fn pipe(at: &mut Bench) -> i32 {
    let [from, to] = at.guest.pair(libc::SYS_pipe2, &[halves(&[0, 0]), 0.into()]);
    call!(at.guest, libc::SYS_write, to, bytes(b"through a pipe"), 14);
    from
}

/// One call on an opened file.
fn by_descriptor(open: fn(&mut Bench) -> i32, nr: i64, arguments: &[Arg]) {
    on_file_system(Fs::Here, open, nr, arguments);
}

pub fn on_file_system(fs: Fs, open: fn(&mut Bench) -> i32, nr: i64, arguments: &[Arg]) {
    proven_on(fs, |at| {
        let arguments = [&[open(at).into()], arguments].concat();
        move |at: &mut Bench| {
            at.guest.must(nr, &arguments);
        }
    });
}

#[test]
fn write() {
    by_descriptor(positioned, libc::SYS_write, &[bytes(b"written"), 7.into()]);
}

#[test]
fn write_to_a_file_opened_with_o_append() {
    by_descriptor(|at| opened(at, O_WRONLY | O_APPEND), libc::SYS_write, &[bytes(b"appended"), 8.into()]);
}

#[test]
fn write_of_several_blocks_beyond_the_end() {
    let open = |at: &mut Bench| {
        let fd = opened(at, O_WRONLY);
        call!(at.guest, libc::SYS_lseek, fd, 1 << 20, libc::SEEK_SET);
        fd
    };
    by_descriptor(open, libc::SYS_write, &[filled(b'w', 200_000), 200_000.into()]);
}

#[test]
fn write_to_a_file_opened_with_o_direct() {
    let open = |at: &mut Bench| {
        let fd = opened(at, O_RDWR | libc::O_DIRECT);
        call!(at.guest, libc::SYS_lseek, fd, 131_072, libc::SEEK_SET);
        fd
    };
    by_descriptor(open, libc::SYS_write, &[filled(b'd', 8192), 8192.into()]);
}

#[test]
fn writev() {
    by_descriptor(positioned, libc::SYS_writev, &[vectors(&[b"in ", b"three ", b"parts"]), 3.into()]);
}

#[test]
fn pwrite64() {
    by_descriptor(|at| opened(at, O_RDWR), libc::SYS_pwrite64, &[bytes(b"written"), 7.into(), AT.into()]);
}

#[test]
fn pwrite64_to_a_file_opened_with_o_append() {
    let open = |at: &mut Bench| opened(at, O_RDWR | O_APPEND);
    by_descriptor(open, libc::SYS_pwrite64, &[filled(b'a', 70_000), 70_000.into(), 5.into()]);
}

#[test]
fn pwritev() {
    let parts = vectors(&[b"in ", b"two"]);
    by_descriptor(|at| opened(at, O_RDWR), libc::SYS_pwritev, &[parts, 2.into(), AT.into(), 0.into()]);
}

fn pwritev2(open: fn(&mut Bench) -> i32, offset: i64, flags: i64) {
    let parts = vectors(&[b"in ", b"two"]);
    by_descriptor(open, libc::SYS_pwritev2, &[parts, 2.into(), offset.into(), 0.into(), flags.into()]);
}

#[test]
fn pwritev2_at_an_offset() {
    pwritev2(|at| opened(at, O_RDWR), AT, 0);
}

#[test]
fn pwritev2_at_the_position() {
    proven(|at| {
        let fd = positioned(at);
        let parts = vectors(&[b"in ", b"two"]);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_pwritev2, fd, parts, 2, POSITION, POSITION, 0);
        }
    });
}

#[test]
fn pwritev2_with_rwf_append() {
    proven(|at| {
        let fd = positioned(at);
        let parts = vectors(&[b"in ", b"two"]);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_pwritev2, fd, parts.clone(), 2, 5, 0, RWF_APPEND);
            call!(at.guest, libc::SYS_pwritev2, fd, parts, 2, POSITION, POSITION, RWF_APPEND);
        }
    });
}

#[test]
fn pwritev2_with_rwf_noappend() {
    pwritev2(|at| opened(at, O_RDWR | O_APPEND), AT, RWF_NOAPPEND);
}

#[test]
fn ftruncate_to_less() {
    by_descriptor(|at| opened(at, O_RDWR), libc::SYS_ftruncate, &[100_001.into()]);
}

#[test]
fn ftruncate_to_more() {
    by_descriptor(|at| opened(at, O_RDWR), libc::SYS_ftruncate, &[1_000_001.into()]);
}

#[test]
fn ftruncate_to_less_and_back_again() {
    proven(|at| {
        let fd = opened(at, O_RDWR);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_ftruncate, fd, 5);
            call!(at.guest, libc::SYS_ftruncate, fd, SIZE);
        }
    });
}

#[test]
fn truncate() {
    proven(|at| {
        let file = at.file("file", SIZE);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_truncate, &file, 100_001);
        }
    });
}

fn fallocate(fs: Fs, mode: i32, offset: i64, length: i64) {
    let arguments = [mode.into(), offset.into(), length.into()];
    on_file_system(fs, |at| opened(at, O_RDWR), libc::SYS_fallocate, &arguments);
}

#[test]
fn fallocate_beyond_the_end() {
    fallocate(Fs::Here, 0, AT, 1 << 20);
}

#[test]
fn fallocate_beyond_the_end_that_keeps_the_size() {
    // Nothing that a backup holds changes: only that is asked here, and that the backup does not fail for it.
    proven(|at| {
        let fd = opened(at, O_RDWR);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_fallocate, fd, libc::FALLOC_FL_KEEP_SIZE, AT, 1 << 20);
            call!(at.guest, libc::SYS_fchmod, fd, 0o600);
        }
    });
}

#[test]
fn fallocate_that_punches_a_hole() {
    fallocate(Fs::Here, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, 70_000, 100_000);
}

#[test]
fn fallocate_that_zeroes_a_range() {
    fallocate(Fs::Here, libc::FALLOC_FL_ZERO_RANGE, 70_000, 100_000);
}

#[test]
fn fallocate_that_zeroes_beyond_the_end() {
    fallocate(Fs::Here, libc::FALLOC_FL_ZERO_RANGE, 250_000, 200_000);
}

#[test]
fn fallocate_that_collapses_a_range() {
    fallocate(Fs::Here, libc::FALLOC_FL_COLLAPSE_RANGE, 65_536, 4096);
    fallocate(Fs::Xfs, libc::FALLOC_FL_COLLAPSE_RANGE, 65_536, 4096);
}

#[test]
fn fallocate_that_inserts_a_range() {
    fallocate(Fs::Here, libc::FALLOC_FL_INSERT_RANGE, 65_536, 4096);
    fallocate(Fs::Xfs, libc::FALLOC_FL_INSERT_RANGE, 65_536, 4096);
}

#[test]
fn fallocate_that_unshares_a_range() {
    proven_on(Fs::Xfs, |at| {
        let (fd, other) = (opened(at, O_RDWR), other(at));
        call!(at.guest, libc::SYS_ioctl, fd, super::ioctls::FICLONE, other);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_fallocate, fd, libc::FALLOC_FL_UNSHARE_RANGE, 0, SIZE);
            call!(at.guest, libc::SYS_pwrite64, other, bytes(b"no longer shared"), 16, AT);
        }
    });
}

#[test]
fn copy_file_range_to_an_offset() {
    proven(|at| {
        let (fd, other) = (opened(at, O_RDWR), other(at));
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_copy_file_range, other, words(&[3]), fd, words(&[AT]), 5000, 0);
        }
    });
}

#[test]
fn copy_file_range_to_the_position() {
    proven(|at| {
        let (fd, other) = (positioned(at), other(at));
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_copy_file_range, other, words(&[3]), fd, 0, 5000, 0);
        }
    });
}

#[test]
fn copy_file_range_within_a_file() {
    proven(|at| {
        let fd = opened(at, O_RDWR);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_copy_file_range, fd, words(&[0]), fd, words(&[280_000]), 50_000, 0);
        }
    });
}

#[test]
fn sendfile() {
    proven(|at| {
        let (fd, other) = (positioned(at), other(at));
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_sendfile, fd, other, 0, 70_000);
        }
    });
}

#[test]
fn splice_to_an_offset() {
    proven(|at| {
        let (fd, pipe) = (opened(at, O_RDWR), pipe(at));
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_splice, pipe, 0, fd, words(&[AT]), 14, 0);
        }
    });
}

#[test]
fn splice_to_the_position() {
    proven(|at| {
        let (fd, pipe) = (positioned(at), pipe(at));
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_splice, pipe, 0, fd, 0, 14, 0);
        }
    });
}
