//! Seeing every thread outside of the region, once: whatever it was about to do in there, it has done.
//!
//! A thread is outside when its instruction pointer is, and no signal handler has interrupted it inside: the frame that the kernel
//! laid on its stack would take it back there. One that sleeps inside, in a call on what is no file, may do so for ever and
//! changes nothing.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::flight::inflight::changes_a_file;
use crate::ptracer::client::Ptracer;
use crate::sys::notify::CallData;
use crate::target::process::{Process, Registers, ThreadState, open_below};

/// How much of a stack is looked through for the frame of a signal that came inside.
const FRAMES: usize = 64 << 10;
/// In a frame: from the instruction pointer to the flags, and to the word that begins with the code segment (struct sigcontext).
const CODE_SEGMENT: u64 = 0x33;

/// Whether threads were found that sleep inside for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub asleep_inside: bool,
}

/// Waits until each of these threads has been seen outside; one that stays on a processor is stopped for an instant, after `patience`.
///
/// # Errors
/// The thread that was not, in time.
pub(super) fn wait(
    process: &Process,
    ptracer: &Mutex<Ptracer>,
    region: &Range<u64>,
    mut tids: Vec<i32>,
    (patience, limit): (Duration, Duration),
) -> Result<Seen, i32> {
    let began = Instant::now();
    let mut seen = Seen { asleep_inside: false };
    loop {
        let mut running = Vec::new();
        tids.retain(|&tid| match process.thread_at(tid) {
            (ThreadState::Gone, _) => false,
            (ThreadState::Running, _) | (_, None) => {
                running.push(tid);
                true
            }
            (ThreadState::Sleeping { nr, args }, Some(at)) if region.contains(&at.ip) => {
                // What the number is by now says nothing of a write that is under way.
                let changes = nr == libc::SYS_pwrite64 || changes_a_file(process, tid, nr, args);
                seen.asleep_inside |= !changes;
                changes
            }
            (_, Some(at)) => is_inside(process, tid, at, region),
        });
        if tids.is_empty() {
            return Ok(seen);
        }
        if began.elapsed() > limit {
            return Err(tids[0]);
        }
        if !running.is_empty() && began.elapsed() > patience {
            let looked = ptracer.lock().unwrap_or_else(PoisonError::into_inner).look(process, running);
            let outside =
                |(tid, at): &(i32, Option<Registers>)| at.is_none_or(|at| !is_inside(process, *tid, at, region));
            let outside: Vec<i32> = looked.iter().filter(|found| outside(found)).map(|(tid, _)| *tid).collect();
            tids.retain(|tid| !outside.contains(tid));
            if !outside.is_empty() {
                continue;
            }
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

fn is_inside(process: &Process, tid: i32, at: Registers, region: &Range<u64>) -> bool {
    region.contains(&at.ip) || was_interrupted(process, tid, at.sp, region)
}

/// Whether a frame on the thread's stack leads back into the region. (The thread may run on meanwhile: what it enters
/// now it enters by the mode that is set.)
fn was_interrupted(process: &Process, tid: i32, sp: u64, region: &Range<u64>) -> bool {
    // One that has ended, and nobody has asked for its end yet, or one of the kernel's.
    if sp == 0 {
        return false;
    }
    let memory = match open_below(process.proc(), &format!("{tid}/mem"), OFlag::O_RDONLY) {
        Ok(memory) => memory,
        Err(errno) => return !matches!(errno, Errno::ESRCH | Errno::ENOENT),
    };
    let mut stack = vec![0; FRAMES];
    let sp = sp & !7;
    let Ok(read) = File::from(memory).read_at(&mut stack, sp) else { return true };
    let words: Vec<u64> = stack[..read].as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect();
    words.windows(3).any(|words| {
        let [ip, flags, segments] = [words[0], words[1], words[2]];
        region.contains(&ip) && flags & 2 != 0 && segments & 0xffff == CODE_SEGMENT
    })
}

/// Whether a call that was let go is over. Where that cannot be told it is not.
pub(super) fn is_over(process: &Process, tid: i32, call: &CallData) -> bool {
    match process.thread_state(tid) {
        ThreadState::Gone => true,
        ThreadState::Running | ThreadState::Stopped => false,
        ThreadState::Sleeping { nr, args } => nr != i64::from(call.nr) || args != call.args,
    }
}
