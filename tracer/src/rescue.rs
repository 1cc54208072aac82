//! Answer a target that nobody answers: its supervisor and its keeper were killed in one instant.

use std::sync::atomic::Ordering;

use crate::error::Error;
use crate::keeper::state::{Control, Role};
use crate::keeper::{find, spawn};
use crate::process::Process;
use crate::session::Options;

/// What a rescue did.
#[derive(Debug, Clone, Copy)]
pub struct Rescued {
    /// The keeper that answers now.
    pub keeper_pid: i32,
    /// Whether it was there already, so that nothing was to be done.
    pub was_kept: bool,
    /// Calls that keeper has answered so far.
    pub answered: u64,
}

/// Sees to it that process `pid` has a keeper: starts one that picks the listener up from the target's own copy.
///
/// # Errors
/// [`Error::NothingToRescue`] when the target has no listener.
pub fn rescue(pid: i32, options: &Options) -> Result<Rescued, Error> {
    let process = Process::open(pid)?;
    if let Some(keeper) = find::find(&process)? {
        return Ok(Rescued {
            keeper_pid: keeper.pid,
            was_kept: true,
            answered: keeper.memory.answered.load(Ordering::SeqCst),
        });
    }
    let Some((_, number)) = find::target_listener(&process) else {
        return Err(Error::NothingToRescue(pid));
    };
    let keeper = spawn::spawn(&process, &options.keeper_program)?;
    let memory = keeper.memory;
    memory.target_listener.store(number, Ordering::SeqCst);
    memory.armed.store(1, Ordering::SeqCst);
    let control = Control { role: Role::Attaching, generation: 1 };
    control.change(&memory.control, control.with(Role::Kept));
    if let Ok(keeper) = crate::sys::pidfd::open(keeper.pid) {
        find::wake(&keeper);
    }
    Ok(Rescued { keeper_pid: keeper.pid, was_kept: false, answered: memory.answered.load(Ordering::SeqCst) })
}
