//! Attach: one thread of the target is stopped twice, each time for as long as it takes to read and set its registers,
//! and runs a few injected calls; the filter reaches all threads by `TSYNC`.
//!
//! No instant of it is an exception to "do no harm". When a tracer dies, a stopped thread runs on with the registers
//! it has at that moment. So a thread's registers are set exactly once, to a line of code that restores the thread by
//! itself (`ptracer/payload.rs`); before that nothing of the target is changed but a few zero bytes of padding, and after it
//! nothing is needed from us. The keeper is there before the filter is. And the tracer is a process of its own
//! ([`crate::ptracer`]), which the keeper ends if it hangs.
//!
//! A ptracer that is killed on its way leaves open whether a thread runs the code. So another one is asked only after a
//! while, each attempt has a word of its own for its result, and that there is no filter counts as proven only when every
//! attempt has said so.

pub mod preflight;
mod rights;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::fcntl::OFlag;
use seccompiler::sock_filter;

use crate::error::{Error, errno};
use crate::ptracer::client::Ptracer;
use crate::ptracer::payload::{Call, PENDING};
use crate::ptracer::site;
use crate::target::cgroups;
use crate::target::process::Process;
use crate::target::room;

/// How long the thread may take to run the calls, once let run: it needs a processor, that is all.
const RUN_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take when the ptracer was killed, and perhaps before it let any thread run them.
const DOUBT_LIMIT: Duration = Duration::from_secs(1);
/// How often it is looked at whether the target was frozen meanwhile.
const FROZEN_LOOK: Duration = Duration::from_millis(100);
/// Bytes mapped for the results, the header and the filter: room for the longest filter there may be.
const PAGE_BYTES: u64 = 36 << 10;
/// Each attempt has a word for its result.
const ATTEMPTS: usize = 3;
const HEADER: u64 = 8 * ATTEMPTS as u64;
const PROGRAM: u64 = HEADER + 16;

/// What came of it.
#[derive(Debug)]
pub struct Installed {
    /// What seccomp returned: the listener's number in the target, or a negative errno.
    pub result: i64,
    /// The longer of the two stops.
    pub stopped: Duration,
    /// Whether another attempt may still bring a filter.
    pub in_doubt: bool,
}

/// An attempt that brought no result, and whether a filter may come of it all the same.
#[derive(Debug)]
pub struct NotInstalled {
    /// Why.
    pub error: Error,
    /// Whether a thread may still be on its way to install the filter.
    pub in_doubt: bool,
}

/// Installs `filter` for all threads of the target.
///
/// # Errors
/// When no thread could be used, or we may not.
pub(crate) fn install(
    process: &Process,
    ptracer: &mut Ptracer,
    filter: &[sock_filter],
    no_new_privs: bool,
) -> Result<Installed, NotInstalled> {
    let untouched = |error| NotInstalled { error, in_doubt: false };
    let pid = process.pid();
    room::check(process).map_err(untouched)?;
    let memory = open_memory(process).map_err(untouched)?;
    let no_room = || Error::NoThread(pid, "no room in its address space".into());
    let page = site::find_hole(process).ok_or_else(no_room).map_err(untouched)?;
    let read_write = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let map = Call { nr: libc::SYS_mmap, args: vec![page, PAGE_BYTES, read_write, flags, u64::MAX, 0] };
    let first = ptracer.run(process, vec![map], None, false).map_err(untouched)?;
    let mapped = || site::is_fresh_mapping(process, &memory, page, PAGE_BYTES).then_some(());
    wait_for(process, "mmap", RUN_LIMIT, mapped).map_err(untouched)?;
    failpoint::hit("attach.page-mapped");
    let written = memory.write_all_at(&page_bytes(page, filter), page);
    written.map_err(|error| untouched(Error::os(pid, "writing to the memory of")(errno(&error))))?;
    failpoint::hit("attach.page-written");

    let mut calls = Vec::new();
    if no_new_privs {
        calls.push(Call { nr: libc::SYS_prctl, args: vec![libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0] });
    }
    let mode = u64::from(libc::SECCOMP_SET_MODE_FILTER);
    calls.push(Call { nr: libc::SYS_seccomp, args: vec![mode, preflight::FILTER_FLAGS, page + HEADER] });
    let mut in_doubt = false;
    let mut error = None;
    for attempt in 0..ATTEMPTS {
        let asked = ptracer.run(process, calls.clone(), Some(page + 8 * attempt as u64), true);
        let limit = if asked.is_ok() { RUN_LIMIT } else { DOUBT_LIMIT };
        let stopped = match asked {
            Ok(stopped) => stopped,
            // As it was frozen, perhaps on its way.
            Err(frozen @ Error::Frozen { .. }) => return Err(NotInstalled { error: frozen, in_doubt: true }),
            // It was killed, and nobody knows whether a thread runs the code.
            Err(ended @ Error::Ptracer { .. }) => {
                in_doubt = true;
                error = Some(ended);
                Duration::ZERO
            }
            Err(error) => return Err(NotInstalled { error, in_doubt }),
        };
        match wait_for(process, "seccomp", limit, || result(&memory, page)) {
            Ok(result) => return Ok(Installed { result, stopped: first.max(stopped), in_doubt }),
            Err(gone @ Error::TargetExited(_)) => return Err(untouched(gone)),
            Err(late) if error.is_none() => return Err(NotInstalled { error: late, in_doubt: true }),
            Err(_) => {}
        }
    }
    Err(NotInstalled { error: error.unwrap_or_else(no_room), in_doubt })
}

