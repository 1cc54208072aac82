//! The ways in which a call can name a file: each is followed as the kernel follows it.
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::libc::{self, AT_FDCWD, O_CREAT, O_DIRECTORY, O_PATH, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};

use super::bench::{Bench, proven};
use crate::call;
use crate::common::driver::{Arg, Driver, Item, bytes, halves};

const SIZE: usize = 100_000;

/// Makes a name and cuts a file, both by paths that start at `base`.
fn change(guest: &mut Driver, base: &str) {
    let (new, file) = (format!("{base}new"), format!("{base}file"));
    call!(guest, libc::SYS_mkdirat, AT_FDCWD, &*new, 0o755);
    call!(guest, libc::SYS_truncate, &*file, 70_000);
}

/// `deep/er/file`, changed by a guest that has done what `prepare` says, seen from where `base` is right.
fn changed(base: &'static str, prepare: impl Fn(&mut Bench) + Copy + Send) {
    proven(|at| {
        at.file("deep/er/file", SIZE);
        move |at: &mut Bench| {
            prepare(at);
            change(&mut at.guest, base);
        }
    });
}

#[test]
fn relative_to_the_working_directory() {
    changed("deep/er/", |_| {});
}

#[test]
fn with_dots_and_slashes() {
    changed(".//deep/../deep/./er//", |_| {});
}

#[test]
fn after_chdir() {
    changed("er/../er/", |at| {
        call!(at.guest, libc::SYS_chdir, "deep");
    });
}

#[test]
fn after_fchdir() {
    changed("", |at| {
        let fd = at.guest.open("deep/er", O_PATH | O_DIRECTORY);
        call!(at.guest, libc::SYS_fchdir, fd);
    });
}

#[test]
fn in_a_working_directory_that_was_renamed() {
    changed("", |at| {
        call!(at.guest, libc::SYS_chdir, "deep/er");
        call!(at.guest, libc::SYS_rename, "../../deep", "../../moved");
    });
}

#[test]
fn in_a_thread_with_a_working_directory_of_its_own() {
    proven(|at| {
        at.file("deep/er/file", SIZE);
        move |at: &mut Bench| {
            at.guest.in_thread();
            call!(at.guest, libc::SYS_unshare, libc::CLONE_FS);
            call!(at.guest, libc::SYS_chdir, "deep");
            change(&mut at.guest, "er/");
            at.guest.end();
            call!(at.guest, libc::SYS_mkdir, "by-the-first-thread", 0o755);
        }
    });
}

#[test]
fn in_a_child_that_was_chrooted() {
    proven(|at| {
        at.file("deep/er/file", SIZE);
        symlink("/er", at.dir.join("deep/absolute")).expect("made");
        move |at: &mut Bench| {
            at.guest.in_child();
            call!(at.guest, libc::SYS_chroot, "deep");
            call!(at.guest, libc::SYS_chdir, "/");
            change(&mut at.guest, "/../../absolute/");
            at.guest.end();
            // The path means something else again.
            call!(at.guest, libc::SYS_mkdir, "deep/afterwards", 0o755);
        }
    });
}

#[test]
fn in_a_child_with_mounts_of_its_own() {
    proven(|at| {
        at.file("deep/er/file", SIZE);
        at.directory("mounted");
        move |at: &mut Bench| {
            at.guest.in_child();
            call!(at.guest, libc::SYS_unshare, libc::CLONE_NEWNS);
            call!(at.guest, libc::SYS_mount, "none", "/", 0, libc::MS_REC | libc::MS_PRIVATE, 0);
            call!(at.guest, libc::SYS_mount, "deep", "mounted", 0, libc::MS_BIND, 0);
            let (new, file) = (at.dir.join("mounted/er/new"), at.dir.join("mounted/er/file"));
            call!(at.guest, libc::SYS_mkdir, &new, 0o755);
            call!(at.guest, libc::SYS_truncate, &file, 70_000);
            at.guest.end();
        }
    });
}

#[test]
fn relative_to_a_descriptor() {
    proven(|at| {
        at.file("deep/er/file", SIZE);
        let deep = at.guest.open("deep", O_RDONLY | O_DIRECTORY);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_mkdirat, deep, "er/new", 0o755);
            call!(at.guest, libc::SYS_openat, deep, "er/file", O_WRONLY | O_TRUNC, 0);
        }
    });
}

