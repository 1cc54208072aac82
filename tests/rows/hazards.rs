//! Calls after which a file can change with nothing to be seen: the backup fails and names the file and the cause.
use hotbackup_copier::Error;
use nix::libc::{self, MAP_PRIVATE, MAP_SHARED, O_RDWR, O_TRUNC, PROT_READ, PROT_WRITE};

use nix::errno::Errno;

use super::bench::{Bench, Fs, proven, refused, refused_on};
use crate::call;
use crate::common::disk;
use crate::common::driver::{Driver, Item, bytes, halves, vectors, words};
use crate::common::guest::Linked;

const SIZE: usize = 100_000;

fn untraceable(error: &Error) -> bool {
    matches!(error, Error::Untraceable { path, .. } if path.ends_with("data/file"))
}

fn blind(error: &Error) -> bool {
    matches!(error, Error::Blind(_))
}

fn opened(at: &mut Bench) -> i32 {
    let file = at.file("file", SIZE);
    at.guest.open(&file, O_RDWR)
}

fn map(at: &mut Bench, fd: i32, protection: i32, flags: i32) -> i64 {
    call!(at.guest, libc::SYS_mmap, 0, 8192, protection, flags, fd, 0)
}

/// A store to memory, without a call that names the file: reading from a pipe into the mapping.
fn store(at: &mut Bench, address: i64) {
    let [from, to] = at.guest.pair(libc::SYS_pipe2, &[halves(&[0, 0]), 0.into()]);
    call!(at.guest, libc::SYS_write, to, bytes(b"stored"), 6);
    call!(at.guest, libc::SYS_read, from, address, 6);
}

/// A mapping that a store goes to.
fn stored_to(flags: i32) {
    refused(untraceable, |at| {
        let fd = opened(at);
        move |at: &mut Bench| {
            let address = map(at, fd, PROT_READ | PROT_WRITE, flags);
            store(at, address);
        }
    });
}

#[test]
fn mmap_shared_and_writable() {
    stored_to(MAP_SHARED);
}

#[test]
fn mmap_validated_as_shared_and_writable() {
    stored_to(libc::MAP_SHARED_VALIDATE);
}

#[test]
fn mmap_private_and_writable_is_no_hazard() {
    proven(|at| {
        let fd = opened(at);
        move |at: &mut Bench| {
            let address = map(at, fd, PROT_READ | PROT_WRITE, MAP_PRIVATE);
            store(at, address);
            call!(at.guest, libc::SYS_fchmod, fd, 0o600);
        }
    });
}

/// A mapping that `protect` makes writable, and that a store goes to then.
fn made_writable(protect: impl Fn(&mut Bench, i64) + Copy + Send) {
    refused(untraceable, |at| {
        let fd = opened(at);
        let address = map(at, fd, PROT_READ, MAP_SHARED);
        move |at: &mut Bench| {
            protect(at, address);
            store(at, address);
        }
    });
}

#[test]
fn mprotect_that_makes_a_mapping_writable() {
    made_writable(|at, address| {
        call!(at.guest, libc::SYS_mprotect, address, 8192, PROT_READ | PROT_WRITE);
    });
}

#[test]
fn pkey_mprotect_that_makes_a_mapping_writable() {
    made_writable(|at, address| {
        call!(at.guest, libc::SYS_pkey_mprotect, address, 8192, PROT_READ | PROT_WRITE, -1);
    });
}

const MADV_REMOVE: i32 = 9;

/// The descriptor is open for writing, the mapping is not.
fn readable(at: &mut Bench) -> i64 {
    let fd = opened(at);
    map(at, fd, PROT_READ, MAP_SHARED)
}

#[test]
fn madvise_that_punches_a_hole_through_a_mapping_that_is_only_readable() {
    proven(|at| {
        let address = readable(at);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_madvise, address, 4096, MADV_REMOVE);
        }
    });
}

#[test]
fn process_madvise_that_punches_a_hole() {
    proven(|at| {
        let address = readable(at);
        move |at: &mut Bench| {
            let pid = at.guest.pid();
            let own = call!(at.guest, libc::SYS_pidfd_open, pid, 0);
            call!(at.guest, libc::SYS_process_madvise, own, words(&[address, 4096]), 1, MADV_REMOVE, 0);
        }
    });
}

