//! The commands of ioctl(2) that change files: each a way to change content, metadata or names that has no call of its own.
//!
//! Which commands of the kernel are here, and why the others are not, is a table in `docs/design.md`. They are decoded
//! among the calls by path, because some of them move names; all are rare.

use hotbackup_event::failpoint::is_skipped;
use hotbackup_event::{Effect, FileId};

use crate::target::maps::shared_mappings;
use crate::target::process::to_os;

use super::decode::Decoder;
use super::row::{Test, bits};

/// One command.
#[derive(Clone, Copy)]
pub struct Command {
    /// Its number.
    pub number: u32,
    /// Its name, as in the kernel's headers.
    pub name: &'static str,
    decode: fn(&mut Decoder<'_>),
}

const fn command(number: u32, name: &'static str, decode: fn(&mut Decoder<'_>)) -> Command {
    Command { number, name, decode }
}

/// All of them.
pub const COMMANDS: &[Command] = &[
    // Content. (FIDEDUPERANGE changes none and is not shown.)
    command(0x4004_9409, "FICLONE", replaced),
    command(0x4020_940d, "FICLONERANGE", replaced),
    command(0x4030_5828, "FS_IOC_RESVSP", replaced), // and its kin: fallocate by another name
    command(0x4030_5829, "FS_IOC_UNRESVSP", replaced),
    command(0x4030_582a, "FS_IOC_RESVSP64", replaced),
    command(0x4030_582b, "FS_IOC_UNRESVSP64", replaced),
    command(0x4030_5839, "FS_IOC_ZERO_RANGE", replaced),
    command(0x4028_5881, "XFS_IOC_EXCHANGE_RANGE", exchanged_with_first), // 6.10
    command(0x4058_5883, "XFS_IOC_COMMIT_RANGE", exchanged_with_first),   // 6.12
    command(0xc0c0_586d, "XFS_IOC_SWAPEXT", swapped),
    command(0xc028_660f, "EXT4_IOC_MOVE_EXT", exchanged_with_second),
    command(0x0000_6611, "EXT4_IOC_SWAP_BOOT", replaced),
    command(0x4080_9440, "BTRFS_IOC_ENCODED_WRITE", replaced),
    // What the kernel, or a store, may write to from then on.
    command(0x4c00, "LOOP_SET_FD", loop_device),
    command(0x4c06, "LOOP_CHANGE_FD", loop_device),
    command(0x4c0a, "LOOP_CONFIGURE", loop_device_configured), // 5.8
    command(0xc020_aa00, "UFFDIO_REGISTER", userfault),
    // Metadata.
    command(0x4008_6602, "FS_IOC_SETFLAGS", metadata),
    command(0x401c_5820, "FS_IOC_FSSETXATTR", metadata),
    command(0x4008_7602, "FS_IOC_SETVERSION", metadata),
    command(0x4008_6604, "EXT4_IOC_SETVERSION", metadata),
    // Names.
    command(0x5000_940e, "BTRFS_IOC_SUBVOL_CREATE", subvolume),
    command(0x5000_9418, "BTRFS_IOC_SUBVOL_CREATE_V2", subvolume_v2),
    command(0x5000_9401, "BTRFS_IOC_SNAP_CREATE", subvolume),
    command(0x5000_9417, "BTRFS_IOC_SNAP_CREATE_V2", subvolume_v2),
    command(0x5000_940f, "BTRFS_IOC_SNAP_DESTROY", subvolume),
    command(0x5000_943f, "BTRFS_IOC_SNAP_DESTROY_V2", subvolume_v2),
];

/// What the filter tests: argument 1 is one of these.
pub(super) const TESTS: [Test; COMMANDS.len()] = {
    let mut tests = [bits(1, u32::MAX, 0); COMMANDS.len()];
    let mut index = 0;
    while index < tests.len() {
        tests[index].value = COMMANDS[index].number;
        index += 1;
    }
    tests
};

fn find(number: u64) -> Option<&'static Command> {
    COMMANDS.iter().find(|command| command.number == number as u32)
}

/// Whether a command changes files. Of one that began before the filter was there, the filter has not told.
pub(crate) fn is_of_interest(number: u64) -> bool {
    find(number).is_some()
}

pub(super) fn ioctl(call: &mut Decoder<'_>) {
    if let Some(command) = find(call.arg(1))
        && !is_skipped(command.name)
    {
        (command.decode)(call);
    }
}

