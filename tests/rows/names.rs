//! Calls that make, move and remove names.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::libc::{self, AT_FDCWD, O_CREAT, O_DIRECTORY, O_EXCL, O_RDONLY, O_RDWR, O_TMPFILE, O_WRONLY};

use super::bench::{Bench, Fs, content, proven, proven_at};
use crate::call;
use crate::common::backup::number_from;
use crate::common::driver::{Arg, bytes, words};
use crate::common::moment::Moment;

pub const SIZE: usize = 100_000;

/// A tree of two levels: `tree/file`, `tree/deep/file`, `tree/deep/empty/`.
fn tree(at: &Bench, name: &str) -> PathBuf {
    at.file(&format!("{name}/file"), SIZE);
    at.file(&format!("{name}/deep/file"), SIZE);
    at.directory(&format!("{name}/deep/empty"));
    at.dir.join(name)
}

/// Writes to a file that the guest has just made.
fn fill(at: &mut Bench, fd: i64) {
    call!(at.guest, libc::SYS_pwrite64, fd, bytes(&content(SIZE)), SIZE, 0);
}

/// A call that makes `new`, whose descriptor is written to.
fn made(make: impl Fn(&mut Bench, &Arg) -> i64 + Copy + Send) {
    proven(|at| {
        let new = Arg::from(&at.dir.join("new"));
        move |at: &mut Bench| {
            let fd = make(at, &new);
            fill(at, fd);
        }
    });
}

/// One change, with nothing to be prepared but a tree, a file, a file outside and an empty directory.
pub fn changed(change: impl Fn(&mut Bench) + Copy + Send) {
    proven(|at| {
        tree(at, "tree");
        at.file("file", SIZE);
        at.file_outside("file", SIZE);
        at.directory("empty");
        move |at: &mut Bench| change(at)
    });
}

#[test]
fn open_with_o_creat() {
    made(|at, new| call!(at.guest, libc::SYS_open, new.clone(), O_RDWR | O_CREAT, 0o640));
}

#[test]
fn openat_with_o_creat() {
    made(|at, new| call!(at.guest, libc::SYS_openat, AT_FDCWD, new.clone(), O_RDWR | O_CREAT | O_EXCL, 0o640));
}

#[test]
fn openat2_with_o_creat() {
    made(|at, new| {
        let how = words(&[(O_RDWR | O_CREAT).into(), 0o640, 0]);
        call!(at.guest, libc::SYS_openat2, AT_FDCWD, new.clone(), how, 24)
    });
}

#[test]
fn creat() {
    made(|at, new| call!(at.guest, libc::SYS_creat, new.clone(), 0o4755));
}

#[test]
fn o_creat_through_a_link_that_leads_nowhere_yet() {
    proven(|at| {
        at.directory("elsewhere");
        at.directory("links");
        symlink("../links/second", at.dir.join("elsewhere/first")).expect("made");
        symlink("../elsewhere/new", at.dir.join("links/second")).expect("made");
        let first = at.dir.join("elsewhere/first");
        move |at: &mut Bench| {
            let fd = call!(at.guest, libc::SYS_openat, AT_FDCWD, &first, O_RDWR | O_CREAT, 0o600);
            fill(at, fd);
        }
    });
}

#[test]
fn o_tmpfile_and_linkat_by_its_descriptor() {
    made(|at, new| {
        let dir = at.dir.clone();
        let fd = call!(at.guest, libc::SYS_openat, AT_FDCWD, &dir, O_RDWR | O_TMPFILE, 0o600);
        call!(at.guest, libc::SYS_linkat, fd, "", AT_FDCWD, new.clone(), libc::AT_EMPTY_PATH);
        fd
    });
}

#[test]
fn o_tmpfile_and_linkat_by_proc_self_fd() {
    made(|at, new| {
        let dir = at.dir.clone();
        let fd = call!(at.guest, libc::SYS_open, &dir, O_RDWR | O_TMPFILE, 0o600);
        let link = format!("/proc/self/fd/{fd}");
        call!(at.guest, libc::SYS_linkat, AT_FDCWD, &*link, AT_FDCWD, new.clone(), libc::AT_SYMLINK_FOLLOW);
        fd
    });
}

#[test]
fn link() {
    changed(|at| {
        call!(at.guest, libc::SYS_link, "file", "tree/linked");
    });
}

#[test]
fn linkat() {
    changed(|at| {
        let tree = at.guest.open("tree", O_RDONLY | O_DIRECTORY);
        call!(at.guest, libc::SYS_linkat, tree, "file", AT_FDCWD, "linked", 0);
    });
}

