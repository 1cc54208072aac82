//! Keepers of a release before the session's memory lay in the target (layouts up to 4). They cannot be taken over: the memory that
//! they share with nobody but one another is laid out in another way. They are replaced, with the target running on.
//!
//! As long as there is no supervisor, two pairs may receive from one listener: each call comes to one of them, and each
//! lets it go. So today's pair begins beside the one of before. Then that one is stopped, as a whole, and nobody is left waiting
//! but one whose call it has in its hand: if there is such a one the pair goes on, and is stopped again. When there is none it is ended.
//!
//! Whoever stops them holds the supervisor's part of the new memory until they have ended. If he is killed in between, the new pair has
//! them go on (`keeper/before.rs`).
//!
//! Whoever takes over in between would miss what they receive. So the new memory says that they may be there (`Layout::before`), from
//! before the new pair begins until they have ended.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::sys::signal::Signal;

use super::lock;
use super::options::Options;
use super::waiting::Waiting;
use crate::attach::Place;
use crate::calls::Shape;
use crate::calls::coverage::IN_DOUBT;
use crate::error::Error;
use crate::helper::process as helper;
use crate::keeper::{find, spawn};
use crate::ptracer::client::Ptracer;
use crate::shared::control::{Control, Role};
use crate::shared::memory::{ARMED, Memory, NotOurs, here};
use crate::sys::pidfd;
use crate::target::listener::target_listener;
use crate::target::process::Process;
use crate::target::{cgroups, room};

/// How long the new pair may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(3);
/// How long a process may take to stop.
const STOP_LIMIT: Duration = Duration::from_secs(1);
/// A call that waits for longer while they are stopped is in their hand: the new pair answers within a millisecond.
const IN_HAND: Duration = Duration::from_millis(100);
/// How often they are stopped.
const TRIES: u32 = 10;

/// The keepers of before that can be seen.
pub(super) fn find_all(process: &Process) -> Vec<(i32, OwnedFd)> {
    let opened = |pid: i32| {
        let opened = helper::is_keeper_of_before(pid, process).then(|| pidfd::open(pid).ok()).flatten()?;
        // Its number may have been reused between the look and the open.
        helper::is_keeper_of_before(pid, process).then_some((pid, opened))
    };
    process.list(".").into_iter().filter_map(opened).collect()
}

