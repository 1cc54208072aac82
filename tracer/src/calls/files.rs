//! Calls that change a file's content or metadata by descriptor.

use hotbackup_event::Effect;

use super::decode::{Decoder, OnDescriptor};

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
        let (fd, offset, whence) = (call.fd(0), call.arg(1) as i64, call.fd(2));
        call.on_descriptors.push(OnDescriptor::Seeks { fd, file, offset, whence });
    }
}

pub(super) fn close(call: &mut Decoder<'_>) {
    call.on_descriptors.push(OnDescriptor::Closes(call.fd(0)));
}

pub(super) fn dup2(call: &mut Decoder<'_>) {
    call.on_descriptors.push(OnDescriptor::Replaces(call.fd(1)));
}

pub(super) fn close_range(call: &mut Decoder<'_>) {
    call.closes_range(call.arg(0) as u32, call.arg(1) as u32);
}

/// It changes no file.
pub(super) fn nothing(_: &mut Decoder<'_>) {}

pub(super) fn fallocate(call: &mut Decoder<'_>) {
    let (mode, offset, length) = (call.arg(1) as i32, call.arg(2), call.arg(3));
    let Some(file) = call.file(call.fd(0)) else { return };
    if mode & (libc::FALLOC_FL_COLLAPSE_RANGE | libc::FALLOC_FL_INSERT_RANGE) == 0 {
        call.content(file.id, offset, length);
    } else {
        // All behind it moves. A collapse also makes the file shorter: what is appended next may lie before its present end.
        call.effects.push(Effect::Resize { file: file.id, len: offset });
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

pub(super) fn metadata(call: &mut Decoder<'_>) {
    if let Some(identity) = call.identity(call.fd(0)) {
        call.effects.push(Effect::Metadata { file: identity.id });
    }
}
