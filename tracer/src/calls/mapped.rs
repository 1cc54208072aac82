//! Calls that reach a file through a mapping of it.

use std::ffi::CString;

use hotbackup_event::Effect;

use super::decode::Decoder;
use super::row::{Test, bits};
use crate::sys::stat;
use crate::target::maps::{Mapping, shared_mappings};
use crate::target::process::Process;

/// Punches a hole into the file: also where the mapping is only readable, if its descriptor was not.
const MADV_REMOVE: u32 = 9;
/// Has the kernel think that the memory is broken: what of the file was not written to the disk yet is lost.
const MADV_HWPOISON: u32 = 100;

/// Advice in argument `argument` that changes a file. All other advice runs unseen: some is given very often.
pub(super) const fn advice(argument: u8) -> [Test; 2] {
    [bits(argument, u32::MAX, MADV_REMOVE), bits(argument, u32::MAX, MADV_HWPOISON)]
}

const PTRACE_POKETEXT: u32 = 4;
const PTRACE_POKEDATA: u32 = 5;
/// Requests of ptrace(2) that write memory.
pub(super) const POKES: [Test; 2] = [bits(0, u32::MAX, PTRACE_POKETEXT), bits(0, u32::MAX, PTRACE_POKEDATA)];

pub(super) fn madvise(call: &mut Decoder<'_>) {
    let (start, end) = (call.arg(0), call.arg(0).saturating_add(call.arg(1)));
    advised(call, call.arg(2) as u32, |mapping| mapping.start < end && mapping.end > start);
}

/// These two only work on the caller's own memory. Which part of it stands in memory, and is not worth a look.
pub(super) fn process_madvise(call: &mut Decoder<'_>) {
    advised(call, call.arg(3) as u32, |_| true);
}

fn advised(call: &mut Decoder<'_>, advice: u32, wanted: impl Fn(&Mapping<'_>) -> bool) {
    match shared_mappings(call.process, call.tid, wanted) {
        Ok(files) if advice == MADV_HWPOISON => {
            let cause = "madvise(MADV_HWPOISON), which may lose what was written to it";
            call.effects.extend(files.into_iter().map(|file| Effect::Untraceable { file, cause }));
        }
        Ok(files) => files.into_iter().for_each(|file| call.whole(file)),
        Err(cause) => call.blind = Some(cause),
    }
}

/// Stores into another process: what that one has mapped for writing may change, whether it is followed or not.
pub(super) fn process_vm_writev(call: &mut Decoder<'_>) {
    stores_into(call, call.fd(0));
}

pub(super) fn ptrace(call: &mut Decoder<'_>) {
    stores_into(call, call.fd(1));
}

fn stores_into(call: &mut Decoder<'_>, number: i32) {
    for pid in processes_called(call.process, call.tid, number) {
        match shared_mappings(call.process, pid, |mapping| mapping.is_writable()) {
            Ok(files) => call.effects.extend(files.into_iter().map(|file| Effect::Mapped { file })),
            Err(_) if call.process.has_ended(pid) => {}
            Err(cause) => call.blind = Some(cause),
        }
    }
}

/// The processes or threads that thread `tid` may mean by a number: in a namespace of its own that is another number to us.
fn processes_called(process: &Process, tid: i32, number: i32) -> Vec<i32> {
    let namespace = |who: &str| {
        let path = CString::new(format!("{who}/ns/pid")).ok()?;
        Some(stat::identity(process.proc(), &path, true).ok()?.id)
    };
    if namespace(&tid.to_string()) == namespace("self") {
        return vec![number];
    }
    let is_called = |pid: &i32| {
        let numbers = process.status_field(*pid, "NSpid").unwrap_or_default();
        numbers.split_whitespace().any(|one| one == number.to_string())
    };
    process.list(".").into_iter().filter(is_called).collect()
}
