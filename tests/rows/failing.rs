//! Calls that fail, for every reason that a path can have: they change nothing, and no backup fails because of them.
use std::os::unix::fs::symlink;

use nix::libc::{self, AT_FDCWD, O_CREAT, O_DIRECTORY, O_PATH, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY, S_IFIFO};

use super::bench::{Bench, proven};
use crate::call;
use crate::common::driver::{Arg, bytes, vectors, words};

const SIZE: usize = 100_000;
const PAGE: usize = 4096;

/// Paths that no call can follow to the end.
fn leading_nowhere() -> Vec<Arg> {
    let too_long = "n".repeat(256);
    let paths = [
        String::new(),
        "missing/x".into(),
        "missing/../file".into(),
        "file/x".into(),
        "file/../file".into(),
        "loop/x".into(),
        "dangling/x".into(),
        too_long.clone(),
        format!("{too_long}/x"),
        format!("../{too_long}"),
        // Each leads to a file, but for its length; and to nothing.
        format!("{}file", "./".repeat(PAGE / 2)),
        format!("{}file", "./".repeat(PAGE)),
        "x/".repeat(PAGE),
    ];
    // Not in memory.
    paths.iter().map(|path| Arg::from(&**path)).chain([Arg::from(1), Arg::from(-1)]).collect()
}

/// Every call that has such a path, relative to the working directory.
fn by_path(path: &Arg) -> Vec<(i64, Vec<Arg>)> {
    let (path, file, new) = (|| path.clone(), || Arg::from("file"), || Arg::from("x"));
    let (name, value, here) = (|| Arg::from("user.a"), || bytes(b"v"), || Arg::from(AT_FDCWD));
    let owner = || Arg::from(1000);
    vec![
        (libc::SYS_open, vec![path(), (O_WRONLY | O_CREAT | O_TRUNC).into(), 0o600.into()]),
        (libc::SYS_creat, vec![path(), 0o600.into()]),
        (libc::SYS_truncate, vec![path(), 0.into()]),
        (libc::SYS_rename, vec![path(), new()]),
        (libc::SYS_rename, vec![file(), path()]),
        (libc::SYS_link, vec![path(), new()]),
        (libc::SYS_link, vec![file(), path()]),
        (libc::SYS_symlink, vec![file(), path()]),
        (libc::SYS_unlink, vec![path()]),
        (libc::SYS_rmdir, vec![path()]),
        (libc::SYS_mkdir, vec![path(), 0o755.into()]),
        (libc::SYS_mknod, vec![path(), (S_IFIFO | 0o600).into(), 0.into()]),
        (libc::SYS_chmod, vec![path(), 0o600.into()]),
        (libc::SYS_chown, vec![path(), owner(), owner()]),
        (libc::SYS_lchown, vec![path(), owner(), owner()]),
        (libc::SYS_utime, vec![path(), 0.into()]),
        (libc::SYS_utimes, vec![path(), 0.into()]),
        (libc::SYS_setxattr, vec![path(), name(), value(), 1.into(), 0.into()]),
        (libc::SYS_lsetxattr, vec![path(), name(), value(), 1.into(), 0.into()]),
        (libc::SYS_removexattr, vec![path(), name()]),
        (libc::SYS_lremovexattr, vec![path(), name()]),
    ]
    .into_iter()
    .chain(by_path_at(&here(), &path()))
    .collect()
}

