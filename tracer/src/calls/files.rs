//! Calls that change a file's content or metadata by descriptor.

use hotbackup_event::Effect;

use super::EXCHANGE_RANGE;
use super::decode::Decoder;

const RWF_APPEND: u64 = 0x10;
const RWF_NOAPPEND: u64 = 0x20; // 6.9

pub(super) fn write(call: &mut Decoder<'_>) {
    if let Some(file) = call.file(call.fd(0)) {
        call.write_at_position(call.fd(0), file, call.arg(2));
    }
}

pub(super) fn writev(call: &mut Decoder<'_>) {
    if let Some(file) = call.file(call.fd(0)) {
        let length = call.vector_length(call.arg(1), call.arg(2));
        call.write_at_position(call.fd(0), file, length);
    }
}

pub(super) fn pwrite(call: &mut Decoder<'_>) {
    at_offset(call, call.arg(2));
}

pub(super) fn pwritev(call: &mut Decoder<'_>) {
    // On x86-64 the offset is whole in its first half (pos_l); the second half counts for 32-bit programs alone.
    let length = call.vector_length(call.arg(1), call.arg(2));
    at_offset(call, length);
}

pub(super) fn pwritev2(call: &mut Decoder<'_>) {
    let length = call.vector_length(call.arg(1), call.arg(2));
    let at_position = call.arg(3) == u64::MAX;
    let Some(file) = call.file(call.fd(0)).filter(|_| at_position) else {
        return at_offset(call, length);
    };
    if call.arg(5) & (RWF_APPEND | RWF_NOAPPEND) != 0 {
        // Where a descriptor with or without O_APPEND would not write.
        call.whole(file.id);
        call.effects.push(Effect::Append { file: file.id, size: file.size });
    }
    call.write_at_position(call.fd(0), file, length);
}

/// A write at the offset in argument 3. On a descriptor with O_APPEND, pwrite(2) appends all the same ("BUGS"), and
/// looking at the flags for each write would cost more than marking the file's last block, which is what an append
/// marks besides the blocks that are new.
fn at_offset(call: &mut Decoder<'_>, length: u64) {
    if let Some(file) = call.file(call.fd(0)) {
        call.content(file.id, call.arg(3), length);
        call.effects.push(Effect::Append { file: file.id, size: file.size });
    }
}

pub(super) fn ftruncate(call: &mut Decoder<'_>) {
    if let Some(file) = call.file(call.fd(0)) {
        call.effects.push(Effect::Resize { file: file.id, len: call.arg(1) });
    }
}

pub(super) fn lseek(call: &mut Decoder<'_>) {
    if let Some(file) = call.file(call.fd(0)) {
        call.seek(call.fd(0), file, call.arg(1) as i64, call.fd(2));
    }
}

pub(super) fn fallocate(call: &mut Decoder<'_>) {
    let (mode, offset, length) = (call.arg(1) as i32, call.arg(2), call.arg(3));
    let shifts = libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE;
    if let Some(file) = call.file(call.fd(0)) {
        let length = if mode & shifts == 0 { length } else { u64::MAX };
        call.content(file.id, offset, length);
    }
}

pub(super) fn copy_file_range(call: &mut Decoder<'_>) {
    to_offset_or_position(call, 2, 3, 4);
}

pub(super) fn splice(call: &mut Decoder<'_>) {
    to_offset_or_position(call, 2, 3, 4);
}

pub(super) fn sendfile(call: &mut Decoder<'_>) {
    if let Some(file) = call.file(call.fd(0)) {
        call.write_at_position(call.fd(0), file, call.arg(3));
    }
}

/// Into descriptor `fd`, at the offset that `offset` points to, or at the position when it is null.
fn to_offset_or_position(call: &mut Decoder<'_>, fd: usize, offset: usize, length: usize) {
    let Some(file) = call.file(call.fd(fd)) else { return };
    if call.arg(offset) == 0 {
        call.write_at_position(call.fd(fd), file, call.arg(length));
    } else if let Some(start) = call.memory_u64(call.arg(offset)) {
        call.content(file.id, start, call.arg(length));
        call.effects.push(Effect::Append { file: file.id, size: file.size });
    }
}

/// Cloning replaces what the file shares with another, and the fallocate family frees or zeroes a range; the range
/// stands in memory and is not worth a look. (FIDEDUPERANGE changes no content and is not shown.)
pub(super) fn ioctl(call: &mut Decoder<'_>) {
    let Some(file) = call.file(call.fd(0)) else { return };
    call.whole(file.id);
    call.effects.push(Effect::Append { file: file.id, size: file.size });
    if call.arg(1) as u32 == EXCHANGE_RANGE
        && let Some(fd) =
            call.memory(call.arg(2), 4).ok().and_then(|bytes| Some(i32::from_ne_bytes(bytes.try_into().ok()?)))
        && let Some(other) = call.file(fd)
    {
        call.whole(other.id);
    }
}

pub(super) fn metadata(call: &mut Decoder<'_>) {
    if let Some(identity) = call.identity(call.fd(0)) {
        call.effects.push(Effect::Metadata { file: identity.id });
    }
}
