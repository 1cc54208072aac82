//! The commands of ioctl(2) that change files (`tracer/src/calls/ioctls.rs`), one test each, named after it.
use std::os::unix::fs::MetadataExt;

use hotbackup_copier::Error;
use nix::errno::Errno;
use nix::libc::{self, O_DIRECTORY, O_RDONLY, O_RDWR};

use super::bench::{Bench, Fs, content, found_out_on, proven_on, refused_on, unkept_on};
use super::content::{SIZE, on_file_system, opened, other};
use crate::call;
use crate::common::disk::loops::{Turn, wait_until_free};
use crate::common::driver::{Arg, Driver, Item, bytes, halves, words};
use crate::common::guest::Linked;
use crate::common::moment::{Moment, back_up};

pub const FICLONE: i64 = 0x4004_9409;
const FICLONERANGE: i64 = 0x4020_940d;

fn ioctl_ficlone(fs: Fs) {
    proven_on(fs, |at| {
        let (fd, other) = (opened(at, O_RDWR), other(at));
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_ioctl, fd, FICLONE, other);
        }
    });
}

#[test]
fn ioctl_ficlone_on_xfs() {
    ioctl_ficlone(Fs::Xfs);
}

#[test]
fn ioctl_ficlone_on_btrfs() {
    ioctl_ficlone(Fs::Btrfs);
}

#[test]
fn ioctl_ficlonerange() {
    proven_on(Fs::Xfs, |at| {
        let (fd, other) = (opened(at, O_RDWR), other(at));
        move |at: &mut Bench| {
            // Behind the end as well: the file grows.
            call!(at.guest, libc::SYS_ioctl, fd, FICLONERANGE, words(&[other.into(), 4096, 65_536, 262_144]));
            call!(at.guest, libc::SYS_ioctl, fd, FICLONERANGE, words(&[other.into(), 0, 65_536, 1 << 20]));
        }
    });
}

/// Fallocate by another name: `struct space_resv` is type, whence, start, length, ...
fn ioctl_space(fs: Fs, command: i64, start: i64, length: i64) {
    let mut range = vec![Item::Bytes(vec![0; 8]), Item::Number(start), Item::Number(length)];
    range.push(Item::Repeat(0, 24));
    on_file_system(fs, |at| opened(at, O_RDWR), libc::SYS_ioctl, &[command.into(), range.into()]);
}

#[test]
fn ioctl_fs_ioc_unresvsp() {
    ioctl_space(Fs::Here, 0x4030_5829, 70_000, 100_000);
}

#[test]
fn ioctl_fs_ioc_unresvsp64() {
    ioctl_space(Fs::Here, 0x4030_582b, 70_000, 100_000);
}

#[test]
fn ioctl_fs_ioc_zero_range() {
    ioctl_space(Fs::Here, 0x4030_5839, 70_000, 100_000);
}

/// These two only reserve room, and move the times.
fn ioctl_reserves(command: i64) {
    proven_on(Fs::Here, |at| {
        let fd = opened(at, O_RDWR);
        let range = [Item::Bytes(vec![0; 8]), Item::Number(1 << 20), Item::Number(1 << 20), Item::Repeat(0, 24)];
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_ioctl, fd, command, range.to_vec());
        }
    });
}

#[test]
fn ioctl_fs_ioc_resvsp() {
    ioctl_reserves(0x4030_5828);
}

#[test]
fn ioctl_fs_ioc_resvsp64() {
    ioctl_reserves(0x4030_582a);
}

/// Two files of the source that a call makes exchange content: other descriptors follow the first in `arguments`.
fn exchanged(fs: Fs, exchange: impl Fn(&mut Bench, i32, i32) + Copy + Send) {
    proven_on(fs, |at| {
        let first = opened(at, O_RDWR);
        let path = at.dir.join("second");
        std::fs::write(&path, vec![b's'; SIZE]).expect("written");
        let second = at.guest.open(&path, O_RDWR);
        for fd in [first, second] {
            call!(at.guest, libc::SYS_fsync, fd);
        }
        move |at: &mut Bench| exchange(at, first, second)
    });
}

