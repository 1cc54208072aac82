//! Paths that mean something else than they say: openat2(2)'s scopes, roots that are the same directory through another
//! mount, as many links as can be, and arguments in memory that is not read easily.
use hotbackup_copier::Error;
use nix::libc::{self, AT_FDCWD, O_CREAT, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, PROT_READ, PROT_WRITE};
use std::os::unix::fs::symlink;

use super::bench::{Bench, proven, refused};
use crate::call;
use crate::common::driver::{bytes, halves, vectors, words};

const SIZE: usize = 100_000;
const IN_ROOT: i64 = 0x10;
const BENEATH: i64 = 0x08;

/// Opens paths below a directory which is the root to them.
fn scoped(resolve: i64, paths: &'static [&'static str], links: &'static [(&'static str, &'static str)]) {
    proven(|at| {
        at.file("d/er/file", SIZE);
        at.file("file", SIZE);
        for (target, link) in links {
            symlink(target, at.dir.join("d").join(link)).expect("made");
        }
        let dir = at.guest.open("d", O_RDONLY);
        move |at: &mut Bench| {
            for path in paths {
                let how = words(&[(O_CREAT | O_WRONLY | O_TRUNC).into(), 0o644, resolve]);
                let fd = call!(at.guest, libc::SYS_openat2, dir, *path, how, 24);
                call!(at.guest, libc::SYS_write, fd, bytes(b"in the scope"), 12);
            }
        }
    });
}

#[test]
fn openat2_in_a_root_through_a_link_that_leads_nowhere_yet() {
    scoped(IN_ROOT, &["lnk"], &[("/newfile", "lnk")]);
}

#[test]
fn openat2_in_a_root_through_a_link_to_what_is_there() {
    scoped(IN_ROOT, &["lnk"], &[("/er/file", "lnk")]);
}

#[test]
fn openat2_in_a_root_through_links_in_its_directories() {
    scoped(
        IN_ROOT,
        &["er/up/new", "first", "er/../er/second"],
        &[("../../er", "er/up"), ("er/third", "first"), ("../../../../fourth", "er/third"), ("/first", "er/second")],
    );
}

#[test]
fn openat2_beneath_a_directory() {
    scoped(BENEATH, &["lnk", "er/lnk"], &[("er/new", "lnk"), ("../another", "er/lnk")]);
}

#[test]
fn through_as_many_links_as_the_kernel_follows() {
    proven(|at| {
        let mut target = "made-at-last".to_owned();
        for link in 0..40 {
            symlink(&target, at.dir.join(link.to_string())).expect("made");
            target = link.to_string();
        }
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_openat, AT_FDCWD, &*target, O_CREAT | O_WRONLY, 0o644);
        }
    });
}

/// The root is the same directory as before, through a mount of its own, on which something else is mounted.
#[test]
fn in_a_child_whose_root_is_another_mount_of_the_same_directory() {
    proven(|at| {
        at.file("root/a/file", SIZE);
        at.file("root/b/file", SIZE);
        move |at: &mut Bench| {
            at.guest.in_child();
            call!(at.guest, libc::SYS_unshare, libc::CLONE_NEWNS);
            call!(at.guest, libc::SYS_mount, "none", "/", 0, libc::MS_REC | libc::MS_PRIVATE, 0);
            let twin = at.outside.clone();
            call!(at.guest, libc::SYS_mount, "root", &twin, 0, libc::MS_BIND, 0);
            let (from, to) = (twin.join("a"), twin.join("b"));
            call!(at.guest, libc::SYS_mount, &from, &to, 0, libc::MS_BIND, 0);
            let real = at.guest.open("/", O_RDONLY);
            // In the one, b is b.
            call!(at.guest, libc::SYS_chroot, "root");
            call!(at.guest, libc::SYS_truncate, "/b/file", 70_000);
            // In the other, which is the same directory of the same file system, b is a.
            call!(at.guest, libc::SYS_fchdir, real);
            call!(at.guest, libc::SYS_chroot, ".");
            call!(at.guest, libc::SYS_chroot, &twin);
            call!(at.guest, libc::SYS_mkdir, "/b/in-a", 0o755);
            call!(at.guest, libc::SYS_truncate, "/b/file", 60_000);
            at.guest.end();
        }
    });
}

/// The kernel takes 32 bits of the count.
#[test]
fn pwritev_with_a_count_of_more_than_32_bits() {
    proven(|at| {
        at.file("file", 3 * SIZE);
        let fd = at.guest.open("file", O_RDWR);
        move |at: &mut Bench| {
            let count = 1i64 << 32 | 1;
            call!(at.guest, libc::SYS_pwritev, fd, vectors(&[b"one part"]), count, 70_000, 0);
        }
    });
}

/// `text` and a NUL at an address of the guest's, in a page made so by these arguments of mmap(2).
fn placed(at: &mut Bench, text: &str, protection: i32, flags: i32, fd: i32) -> i64 {
    let address = call!(at.guest, libc::SYS_mmap, 0, 4096, protection, flags, fd, 0);
    let [from, to] = at.guest.pair(libc::SYS_pipe2, &[halves(&[0, 0]), 0.into()]);
    let text = [text.as_bytes(), b"\0"].concat();
    call!(at.guest, libc::SYS_write, to, bytes(&text), text.len());
    call!(at.guest, libc::SYS_read, from, address, text.len());
    address
}

#[test]
fn a_path_in_memory_that_is_mapped_for_writing_only() {
    proven(|at| {
        let path = placed(at, "new", PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_mkdir, path, 0o755);
        }
    });
}

#[test]
fn a_path_in_memory_that_only_the_kernel_can_read_fails_the_backup() {
    let cause = |error: &Error| matches!(error, Error::Blind(cause) if cause.contains("could not be read"));
    refused(cause, |at| {
        let secret = call!(at.guest, libc::SYS_memfd_secret, 0) as i32;
        call!(at.guest, libc::SYS_ftruncate, secret, 4096);
        let path = placed(at, "new", PROT_READ | PROT_WRITE, libc::MAP_SHARED, secret);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_mkdir, path, 0o755);
        }
    });
}
