//! Answer a target that nobody answers: its supervisor and its keeper were killed in one instant.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::options::Options;
use super::waiting::Waiting;
use super::{ancestors, lock};
use crate::error::Error;
use crate::helper::place;
use crate::keeper::{find, spawn};
use crate::ptracer::client::Ptracer;
use crate::shared::control::{Control, Role};
use crate::shared::memory::ARMED;
use crate::target::listener::target_listener;
use crate::target::process::Process;

/// How long a new keeper may take to answer what waits.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);

/// What a rescue did.
#[derive(Debug, Clone, Copy)]
pub struct Rescued {
    /// The keeper that answers now.
    pub keeper_pid: i32,
    /// Whether it was there already, so that nothing was to be done.
    pub was_kept: bool,
    /// Whether it stands in the target's cgroups. Else it ends with hotbackup's own, and the target waits again.
    pub outlives_us: bool,
    /// Calls that were waiting, received or not, and that go on now; where it was kept, those that keepers have answered so far.
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
    let found = |keeper: &find::Found, was_kept| {
        let acting = find::acting(&process, &keeper.memory);
        Rescued {
            keeper_pid: acting.unwrap_or(keeper.memory.keeper.load(Ordering::SeqCst)),
            was_kept,
            // One that cannot be seen from here was not started from here.
            outlives_us: acting.is_none_or(|pid| place::is_with(&process, pid)),
            answered: keeper.memory.answered.load(Ordering::SeqCst),
        }
    };
    if let Some(keeper) = find::find(&process)? {
        // Whoever was ending an earlier release's may have been killed over it, with a call in the hand of one that is stopped.
        if keeper.memory.before.load(Ordering::SeqCst) != 0 {
            let _lock = lock::lock(&process)?;
            ancestors::settle(&process, &keeper.memory)?;
        }
        return Ok(found(&keeper, true));
    }
    let _lock = lock::lock(&process)?;
    // Somebody may have been quicker.
    if find::find(&process)?.is_none() {
        // Nobody answers: whoever waits now waits until there is a keeper.
        let waiting = Waiting::look(&process);
        if !ancestors::replace(&process, options)? {
            revive(&process, options)?;
        }
        let keeper = find::find(&process)?.ok_or(Error::Keeper { pid, problem: "ended at once".into() })?;
        let answered = waiting.gone_on(&process, ANSWER_LIMIT);
        return Ok(Rescued { answered, ..found(&keeper, false) });
    }
    let keeper = find::find(&process)?.ok_or(Error::Keeper { pid, problem: "ended at once".into() })?;
    Ok(found(&keeper, true))
}

/// Whether the listener that the target holds belongs to our filter.
fn is_ours(process: &Process, options: &Options) -> Result<bool, Error> {
    Ptracer::start(process, options.keeper_program, None)?.recognises(process)
}

/// Starts a keeper for a target that has a listener and nobody who answers; returns when it has answered what is recorded, and
/// answers the rest.
pub(super) fn revive(process: &Process, options: &Options) -> Result<(), Error> {
    let pid = process.pid();
    let Some((_, number)) = target_listener(process) else {
        return Err(Error::NothingToRescue(pid));
    };
    let Some(memory) = find::session_memory(process)? else {
        return Err(match find::kept_for_another(process, number) {
            Some(other) => Error::KeptForAnother { pid, other },
            None if !is_ours(process, options)? => Error::ForeignListener(pid),
            // A keeper may live where it cannot be seen, and two that receive would each miss what the other receives.
            None => Error::Keeper { pid, problem: NO_MEMORY.into() },
        });
    };
    // The keeper lives at least as long as this, and then by itself.
    let _part = find::take_part(&memory, pid)?;
    memory.target_listener.store(number, Ordering::SeqCst);
    memory.armed.store(ARMED, Ordering::SeqCst);
    let generation = Control::load(&memory.control).generation.wrapping_add(1);
    Control { role: Role::Kept, generation }.store(&memory.control);
    spawn::spawn(process, options.keeper_program, &memory)?;
    let limit = Instant::now() + ANSWER_LIMIT;
    while memory.kept.load(Ordering::SeqCst) < generation && Instant::now() < limit {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Why none can be started where they would have to be born from the target.
pub(super) const NOT_BORN_AGAIN: &str = "its keepers were killed, and what it starts now would carry hotbackup's filter, and wait for an answer itself (`hotbackup \
     rescue` answers it from here, for as long as hotbackup's own cgroup lives)";

/// What is wrong where the target has closed one of the two descriptors it got, and not the other.
const NO_MEMORY: &str = "cannot be told to live or not, as the process has closed its session's memory: only one that is \
                         started anew can be followed";