/// `struct xfs_exchange_range`, and the beginning of `struct xfs_commit_range`.
fn exchange_range(other: i32) -> [Item; 4] {
    [Item::Number(other.into()), Item::Number(65_536), Item::Number(131_072), Item::Number(65_536)]
}

#[test]
fn ioctl_xfs_ioc_exchange_range() {
    exchanged(Fs::XfsExchanging, |at, first, second| {
        let range = [&exchange_range(second)[..], &[Item::Number(0)]].concat();
        call!(at.guest, libc::SYS_ioctl, first, 0x4028_5881, range);
    });
}

#[test]
fn ioctl_xfs_ioc_commit_range() {
    exchanged(Fs::XfsExchanging, |at, first, second| {
        const START: i64 = 0x8058_5882;
        let range = [&exchange_range(second)[..], &[Item::Number(0), Item::Repeat(0, 48)]].concat();
        let seen = at.guest.look(0, libc::SYS_ioctl, &[first.into(), START.into(), vec![Item::Repeat(0, 88)].into()]);
        let freshness = Item::Bytes(seen[40..88].to_vec());
        let range = [&range[..5], &[freshness]].concat();
        call!(at.guest, libc::SYS_ioctl, first, 0x4058_5883, range);
    });
}

#[test]
fn ioctl_xfs_ioc_swapext() {
    exchanged(Fs::Xfs, |at, first, second| {
        // The status of the first file tells the kernel that nobody has changed it since.
        let data = at.dir.join("file").metadata().expect("it is there");
        let numbers = |numbers: &[i64]| numbers.iter().copied().map(Item::Number).collect::<Vec<_>>();
        let head = numbers(&[0, first.into(), second.into(), 0, SIZE as i64, 0, 0]);
        let times = numbers(&[data.mtime(), data.mtime_nsec(), data.ctime(), data.ctime_nsec()]);
        let swap = [head, vec![Item::Repeat(0, 56)], times, vec![Item::Repeat(0, 48)]].concat();
        call!(at.guest, libc::SYS_ioctl, first, 0xc0c0_586d_u32, swap);
    });
}

/// Defragmentation: the file's content moves to the blocks of the donor, and the donor gets those that held it.
#[test]
fn ioctl_ext4_ioc_move_ext() {
    exchanged(Fs::Ext4, |at, first, second| {
        let range = [Item::Number(i64::from(second) << 32), Item::Number(16), Item::Number(16), Item::Number(16)];
        call!(at.guest, libc::SYS_ioctl, first, 0xc028_660f_u32, [&range[..], &[Item::Number(0)]].concat());
        for fd in [first, second] {
            call!(at.guest, libc::SYS_fsync, fd);
            call!(at.guest, libc::SYS_fadvise64, fd, 0, 0, libc::POSIX_FADV_DONTNEED);
        }
    });
}

#[test]
fn ioctl_ext4_ioc_swap_boot() {
    proven_on(Fs::Ext4, |at| {
        let fd = opened(at, O_RDWR);
        call!(at.guest, libc::SYS_fsync, fd);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_ioctl, fd, 0x6611);
        }
    });
}

#[test]
fn ioctl_btrfs_ioc_encoded_write() {
    // 8192 times 'z', by zlib.
    const COMPRESSED: &[u8] =
        b"\x78\xda\xed\xc1\x01\x0d\x00\x00\x00\xc2\xa0\xde\x4f\x6f\x0e\x37\xa0\x00\x00\x00\x00\x00\x00\x00\x80\x77\x03\x0d\x4a\x40\xe2";
    let vector = vec![Item::Pointer(vec![Item::Bytes(COMPRESSED.to_vec())]), Item::Number(COMPRESSED.len() as i64)];
    const BY_ZLIB: i64 = 1;
    let mut write = vec![Item::Pointer(vector)];
    write.extend([1, 65_536, 0, 8192, 8192, 0, BY_ZLIB].map(Item::Number));
    write.push(Item::Repeat(0, 64));
    on_file_system(Fs::Btrfs, |at| opened(at, O_RDWR), libc::SYS_ioctl, &[0x4080_9440.into(), write.into()]);
}

