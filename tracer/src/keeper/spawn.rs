//! Starting a keeper, before the target is touched, or when both of a pair were killed.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::Error;
use crate::helper::process::{self as helper, KEEPER, PARENT};
use crate::helper::program::Program;
use crate::shared::memory::Memory;
use crate::sys::retry_on_eintr;
use crate::target::process::Process;

/// How long a keeper may take to start, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(2);

/// Whether the new keeper says that it is ready before its time is over.
fn says_ready(mut pipe: impl Read + AsFd) -> bool {
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(START_LIMIT).unwrap_or(PollTimeout::MAX);
    let is_heard = matches!(retry_on_eintr(|| poll(&mut fds, limit)), Ok(1));
    is_heard && pipe.read_exact(&mut [0u8]).is_ok()
}

/// Starts a keeper for `target`, and another one if that is killed or hangs at its start; returns its process id once it is ready, with its twin in place.
///
/// # Errors
/// [`Error::Keeper`] when it does not start.
pub fn spawn(target: &Process, program: Program, memory: &Memory) -> Result<i32, Error> {
    spawn_once(target, program, memory).or_else(|first| {
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
    if !child.stdout.take().is_some_and(says_ready) {
        let _ = child.kill();
        // Keeper and twin, too, which have its standard error.
        helper::end_all(KEEPER, target);
        let mut words = String::new();
        let _ = child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut words));
        let _ = child.wait();
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