/// The result of an attempt: the listener, if any of them brought one.
fn result(memory: &File, page: u64) -> Option<i64> {
    let mut words = [0; 8 * ATTEMPTS];
    memory.read_exact_at(&mut words, page).ok()?;
    let words = words.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap_or_default()));
    words.filter(|&word| word != PENDING).map(|word| word as i64).max()
}

/// Has a thread of the target make a call that the filter shows and that changes nothing; returns when `seen`, or
/// after a while.
///
/// # Errors
/// When no thread could be used, or we may not.
pub(crate) fn probe(process: &Process, ptracer: &mut Ptracer, seen: impl Fn() -> bool) -> Result<bool, Error> {
    ptracer.run(process, vec![Call { nr: libc::SYS_ftruncate, args: vec![u64::MAX, 0] }], None, false)?;
    match wait_for(process, "ftruncate", RUN_LIMIT, || seen().then_some(())) {
        Ok(()) => Ok(true),
        Err(Error::NoThread(..)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open_memory(process: &Process) -> Result<File, Error> {
    let memory = process.open_file("mem", OFlag::O_RDWR);
    Ok(File::from(memory.map_err(Error::os(process.pid(), "writing to the memory of"))?))
}

/// The page: results, header (`struct sock_fprog`), program.
fn page_bytes(page: u64, filter: &[sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PROGRAM as usize + filter.len() * 8);
    for _ in 0..ATTEMPTS {
        bytes.extend(PENDING.to_ne_bytes());
    }
    bytes.extend((filter.len() as u64).to_ne_bytes()); // u16 length, padding
    bytes.extend((page + PROGRAM).to_ne_bytes());
    for instruction in filter {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    assert!(bytes.len() as u64 <= PAGE_BYTES, "the filter outgrew its place");
    bytes
}

/// Waits until the thread has come so far.
fn wait_for<T>(
    process: &Process,
    call: &'static str,
    limit: Duration,
    done: impl Fn() -> Option<T>,
) -> Result<T, Error> {
    let (pid, limit) = (process.pid(), Instant::now() + limit);
    let mut looked = Instant::now();
    loop {
        if let Some(result) = done() {
            return Ok(result);
        }
        if !process.is_alive() {
            return Err(Error::TargetExited(pid));
        }
        if looked.elapsed() > FROZEN_LOOK {
            looked = Instant::now();
            cgroups::check_thawed(process)?;
        }
        if Instant::now() > limit {
            return Err(Error::NoThread(pid, format!("its {call} call did not come about")));
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}
