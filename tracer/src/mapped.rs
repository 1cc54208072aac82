//! Files with writable shared mappings: stores to memory are no system calls, so no notification shows them.
//!
//! Who wants such a file as it was at some moment has to read it while nobody can store: while all threads of the target
//! stand still, and no other process has it mapped. The processes there are, are looked at twice: all of them before calls
//! are held, which takes its time; and those that were not there then, while the target stands still and can make no more.
//! One that was there, and had none of these mappings, can make one by a call that is shown, if it is a child of the target:
//! these are counted, and a look counts only if there was none after it. (Whoever else maps the target's files for writing is
//! none of its processes: see `docs/safety.md`.)

use std::collections::HashSet;
use std::time::{Duration, Instant};

use hotbackup_event::{FileId, failpoint};

use crate::calls::resolve::shared_mappings;
use crate::process::{Process, list_numbers, read_below};
use crate::session::Tracer;

/// What the first look found.
#[derive(Debug, Default)]
pub(crate) struct Looked {
    /// All processes that there were.
    processes: HashSet<i32>,
    /// How often a process other than the target had mapped a file for writing by then.
    elsewhere: u64,
}

impl Tracer {
    /// Looks at all other processes: none may have a file mapped for writing that has been mapped so by the target or its
    /// children. `files` tells which, of those that matter. To be called before calls are held for [`Self::while_frozen`].
    ///
    /// # Errors
    /// Names the process that has, or says why calls under way cannot be waited for.
    pub fn look_for_sharers(&self, files: &dyn Fn() -> Vec<FileId>) -> Result<(), String> {
        let process = self.process();
        let elsewhere = self.mapped_elsewhere();
        // What was counted by then is to be seen below.
        self.grace()?;
        let mapped: HashSet<FileId> = files().into_iter().collect();
        let there = list_numbers(process.proc(), ".");
        for pid in there.iter().copied().filter(|pid| *pid != process.pid()) {
            has_none_of(process, pid, &mapped)?;
        }
        *self.looked() = Looked { processes: there.into_iter().collect(), elsewhere };
        Ok(())
    }

    /// Has all threads of the target stand still, for at most `limit`, while `work` runs with the files that it has mapped
    /// for writing. `known` are those that have been, and matter: no other process may have mapped them.
    ///
    /// # Errors
    /// Why they could not, or that they went on before `work` had ended: then what it did does not count.
    pub fn while_frozen(
        &self,
        limit: Duration,
        known: &[FileId],
        work: &mut dyn FnMut(&[FileId]),
    ) -> Result<(), String> {
        let process = self.process();
        let asked = Instant::now();
        let mut ptracer = self.ptracer();
        // It may have been busy with other threads of the target.
        let limit = limit.checked_sub(asked.elapsed()).ok_or("there was no time left to stop its threads")?;
        let frozen = ptracer.freeze(process, limit)?;
        // A call that concerns other files may be let go meanwhile, and its thread go on.
        let tids = frozen.waiting().to_vec();
        let waiting = self.waiting_calls(&tids);
        if waiting.contains(&None) {
            return Err("a thread was about to go on".into());
        }
        failpoint::hit("mapped.frozen");
        let files = mapped_for_writing(process, process.pid())?;
        let mapped: HashSet<FileId> = known.iter().copied().collect();
        let before = self.looked();
        for pid in list_numbers(process.proc(), ".").into_iter().filter(|pid| !before.processes.contains(pid)) {
            has_none_of(process, pid, &mapped)?;
        }
        if self.mapped_elsewhere() != before.elsewhere {
            return Err("a child process has just mapped a file".into());
        }
        work(&files);
        // (A call counts as let go before it is answered.)
        let waited = self.waiting_calls(&tids) == waiting;
        if frozen.thaw() && waited { Ok(()) } else { Err("its threads went on before everything was read".into()) }
    }
}

/// The files that a process has mapped for writing, each once.
pub(crate) fn mapped_for_writing(process: &Process, pid: i32) -> Result<Vec<FileId>, String> {
    let mut files = shared_mappings(process, pid, |mapping| mapping.is_writable())?;
    files.sort_unstable();
    files.dedup();
    Ok(files)
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
