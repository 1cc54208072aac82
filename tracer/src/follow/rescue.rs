//! Answer a target that nobody answers: its supervisor and its keeper were killed in one instant.

use std::sync::atomic::Ordering;

use super::lock;
use super::options::Options;
use crate::error::Error;
use crate::keeper::{find, spawn};
use crate::ptracer::client::Ptracer;
use crate::shared::control::{Control, Role};
use crate::shared::memory::Memory;
use crate::target::listener::target_listener;
use crate::target::process::Process;

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

/// Sees to it that process `pid` has a keeper: starts one that picks the listener up from the target's own copy, and
/// answers what is recorded in the memory that the target holds as well.
///
/// # Errors
/// [`Error::NothingToRescue`] when the target has no listener, [`Error::ForeignListener`] when it is not ours; [`Error::Busy`] while a supervisor is at work, which sees
/// to the keepers itself.
pub fn rescue(pid: i32, options: &Options) -> Result<Rescued, Error> {
    let process = Process::open(pid)?;
    let found = |keeper: &find::Found, was_kept| Rescued {
        keeper_pid: keeper.pid,
        was_kept,
        answered: keeper.memory.answered.load(Ordering::SeqCst),
    };
    if let Some(keeper) = find::find(&process)? {
        return Ok(found(&keeper, true));
    }
    let _lock = lock::lock(&process)?;
    // Somebody may have been quicker.
    if find::find(&process)?.is_none() {
        revive(&process, options)?;
    }
    let keeper = find::find(&process)?.ok_or(Error::Keeper { pid, problem: "ended at once".into() })?;
    Ok(found(&keeper, false))
}

/// Memory for a target whose own copy is lost.
fn new_memory(process: &Process) -> Result<Memory, Error> {
    Memory::create(process.pid()).map_err(Error::os(process.pid(), "making shared memory for"))
}

/// Whether the listener that the target holds belongs to our filter.
pub(crate) fn is_ours(process: &Process, options: &Options) -> Result<bool, Error> {
    let nobody_watches = new_memory(process)?;
    Ptracer::start(process, options.keeper_program.clone(), &nobody_watches)?.recognises(process)
}

/// Starts a keeper for a target that has a listener and nobody who answers.
pub(crate) fn revive(process: &Process, options: &Options) -> Result<(), Error> {
    let pid = process.pid();
    let Some((_, number)) = target_listener(process) else {
        return Err(Error::NothingToRescue(pid));
    };
    let memory = match find::target_memory(process) {
        Some(memory) => memory,
        None => {
            if let Some(other) = find::kept_for_another(process, number) {
                return Err(Error::KeptForAnother { pid, other });
            }
            if !is_ours(process, options)? {
                return Err(Error::ForeignListener(pid));
            }
            let memory = new_memory(process)?;
            // Nobody knows whether its filter shows writes of 8 bytes; the net does no harm.
            memory.eight_bytes_unseen.store(1, Ordering::SeqCst);
            // Whoever received the very first calls may have been killed before it could leave a copy of their record.
            memory.sweep.store(1, Ordering::SeqCst);
            memory
        }
    };
    memory.target_listener.store(number, Ordering::SeqCst);
    memory.armed.store(1, Ordering::SeqCst);
    let generation = Control::load(&memory.control).generation + 1;
    Control { role: Role::Kept, generation }.store(&memory.control);
    spawn::spawn(process, &options.keeper_program, &memory)?;
    Ok(())
}
