//! Calls that change what a restore needs besides content: owners, modes, times, extended attributes.
use std::os::unix::fs::symlink;

use nix::libc::{self, AT_FDCWD, AT_SYMLINK_NOFOLLOW, O_RDONLY, O_RDWR};

use super::bench::{Bench, Fs, proven, unkept_on};
use crate::call;
use crate::common::driver::{Arg, Item, bytes, halves, words};

const SIZE: usize = 100_000;
const SYS_FCHMODAT2: i64 = 452;
const SYS_SETXATTRAT: i64 = 463;
const SYS_REMOVEXATTRAT: i64 = 466;
const SYS_FILE_SETATTR: i64 = 469;

/// A file, a directory and a link to the file, in which one change is made.
fn changed(change: impl Fn(&mut Bench) + Copy + Send) {
    proven(|at| {
        let file = at.file("file", SIZE);
        let dir = at.directory("dir");
        at.file("dir/inside", 10);
        for path in [&file, &dir] {
            call!(at.guest, libc::SYS_setxattr, path, "user.before", bytes(b"set before"), 10, 0);
        }
        symlink("file", at.dir.join("link")).expect("made");
        move |at: &mut Bench| change(at)
    });
}

/// The file and the directory, opened.
fn opened(at: &mut Bench) -> [i32; 2] {
    ["file", "dir"].map(|name| at.guest.open(name, O_RDONLY))
}

#[test]
fn fchmod() {
    changed(|at| {
        for fd in opened(at) {
            call!(at.guest, libc::SYS_fchmod, fd, 0o6711);
        }
    });
}

#[test]
fn fchown() {
    changed(|at| {
        for fd in opened(at) {
            call!(at.guest, libc::SYS_fchown, fd, 1234, 2345);
        }
    });
}

#[test]
fn fsetxattr() {
    changed(|at| {
        for fd in opened(at) {
            call!(at.guest, libc::SYS_fsetxattr, fd, "user.new", bytes(b"\0binary\xff"), 8, 0);
        }
    });
}

#[test]
fn fremovexattr() {
    changed(|at| {
        for fd in opened(at) {
            call!(at.guest, libc::SYS_fremovexattr, fd, "user.before");
        }
    });
}

#[test]
fn chmod() {
    changed(|at| {
        for path in ["link", "dir"] {
            call!(at.guest, libc::SYS_chmod, path, 0o4700);
        }
    });
}

#[test]
fn fchmodat() {
    changed(|at| {
        let dir = at.guest.open("dir", O_RDONLY);
        call!(at.guest, libc::SYS_fchmodat, dir, "inside", 0o600);
        call!(at.guest, libc::SYS_fchmodat, dir, ".", 0o1777);
    });
}

#[test]
fn fchmodat2_with_an_empty_path() {
    changed(|at| {
        for fd in opened(at) {
            call!(at.guest, SYS_FCHMODAT2, fd, "", 0o600, libc::AT_EMPTY_PATH);
        }
    });
}

#[test]
fn chown() {
    changed(|at| {
        for path in ["link", "dir"] {
            call!(at.guest, libc::SYS_chown, path, 1234, 2345);
        }
    });
}

#[test]
fn chown_that_takes_setuid_away() {
    proven(|at| {
        let file = at.file("file", SIZE);
        call!(at.guest, libc::SYS_chmod, &file, 0o6755);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_chown, "file", 0, 0);
        }
    });
}

#[test]
fn a_write_that_takes_capabilities_away() {
    proven(|at| {
        let file = at.file("file", SIZE);
        // CAP_NET_BIND_SERVICE, permitted and effective: VFS_CAP_REVISION_2.
        let capability = halves(&[0x0200_0001, 1 << 10, 0, 0, 0]);
        call!(at.guest, libc::SYS_setxattr, &file, "security.capability", capability, 20, 0);
        let fd = at.guest.open(&file, O_RDWR);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"written"), 7, 5);
        }
    });
}

#[test]
fn lchown_of_a_link() {
    changed(|at| {
        call!(at.guest, libc::SYS_lchown, "link", 1234, 2345);
    });
}

#[test]
fn fchownat() {
    changed(|at| {
        call!(at.guest, libc::SYS_fchownat, AT_FDCWD, "dir/inside", 1234, 2345, 0);
        call!(at.guest, libc::SYS_fchownat, AT_FDCWD, "link", 2345, 3456, AT_SYMLINK_NOFOLLOW);
        let fd = at.guest.open("dir", O_RDONLY);
        call!(at.guest, libc::SYS_fchownat, fd, "", 4567, 5678, libc::AT_EMPTY_PATH);
    });
}

#[test]
fn utime() {
    changed(|at| {
        call!(at.guest, libc::SYS_utime, "file", words(&[1_000_000_000, 1_100_000_000]));
        call!(at.guest, libc::SYS_utime, "dir", words(&[1_000_000_000, 1_100_000_000]));
    });
}

#[test]
fn utimes() {
    changed(|at| {
        let times = || words(&[1_000_000_000, 123_456, 1_100_000_000, 654_321]);
        call!(at.guest, libc::SYS_utimes, "file", times());
        call!(at.guest, libc::SYS_utimes, "dir", times());
    });
}