/// A change, to a file and to a directory, of what no backup holds.
fn unkept_by(fs: Fs, change: impl Fn(&mut Bench, i32) + Copy + Send) {
    unkept_on(fs, |at| {
        let file = opened(at, O_RDWR);
        at.directory("dir");
        let dir = at.guest.open("dir", O_RDONLY | O_DIRECTORY);
        move |at: &mut Bench| [file, dir].into_iter().for_each(|fd| change(at, fd))
    });
}

/// The same by a command.
fn unkept(fs: Fs, command: u32, argument: impl Fn() -> Arg + Copy + Send) {
    unkept_by(fs, move |at, fd| {
        call!(at.guest, libc::SYS_ioctl, fd, command, argument());
    });
}

#[test]
fn ioctl_fs_ioc_setflags() {
    const NODUMP: u32 = 0x40; // chattr +d
    unkept_by(Fs::Here, |at, fd| {
        let flags = at.guest.look(0, libc::SYS_ioctl, &[fd.into(), 0x8008_6601_u32.into(), halves(&[0, 0])]);
        let flags = u32::from_ne_bytes(flags[..4].try_into().expect("4 bytes"));
        call!(at.guest, libc::SYS_ioctl, fd, 0x4008_6602, halves(&[(flags | NODUMP) as i32, 0]));
    });
}

#[test]
fn ioctl_fs_ioc_setflags_of_a_file_that_cannot_be_changed_for_a_while() {
    const IMMUTABLE: i64 = 0x10; // chattr +i
    unkept_on(Fs::Xfs, |at| {
        let fd = opened(at, O_RDWR);
        move |at: &mut Bench| {
            for flags in [IMMUTABLE, 0] {
                call!(at.guest, libc::SYS_ioctl, fd, 0x4008_6602, words(&[flags]));
            }
        }
    });
}

/// `struct fsxattr`: flags, extent size, count, project, extent size, padding.
#[test]
fn ioctl_fs_ioc_fssetxattr() {
    unkept(Fs::Xfs, 0x401c_5820, || halves(&[0x80, 0, 0, 1234, 0, 0, 0]));
}

#[test]
fn ioctl_fs_ioc_setversion() {
    unkept(Fs::Ext4, 0x4008_7602, || words(&[1234]));
}

#[test]
fn ioctl_ext4_ioc_setversion() {
    unkept(Fs::Ext4, 0x4008_6604, || words(&[1234]));
}

/// `struct btrfs_ioctl_vol_args`.
fn volume(fd: i32, name: &str) -> Arg {
    vec![Item::Number(fd.into()), Item::Bytes(name.into()), Item::Repeat(0, 4088 - name.len())].into()
}

/// `struct btrfs_ioctl_vol_args_v2`.
fn volume_v2(fd: i32, name: &str) -> Arg {
    let name = [Item::Bytes(name.into()), Item::Repeat(0, 4040 - name.len())];
    [&[Item::Number(fd.into()), Item::Repeat(0, 48)][..], &name].concat().into()
}

const SUBVOL_CREATE: u32 = 0x5000_940e;

/// What makes a new subvolume below the source: a call on a directory, with a subvolume outside to take for it.
fn new_subvolume(command: u32, arguments: fn(i32, &str) -> Arg) {
    proven_on(Fs::Btrfs, |at| {
        at.directory("dir");
        let outside = at.outside.clone();
        let outside = at.guest.open(&outside, O_RDONLY | O_DIRECTORY);
        call!(at.guest, libc::SYS_ioctl, outside, SUBVOL_CREATE, volume(0, "from"));
        at.file_outside("from/file", SIZE);
        let from = at.outside.join("from");
        let from = at.guest.open(&from, O_RDONLY | O_DIRECTORY);
        let dir = at.guest.open("dir", O_RDONLY | O_DIRECTORY);
        move |at: &mut Bench| {
            call!(at.guest, libc::SYS_ioctl, dir, command, arguments(from, "new"));
            let fd = at.guest.open("dir/new/file", O_RDWR | libc::O_CREAT);
            call!(at.guest, libc::SYS_pwrite64, fd, bytes(&content(SIZE)), SIZE, 100);
        }
    });
}

