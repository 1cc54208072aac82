//! Calls that change where a path leads while every name stays as it is.
use hotbackup_copier::Error;
use nix::libc::{self, AT_FDCWD};

use super::bench::{Bench, refused};
use crate::call;

fn names(error: &Error, name: &str) -> bool {
    matches!(error, Error::Untraceable { path, cause } if path.ends_with(name) && cause.contains("mount"))
}

fn on_the_directory(error: &Error) -> bool {
    names(error, "data/mounted")
}

#[test]
fn mount() {
    refused(on_the_directory, |at| {
        at.file("mounted/file", 100);
        |at: &mut Bench| {
            call!(at.guest, libc::SYS_mount, "none", "mounted", "tmpfs", 0, 0);
            call!(at.guest, libc::SYS_mkdir, "mounted/in-the-other-file-system", 0o755);
            call!(at.guest, libc::SYS_umount2, "mounted", 0);
        }
    });
}

#[test]
fn mount_of_a_directory_on_another() {
    refused(on_the_directory, |at| {
        at.directory("mounted");
        |at: &mut Bench| {
            let outside = at.outside.clone();
            call!(at.guest, libc::SYS_mount, &outside, "mounted", 0, libc::MS_BIND, 0);
            call!(at.guest, libc::SYS_umount2, "mounted", libc::MNT_DETACH);
        }
    });
}

#[test]
fn umount2() {
    refused(on_the_directory, |at| {
        let dir = at.directory("mounted");
        call!(at.guest, libc::SYS_mount, "none", &dir, "tmpfs", 0, 0);
        |at: &mut Bench| {
            call!(at.guest, libc::SYS_umount2, "mounted", libc::MNT_DETACH);
        }
    });
}

#[test]
fn move_mount() {
    const OPEN_TREE_CLONE: i32 = 1;
    const FROM_EMPTY_PATH: i32 = 4;
    refused(on_the_directory, |at| {
        at.directory("mounted");
        |at: &mut Bench| {
            let outside = at.outside.clone();
            let tree = call!(at.guest, libc::SYS_open_tree, AT_FDCWD, &outside, OPEN_TREE_CLONE);
            call!(at.guest, libc::SYS_move_mount, tree, "", AT_FDCWD, "mounted", FROM_EMPTY_PATH);
            call!(at.guest, libc::SYS_umount2, "mounted", libc::MNT_DETACH);
        }
    });
}

/// In mounts of the guest's own; either of its two directories is named.
#[test]
fn pivot_root() {
    let either = |error: &Error| on_the_directory(error) || names(error, "data/mounted/old");
    refused(either, |at| {
        let dir = at.directory("mounted");
        at.directory("mounted/old");
        call!(at.guest, libc::SYS_unshare, libc::CLONE_NEWNS);
        call!(at.guest, libc::SYS_mount, "none", "/", 0, libc::MS_REC | libc::MS_PRIVATE, 0);
        call!(at.guest, libc::SYS_mount, &dir, &dir, 0, libc::MS_BIND, 0);
        |at: &mut Bench| {
            call!(at.guest, libc::SYS_pivot_root, "mounted", "mounted/old");
        }
    });
}