/// Puts today's keepers in the place of those of before; `false` when there are none.
///
/// # Errors
/// As attaching. They then go on.
pub(super) fn replace(process: &Process, options: &Options) -> Result<bool, Error> {
    let pid = process.pid();
    if find_all(process).is_empty() {
        return Ok(false);
    }
    let _lock = lock::of_before(process)?;
    let Some((_, number)) = target_listener(process) else { return Err(Error::NothingToRescue(pid)) };
    room::check(process)?;
    let mut ptracer = Ptracer::start(process, options.keeper_program, None)?;
    if !ptracer.is_with(process)? {
        // What it starts now would carry the filter itself.
        let why = "it has hotbackup's filter already, and an earlier release's keepers".into();
        return Err(Error::CannotOutlive { pid, why });
    }
    let memory = match find::session_memory(process)? {
        // Somebody has come as far as this.
        Some(memory) => memory,
        None => make_memory(process, &mut ptracer)?,
    };
    let _part = find::take_part(&memory, pid)?;
    // The net under writes of 8 bytes, unless they are seen to be shown.
    let unseen =
        ptracer.unseen(process, Shape::default())?.is_none_or(|calls| calls.iter().any(|call| call == "write"));
    ptracer.end();
    memory.eight_bytes_unseen.store(u32::from(unseen), Ordering::SeqCst);
    memory.filter.store(IN_DOUBT, Ordering::SeqCst);
    memory.target_listener.store(number, Ordering::SeqCst);
    memory.before.store(here(), Ordering::SeqCst);
    memory.armed.store(ARMED, Ordering::SeqCst);
    let generation = Control::load(&memory.control).generation.wrapping_add(1);
    Control { role: Role::Kept, generation }.store(&memory.control);
    spawn::spawn(process, options.keeper_program, &memory)?;
    let limit = Instant::now() + BEGIN_LIMIT;
    while memory.kept.load(Ordering::SeqCst) < generation {
        if Instant::now() > limit {
            return Err(Error::Keeper { pid, problem: "does not begin beside one of an earlier release".into() });
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    end(process, &memory)?;
    Ok(true)
}

fn make_memory(process: &Process, ptracer: &mut Ptracer) -> Result<Memory, Error> {
    let mut place = Place::map(process, ptracer)?;
    let session = place.make_session(ptracer)?;
    let memory = find::made_at(process, session.memory)?;
    let problem = |why: NotOurs| Error::Keeper {
        pid: process.pid(),
        problem: format!("of an earlier release cannot be replaced: {why}"),
    };
    let memory = Memory::begin(memory, process.name(), false).map_err(problem)?;
    if let Ok(wake) = pidfd::get_fd(process.pidfd(), session.wake) {
        memory.target_wake.store(session.wake, Ordering::SeqCst);
        memory.wake_id.store(find::eventfd_id(&wake).unwrap_or(0), Ordering::SeqCst);
    }
    Ok(memory)
}

/// Sees to it that no keeper of before is left beside those of `memory`, before their target is taken over.
///
/// # Errors
/// [`Error::Keeper`] when one may be, and cannot be seen or ended.
pub(super) fn settle(process: &Process, memory: &Memory) -> Result<(), Error> {
    let problem = "of an earlier release may live beside, and cannot be seen from here: back it up from the host";
    match memory.before.load(Ordering::SeqCst) {
        0 => Ok(()),
        place if place == here() || !find_all(process).is_empty() => {
            // Or today's keeper has those go on that are stopped.
            let _part = find::take_part(memory, process.pid())?;
            end(process, memory)
        }
        _ => Err(Error::Keeper { pid: process.pid(), problem: problem.into() }),
    }
}

/// Ends them, with others to answer in their place.
fn end(process: &Process, memory: &Memory) -> Result<(), Error> {
    for _ in 0..TRIES {
        let stopped = stop(process)?;
        failpoint::hit("ancestors.stopped");
        let waiting = Waiting::look(process);
        if waiting.gone_on(process, IN_HAND) == waiting.count() {
            let ended = |(pid, keeper): &(i32, OwnedFd)| cgroups::end(process.proc(), *pid, keeper.as_fd());
            // Each is to be ended, also when another was not.
            let ended: Vec<bool> = stopped.iter().map(ended).collect();
            if ended.contains(&false) || !find_all(process).is_empty() {
                break;
            }
            memory.before.store(0, Ordering::SeqCst);
            return Ok(());
        }
        for (_, keeper) in &stopped {
            let _ = pidfd::signal(keeper.as_fd(), Signal::SIGCONT);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Err(Error::Keeper { pid: process.pid(), problem: "of an earlier release could not be ended: try again".into() })
}

/// Stops all of them: none can start another in the place of one that is stopped.
///
/// # Errors
/// One that may not be stopped, as another user's: those that were go on.
fn stop(process: &Process) -> Result<Vec<(i32, OwnedFd)>, Error> {
    let mut stopped: Vec<(i32, OwnedFd)> = Vec::new();
    let limit = Instant::now() + STOP_LIMIT;
    loop {
        let found = find_all(process).into_iter();
        let new: Vec<_> = found.filter(|(pid, _)| stopped.iter().all(|(known, _)| known != pid)).collect();
        if new.is_empty() {
            return Ok(stopped);
        }
        for (pid, keeper) in new {
            if let Err(errno @ (Errno::EPERM | Errno::EACCES)) = pidfd::signal(keeper.as_fd(), Signal::SIGSTOP) {
                for (_, keeper) in &stopped {
                    let _ = pidfd::signal(keeper.as_fd(), Signal::SIGCONT);
                }
                let problem = format!("of an earlier release, process {pid}, may not be ended ({errno}): run as root");
                return Err(Error::Keeper { pid: process.pid(), problem });
            }
            let stands = || process.status(pid).is_none_or(|status| matches!(status.state(), Some('T' | 'Z' | 'X')));
            while !stands() && Instant::now() < limit {
                std::thread::sleep(Duration::from_micros(100));
            }
            stopped.push((pid, keeper));
        }
    }
}
