//! Finding a target's keeper, and taking the target over from it.
//!
//! Who lives is told by the locks on the session's memory, which lies in the target (`shared/roles.rs`): so a keeper is found
//! from whatever namespace. Only where the target has closed that memory, or thrown it away by executing another program, its
//! keepers are looked for among the processes, by their names.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::{MEMORY_FD, WAKE_FD};
use crate::error::Error;
use crate::helper::process::{self as helper, KEEPER};
use crate::shared::control::{Control, Role};
use crate::shared::memory::{CLOSED, MEMORY_NAME, Memory, NotOurs};
use crate::shared::roles::{self, Held, Part};
use crate::sys::process::is_same_file;
use crate::sys::{pidfd, procfs};
use crate::target::cgroups;
use crate::target::listener::{listener_at, listener_of, target_listener};
use crate::target::process::Process;

/// What is wrong with one whose memory is laid out in a way that no release up to this one has: layouts only grow.
const ANOTHER_LAYOUT: &str = "is of a release with another layout (docs/protocol.md): use that release's hotbackup";
/// How long a keeper may take to look at a new supervisor.
const HANDOVER_LIMIT: Duration = Duration::from_secs(3);
/// How long one may take to begin to answer: its twin ends it after half a second, and begins in its place.
const BEGIN_LIMIT: Duration = Duration::from_secs(1);
/// How long a keeper may take to give a sign of life.
const ALIVE_LIMIT: Duration = Duration::from_secs(2);
/// A pair that is gone for so long is not about to be replaced by one of the two.
const GONE_LIMIT: Duration = Duration::from_millis(50);
/// How often it is looked at whether the target, and a keeper with it, was frozen.
const FROZEN_LOOK: Duration = Duration::from_millis(200);

/// The session memory of `target`, whoever lives.
///
/// # Errors
/// [`Error::Keeper`] when it is another version's; [`Error::NotPermitted`].
pub fn session_memory(target: &Process) -> Result<Option<Memory>, Error> {
    let wrong = |problem: &str| Error::Keeper { pid: target.pid(), problem: problem.into() };
    let mut found: Option<Memory> = None;
    for memory in memories(target)? {
        match memory {
            // Of several, from attempts that were given up, it is the one that somebody keeps, or kept last.
            Ok(memory) if memory.target() == target.name() => {
                let is_better = |before: &Memory| memory.lives(Part::Keeper) || !before.lives(Part::Keeper);
                if found.as_ref().is_none_or(is_better) {
                    found = Some(memory);
                }
            }
            Err(NotOurs::AnotherVersion) => return Err(wrong(ANOTHER_LAYOUT)),
            // A parent's, or of no use.
            Ok(_) | Err(_) => {}
        }
    }
    // One that nobody has a part in may be left from before the target executed another program.
    match found {
        Some(memory) if memory.lives(Part::Keeper) || memory.lives(Part::Twin) => Ok(Some(memory)),
        left => Ok(memory_of_keepers(target)?.or(left)),
    }
}

/// What the target has just made at this number, if it is no other file by now.
///
/// # Errors
/// [`Error::Os`] with `EBADF` when it is another.
pub fn made_at(target: &Process, number: RawFd) -> Result<OwnedFd, Error> {
    let failed = Error::os(target.pid(), "looking at the descriptors of");
    let fd = target.open_file(&format!("fd/{number}"), OFlag::O_RDWR).map_err(&failed)?;
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
    if link.as_os_str() == &*format!("/memfd:{MEMORY_NAME} (deleted)") { Ok(fd) } else { Err(failed(Errno::EBADF)) }
}

/// Under which number the target has this memory.
pub fn number_in(target: &Process, memory: &Memory) -> Option<RawFd> {
    let wanted = nix::sys::stat::fstat(memory.fd()).ok()?.st_ino;
    let name = format!("/memfd:{MEMORY_NAME} (deleted)");
    let is_it = |number: &RawFd| {
        let fd = target.open_file(&format!("fd/{number}"), OFlag::O_RDONLY);
        fd.is_ok_and(|fd| nix::sys::stat::fstat(&fd).is_ok_and(|stat| stat.st_ino == wanted))
    };
    target.descriptors().into_iter().filter(|(_, link)| *link == *name).map(|(number, _)| number).find(is_it)
}