/// Another process, which is not followed, and where it has the file mapped for writing.
fn another(at: &mut Bench) -> (Driver, i64) {
    let mut other = Driver::start(&at.dir, Linked::Dynamically);
    let fd = other.open("file", O_RDWR);
    let address = call!(other, libc::SYS_mmap, 0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    call!(other, libc::SYS_close, fd);
    (other, address)
}

#[test]
fn process_vm_writev_into_another_process() {
    refused(untraceable, |at| {
        at.file("file", SIZE);
        |at: &mut Bench| {
            let (other, address) = another(at);
            let to = words(&[address, 6]);
            call!(at.guest, libc::SYS_process_vm_writev, other.pid(), vectors(&[b"stored"]), 1, to, 1, 0);
        }
    });
}

#[test]
fn ptrace_that_stores_into_another_process() {
    const POKEDATA: i32 = 5;
    const ATTACH: i32 = 16;
    const DETACH: i32 = 17;
    refused(untraceable, |at| {
        at.file("file", SIZE);
        |at: &mut Bench| {
            let (other, address) = another(at);
            call!(at.guest, libc::SYS_ptrace, ATTACH, other.pid(), 0, 0);
            call!(at.guest, libc::SYS_wait4, other.pid(), 0, 0, 0);
            call!(at.guest, libc::SYS_ptrace, POKEDATA, other.pid(), address, 0x7878_7878);
            call!(at.guest, libc::SYS_ptrace, DETACH, other.pid(), 0, 0);
        }
    });
}

/// It names what is no swap area, and fails: that is not known beforehand.
#[test]
fn swapon() {
    refused(untraceable, |at| {
        at.file("file", SIZE);
        |at: &mut Bench| {
            assert_eq!(at.guest.call(libc::SYS_swapon, &["file".into(), 0.into()]), Err(Errno::EINVAL));
        }
    });
}

/// A real one, which the kernel has taken for swap for a moment.
#[test]
fn swapon_of_a_swap_area() {
    refused_on(Fs::Ext4, untraceable, |at| {
        let file = at.dir.join("file");
        std::fs::write(&file, vec![0; 256 << 10]).expect("written");
        for program in ["mkswap", "sync"] {
            disk::run(program, &[file.as_os_str()]);
        }
        |at: &mut Bench| {
            call!(at.guest, libc::SYS_swapon, "file", 0);
            call!(at.guest, libc::SYS_swapoff, "file");
        }
    });
}

#[test]
fn acct() {
    refused(untraceable, |at| {
        at.file("file", SIZE);
        |at: &mut Bench| {
            call!(at.guest, libc::SYS_acct, "file");
            call!(at.guest, libc::SYS_acct, 0);
        }
    });
}

const QUOTA_ON: i64 = 0x8000_0200;

#[test]
fn quotactl_that_switches_quotas_on() {
    refused(untraceable, |at| {
        at.file("file", SIZE);
        |at: &mut Bench| {
            let arguments = [QUOTA_ON.into(), "/nowhere".into(), 2.into(), "file".into()];
            assert_eq!(at.guest.call(libc::SYS_quotactl, &arguments), Err(Errno::ENOENT));
        }
    });
}

#[test]
fn quotactl_fd_that_switches_quotas_on() {
    refused(untraceable, |at| {
        at.file("file", SIZE);
        |at: &mut Bench| {
            let arguments = [(-1).into(), QUOTA_ON.into(), 2.into(), "file".into()];
            assert!(at.guest.call(libc::SYS_quotactl_fd, &arguments).is_err());
        }
    });
}

#[test]
fn io_uring_setup() {
    refused(blind, |at| {
        opened(at);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_io_uring_setup, 4, vec![Item::Repeat(0, 120)]);
        }
    });
}

/// A context for asynchronous writes.
fn context(at: &mut Bench) -> i64 {
    let context = at.guest.look(0, libc::SYS_io_setup, &[4.into(), words(&[0])]);
    i64::from_ne_bytes(context.try_into().expect("eight bytes"))
}