/// Another name for a symbolic link and for a FIFO, of which one was there before.
#[test]
fn link_to_what_is_no_file() {
    proven(|at| {
        at.directory("dir");
        symlink("dir", at.dir.join("link")).expect("made");
        call!(at.guest, libc::SYS_mknod, "fifo", libc::S_IFIFO | 0o600, 0);
        call!(at.guest, libc::SYS_link, "fifo", "dir/a fifo before");
        |at: &mut Bench| {
            call!(at.guest, libc::SYS_link, "link", "linked");
            call!(at.guest, libc::SYS_link, "fifo", "dir/fifo");
        }
    });
}

#[test]
fn unlink_of_one_of_two_names_of_a_symbolic_link() {
    proven(|at| {
        symlink("elsewhere", at.dir.join("link")).expect("made");
        call!(at.guest, libc::SYS_link, "link", "linked");
        |at: &mut Bench| {
            call!(at.guest, libc::SYS_unlink, "link");
        }
    });
}

#[test]
fn lchown_of_a_symbolic_link_by_one_of_its_names_is_seen_in_both() {
    proven(|at| {
        at.file("file", SIZE);
        symlink("file", at.dir.join("link")).expect("made");
        call!(at.guest, libc::SYS_link, "link", "linked");
        |at: &mut Bench| {
            call!(at.guest, libc::SYS_lchown, "linked", 1234, 2345);
        }
    });
}

#[test]
fn link_to_a_file_outside() {
    changed(|at| {
        call!(at.guest, libc::SYS_link, "../outside/file", "linked");
    });
}

#[test]
fn a_write_through_one_of_two_links_is_in_both() {
    proven(|at| {
        let file = at.file("file", SIZE);
        at.directory("dir");
        fs::hard_link(&file, at.dir.join("dir/linked")).expect("made");
        move |at: &mut Bench| {
            let fd = at.guest.open("dir/linked", O_RDWR);
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"both"), 4, 70_000);
        }
    });
}

#[test]
fn unlink_of_one_of_two_links() {
    proven(|at| {
        let file = at.file("file", SIZE);
        fs::hard_link(&file, at.dir.join("linked")).expect("made");
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_unlink, "file");
        }
    });
}

#[test]
fn unlink() {
    changed(|at| {
        call!(at.guest, libc::SYS_unlink, "file");
    });
}

#[test]
fn unlink_and_a_new_file_of_that_name() {
    changed(|at| {
        call!(at.guest, libc::SYS_unlink, "file");
        let fd = call!(at.guest, libc::SYS_creat, "file", 0o600);
        call!(at.guest, libc::SYS_write, fd, bytes(b"new"), 3);
    });
}

#[test]
fn unlinkat() {
    changed(|at| {
        let tree = at.guest.open("tree", O_RDONLY | O_DIRECTORY);
        call!(at.guest, libc::SYS_unlinkat, tree, "file", 0);
    });
}

#[test]
fn unlinkat_with_at_removedir() {
    changed(|at| {
        call!(at.guest, libc::SYS_unlinkat, AT_FDCWD, "tree/deep/empty", libc::AT_REMOVEDIR);
    });
}

#[test]
fn rmdir() {
    changed(|at| {
        call!(at.guest, libc::SYS_rmdir, "empty");
    });
}

#[test]
fn rmdir_of_a_tree_that_was_emptied() {
    changed(|at| {
        for file in ["tree/file", "tree/deep/file"] {
            call!(at.guest, libc::SYS_unlink, file);
        }
        for dir in ["tree/deep/empty", "tree/deep", "tree"] {
            call!(at.guest, libc::SYS_rmdir, dir);
        }
    });
}

#[test]
fn mkdir() {
    changed(|at| {
        call!(at.guest, libc::SYS_mkdir, "new", 0o750);
    });
}

#[test]
fn mkdir_of_a_tree_with_files() {
    changed(|at| {
        call!(at.guest, libc::SYS_mkdir, "new", 0o755);
        call!(at.guest, libc::SYS_mkdir, "new/deep", 0o700);
        let fd = call!(at.guest, libc::SYS_creat, "new/deep/file", 0o600);
        fill(at, fd);
    });
}

#[test]
fn mkdirat() {
    changed(|at| {
        let tree = at.guest.open("tree", O_RDONLY | O_DIRECTORY);
        call!(at.guest, libc::SYS_mkdirat, tree, "new/", 0o2775);
    });
}