/// All memories of sessions among the target's descriptors, each by an open file of our own.
fn memories(target: &Process) -> Result<Vec<Result<Memory, NotOurs>>, Error> {
    let name = format!("/memfd:{MEMORY_NAME} (deleted)");
    let mut found = Vec::new();
    for (number, _) in target.descriptors().into_iter().filter(|(_, link)| *link == *name) {
        match target.open_file(&format!("fd/{number}"), OFlag::O_RDWR) {
            Ok(fd) => found.push(Memory::open(fd)),
            Err(Errno::ENOENT | Errno::ESRCH) => {} // closed meanwhile
            Err(errno) => return Err(Error::os(target.pid(), "looking at the descriptors of")(errno)),
        }
    }
    Ok(found)
}

/// The memory that keepers have, which are found by their names.
fn memory_of_keepers(target: &Process) -> Result<Option<Memory>, Error> {
    for pid in target.list(".") {
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
        let memory = Memory::open(memory).map_err(|_| wrong(ANOTHER_LAYOUT))?;
        return Ok(Some(memory));
    }
    Ok(None)
}

/// A keeper that acts.
pub struct Found {
    /// The memory shared with it.
    pub memory: Memory,
    wake: Option<OwnedFd>,
}

/// Finds the keeper of `target`, which is seen to be alive: one that was killed just now may be about to be replaced by its
/// twin, and so is, in half a second, one that is stopped.
///
/// # Errors
/// [`Error::Frozen`] when the target is frozen, and they with it. [`Error::Keeper`] when there is one of another version, or one
/// that gives no sign of life.
pub fn find(target: &Process) -> Result<Option<Found>, Error> {
    let limit = Instant::now() + ALIVE_LIMIT;
    loop {
        cgroups::check_thawed(target)?;
        let Some(memory) = session_memory(target)? else { return Ok(None) };
        let acts = memory.lives(Part::Keeper);
        if !acts && !memory.lives(Part::Twin) {
            return Ok(None);
        }
        let wake = wake_fd(target, &memory);
        let found = Found { memory, wake };
        if acts && found.gives_sign(limit.min(Instant::now() + FROZEN_LOOK)) {
            return Ok(Some(found));
        }
        if Instant::now() >= limit {
            // Both of a pair were stopped, by a signal: nothing else will end that.
            found.kill_stopped(target);
        }
        if Instant::now() >= limit + ALIVE_LIMIT {
            return Err(Error::Keeper {
                pid: target.pid(),
                problem: "does not answer (is a cgroup frozen that it is in?)".into(),
            });
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Found {
    /// Whether it, or its twin in its place, gives a sign of life before the time is over or both have ended.
    fn gives_sign(&self, limit: Instant) -> bool {
        let before = self.memory.keeper_beat.load(Ordering::SeqCst);
        self.rouse();
        while self.memory.keeper_beat.load(Ordering::SeqCst) == before {
            if Instant::now() >= limit || !(self.memory.lives(Part::Keeper) || self.memory.lives(Part::Twin)) {
                return false;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        true
    }

    /// Ends keeper and twin if they are stopped, and can be seen. The numbers in the memory are hints: who it is, the lock
    /// says.
    fn kill_stopped(&self, target: &Process) {
        for (part, pid) in [(Part::Keeper, &self.memory.keeper), (Part::Twin, &self.memory.twin)] {
            let pid = pid.load(Ordering::SeqCst);
            let is_stopped = || target.status(pid).is_some_and(|status| status.state() == Some('T'));
            if let Ok(process) = pidfd::open(pid)
                && roles::is_held_by(self.memory.fd().as_fd(), part, pid)
                && is_stopped()
            {
                let _ = pidfd::kill(process.as_fd());
            }
        }
    }

    fn rouse(&self) {
        if let Some(wake) = &self.wake {
            rouse(wake);
        }
    }

    /// Whether its supervisor died while it attached: then the keeper waits for a filter that may never come.
    pub fn is_orphaned(&self) -> bool {
        Control::load(&self.memory.control).role == Role::Attaching && !self.memory.lives(Part::Supervisor)
    }

    /// Takes the place of a supervisor that died while it attached. `None`: the keeper was just about to end, as there was
    /// nothing to keep; or it found the filter after all. Look again.
    ///
    /// # Errors
    /// [`Error::Busy`] when somebody was quicker.
    pub fn adopt(self, target: &Process) -> Result<Option<Adopted>, Error> {
        let pid = target.pid();
        let part = take_part(&self.memory, pid)?;
        let control = Control::load(&self.memory.control);
        if control.role != Role::Attaching {
            return Ok(None);
        }
        self.memory.supervisor_listener.store(-1, Ordering::SeqCst);
        self.memory.set_supervisor();
        let next = Control { role: Role::Attaching, generation: control.generation.wrapping_add(1) };
        if !control.change(&self.memory.control, next) {
            return Err(Error::Busy(pid));
        }
        self.rouse();
        // Until it says so, it may be about to end, because the other supervisor has.
        let limit = Instant::now() + HANDOVER_LIMIT;
        while self.memory.watched.load(Ordering::SeqCst) != next.generation {
            let ended = !self.memory.lives(Part::Keeper) && !self.memory.lives(Part::Twin);
            if ended || self.memory.armed.load(Ordering::SeqCst) == CLOSED || Instant::now() > limit {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        Ok(Some(Adopted { memory: self.memory, wake: self.wake, part }))
    }

    /// Takes over from the keeper: afterwards this process answers, and the keeper watches it.
    ///
    /// # Errors
    /// [`Error::Busy`] when a supervisor is at work, [`Error::Keeper`] when the keeper does not follow.
    pub fn take_over(self, target: &Process) -> Result<TakenOver, Error> {
        let pid = target.pid();
        let problem = |problem: &str| Error::Keeper { pid, problem: problem.into() };
        // One that was revoked has it, too, until it is gone with the calls that it may have received.
        let part = take_part(&self.memory, pid)?;
        let control = Control::load(&self.memory.control);
        if control.role != Role::Kept {
            return Err(Error::Busy(pid));
        }
        self.wait_until_it_answers(control);
        let listener = self.listener(target).ok_or_else(|| problem("has no listener"))?;
        let generation = control.generation.wrapping_add(1);
        self.memory.supervisor_listener.store(-1, Ordering::SeqCst);
        self.memory.set_supervisor();
        if !control.change(&self.memory.control, Control { role: Role::Supervised, generation }) {
            return Err(Error::Busy(pid));
        }
        failpoint::hit("takeover.claimed");
        self.rouse();
        let limit = Instant::now() + HANDOVER_LIMIT;
        let mut gone: Option<Instant> = None;
        while self.memory.watched.load(Ordering::SeqCst) != generation {
            // Both of a pair may be killed just now, one with a call in its hand: whoever starts the next pair has it answered.
            gone = if is_kept(&self.memory) { None } else { gone.or_else(|| Some(Instant::now())) };
            let is_gone = gone.is_some_and(|since| since.elapsed() > GONE_LIMIT);
            if is_gone || Instant::now() > limit {
                // Nobody watches us: hand back rather than work without a net.
                let ours = Control { role: Role::Supervised, generation };
                ours.change(&self.memory.control, ours.with(Role::Kept));
                self.rouse();
                return Err(problem(if is_gone { "was killed as it was taken over" } else { "does not answer" }));
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        failpoint::hit("takeover.watched");
        Ok(TakenOver { memory: self.memory, listener, generation, wake: self.wake, part })
    }

    /// A keeper says that it has begun when it has answered what a supervisor before us left as it died. Of one that does not come to
    /// it, today's look for that before they watch us; those of releases before do not.
    fn wait_until_it_answers(&self, control: Control) {
        let limit = Instant::now() + BEGIN_LIMIT;
        let begins = || {
            self.memory.kept.load(Ordering::SeqCst) != control.generation
                && Control::load(&self.memory.control) == control
                && is_kept(&self.memory)
                && Instant::now() < limit
        };
        while begins() {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    fn listener(&self, target: &Process) -> Option<OwnedFd> {
        let known = || listener_at(target, self.memory.target_listener.load(Ordering::SeqCst));
        let from_keeper = || {
            let number = self.memory.keeper_listener.load(Ordering::SeqCst);
            let pid = self.memory.keeper.load(Ordering::SeqCst);
            let acting = pidfd::open(pid).ok()?;
            // Another's listener would be taken from whom the target names.
            let acts = roles::is_held_by(self.memory.fd().as_fd(), Part::Keeper, pid);
            (acts && number >= 0).then(|| listener_of(acting.as_fd(), number)).flatten()
        };
        known().or_else(|| target_listener(target).map(|(fd, _)| fd)).or_else(from_keeper)
    }
}

/// Whether a keeper acts, or a twin is there to take its place.
fn is_kept(memory: &Memory) -> bool {
    memory.lives(Part::Keeper) || memory.lives(Part::Twin)
}

/// The number here of the keeper that acts, if it can be seen. The number in the memory is its own namespace's, where here another
/// process may have it.
pub fn acting(target: &Process, memory: &Memory) -> Option<i32> {
    let acts = |pid: &i32| roles::is_held_by(memory.fd().as_fd(), Part::Keeper, *pid);
    let hint = Some(memory.keeper.load(Ordering::SeqCst)).filter(acts);
    let seen = || target.list(".").into_iter().filter(|&pid| helper::is_any(pid, KEEPER)).find(acts);
    hint.or_else(seen)
}

/// This process becomes the supervisor.
///
/// # Errors
/// [`Error::Busy`] when another one lives.
pub fn take_part(memory: &Memory, pid: i32) -> Result<Held, Error> {
    memory.take(Part::Supervisor).map_err(|errno| match errno {
        Errno::EAGAIN => Error::Busy(pid),
        errno => Error::Os { pid, operation: "locking the session", errno },
    })
}

/// What adopting brought.
pub struct Adopted {
    /// The memory shared with the keeper.
    pub memory: Memory,
    /// Wakes the keeper that acts.
    pub wake: Option<OwnedFd>,
    /// That we are the supervisor.
    pub part: Held,
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
    pub wake: Option<OwnedFd>,
    /// That we are the supervisor.
    pub part: Held,
}

/// The eventfd that wakes the keeper which acts: the target's copy, or else the keeper's.
pub fn wake_fd(target: &Process, memory: &Memory) -> Option<OwnedFd> {
    let of_target = || {
        let number = memory.target_wake.load(Ordering::SeqCst);
        pidfd::get_fd(target.pidfd(), number).ok().filter(|fd| is_wake(fd, memory))
    };
    let of_keeper = || {
        let keeper = pidfd::open(memory.keeper.load(Ordering::SeqCst)).ok()?;
        pidfd::get_fd(keeper.as_fd(), WAKE_FD).ok().filter(|fd| is_wake(fd, memory))
    };
    of_target().or_else(of_keeper)
}

/// Whether a descriptor is the session's eventfd. At its number may stand another one by now, and to write to that could
/// wake the program.
fn is_wake(fd: &OwnedFd, memory: &Memory) -> bool {
    let wanted = memory.wake_id.load(Ordering::SeqCst);
    wanted != 0 && eventfd_id(fd) == Some(wanted)
}

/// The kernel's own number of an eventfd, plus one (5.2).
pub fn eventfd_id(fd: &OwnedFd) -> Option<u64> {
    let info = procfs::read(&format!("self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let id: u64 = info.lines().find_map(|line| line.strip_prefix("eventfd-id:"))?.trim().parse().ok()?;
    Some(id + 1)
}

/// Wakes the keeper to look at the control word.
pub fn rouse(wake: &OwnedFd) {
    let _ = nix::unistd::write(wake, &1u64.to_ne_bytes());
}

/// The process that somebody else's keeper keeps with the very listener `number` of `target`: a forked child has its
/// parent's filter, and may have a copy of its listener. Two that receive from one listener would each miss what the other
/// receives.
pub fn kept_for_another(target: &Process, number: RawFd) -> Option<i32> {
    // The parent's memory, if the child has a copy of that as well, says whether anybody lives.
    let others = memories(target).unwrap_or_default().into_iter().flatten();
    let mut kept = others.filter(|memory| memory.target() != target.name() && memory.lives(Part::Keeper));
    if let Some(memory) = kept.next() {
        return Some(number_of(target, &memory));
    }
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
        (same && memory.target() != target.name()).then(|| number_of(target, &memory))
    };
    let all = target.list(".");
    all.into_iter().filter(|&pid| helper::is_any(pid, KEEPER)).find_map(keeps_it)
}

/// The process id here of the process that a memory belongs to; where it cannot be seen, the one in its own namespace.
fn number_of(target: &Process, memory: &Memory) -> i32 {
    let wanted = memory.target();
    let is_it = |pid: &i32| Process::open(*pid).is_ok_and(|process| process.name() == wanted);
    target.list(".").into_iter().find(is_it).unwrap_or(wanted.inner)
}