/// So many that not all are looked at.
#[test]
fn io_submit_of_more_than_is_looked_at() {
    const POLL: i64 = 5;
    const PWRITE: i64 = 1;
    const COUNT: i64 = 1025;
    refused(blind, |at| {
        let fd = opened(at);
        // The blocks stand in memory of the guest's own: the same harmless one over and over, and the write.
        let at_once =
            call!(at.guest, libc::SYS_mmap, 0, 16384, PROT_READ | PROT_WRITE, MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
        let [from, to] = at.guest.pair(libc::SYS_pipe2, &[halves(&[0, 0]), 0.into()]);
        let (poll, write, text) = (at_once + 12288, at_once + 12288 + 64, at_once + 12288 + 128);
        let mut memory: Vec<i64> = vec![poll; 1536];
        memory[1024] = write;
        memory.extend([0, 0, POLL | i64::from(from) << 32, 1, 0, 0, 0, 0]);
        memory.extend([0, 0, PWRITE | i64::from(fd) << 32, text, 9, 70_000, 0, 0]);
        memory.extend([i64::from_ne_bytes(*b"submitte"), i64::from(b'd')]);
        for (index, part) in memory.chunks(512).enumerate() {
            call!(at.guest, libc::SYS_write, to, words(part), part.len() * 8);
            call!(at.guest, libc::SYS_read, from, at_once + index as i64 * 4096, part.len() * 8);
        }
        move |at: &mut Bench| {
            // Room for all of them.
            let context = at.guest.look(0, libc::SYS_io_setup, &[COUNT.into(), words(&[0])]);
            let context = i64::from_ne_bytes(context.try_into().expect("eight bytes"));
            assert_eq!(call!(at.guest, libc::SYS_io_submit, context, COUNT, at_once), COUNT);
            call!(at.guest, libc::SYS_io_getevents, context, 1, 1, vec![Item::Repeat(0, 32)], 0);
        }
    });
}

#[test]
fn io_submit_of_a_write() {
    refused(untraceable, |at| {
        let fd = opened(at);
        move |at: &mut Bench| {
            let context = context(at);
            const PWRITE: i64 = 1;
            // struct iocb: data, key and flags, opcode and descriptor, buffer, length, offset, ...
            let block = vec![
                Item::Number(0),
                Item::Number(0),
                Item::Number(PWRITE | i64::from(fd) << 32),
                Item::Pointer(vec![Item::Bytes(b"submitted".to_vec())]),
                Item::Number(9),
                Item::Number(70_000),
                Item::Number(0),
                Item::Number(0),
            ];
            call!(at.guest, libc::SYS_io_submit, context, 1, vec![Item::Pointer(block)]);
            call!(at.guest, libc::SYS_io_getevents, context, 1, 1, vec![Item::Repeat(0, 32)], 0);
        }
    });
}

/// A handle of a file, and a directory of its file system.
fn handle(at: &mut Bench) -> (i32, Vec<u8>) {
    at.file("file", SIZE);
    let dir = at.guest.open(".", libc::O_RDONLY);
    // struct file_handle with room for 48 bytes, filled in place: how many, of which type, which.
    let room = vec![Item::Bytes(48u32.to_ne_bytes().to_vec()), Item::Repeat(0, 52)];
    let arguments = [dir.into(), "file".into(), room.into(), words(&[0]), 0.into()];
    (dir, at.guest.look(1, libc::SYS_name_to_handle_at, &arguments))
}

#[test]
fn open_by_handle_at_with_o_trunc() {
    refused(blind, |at| {
        let (dir, handle) = handle(at);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_open_by_handle_at, dir, bytes(&handle), O_RDWR | O_TRUNC);
        }
    });
}

#[test]
fn open_by_handle_at_without_it_is_no_hazard() {
    proven(|at| {
        let (dir, handle) = handle(at);
        move |at: &mut Bench| {
            let fd = call!(at.guest, libc::SYS_open_by_handle_at, dir, bytes(&handle), O_RDWR);
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(b"by its handle"), 13, 70_000);
        }
    });
}
