//! Finding a target's listener and its keeper: through /proc and pidfd_getfd(2), so that no file, socket or port
//! has to be agreed upon.

use std::fs;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;

use super::{MEMORY_FD, WAKE_FD};
use crate::error::Error;
use crate::helper::process::{self as helper, KEEPER, PTRACER};
use crate::shared::control::{Control, Role};
use crate::shared::memory::{CLOSED, MEMORY_NAME, Memory};
use crate::sys::pidfd;
use crate::sys::process::is_same_file;
use crate::target::cgroups;
use crate::target::listener::{listener_of, target_listener};
use crate::target::process::{Process, list_numbers};

/// How long a keeper may take to look at a new supervisor.
const HANDOVER_LIMIT: Duration = Duration::from_secs(3);
/// How long a keeper may take to give a sign of life.
const ALIVE_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked at whether the target, and a keeper with it, was frozen.
const FROZEN_LOOK: Duration = Duration::from_millis(200);
/// How long the ptracer of a dead supervisor may take to end.
const PTRACER_LIMIT: Duration = Duration::from_secs(1);

/// A running keeper.
pub struct Found {
    /// The process id of the one that acts.
    pub pid: i32,
    pidfd: OwnedFd,
    /// The memory shared with it.
    pub memory: Memory,
}