#[test]
fn futimesat() {
    changed(|at| {
        let dir = at.guest.open("dir", O_RDONLY);
        call!(at.guest, libc::SYS_futimesat, dir, "inside", words(&[1_000_000_000, 1, 1_100_000_000, 2]));
        call!(at.guest, libc::SYS_futimesat, dir, 0, words(&[1_000_000_000, 1, 1_100_000_000, 2]));
    });
}

/// Nanoseconds, before 1970 as well.
fn times() -> Arg {
    words(&[1_000_000_000, 123_456_789, -1, 987_654_321])
}

#[test]
fn utimensat() {
    changed(|at| {
        call!(at.guest, libc::SYS_utimensat, AT_FDCWD, "dir/inside", times(), 0);
        call!(at.guest, libc::SYS_utimensat, AT_FDCWD, "dir", times(), 0);
    });
}

#[test]
fn utimensat_of_a_link_itself() {
    changed(|at| {
        call!(at.guest, libc::SYS_utimensat, AT_FDCWD, "link", times(), AT_SYMLINK_NOFOLLOW);
    });
}

#[test]
fn utimensat_of_a_descriptor() {
    changed(|at| {
        for fd in opened(at) {
            call!(at.guest, libc::SYS_utimensat, fd, 0, times(), 0);
        }
    });
}

#[test]
fn setxattr() {
    changed(|at| {
        for path in ["link", "dir"] {
            call!(at.guest, libc::SYS_setxattr, path, "user.new", bytes(b"value"), 5, 0);
            call!(at.guest, libc::SYS_setxattr, path, "user.before", bytes(b"other"), 5, 0);
        }
    });
}

#[test]
fn setxattr_of_an_access_control_list() {
    changed(|at| {
        // acl(5): user::rw- user:1234:r-- group::r-- mask::rw- other::---, in version 2 of its form on disk.
        let entry = |tag: u16, permissions: u16, id: u32| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
        };
        let none = u32::MAX;
        let entries = [entry(1, 6, none), entry(2, 4, 1234), entry(4, 4, none), entry(16, 6, none), entry(32, 0, none)];
        let list = [&2u32.to_le_bytes()[..], &entries.concat()].concat();
        for (path, name) in [
            ("file", "system.posix_acl_access"),
            ("dir", "system.posix_acl_access"),
            ("dir", "system.posix_acl_default"),
        ] {
            call!(at.guest, libc::SYS_setxattr, path, name, bytes(&list), list.len(), 0);
        }
    });
}

#[test]
fn lsetxattr() {
    changed(|at| {
        call!(at.guest, libc::SYS_lsetxattr, "file", "user.new", bytes(b"value"), 5, 0);
    });
}

#[test]
fn lsetxattr_of_a_link_itself() {
    changed(|at| {
        call!(at.guest, libc::SYS_lsetxattr, "link", "trusted.new", bytes(b"value"), 5, 0);
    });
}

#[test]
fn setxattrat() {
    changed(|at| {
        let value = || vec![Item::Pointer(vec![Item::Bytes(b"value".to_vec())]), Item::Number(5)];
        call!(at.guest, SYS_SETXATTRAT, AT_FDCWD, "dir/inside", 0, "user.new", value(), 16);
        for fd in opened(at) {
            call!(at.guest, SYS_SETXATTRAT, fd, "", libc::AT_EMPTY_PATH, "user.new", value(), 16);
        }
    });
}

#[test]
fn removexattr() {
    changed(|at| {
        for path in ["link", "dir"] {
            call!(at.guest, libc::SYS_removexattr, path, "user.before");
        }
    });
}

#[test]
fn lremovexattr() {
    changed(|at| {
        call!(at.guest, libc::SYS_lremovexattr, "dir", "user.before");
    });
}

#[test]
fn removexattrat() {
    changed(|at| {
        call!(at.guest, SYS_REMOVEXATTRAT, AT_FDCWD, "file", 0, "user.before");
        let fd = at.guest.open("dir", O_RDONLY);
        call!(at.guest, SYS_REMOVEXATTRAT, fd, "", libc::AT_EMPTY_PATH, "user.before");
    });
}

/// Flags such as those of chattr(1): a backup holds none of them. `struct file_attr` begins with them.
#[test]
fn file_setattr() {
    const NODUMP: i64 = 0x80;
    unkept_on(Fs::Here, |at| {
        at.file("file", SIZE);
        at.directory("dir");
        move |at: &mut Bench| {
            call!(at.guest, SYS_FILE_SETATTR, AT_FDCWD, "file", words(&[NODUMP, 0, 0]), 24, 0);
            let fd = at.guest.open("dir", O_RDONLY);
            call!(at.guest, SYS_FILE_SETATTR, fd, "", words(&[NODUMP, 0, 0]), 24, libc::AT_EMPTY_PATH);
        }
    });
}

#[test]
fn mode_and_owner_of_the_source_itself() {
    changed(|at| {
        call!(at.guest, libc::SYS_chmod, ".", 0o2750);
        call!(at.guest, libc::SYS_chown, ".", 1234, 2345);
    });
}