#[test]
fn mknod_of_a_fifo() {
    changed(|at| {
        call!(at.guest, libc::SYS_mknod, "fifo", libc::S_IFIFO | 0o622, 0);
    });
}

#[test]
fn mknod_of_a_file() {
    changed(|at| {
        call!(at.guest, libc::SYS_mknod, "new", libc::S_IFREG | 0o622, 0);
    });
}

#[test]
fn mknodat_of_a_fifo() {
    changed(|at| {
        let tree = at.guest.open("tree", O_RDONLY | O_DIRECTORY);
        call!(at.guest, libc::SYS_mknodat, tree, "fifo", libc::S_IFIFO | 0o622, 0);
    });
}

#[test]
fn mknodat_of_a_socket() {
    // It is not in the backup, but its directory's time is.
    changed(|at| {
        call!(at.guest, libc::SYS_mknodat, AT_FDCWD, "tree/socket", libc::S_IFSOCK | 0o622, 0);
    });
}

/// A socket of a local address.
fn socket(at: &mut Bench) -> i64 {
    call!(at.guest, libc::SYS_socket, libc::AF_UNIX, libc::SOCK_STREAM, 0)
}

fn address(path: &str) -> Arg {
    bytes(&[&1u16.to_ne_bytes()[..], path.as_bytes(), b"\0"].concat())
}

#[test]
fn bind_of_a_socket_to_a_path() {
    changed(|at| {
        let socket = socket(at);
        call!(at.guest, libc::SYS_bind, socket, address("tree/socket"), 2 + 12);
    });
}

#[test]
fn symlink_to_a_file() {
    changed(|at| {
        call!(at.guest, libc::SYS_symlink, "../file", "tree/link");
    });
}

#[test]
fn symlink_that_replaces_another() {
    proven(|at| {
        symlink("first", at.dir.join("link")).expect("made");
        at.directory("first");
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_symlink, "second", "new");
            call!(at.guest, libc::SYS_rename, "new", "link");
        }
    });
}

#[test]
fn symlinkat() {
    changed(|at| {
        let tree = at.guest.open("tree", O_RDONLY | O_DIRECTORY);
        call!(at.guest, libc::SYS_symlinkat, "deep/file", tree, "link");
    });
}

#[test]
fn unlink_of_a_symbolic_link() {
    proven(|at| {
        at.file("file", SIZE);
        symlink("file", at.dir.join("link")).expect("made");
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_unlink, "link");
        }
    });
}

#[test]
fn a_call_that_fails_changes_nothing() {
    changed(|at| {
        use nix::errno::Errno;
        assert_eq!(at.guest.call(libc::SYS_rename, &["missing".into(), "file".into()]), Err(Errno::ENOENT));
        assert_eq!(at.guest.call(libc::SYS_rmdir, &["tree".into()]), Err(Errno::ENOTEMPTY));
        assert_eq!(at.guest.call(libc::SYS_mkdir, &["tree".into(), 0o755.into()]), Err(Errno::EEXIST));
        assert_eq!(at.guest.call(libc::SYS_link, &["file".into(), "tree/file".into()]), Err(Errno::EEXIST));
        let read_only = at.guest.open("file", O_RDONLY);
        let write = [read_only.into(), bytes(b"x"), 1.into(), 0.into()];
        assert_eq!(at.guest.call(libc::SYS_pwrite64, &write), Err(Errno::EBADF));
        assert_eq!(at.guest.call(libc::SYS_ftruncate, &[read_only.into(), 0.into()]), Err(Errno::EINVAL));
        let full = at.guest.open("/dev/full", O_WRONLY);
        assert_eq!(at.guest.call(libc::SYS_write, &[full.into(), bytes(b"x"), 1.into()]), Err(Errno::ENOSPC));
        // Something that does, so that the moment counts.
        call!(at.guest, libc::SYS_mkdir, "new", 0o755);
    });
}

#[test]
fn names_in_a_directory_of_very_many() {
    // 100,000 on demand.
    let files = number_from("HOTBACKUP_FILES", 2000);
    proven_at(&[Moment::BeforePoint, Moment::AfterPoint], Fs::Here, |at| {
        let many = at.directory("many");
        for n in 0..files {
            fs::write(many.join(n.to_string()), n.to_string()).expect("written");
        }
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_rename, "many/7", "many/renamed");
            call!(at.guest, libc::SYS_unlink, &*format!("many/{}", files - 1));
            call!(at.guest, libc::SYS_truncate, &*format!("many/{}", files / 2), 1);
            let fd = call!(at.guest, libc::SYS_creat, "many/new", 0o600);
            fill(at, fd);
        }
    });
}