#[test]
fn ioctl_btrfs_ioc_subvol_create() {
    new_subvolume(SUBVOL_CREATE, volume);
}

#[test]
fn ioctl_btrfs_ioc_subvol_create_v2() {
    new_subvolume(0x5000_9418, |_, name| volume_v2(0, name));
}

#[test]
fn ioctl_btrfs_ioc_snap_create() {
    new_subvolume(0x5000_9401, volume);
}

#[test]
fn ioctl_btrfs_ioc_snap_create_v2() {
    new_subvolume(0x5000_9417, volume_v2);
}

/// A subvolume below the source, with a file and a directory.
fn subvolume(at: &mut Bench) -> i32 {
    let dir = at.dir.clone();
    let dir = at.guest.open(&dir, O_RDONLY | O_DIRECTORY);
    call!(at.guest, libc::SYS_ioctl, dir, SUBVOL_CREATE, volume(0, "old"));
    at.file("old/file", SIZE);
    at.file("old/deep/file", SIZE);
    dir
}

/// What was not saved at the point in time cannot be read any more: then the backup fails.
fn gone_subvolume(command: u32, arguments: fn(i32, &str) -> Arg) {
    found_out_on(
        Fs::Btrfs,
        |error| matches!(error, Error::ForeignChange { .. }),
        |at| {
            let dir = subvolume(at);
            move |at: &mut Bench| {
                call!(at.guest, libc::SYS_ioctl, dir, command, arguments(0, "old"));
            }
        },
    );
}

#[test]
fn ioctl_btrfs_ioc_snap_destroy() {
    gone_subvolume(0x5000_940f, volume);
}

#[test]
fn ioctl_btrfs_ioc_snap_destroy_v2() {
    gone_subvolume(0x5000_943f, volume_v2);
}

#[test]
fn ioctl_btrfs_ioc_snap_destroy_v2_by_number_fails_the_backup() {
    refused_on(
        Fs::Btrfs,
        |error| matches!(error, Error::Blind(cause) if cause.contains("by its number")),
        |at| {
            let dir = subvolume(at);
            let subvolume = at.guest.open("old", O_RDONLY | O_DIRECTORY);
            // INO_LOOKUP of 0 and 256: the number of the tree that the directory is in.
            let lookup = vec![Item::Number(0), Item::Number(256), Item::Repeat(0, 4080)];
            let found = at.guest.look(0, libc::SYS_ioctl, &[subvolume.into(), 0xd000_9412_u32.into(), lookup.into()]);
            let number = i64::from_ne_bytes(found[..8].try_into().expect("8 bytes"));
            call!(at.guest, libc::SYS_close, subvolume);
            move |at: &mut Bench| {
                let by_number = [0, 0, 1 << 4, 0, 0, 0, 0, number].map(Item::Number);
                let arguments = [&by_number[..7], &by_number[7..], &[Item::Repeat(0, 4032)]].concat();
                call!(at.guest, libc::SYS_ioctl, dir, 0x5000_943f, arguments);
            }
        },
    );
}

fn untraceable(error: &Error) -> bool {
    matches!(error, Error::Untraceable { path, .. } if path.ends_with("data/file"))
}

/// The guest has a file of the source behind a loop device for a moment.
fn loop_device(attach: impl Fn(&mut Bench, i32, i32) -> Result<i64, Errno> + Copy + Send) {
    const LOOP_CTL_GET_FREE: i64 = 0x4c82;
    const LOOP_CLR_FD: i64 = 0x4c01;
    refused_on(Fs::Here, untraceable, |at| {
        let file = opened(at, O_RDWR);
        let control = at.guest.open("/dev/loop-control", O_RDWR);
        move |at: &mut Bench| {
            let turn = Turn::take();
            let (path, device) = turn.attach(|| {
                let path = format!("/dev/loop{}", call!(at.guest, libc::SYS_ioctl, control, LOOP_CTL_GET_FREE));
                let arguments = [libc::AT_FDCWD.into(), (&*path).into(), O_RDWR.into(), 0.into()];
                let device = at.guest.call(libc::SYS_openat, &arguments)? as i32;
                let attached = attach(at, device, file);
                if attached.is_err() {
                    call!(at.guest, libc::SYS_close, device);
                }
                attached.map(|_| (path, device))
            });
            call!(at.guest, libc::SYS_ioctl, device, LOOP_CLR_FD);
            call!(at.guest, libc::SYS_close, device);
            assert!(wait_until_free(path.as_ref()), "somebody keeps {path} open");
        }
    });
}