/// Finds the keeper of `target`, which is seen to be alive: one that was killed just now may still be there, and one that
/// is stopped is replaced by its twin in half a second.
///
/// # Errors
/// [`Error::Frozen`] when the target is frozen, and they with it. [`Error::Keeper`] when there is one of another version, or one
/// that gives no sign of life.
pub fn find(target: &Process) -> Result<Option<Found>, Error> {
    let limit = Instant::now() + ALIVE_LIMIT;
    loop {
        cgroups::check_thawed(target)?;
        let Some(found) = look_for(target)? else { return Ok(None) };
        if found.is_alive(limit.min(Instant::now() + FROZEN_LOOK)) {
            let pid = found.memory.keeper.load(Ordering::SeqCst);
            return Ok(Some(Found { pid, ..found }));
        }
        let is_stopped = target.status(found.pid).is_some_and(|status| status.state() == Some('T'));
        if is_stopped && Instant::now() >= limit {
            // Both of a pair were stopped, by a signal: nothing else will end that.
            let _ = pidfd::kill(found.pidfd.as_fd());
        } else if Instant::now() >= limit + ALIVE_LIMIT {
            return Err(Error::Keeper {
                pid: target.pid(),
                problem: "does not answer (is a cgroup frozen that it is in?)".into(),
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The same without waking it, and without waiting for a sign of life.
pub(crate) fn look_for(target: &Process) -> Result<Option<Found>, Error> {
    for pid in list_numbers(target.proc(), ".") {
        if !helper::is(pid, KEEPER, target) {
            continue;
        }
        let Ok(keeper) = pidfd::open(pid) else { continue };
        // Its number may have been reused between the look and the open.
        if !helper::is(pid, KEEPER, target) {
            continue;
        }
        let wrong = |problem: &str| Error::Keeper { pid: target.pid(), problem: problem.into() };
        let memory = match pidfd::get_fd(keeper.as_fd(), MEMORY_FD) {
            Ok(memory) => memory,
            // To start others beside them would be to have two that act.
            Err(Errno::EPERM) => {
                let remedy = if helper::is_ours(pid) {
                    "give hotbackup CAP_SYS_PTRACE"
                } else {
                    "they are another user's, so run as root, or as that user, or give hotbackup CAP_SYS_PTRACE"
                };
                return Err(Error::NotPermitted { pid: target.pid(), action: "using the keepers of", remedy });
            }
            Err(_) => continue,
        };
        let memory = Memory::open(memory).map_err(|_| wrong("is of another version: restart the target"))?;
        return Ok(Some(Found { pid, pidfd: keeper, memory }));
    }
    Ok(None)
}

impl Found {
    /// Whether it, or its twin in its place, gives a sign of life before the time is over or it has ended.
    fn is_alive(&self, limit: Instant) -> bool {
        let before = self.memory.keeper_beat.load(Ordering::SeqCst);
        if let Some(wake) = self.wake_fd() {
            rouse(&wake);
        }
        while self.memory.keeper_beat.load(Ordering::SeqCst) == before {
            if Instant::now() >= limit || pidfd::ends_within(self.pidfd.as_fd(), Duration::from_micros(200)) {
                return false;
            }
        }
        true
    }

    /// Whether its supervisor died while it attached: then the keeper waits for a filter that may never come.
    pub fn is_orphaned(&self) -> bool {
        Control::load(&self.memory.control).role == Role::Attaching && !self.old_supervisor_lives()
    }

    /// Takes the place of a supervisor that died while it attached. `None`: the keeper was just about to end, as there was
    /// nothing to keep; or it found the filter after all. Look again.
    ///
    /// # Errors
    /// [`Error::Busy`] when somebody was quicker.
    pub fn adopt(self, target: &Process) -> Result<Option<(Memory, OwnedFd)>, Error> {
        let pid = target.pid();
        // It goes on with what the dead supervisor asked for, and ends at once.
        end_ptracer(&self.memory, target, PTRACER_LIMIT);
        let Some(wake) = self.wake_fd() else { return Ok(None) };
        let control = Control::load(&self.memory.control);
        if control.role != Role::Attaching {
            return Ok(None);
        }
        self.memory.supervisor_listener.store(-1, Ordering::SeqCst);
        self.memory.supervisor.store(std::process::id() as i32, Ordering::SeqCst);
        let next = Control { role: Role::Attaching, generation: control.generation + 1 };
        if !control.change(&self.memory.control, next) {
            return Err(Error::Busy(pid));
        }
        rouse(&wake);
        // Until it says so, it may be about to end, because the other supervisor has.
        let limit = Instant::now() + HANDOVER_LIMIT;
        while self.memory.watched.load(Ordering::SeqCst) != next.generation {
            let ended = pidfd::ends_within(self.pidfd.as_fd(), Duration::from_micros(100));
            if ended || self.memory.armed.load(Ordering::SeqCst) == CLOSED || Instant::now() > limit {
                return Ok(None);
            }
        }
        Ok(Some((self.memory, wake)))
    }

    /// Takes over from the keeper: afterwards this process answers, and the keeper watches it.
    ///
    /// # Errors
    /// [`Error::Busy`] when a supervisor is at work, [`Error::Keeper`] when the keeper does not follow.
    pub fn take_over(self, target: &Process) -> Result<TakenOver, Error> {
        let pid = target.pid();
        let problem = |problem: &str| Error::Keeper { pid, problem: problem.into() };
        let control = Control::load(&self.memory.control);
        if control.role != Role::Kept {
            return Err(Error::Busy(pid));
        }
        if self.memory.recorded().next().is_some() && self.old_supervisor_lives() {
            return Err(Error::Busy(pid));
        }
        let listener = self.listener(target).ok_or_else(|| problem("has no listener"))?;
        let wake = self.wake_fd().ok_or_else(|| problem("has ended"))?;
        let generation = control.generation + 1;
        self.memory.supervisor_listener.store(-1, Ordering::SeqCst);
        self.memory.supervisor.store(std::process::id() as i32, Ordering::SeqCst);
        if !control.change(&self.memory.control, Control { role: Role::Supervised, generation }) {
            return Err(Error::Busy(pid));
        }
        failpoint::hit("takeover.claimed");
        rouse(&wake);
        let limit = Instant::now() + HANDOVER_LIMIT;
        while self.memory.watched.load(Ordering::SeqCst) != generation {
            if Instant::now() > limit {
                // Nobody watches us: hand back rather than work without a net.
                let ours = Control { role: Role::Supervised, generation };
                ours.change(&self.memory.control, ours.with(Role::Kept));
                rouse(&wake);
                return Err(problem("does not answer"));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        failpoint::hit("takeover.watched");
        Ok(TakenOver { memory: self.memory, listener, generation, wake })
    }

    fn listener(&self, target: &Process) -> Option<OwnedFd> {
        let from_keeper = || {
            let number = self.memory.keeper_listener.load(Ordering::SeqCst);
            let acting = pidfd::open(self.memory.keeper.load(Ordering::SeqCst)).ok()?;
            (number >= 0).then(|| listener_of(acting.as_fd(), number)).flatten()
        };
        target_listener(target).map(|(fd, _)| fd).or_else(from_keeper)
    }

    fn old_supervisor_lives(&self) -> bool {
        let pid = self.memory.supervisor.load(Ordering::SeqCst);
        pid != std::process::id() as i32 && fs::exists(format!("/proc/{pid}")).unwrap_or(true)
    }

    fn wake_fd(&self) -> Option<OwnedFd> {
        wake_fd(&self.pidfd)
    }
}

/// Waits for the ptracer of a supervisor that has died to end, and ends it when it does not: what it holds goes on.
fn end_ptracer(memory: &Memory, target: &Process, limit: Duration) {
    let pid = memory.ptracer.load(Ordering::SeqCst);
    let Ok(ptracer) = pidfd::open(pid) else { return };
    if helper::is(pid, PTRACER, target) && !pidfd::ends_within(ptracer.as_fd(), limit) {
        let _ = pidfd::kill(ptracer.as_fd());
        pidfd::ends_within(ptracer.as_fd(), limit);
    }
}

/// What taking over brought.
pub struct TakenOver {
    /// The memory shared with the keeper.
    pub memory: Memory,
    /// The listener.
    pub listener: OwnedFd,
    /// The supervisor's number.
    pub generation: u32,
    /// Wakes the keeper that acts, whichever of the two that is.
    pub wake: OwnedFd,
}

/// The eventfd that wakes a keeper, and its twin in its place.
pub fn wake_fd(keeper: &OwnedFd) -> Option<OwnedFd> {
    pidfd::get_fd(keeper.as_fd(), WAKE_FD).ok()
}

/// Wakes the keeper to look at the control word.
pub fn rouse(wake: &OwnedFd) {
    let _ = nix::unistd::write(wake, &1u64.to_ne_bytes());
}

/// The process that somebody else's keeper keeps with the very listener `number` of `target`: a forked child has its
/// parent's filter, and may have a copy of its listener. Two that receive from one listener would each miss what the other
/// receives.
pub fn kept_for_another(target: &Process, number: RawFd) -> Option<i32> {
    let keeps_it = |pid: i32| {
        let keeper = pidfd::open(pid).ok()?;
        let memory = Memory::open(pidfd::get_fd(keeper.as_fd(), MEMORY_FD).ok()?).ok()?;
        // Keeper and twin have it under one number.
        let listener = memory.keeper_listener.load(Ordering::SeqCst);
        let same = match is_same_file((target.pid(), number), (pid, listener)) {
            Ok(same) => same,
            // Not permitted to know: then it may be. Else one of them has none, or has ended.
            Err(errno) => errno == Errno::EPERM,
        };
        let other = memory.target.load(Ordering::SeqCst);
        (same && other != target.pid()).then_some(other)
    };
    let all = list_numbers(target.proc(), ".");
    all.into_iter().filter(|&pid| helper::is_any(pid, KEEPER)).find_map(keeps_it)
}

/// The memory that the target itself holds, for the case that nobody else does any more.
pub fn target_memory(target: &Process) -> Option<Memory> {
    let name = format!("/memfd:{MEMORY_NAME} (deleted)");
    let (number, _) = target.descriptors().into_iter().find(|(_, link)| *link == *name)?;
    let memory = Memory::open(pidfd::get_fd(target.pidfd(), number).ok()?).ok()?;
    (memory.target.load(Ordering::SeqCst) == target.pid()).then_some(memory)
}
