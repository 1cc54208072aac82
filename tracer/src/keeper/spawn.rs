//! Starting a keeper, before the target is touched, or when both of a pair were killed.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Error;
use crate::helper::process::{self as helper, KEEPER, PARENT};
use crate::helper::program::Program;
use crate::shared::memory::Memory;
use crate::sys::{pidfd, retry_on_eintr};
use crate::target::cgroups;
use crate::target::process::Process;

/// How long a keeper may take to start, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked at whether the target was frozen meanwhile.
const FROZEN_LOOK: Duration = Duration::from_millis(100);

/// Whether the new keeper says that it is ready before its time is over, or the target is frozen, and it with it.
fn says_ready(target: &Process, mut pipe: impl Read + AsFd) -> bool {
    let mut is_heard = false;
    let limit = Instant::now() + START_LIMIT;
    let is_wanted = || !target.is_given_up() && cgroups::check_thawed(target).is_ok();
    while !is_heard && Instant::now() < limit && is_wanted() {
        let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
        let look = PollTimeout::try_from(FROZEN_LOOK).unwrap_or(PollTimeout::MAX);
        is_heard = matches!(retry_on_eintr(|| poll(&mut fds, look)), Ok(1));
    }
    is_heard && pipe.read_exact(&mut [0u8]).is_ok()
}

/// Ends a keeper that did not start; returns what it had to say. It may have been frozen when it joined the target's
/// cgroups, so nothing of it is waited for without a limit.
fn give_up(target: &Process, mut child: Child) -> String {
    let parent = child.id() as i32;
    let has_ended = pidfd::open(parent).is_ok_and(|it| cgroups::end(target.proc(), parent, it.as_fd()));
    // Keeper and twin, too, which have its standard error. One that it was starting just now has its name until it is executed.
    helper::end_all(PARENT, target);
    helper::end_all(KEEPER, target);
    if !has_ended || cgroups::check_thawed(target).is_err() {
        let _ = std::thread::Builder::new().spawn(move || drop(child.wait()));
        return String::new();
    }
    let words = child.stderr.take().map(said).unwrap_or_default();
    let _ = child.wait();
    words
}

/// What has been said on a pipe. Its end is not waited for: a keeper that was in the middle of being executed may have been
/// missed, and has it until it finds that there is no supervisor any more.
fn said(mut pipe: impl Read + AsFd) -> String {
    let mut words = Vec::new();
    if fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).is_ok() {
        let _ = pipe.read_to_end(&mut words);
    }
    String::from_utf8_lossy(&words).into_owned()
}

/// Starts a keeper for `target`, and another one if that is killed or hangs at its start; returns its process id once it is ready, with its twin in place.
///
/// # Errors
/// [`Error::Frozen`] when the target is frozen, [`Error::Keeper`] when it does not start for another reason.
pub fn spawn(target: &Process, program: Program, memory: &Memory) -> Result<i32, Error> {
    spawn_once(target, program, memory).or_else(|first| {
        if matches!(first, Error::Frozen { .. } | Error::GivenUp(_)) {
            return Err(first);
        }
        tracing::warn!(%first, "once more");
        spawn_once(target, program, memory)
    })
}

fn spawn_once(target: &Process, program: Program, memory: &Memory) -> Result<i32, Error> {
    let pid = target.pid();
    let problem = |problem: String| Error::Keeper { pid, problem };
    memory.set_supervisor();
    let shared = memory.fd().try_clone().map_err(|error| problem(format!("cannot be started: {error}")))?;
    let mut child = helper::start(target, program, PARENT, Some(shared), Stdio::piped(), Stdio::piped())
        .map_err(|error| problem(format!("cannot be started: {error}")))?;
    if !child.stdout.take().is_some_and(|pipe| says_ready(target, pipe)) {
        let words = give_up(target, child);
        cgroups::check_thawed(target)?;
        if target.is_given_up() {
            return Err(Error::GivenUp(pid));
        }
        let words = if words.is_empty() { "it was killed, or hung" } else { words.trim() };
        return Err(problem(format!("did not start: {words}")));
    }
    // It outlives us; while we live, somebody must reap the keepers' parent when it ends before us.
    std::thread::Builder::new()
        .name("reaper".into())
        .spawn(move || drop(child.wait()))
        .map_err(|error| problem(format!("cannot be waited for: {error}")))?;
    Ok(memory.keeper.load(Ordering::SeqCst))
}