fn command(at: &mut Bench, device: i32, command: i64, argument: impl Into<Arg>) -> Result<i64, Errno> {
    at.guest.call(libc::SYS_ioctl, &[device.into(), command.into(), argument.into()])
}

#[test]
fn ioctl_loop_set_fd() {
    loop_device(|at, device, file| command(at, device, 0x4c00, file));
}

#[test]
fn ioctl_loop_configure() {
    loop_device(|at, device, file| {
        // struct loop_config: descriptor, block size, struct loop_info64 and room.
        let config = vec![Item::Bytes(file.to_ne_bytes().to_vec()), Item::Repeat(0, 300)];
        command(at, device, 0x4c0a, config)
    });
}

/// Only a device that is read alone lets its file be changed, for one of the same size.
#[test]
fn ioctl_loop_change_fd() {
    loop_device(|at, device, file| {
        let outside = at.file_outside("file", SIZE);
        let first = at.guest.open(&outside, O_RDONLY);
        let attached = command(at, device, 0x4c00, first);
        call!(at.guest, libc::SYS_close, first);
        attached?;
        command(at, device, 0x4c06, file)
    });
}

/// What is only mapped for reading is filled in all the same, where a file in memory has a hole.
#[test]
fn ioctl_uffdio_register() {
    const UFFDIO_API: i64 = 0xc018_aa3f;
    const UFFDIO_REGISTER: i64 = 0xc020_aa00;
    const UFFDIO_COPY: i64 = 0xc028_aa03;
    refused_on(Fs::Tmpfs, untraceable, |at| {
        let file = at.dir.join("file");
        std::fs::File::create(&file).and_then(|file| file.set_len(8192)).expect("a file that is one hole");
        let fd = at.guest.open(&file, O_RDWR);
        let address = call!(at.guest, libc::SYS_mmap, 0, 8192, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
        move |at: &mut Bench| {
            let faults = call!(at.guest, libc::SYS_userfaultfd, 0);
            call!(at.guest, libc::SYS_ioctl, faults, UFFDIO_API, words(&[0xaa, 0, 0]));
            let whole = words(&[address, 8192, 1, 0]);
            call!(at.guest, libc::SYS_ioctl, faults, UFFDIO_REGISTER, whole);
            let content = Item::Pointer(vec![Item::Repeat(b'f', 4096)]);
            let copy = vec![Item::Number(address), content, Item::Number(4096), Item::Number(0), Item::Number(0)];
            call!(at.guest, libc::SYS_ioctl, faults, UFFDIO_COPY, copy);
        }
    });
}

/// What was registered before anybody looked is found at the attach.
#[test]
fn a_userfaultfd_at_the_attach_fails_the_backup() {
    let scratch = tempfile::TempDir::new_in("/dev/shm").expect("a directory in memory");
    let (dir, dest) = (scratch.path().join("data"), scratch.path().join("backup"));
    std::fs::create_dir(&dir).expect("made");
    let file = dir.join("file");
    std::fs::File::create(&file).and_then(|file| file.set_len(8192)).expect("a file that is one hole");
    let mut guest = Driver::start(&dir, Linked::Dynamically);
    let fd = guest.open(&file, O_RDWR);
    call!(guest, libc::SYS_mmap, 0, 8192, libc::PROT_READ, libc::MAP_SHARED, fd, 0);
    call!(guest, libc::SYS_userfaultfd, 0);
    let result = back_up(guest.pid(), &dir, &dest, Moment::BeforePoint, || {});
    assert!(matches!(&result, Err(failure) if untraceable(&failure.0)), "{result:?}");
    guest.assert_alive();
}
