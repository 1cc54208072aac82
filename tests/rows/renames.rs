//! Calls that move names: of files and of whole directories, within the source, into it and out of it.
use nix::libc::{self, AT_FDCWD, O_DIRECTORY, O_RDONLY, O_RDWR};

use super::bench::{Bench, proven};
use super::names::{SIZE, changed};
use crate::call;
use crate::common::driver::bytes;

#[test]
fn rename() {
    changed(|at| {
        call!(at.guest, libc::SYS_rename, "file", "renamed");
    });
}

#[test]
fn rename_over_a_file() {
    changed(|at| {
        call!(at.guest, libc::SYS_rename, "tree/file", "file");
    });
}

#[test]
fn renameat() {
    changed(|at| {
        let tree = at.guest.open("tree", O_RDONLY | O_DIRECTORY);
        call!(at.guest, libc::SYS_renameat, AT_FDCWD, "file", tree, "renamed");
    });
}

#[test]
fn renameat2_with_rename_noreplace() {
    changed(|at| {
        call!(at.guest, libc::SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "tree/new", libc::RENAME_NOREPLACE);
        let taken =
            [AT_FDCWD.into(), "tree/file".into(), AT_FDCWD.into(), "tree/new".into(), libc::RENAME_NOREPLACE.into()];
        assert_eq!(at.guest.call(libc::SYS_renameat2, &taken), Err(nix::errno::Errno::EEXIST));
    });
}

#[test]
fn renameat2_with_rename_exchange() {
    changed(|at| {
        call!(at.guest, libc::SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "tree/file", libc::RENAME_EXCHANGE);
    });
}

#[test]
fn renameat2_that_exchanges_a_file_and_a_directory() {
    changed(|at| {
        call!(at.guest, libc::SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "tree/deep", libc::RENAME_EXCHANGE);
    });
}

#[test]
fn renameat2_with_rename_whiteout() {
    changed(|at| {
        // What stays is a device, which no backup holds.
        call!(at.guest, libc::SYS_renameat2, AT_FDCWD, "file", AT_FDCWD, "renamed", libc::RENAME_WHITEOUT);
    });
}

#[test]
fn rename_of_a_directory_with_all_it_holds() {
    changed(|at| {
        call!(at.guest, libc::SYS_rename, "tree/deep", "empty/deep");
        // It is found under its new name.
        let fd = at.guest.open("empty/deep/file", O_RDWR);
        call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"after the rename"), 16, 70_000);
    });
}

#[test]
fn rename_over_an_empty_directory() {
    changed(|at| {
        call!(at.guest, libc::SYS_rename, "tree", "empty");
    });
}

#[test]
fn renames_in_a_ring() {
    changed(|at| {
        for (from, to) in
            [("file", "tmp"), ("tree/file", "file"), ("tree/deep/file", "tree/file"), ("tmp", "tree/deep/file")]
        {
            call!(at.guest, libc::SYS_rename, from, to);
        }
    });
}

#[test]
fn rename_of_a_file_into_the_source() {
    changed(|at| {
        call!(at.guest, libc::SYS_rename, "../outside/file", "tree/from-outside");
    });
}

#[test]
fn rename_of_a_directory_into_the_source() {
    proven(|at| {
        at.file_outside("tree/deep/file", SIZE);
        let file = at.outside.join("tree/deep/file");
        let fd = at.guest.open(&file, O_RDWR);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"before it moved"), 15, 5);
            call!(at.guest, libc::SYS_rename, "../outside/tree", "tree");
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"after it moved"), 14, 70_000);
        }
    });
}

#[test]
fn rename_of_a_file_out_of_the_source() {
    changed(|at| {
        let fd = at.guest.open("file", O_RDWR);
        call!(at.guest, libc::SYS_rename, "file", "../outside/out");
        call!(at.guest, libc::SYS_ftruncate, fd, 0);
    });
}

#[test]
fn rename_of_a_directory_out_of_the_source() {
    changed(|at| {
        let fd = at.guest.open("tree/deep/file", O_RDWR);
        call!(at.guest, libc::SYS_rename, "tree", "../outside/tree");
        call!(at.guest, libc::SYS_ftruncate, fd, 0);
        call!(at.guest, libc::SYS_unlink, "../outside/tree/file");
    });
}

#[test]
fn rename_out_of_the_source_and_back() {
    changed(|at| {
        call!(at.guest, libc::SYS_rename, "tree", "../outside/tree");
        let fd = at.guest.open("../outside/tree/deep/file", O_RDWR);
        call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"out there"), 9, 70_000);
        call!(at.guest, libc::SYS_rename, "../outside/tree", "back");
    });
}