/// Every call that has such a path, relative to a directory.
fn by_path_at(dir: &Arg, path: &Arg) -> Vec<(i64, Vec<Arg>)> {
    let (dir, path) = (|| dir.clone(), || path.clone());
    let (here, file, new) = (|| Arg::from(AT_FDCWD), || Arg::from("file"), || Arg::from("x"));
    let how = words(&[i64::from(O_WRONLY | O_CREAT), 0o600, 0]);
    vec![
        (libc::SYS_openat, vec![dir(), path(), (O_WRONLY | O_CREAT | O_TRUNC).into(), 0o600.into()]),
        (libc::SYS_openat2, vec![dir(), path(), how, 24.into()]),
        (libc::SYS_renameat, vec![dir(), path(), here(), new()]),
        (libc::SYS_renameat2, vec![here(), file(), dir(), path(), 0.into()]),
        (libc::SYS_linkat, vec![dir(), path(), here(), new(), 0.into()]),
        (libc::SYS_linkat, vec![here(), file(), dir(), path(), 0.into()]),
        (libc::SYS_symlinkat, vec![file(), dir(), path()]),
        (libc::SYS_unlinkat, vec![dir(), path(), 0.into()]),
        (libc::SYS_mkdirat, vec![dir(), path(), 0o755.into()]),
        (libc::SYS_mknodat, vec![dir(), path(), (S_IFIFO | 0o600).into(), 0.into()]),
        (libc::SYS_fchmodat, vec![dir(), path(), 0o600.into()]),
        (libc::SYS_fchownat, vec![dir(), path(), 1000.into(), 1000.into(), 0.into()]),
        (libc::SYS_futimesat, vec![dir(), path(), 0.into()]),
        (libc::SYS_utimensat, vec![dir(), path(), 0.into(), 0.into()]),
    ]
}

fn fails(at: &mut Bench, (nr, arguments): (i64, Vec<Arg>)) {
    let returned = at.guest.call(nr, &arguments);
    assert!(returned.is_err(), "call {nr} returned {returned:?}; {arguments:?}");
}

fn prepare(at: &Bench) {
    at.file("file", SIZE);
    symlink("loop", at.dir.join("loop")).expect("made");
    symlink("missing", at.dir.join("dangling")).expect("made");
}

#[test]
fn calls_by_paths_that_lead_nowhere() {
    proven(|at| {
        prepare(at);
        |at: &mut Bench| {
            for path in leading_nowhere() {
                by_path(&path).into_iter().for_each(|call| fails(at, call));
            }
            // Something that succeeds, so that the moment counts.
            call!(at.guest, libc::SYS_truncate, "file", 70_000);
        }
    });
}

#[test]
fn calls_by_paths_from_what_is_no_directory() {
    proven(|at| {
        prepare(at);
        |at: &mut Bench| {
            let file = at.guest.open("file", O_RDONLY);
            for dir in [i64::from(file), 9999, -1] {
                by_path_at(&dir.into(), &"x".into()).into_iter().for_each(|call| fails(at, call));
            }
            call!(at.guest, libc::SYS_truncate, "file", 70_000);
        }
    });
}

/// Every call that changes a file by descriptor, with one of these.
fn by_descriptor(fd: i64) -> Vec<(i64, Vec<Arg>)> {
    let (fd, some, count) = (|| Arg::from(fd), || bytes(&[b'x'; 64]), || Arg::from(64));
    let one = || vectors(&[b"one", b"two"]);
    vec![
        (libc::SYS_write, vec![fd(), some(), count()]),
        (libc::SYS_writev, vec![fd(), one(), 2.into()]),
        (libc::SYS_pwrite64, vec![fd(), some(), count(), 0.into()]),
        (libc::SYS_pwritev, vec![fd(), one(), 2.into(), 0.into(), 0.into()]),
        (libc::SYS_pwritev2, vec![fd(), one(), 2.into(), 0.into(), 0.into(), 0.into()]),
        (libc::SYS_ftruncate, vec![fd(), 0.into()]),
        (libc::SYS_fallocate, vec![fd(), 0.into(), 0.into(), 200_000.into()]),
        (libc::SYS_copy_file_range, vec![fd(), words(&[0]), fd(), words(&[9]), 1.into(), 0.into()]),
        (libc::SYS_sendfile, vec![fd(), fd(), words(&[0]), 64.into()]),
        (libc::SYS_splice, vec![fd(), 0.into(), fd(), 0.into(), 64.into(), 0.into()]),
    ]
}

