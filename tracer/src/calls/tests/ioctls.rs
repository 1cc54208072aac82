//! Commands of ioctl(2), by their numbers.
use super::*;
use crate::calls::ioctls::{COMMANDS, is_of_interest};

fn command(name: &str) -> u64 {
    u64::from(COMMANDS.iter().find(|command| command.name == name).unwrap().number)
}

impl Bench {
    fn ioctl<T>(&mut self, fd: &File, name: &str, argument: &T) -> Decoded {
        self.decode_any(libc::SYS_ioctl, &[number(fd), command(name), address(argument)])
    }

    fn replaced(&self, name: &str, size: u64) -> [Effect; 2] {
        let file = self.id(name);
        [Effect::Resize { file, len: 0 }, Effect::Append { file, size }]
    }
}

#[test]
fn what_replaces_content_may_change_all_of_the_file() {
    let mut bench = Bench::new();
    let file = bench.open("file", File::options().write(true));
    for name in [
        "FICLONE",
        "FICLONERANGE",
        "FS_IOC_RESVSP",
        "FS_IOC_UNRESVSP",
        "FS_IOC_RESVSP64",
        "FS_IOC_UNRESVSP64",
        "FS_IOC_ZERO_RANGE",
        "EXT4_IOC_SWAP_BOOT",
        "BTRFS_IOC_ENCODED_WRITE",
    ] {
        assert_eq!(bench.ioctl(&file, name, &0u64).effects, bench.replaced("file", SIZE), "{name}");
    }
}

#[test]
fn what_exchanges_content_may_change_all_of_both_files() {
    let mut bench = Bench::new();
    std::fs::write(bench.path("other"), b"other").unwrap();
    let (file, other) =
        (bench.open("file", File::options().write(true)), bench.open("other", File::options().write(true)));
    let both = [bench.replaced("file", SIZE), bench.replaced("other", 5)].concat();
    let fd = other.as_raw_fd();
    for (name, memory) in [
        ("XFS_IOC_EXCHANGE_RANGE", [fd, 0, 0, 0]),
        ("XFS_IOC_COMMIT_RANGE", [fd, 0, 0, 0]),
        ("EXT4_IOC_MOVE_EXT", [0, fd, 0, 0]),
    ] {
        assert_eq!(bench.ioctl(&file, name, &memory).effects, both, "{name}");
    }
    let named = [0, 0, file.as_raw_fd(), 0, fd, 0];
    let device = File::open("/dev/null").unwrap();
    assert_eq!(bench.ioctl(&device, "XFS_IOC_SWAPEXT", &named).effects, both);
}

#[test]
fn flags_and_versions_are_metadata() {
    let mut bench = Bench::new();
    for name in ["FS_IOC_SETFLAGS", "FS_IOC_FSSETXATTR", "FS_IOC_SETVERSION", "EXT4_IOC_SETVERSION"] {
        for what in ["file", "dir"] {
            let open = bench.open(what, File::options().read(true));
            assert_eq!(bench.ioctl(&open, name, &0u64).effects, [bench.metadata(what)], "{name}");
        }
    }
}

/// The arguments of the subvolume calls: a name so far from their start.
fn naming(name: &[u8], offset: usize, flags: u8) -> [u8; 4096] {
    let mut arguments = [0; 4096];
    arguments[offset..][..name.len()].copy_from_slice(name);
    arguments[16] |= flags;
    arguments
}

#[test]
fn what_makes_or_removes_a_subvolume_changes_a_name_in_the_directory() {
    let mut bench = Bench::new();
    let dir = bench.open("dir", File::options().read(true));
    for (name, offset) in [
        ("BTRFS_IOC_SUBVOL_CREATE", 8),
        ("BTRFS_IOC_SUBVOL_CREATE_V2", 56),
        ("BTRFS_IOC_SNAP_CREATE", 8),
        ("BTRFS_IOC_SNAP_CREATE_V2", 56),
        ("BTRFS_IOC_SNAP_DESTROY", 8),
        ("BTRFS_IOC_SNAP_DESTROY_V2", 56),
    ] {
        let decoded = bench.ioctl(&dir, name, &naming(b"subvolume", offset, 0));
        assert_eq!(decoded.effects, [bench.entry_in("dir", "subvolume")], "{name}");
        assert!(decoded.moves_names && decoded.redirects && decoded.blind.is_none(), "{name}");
    }
}

#[test]
fn a_subvolume_removed_by_its_number_ends_the_backup() {
    let mut bench = Bench::new();
    let dir = bench.open("dir", File::options().read(true));
    let decoded = bench.ioctl(&dir, "BTRFS_IOC_SNAP_DESTROY_V2", &naming(b"", 56, 1 << 4));
    assert!(decoded.blind.is_some() && decoded.effects.is_empty(), "{decoded:?}");
    let read_only = naming(b"subvolume", 56, 1 << 1); // BTRFS_SUBVOL_RDONLY
    assert!(bench.ioctl(&dir, "BTRFS_IOC_SNAP_CREATE_V2", &read_only).blind.is_none());
}

#[test]
fn other_commands_change_no_file() {
    let mut bench = Bench::new();
    let file = bench.open("file", File::options().write(true));
    let terminal = u64::from(libc::TCGETS as u32);
    assert_eq!(bench.effects(libc::SYS_ioctl, &[number(&file), terminal, 0]), []);
    assert!(!is_of_interest(terminal) && COMMANDS.iter().all(|command| is_of_interest(u64::from(command.number))));
}