/// Any byte of a file may change, and its length. Ranges stand in memory and are not worth a look.
fn replaces(call: &mut Decoder<'_>, file: FileId, size: u64) {
    call.effects.push(Effect::Resize { file, len: 0 });
    call.effects.push(Effect::Append { file, size });
}

fn replaces_fd(call: &mut Decoder<'_>, fd: i32) {
    if let Some(file) = call.file(fd) {
        replaces(call, file.id, file.size);
    }
}

fn replaced(call: &mut Decoder<'_>) {
    replaces_fd(call, call.fd(0));
}

/// The file changes, and so does the one whose descriptor stands in memory, in so many bytes of it.
fn exchanged_with(call: &mut Decoder<'_>, offset: usize) {
    replaced(call);
    if let Some(fd) = number_in(call, offset) {
        replaces_fd(call, fd);
    }
}

fn exchanged_with_first(call: &mut Decoder<'_>) {
    exchanged_with(call, 0); // file1_fd
}

/// The blocks of two files change places. The content that stays the same for one is new to the other, the donor.
fn exchanged_with_second(call: &mut Decoder<'_>) {
    exchanged_with(call, 4); // donor_fd
}

/// `struct xfs_swapext`: version, and two descriptors in 8 bytes each. The one that the call is made on does not matter.
fn swapped(call: &mut Decoder<'_>) {
    for offset in [8, 16] {
        if let Some(fd) = number_in(call, offset) {
            replaces_fd(call, fd);
        }
    }
}

/// A loop device writes to the file whose descriptor is argument 2.
fn loop_device(call: &mut Decoder<'_>) {
    writes_to(call, call.fd(2));
}

/// `struct loop_config` begins with it.
fn loop_device_configured(call: &mut Decoder<'_>) {
    if let Some(fd) = number_in(call, 0) {
        writes_to(call, fd);
    }
}

fn writes_to(call: &mut Decoder<'_>, fd: i32) {
    if let Some(file) = call.file(fd) {
        let cause = "a loop device, by which the kernel writes to it";
        call.effects.push(Effect::Untraceable { file: file.id, cause });
    }
}

/// `struct uffdio_register`: start, length, mode. What is filled in there is the file's from then on, also where the mapping
/// is only readable.
fn userfault(call: &mut Decoder<'_>) {
    let (Some(start), Some(length)) = (call.memory_u64(call.arg(2)), call.memory_u64(call.arg(2).wrapping_add(8)))
    else {
        return;
    };
    let end = start.saturating_add(length);
    match shared_mappings(call.process, call.tid, |mapping| mapping.start < end && mapping.end > start) {
        Ok(files) => {
            let cause = "a userfaultfd, by which its missing pages are filled in";
            call.effects.extend(files.into_iter().map(|file| Effect::Untraceable { file, cause }));
        }
        Err(cause) => call.blind = Some(cause),
    }
}

/// Four bytes in memory, so far from where argument 2 points.
fn number_in(call: &mut Decoder<'_>, offset: usize) -> Option<i32> {
    let bytes = call.memory(call.arg(2).checked_add(offset as u64)?, 4).ok()?;
    Some(i32::from_ne_bytes(bytes.try_into().ok()?))
}

/// Flags, project or generation of a file or directory: a backup holds none of them, but its change time moves.
fn metadata(call: &mut Decoder<'_>) {
    super::files::metadata(call);
}

/// `struct btrfs_ioctl_vol_args`: a descriptor, and a name in the directory that the call is made on.
fn subvolume(call: &mut Decoder<'_>) {
    subvolume_at(call, 8);
}

/// The same with flags, and the name further behind.
fn subvolume_v2(call: &mut Decoder<'_>) {
    const FLAGS: usize = 16;
    const BY_NUMBER: i32 = 1 << 4; // BTRFS_SUBVOL_SPEC_BY_ID
    if number_in(call, FLAGS).is_some_and(|flags| flags & BY_NUMBER != 0) {
        call.blind = Some("the target removed a btrfs subvolume by its number, which tells no place".into());
        return;
    }
    subvolume_at(call, 56);
}

fn subvolume_at(call: &mut Decoder<'_>, offset: usize) {
    const SIZE: usize = 4096;
    (call.moves_names, call.redirects) = (true, true);
    let Some(dir) = call.identity(call.fd(0)) else { return };
    let Ok(arguments) = call.memory(call.arg(2), SIZE) else { return };
    let Some(name) = arguments.get(offset..) else { return };
    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
    let name = to_os(name);
    call.effects.push(Effect::Entry { dir: dir.id, name });
}