#[test]
fn relative_to_a_descriptor_opened_with_o_path() {
    proven(|at| {
        at.file("deep/er/file", SIZE);
        let deep = at.guest.open("deep", O_PATH | O_DIRECTORY);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_rename, "deep", "moved");
            call!(at.guest, libc::SYS_mkdirat, deep, "er/new", 0o755);
            call!(at.guest, libc::SYS_openat, deep, "er/file", O_WRONLY | O_TRUNC, 0);
        }
    });
}

#[test]
fn an_absolute_path_whatever_the_descriptor() {
    proven(|at| {
        let file = at.file("deep/file", SIZE);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_openat, -1, &file, O_WRONLY | O_TRUNC, 0);
        }
    });
}

#[test]
fn through_links_in_the_source() {
    proven(|at| {
        at.file("deep/er/file", SIZE);
        symlink("deep", at.dir.join("first")).expect("made");
        symlink("../first/er/file", at.dir.join("deep/second")).expect("made");
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_mkdir, "first/er/new", 0o755);
            call!(at.guest, libc::SYS_truncate, "first/second", 70_000);
        }
    });
}

#[test]
fn through_a_link_outside_that_leads_into_the_source() {
    proven(|at| {
        at.file("deep/er/file", SIZE);
        let link = at.outside.join("link");
        symlink(at.dir.join("deep"), &link).expect("made");
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_mkdir, &link.join("er/new"), 0o755);
            call!(at.guest, libc::SYS_truncate, &link.join("er/file"), 70_000);
        }
    });
}

/// The guest opens this file before anything else, and the change is made through what stands for it.
fn by_descriptor(change: impl Fn(&mut Bench, i32) + Copy + Send) {
    proven(|at| {
        let file = at.file("file", SIZE);
        let fd = at.guest.open(&file, O_RDWR);
        move |at: &mut Bench| change(at, fd)
    });
}

#[test]
fn a_duplicate_of_a_descriptor() {
    by_descriptor(|at, fd| {
        let copy = call!(at.guest, libc::SYS_dup, fd);
        call!(at.guest, libc::SYS_close, fd);
        call!(at.guest, libc::SYS_pwrite64, copy, bytes(b"written"), 7, 70_000);
        call!(at.guest, libc::SYS_dup2, copy, 77);
        call!(at.guest, libc::SYS_fchmod, 77, 0o600);
    });
}

#[test]
fn a_descriptor_number_used_again_for_another_file() {
    by_descriptor(|at, fd| {
        let other = call!(at.guest, libc::SYS_creat, "other", 0o644);
        call!(at.guest, libc::SYS_dup2, other, fd);
        call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"to the other"), 12, 5);
    });
}

#[test]
fn a_descriptor_inherited_by_a_child() {
    by_descriptor(|at, fd| {
        at.guest.in_child();
        call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"written"), 7, 70_000);
        let own = at.guest.open("new", O_RDWR | O_CREAT);
        call!(at.guest, libc::SYS_write, own, bytes(b"by the child"), 12);
        at.guest.end();
    });
}

#[test]
fn a_descriptor_inherited_through_execve() {
    by_descriptor(|at, fd| {
        at.guest.in_child();
        let program = fs::read_link(format!("/proc/{}/exe", at.guest.pid())).expect("the guest's program");
        let text = |text: &[u8]| Item::Pointer(vec![Item::Bytes([text, b"\0"].concat())]);
        let arguments = vec![text(b"guest"), text(b"."), text(b"again"), Item::Number(0)];
        call!(at.guest, libc::SYS_execve, &program, arguments, vec![Item::Number(0)]);
        call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"by another program"), 18, 70_000);
        call!(at.guest, libc::SYS_mkdir, "new", 0o755);
        at.guest.end();
    });
}