#[test]
fn calls_by_descriptors_that_cannot_be_written_to() {
    proven(|at| {
        at.file("file", SIZE);
        at.directory("dir");
        |at: &mut Bench| {
            let unfit = [
                at.guest.open("file", O_RDONLY),
                at.guest.open("file", O_PATH),
                at.guest.open("dir", O_RDONLY | O_DIRECTORY),
                -1,
                9999,
            ];
            for fd in unfit {
                by_descriptor(fd.into()).into_iter().for_each(|call| fails(at, call));
            }
            call!(at.guest, libc::SYS_truncate, "file", 70_000);
        }
    });
}

#[test]
fn calls_with_arguments_that_are_not_allowed() {
    proven(|at| {
        at.file("file", SIZE);
        |at: &mut Bench| {
            let fd = i64::from(at.guest.open("file", O_RDWR));
            let (fd, some, nowhere) = (|| Arg::from(fd), || bytes(&[b'x'; 64]), || Arg::from(1));
            let not_allowed: Vec<(i64, Vec<Arg>)> = vec![
                (libc::SYS_write, vec![fd(), nowhere(), 64.into()]),
                (libc::SYS_writev, vec![fd(), nowhere(), 3.into()]),
                (libc::SYS_writev, vec![fd(), words(&[1, 64, 1, 64]), 2.into()]),
                (libc::SYS_writev, vec![fd(), words(&[1, -1]), 1.into()]),
                (libc::SYS_writev, vec![fd(), words(&[1, 1]), 5000.into()]),
                (libc::SYS_pwrite64, vec![fd(), some(), 64.into(), (-1).into()]),
                (libc::SYS_pwrite64, vec![fd(), some(), 64.into(), i64::MAX.into()]),
                (libc::SYS_pwritev, vec![fd(), words(&[1, 64]), 1.into(), 0.into(), 0.into()]),
                (libc::SYS_pwritev2, vec![fd(), words(&[1, 64]), 1.into(), 0.into(), 0.into(), 0x8000.into()]),
                (libc::SYS_ftruncate, vec![fd(), (-1).into()]),
                (libc::SYS_ftruncate, vec![fd(), i64::MAX.into()]),
                (libc::SYS_fallocate, vec![fd(), 0x8000.into(), 0.into(), 64.into()]),
                (libc::SYS_fallocate, vec![fd(), 0.into(), (-1).into(), 64.into()]),
                (libc::SYS_fallocate, vec![fd(), 0.into(), i64::MAX.into(), i64::MAX.into()]),
                (libc::SYS_copy_file_range, vec![fd(), nowhere(), fd(), nowhere(), 64.into(), 0.into()]),
                (libc::SYS_copy_file_range, vec![fd(), words(&[0]), fd(), words(&[9]), 64.into(), 1.into()]),
                (libc::SYS_sendfile, vec![fd(), fd(), nowhere(), 64.into()]),
                (libc::SYS_splice, vec![fd(), nowhere(), fd(), nowhere(), 64.into(), 0.into()]),
                (libc::SYS_io_submit, vec![0.into(), 1.into(), nowhere()]),
                (libc::SYS_fchown, vec![9999.into(), 1000.into(), 1000.into()]),
                (libc::SYS_fsetxattr, vec![fd(), nowhere(), some(), 1.into(), 0.into()]),
                (libc::SYS_fremovexattr, vec![fd(), "user.missing".into()]),
                (libc::SYS_lseek, vec![fd(), (-1).into(), 0.into()]),
                (libc::SYS_dup2, vec![9999.into(), fd()]),
                (libc::SYS_dup3, vec![fd(), fd(), 0.into()]),
                (libc::SYS_close_range, vec![fd(), 0.into(), 0.into()]),
            ];
            not_allowed.into_iter().for_each(|call| fails(at, call));
            call!(at.guest, libc::SYS_pwrite64, fd(), some(), 64, 70_000);
        }
    });
}
