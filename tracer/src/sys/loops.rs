//! Loop devices: what is behind one (loop(4)).

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use zerocopy::FromBytes;

use super::check;

/// The file behind a loop device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Behind {
    /// Its device, major in the upper half and minor in the lower, as in a `FileId`.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Whether it can only be read.
    pub is_read_only: bool,
}

/// `struct loop_info64`, as far as it matters.
#[derive(FromBytes)]
#[repr(C)]
struct Info {
    device: u64,
    inode: u64,
    before: [u8; 36],
    flags: u32,
    behind: [u8; 176],
}

/// What is behind an open loop device.
///
/// # Errors
/// `ENXIO` when nothing is.
pub fn behind(device: BorrowedFd<'_>) -> Result<Behind, Errno> {
    const LOOP_GET_STATUS64: u64 = 0x4c05;
    const LO_FLAGS_READ_ONLY: u32 = 1;
    let mut bytes = [0_u8; size_of::<Info>()];
    // SAFETY: the kernel writes one `struct loop_info64`, which is as long as the buffer.
    check(unsafe { libc::ioctl(device.as_raw_fd(), LOOP_GET_STATUS64 as _, bytes.as_mut_ptr()) }.into())?;
    let info = Info::read_from_bytes(&bytes).map_err(|_| Errno::EINVAL)?;
    Ok(Behind { dev: unpacked(info.device), ino: info.inode, is_read_only: info.flags & LO_FLAGS_READ_ONLY != 0 })
}

/// A device's number as the kernel packs it for programs (`new_encode_dev`): 8 bits of the minor, 12 of the major, 12 more
/// of the minor.
fn unpacked(dev: u64) -> u64 {
    let (major, minor) = ((dev & 0xf_ff00) >> 8, (dev & 0xff) | ((dev >> 12) & 0xf_ff00));
    major << 32 | minor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_number_is_major_and_minor() {
        assert_eq!(size_of::<Info>(), 232);
        assert_eq!(unpacked(0xfe00), 0xfe << 32);
        assert_eq!(unpacked(0x1234_5678), (0x456 << 32) | 0x1_2378);
    }
}
