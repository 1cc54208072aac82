//! Files with writable shared mappings: stores to memory are no system calls, so no notification shows them.
//!
//! Who wants such a file as it was at some moment has to read it while nobody can store: while all threads of the target
//! stand still, and no other process has it mapped. The processes there are, are looked at twice: all of them before calls
//! are held, which takes its time; and those that were not there then, while the target stands still and can make no more.
//! One that was there, and had none of these mappings, can make one by a call that is shown, if it is a child of the target:
//! these are counted, and a look counts only if there was none after it. (Whoever else maps the target's files for writing is
//! none of its processes: see `docs/safety.md`.)

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hotbackup_event::{FileId, failpoint};

use crate::ptracer::client::Ptracer;
use crate::receive::answering::Answering;
use crate::target::maps::mapped_for_writing;
use crate::target::process::{Process, read_below};

/// What the first look found.
#[derive(Debug, Default)]
pub(super) struct Sharers {
    /// All processes that there were.
    processes: HashSet<i32>,
    /// How often a process other than the target had mapped a file for writing by then.
    elsewhere: u64,
}

impl Sharers {
    /// Looks at all other processes: none may have one of `files` mapped for writing. `elsewhere` is what was counted
    /// before the calls that count had ended.
    pub fn look(process: &Process, elsewhere: u64, files: &[FileId]) -> Result<Self, String> {
        let mapped: HashSet<FileId> = files.iter().copied().collect();
        let there = process.list(".");
        for pid in there.iter().copied().filter(|pid| *pid != process.pid()) {
            has_none_of(process, pid, &mapped)?;
        }
        Ok(Self { processes: there.into_iter().collect(), elsewhere })
    }
}

/// See [`Tracer::while_frozen`](super::session::Tracer::while_frozen).
pub(super) fn while_frozen(
    shared: &Answering,
    ptracer: &Mutex<Ptracer>,
    sharers: &Mutex<Sharers>,
    limit: Duration,
    known: &[FileId],
    work: &mut dyn FnMut(&[FileId]),
) -> Result<(), String> {
    let process = &shared.process;
    let asked = Instant::now();
    let mut ptracer = ptracer.lock().unwrap_or_else(PoisonError::into_inner);
    // It may have been busy with other threads of the target.
    let limit = limit.checked_sub(asked.elapsed()).ok_or("there was no time left to stop its threads")?;
    let frozen = ptracer.freeze(process, limit)?;
    // A call that concerns other files may be let go meanwhile, and its thread go on.
    let tids = frozen.waiting().to_vec();
    // The last calls of these threads, as far as they have not been let go.
    let waiting = || tids.iter().map(|tid| shared.inflight.waiting(*tid)).collect::<Vec<_>>();
    let before = waiting();
    if before.contains(&None) {
        return Err("a thread was about to go on".into());
    }
    failpoint::hit("mapped.frozen");
    let files = mapped_for_writing(process, process.pid())?;
    let mapped: HashSet<FileId> = known.iter().copied().collect();
    let looked = sharers.lock().unwrap_or_else(PoisonError::into_inner);
    for pid in process.list(".").into_iter().filter(|pid| !looked.processes.contains(pid)) {
        has_none_of(process, pid, &mapped)?;
    }
    if shared.mapped_elsewhere.load(std::sync::atomic::Ordering::SeqCst) != looked.elsewhere {
        return Err("a child process has just mapped a file".into());
    }
    work(&files);
    // (A call counts as let go before it is answered.)
    let waited = waiting() == before;
    if frozen.thaw() && waited { Ok(()) } else { Err("its threads went on before everything was read".into()) }
}

/// A process whose mappings cannot be read is another user's, or is gone: not one that shares the target's files with it. One
/// that has mapped something that cannot be looked at may be.
fn has_none_of(process: &Process, pid: i32, files: &HashSet<FileId>) -> Result<(), String> {
    // Not by the inode's number that is shown there: on overlayfs that may be another's.
    let mapped = match mapped_for_writing(process, pid) {
        Err(_) if read_below(process.proc(), &format!("{pid}/maps")).is_err() => return Ok(()),
        mapped => mapped?,
    };
    match mapped.into_iter().find(|file| files.contains(file)) {
        Some(_) => Err(format!("process {pid} has the same file mapped")),
        None => Ok(()),
    }
}