#[test]
fn a_descriptor_in_a_table_of_a_threads_own() {
    by_descriptor(|at, fd| {
        let other = at.guest.open("other", O_RDWR | O_CREAT);
        at.guest.in_thread();
        call!(at.guest, libc::SYS_unshare, libc::CLONE_FILES);
        // The number means one file here, and another one to the first thread.
        call!(at.guest, libc::SYS_dup2, other, fd);
        call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"to the other"), 12, 5);
        at.guest.end();
        call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"to the file"), 11, 70_000);
    });
}

#[test]
fn a_descriptor_received_through_a_socket() {
    by_descriptor(|at, fd| {
        let arguments = [libc::AF_UNIX.into(), libc::SOCK_STREAM.into(), 0.into(), halves(&[0, 0])];
        let [from, to] = at.guest.pair(libc::SYS_socketpair, &arguments);
        // struct msghdr with one byte of data, and a control message that holds one descriptor.
        let message = |fd: i32| {
            let header =
                [20i64.to_ne_bytes().to_vec(), halves_of(&[libc::SOL_SOCKET, libc::SCM_RIGHTS, fd, 0])].concat();
            let data = vec![Item::Pointer(vec![Item::Bytes(b"x".to_vec())]), Item::Number(1)];
            vec![
                Item::Number(0),
                Item::Number(0),
                Item::Pointer(data),
                Item::Number(1),
                Item::Pointer(vec![Item::Bytes(header)]),
                Item::Number(24),
                Item::Number(0),
            ]
        };
        call!(at.guest, libc::SYS_sendmsg, to, message(fd), 0);
        call!(at.guest, libc::SYS_close, fd);
        call!(at.guest, libc::SYS_recvmsg, from, message(-1), 0);
        // The lowest free number.
        call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"through a socket"), 16, 70_000);
    });
}

fn halves_of(numbers: &[i32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_ne_bytes()).collect()
}

#[test]
fn by_proc_self_fd() {
    by_descriptor(|at, fd| {
        call!(at.guest, libc::SYS_truncate, &*format!("/proc/self/fd/{fd}"), 70_000);
    });
}

#[test]
fn by_proc_self_fd_of_a_descriptor_opened_with_o_path() {
    by_descriptor(|at, _| {
        let path = at.guest.open("file", O_PATH);
        let link = format!("/proc/self/fd/{path}");
        let fd = call!(at.guest, libc::SYS_openat, AT_FDCWD, &*link, O_RDWR | O_TRUNC, 0);
        call!(at.guest, libc::SYS_write, fd, bytes(b"short"), 5);
        call!(at.guest, libc::SYS_chmod, &*link, 0o600);
    });
}

#[test]
fn by_dev_fd_and_by_proc_thread_self() {
    by_descriptor(|at, fd| {
        let dir = at.guest.open(".", O_RDONLY | O_DIRECTORY);
        call!(at.guest, libc::SYS_mkdir, &*format!("/dev/fd/{dir}/new"), 0o755);
        call!(at.guest, libc::SYS_truncate, &*format!("/proc/thread-self/fd/{fd}"), 70_000);
    });
}

/// Whoever resolves the path has no such descriptor.
#[test]
fn by_proc_self_fd_with_a_high_number() {
    by_descriptor(|at, fd| {
        let (file, dir) = (900, 901);
        call!(at.guest, libc::SYS_dup2, fd, file);
        let opened = at.guest.open(".", O_RDONLY | O_DIRECTORY);
        call!(at.guest, libc::SYS_dup2, opened, dir);
        call!(at.guest, libc::SYS_mkdir, &*format!("/dev/fd/{dir}/new"), 0o755);
        call!(at.guest, libc::SYS_truncate, &*format!("/proc/self/fd/{file}"), 70_000);
    });
}

#[test]
fn by_the_number_of_the_process() {
    by_descriptor(|at, fd| {
        let pid = at.guest.pid();
        call!(at.guest, libc::SYS_mkdir, &*format!("/proc/{pid}/cwd/new"), 0o755);
        call!(at.guest, libc::SYS_truncate, &*format!("/proc/{pid}/task/{pid}/fd/{fd}"), 70_000);
    });
}

