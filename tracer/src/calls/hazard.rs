//! Calls after which a file may change with no call to be seen.

use hotbackup_event::Effect;

use crate::sys::process::shared_file_mapping;
use crate::target::process::open_below;

use super::decode::{Decoder, OnDescriptor};
use crate::target::maps::{Mapping, shared_mappings};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use std::os::fd::AsFd;

pub(super) fn mmap(call: &mut Decoder<'_>) {
    if let Some(file) = call.file(call.fd(4)) {
        call.effects.push(Effect::Mapped { file: file.id });
    }
}

/// A mapping may become writable afterwards. Most calls are malloc's: one look tells that no shared file mapping is
/// in the range.
pub(super) fn mprotect(call: &mut Decoder<'_>) {
    let (start, end) = (call.arg(0), call.arg(0).saturating_add(call.arg(1)));
    let Ok(maps) = open_below(call.process.proc(), &format!("{}/maps", call.tid), OFlag::O_RDONLY) else { return };
    match shared_file_mapping(maps.as_fd(), start, end) {
        Ok(None) => return,
        Ok(Some(_)) | Err(Errno::ENOTTY) => {}
        Err(errno) => {
            call.blind = Some(format!("the mappings of the target could not be looked at: {errno}"));
            return;
        }
    }
    let touched = |mapping: &Mapping<'_>| mapping.start < end && mapping.end > start;
    match shared_mappings(call.process, call.tid, touched) {
        Ok(files) => call.effects.extend(files.into_iter().map(|file| Effect::Mapped { file })),
        Err(cause) => call.blind = Some(cause),
    }
}

pub(super) fn io_uring(call: &mut Decoder<'_>) {
    call.blind = Some("the target made an io_uring, whose writes are no system calls".into());
}

pub(super) fn io_submit(call: &mut Decoder<'_>) {
    const MOST: i64 = 1024;
    const WRITES: [u16; 2] = [1, 8]; // IOCB_CMD_PWRITE, IOCB_CMD_PWRITEV
    let (count, pointers) = (call.arg(1).cast_signed(), call.arg(2));
    if count > MOST {
        call.blind = Some(format!(
            "the target submitted {count} operations at once (io_submit), and only up to {MOST} are looked at for writes"
        ));
        return;
    }
    for index in 0..count.unsigned_abs() * u64::from(count > 0) {
        let Some(control_block) = call.memory_u64(pointers.wrapping_add(8 * index)) else { return };
        let Ok(bytes) = call.memory(control_block, 64) else { return };
        if bytes.len() < 64 {
            return;
        }
        let opcode = u16::from_ne_bytes([bytes[16], bytes[17]]);
        let fd = i32::from_ne_bytes([bytes[20], bytes[21], bytes[22], bytes[23]]);
        if WRITES.contains(&opcode)
            && let Some(file) = call.file(fd)
        {
            let cause = "io_submit, which returns before its write is done";
            call.effects.push(Effect::Untraceable { file: file.id, cause });
        }
    }
}

/// Which file it is, is not known before it is open. That matters where it is cut, or where writes to it may not be shown.
pub(super) fn open_by_handle(call: &mut Decoder<'_>) {
    let flags = call.fd(2);
    if flags & libc::O_TRUNC != 0 {
        call.blind =
            Some("the target truncated a file by its handle (open_by_handle_at), which names no file to us".into());
    } else if flags & libc::O_ACCMODE != libc::O_RDONLY {
        call.on_descriptors.push(OnDescriptor::OpensByHandle);
    }
}
