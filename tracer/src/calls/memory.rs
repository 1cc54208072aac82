//! The target's memory, as the kernel will read it for the call.
//!
//! process_vm_readv(2) reads less than the call itself does: not what is mapped for writing alone, nor memfd_secret(2).
//! The first is read as a debugger does; what nobody but the kernel can read is no reason to see nothing in a call.

use std::fs::File;
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use crate::target::maps::{parse_mapping, read_maps};
use crate::target::process::{Process, open_below};

/// Why memory could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It is not there: the call will fail, too.
    Missing,
    /// The call may read it, and we cannot.
    Hidden(Errno),
}

/// Up to `length` bytes: fewer where the rest is not there.
pub(super) fn read(process: &Process, tid: i32, address: u64, length: usize) -> Result<Vec<u8>, Unread> {
    let mut buffer = vec![0; length];
    let remote = [RemoteIoVec { base: address as usize, len: length }];
    let mut there = match process_vm_readv(Pid::from_raw(tid), &mut [IoSliceMut::new(&mut buffer)], &remote) {
        Ok(read) => read,
        Err(Errno::EFAULT) => 0,
        Err(Errno::ESRCH) => return Err(Unread::Missing), // the thread has ended
        Err(errno) => return Err(Unread::Hidden(errno)),
    };
    while there < length {
        let at = address.saturating_add(there as u64);
        match read_by_force(process, tid, at, &mut buffer[there..]) {
            Some(more) => there += more,
            None if is_mapped(process, tid, at) => return Err(Unread::Hidden(Errno::EFAULT)),
            None => break,
        }
    }
    buffer.truncate(there);
    if there == 0 && length > 0 { Err(Unread::Missing) } else { Ok(buffer) }
}

/// Also what the thread itself may not read. `None`: not a byte.
fn read_by_force(process: &Process, tid: i32, address: u64, buffer: &mut [u8]) -> Option<usize> {
    let memory = File::from(open_below(process.proc(), &format!("{tid}/mem"), OFlag::O_RDONLY).ok()?);
    memory.read_at(buffer, address).ok().filter(|&read| read > 0)
}

/// Whether anything at all may be done with the memory there.
fn is_mapped(process: &Process, tid: i32, address: u64) -> bool {
    let Ok((_, maps)) = read_maps(process, tid) else { return true };
    let mut mappings = maps.lines().filter_map(parse_mapping);
    mappings.any(|mapping| (mapping.start..mapping.end).contains(&address) && !mapping.permissions.starts_with("---"))
}