#[test]
fn by_proc_self_cwd_through_a_link() {
    proven(|at| {
        at.file("file", SIZE);
        // A link that says /proc/self, and one that is followed in the middle of a path.
        symlink("/proc/self", at.outside.join("self")).expect("made");
        symlink("/proc/self/cwd/file", at.outside.join("file")).expect("made");
        let (new, file) = (at.outside.join("self/cwd/new"), at.outside.join("file"));
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_mkdir, &new, 0o755);
            call!(at.guest, libc::SYS_truncate, &file, 70_000);
        }
    });
}

#[test]
fn by_dev_stderr() {
    by_descriptor(|at, fd| {
        at.guest.in_child();
        call!(at.guest, libc::SYS_dup2, fd, 2);
        call!(at.guest, libc::SYS_openat, AT_FDCWD, "/dev/stderr", O_WRONLY | O_TRUNC, 0);
        at.guest.end();
    });
}

#[test]
fn names_that_are_not_utf_8() {
    proven(|at| {
        let odd = Path::new(OsStr::from_bytes(b"\xff\xfe\n\t\"\\ "));
        fs::create_dir(at.dir.join(odd)).expect("made");
        let file = odd.join(OsStr::from_bytes(b"\x80file"));
        fs::write(at.dir.join(&file), "odd").expect("written");
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_rename, &file, &odd.join(OsStr::from_bytes(b"\xc3\x28")));
            call!(at.guest, libc::SYS_mkdir, Path::new(OsStr::from_bytes(b"\xe2\x82")), 0o755);
        }
    });
}

#[test]
fn a_path_as_long_as_a_path_can_be() {
    proven(|at| {
        // 4095 bytes with the NUL left out, and names of 255.
        let mut path = String::from(".");
        while path.len() + 256 < 4095 {
            path.push('/');
            path.push_str(&"n".repeat(255));
        }
        let room = 4095 - path.len() - 1;
        let depth = path.split('/').count();
        assert!(depth > 15 && room > 0);
        // The test's own path to it would be too long.
        at.guest.must(libc::SYS_mkdir, &["top".into(), 0o755.into()]);
        call!(at.guest, libc::SYS_chdir, "top");
        let name = "n".repeat(255);
        for _ in 1..depth {
            call!(at.guest, libc::SYS_mkdir, &*name, 0o755);
            call!(at.guest, libc::SYS_chdir, &*name);
        }
        let top = at.dir.join("top");
        call!(at.guest, libc::SYS_chdir, &top);
        let last = format!("{path}/{}", "l".repeat(room));
        move |at: &mut Bench| {
            let fd = at.guest.open(&*last, O_RDWR | O_CREAT);
            call!(at.guest, libc::SYS_write, fd, bytes(b"deep down"), 9);
            let longer = [Arg::from(&*format!("{last}l")), 0o755.into()];
            assert_eq!(at.guest.call(libc::SYS_mkdir, &longer), Err(nix::errno::Errno::ENAMETOOLONG));
        }
    });
}

#[test]
fn a_name_that_is_too_long_for_a_name() {
    proven(|at| {
        at.file("file", SIZE);
        |at: &mut Bench| {
            let too_long = "n".repeat(256);
            for (nr, args) in [
                (libc::SYS_mkdir, [Arg::from(&*too_long), 0o755.into()]),
                (libc::SYS_rename, ["file".into(), Arg::from(&*too_long)]),
                (libc::SYS_symlink, [Arg::from(&*format!("../{too_long}")), "link".into()]),
            ] {
                let failed = at.guest.call(nr, &args) == Err(nix::errno::Errno::ENAMETOOLONG);
                assert_eq!(failed, nr != libc::SYS_symlink);
            }
            call!(at.guest, libc::SYS_truncate, "file", 70_000);
        }
    });
}

#[test]
fn deeper_than_a_path_can_be() {
    proven(|at| {
        let name = "n".repeat(200);
        let top = at.dir.clone();
        for _ in 0..40 {
            call!(at.guest, libc::SYS_mkdir, &*name, 0o755);
            call!(at.guest, libc::SYS_chdir, &*name);
        }
        let fd = at.guest.open("file", O_RDWR | O_CREAT);
        call!(at.guest, libc::SYS_write, fd, bytes(b"before"), 6);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_rename, "file", "renamed");
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"after!"), 6, 0);
            call!(at.guest, libc::SYS_chdir, &top);
        }
    });
}
