//! Starting a keeper, before the target is touched, or when both of a pair were killed.

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::state::{Control, Role};
use crate::error::Error;
use crate::helper;
use crate::process::Process;
use crate::sys::mapping::Mapping;
use crate::sys::retry_on_eintr;

/// How long the supervisor may make no progress while a hold is on.
const HOLD_LEASE_MS: u32 = 50;

/// How long a keeper may take to start, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(2);

/// New shared memory for `target`, as it is before attach.
///
/// # Errors
/// The kernel's.
pub fn new_memory(target: &Process) -> Result<Mapping, Error> {
    let memory = Mapping::create().map_err(Error::os(target.pid(), "making shared memory"))?;
    memory.target.store(target.pid(), Ordering::SeqCst);
    for number in [&memory.target_listener, &memory.keeper_listener, &memory.supervisor_listener] {
        number.store(-1, Ordering::SeqCst);
    }
    set_lease(&memory, crate::session::LEASE);
    Control { role: Role::Attaching, generation: 1 }.store(&memory.control);
    Ok(memory)
}

/// How long the supervisor may make no progress until the keeper takes over; in a hold it is less.
pub fn set_lease(memory: &Mapping, lease: Duration) {
    let lease = u32::try_from(lease.as_millis()).unwrap_or(u32::MAX);
    memory.lease_ms.store(lease, Ordering::SeqCst);
    memory.hold_lease_ms.store(HOLD_LEASE_MS.min(lease), Ordering::SeqCst);
}

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
pub fn spawn(target: &Process, program: &Path, memory: &Mapping) -> Result<i32, Error> {
    spawn_once(target, program, memory).or_else(|first| {
        tracing::warn!(%first, "once more");
        spawn_once(target, program, memory)
    })
}

fn spawn_once(target: &Process, program: &Path, memory: &Mapping) -> Result<i32, Error> {
    let pid = target.pid();
    let problem = |problem: String| Error::Keeper { pid, problem };
    memory.supervisor.store(std::process::id() as i32, Ordering::SeqCst);
    let shared = memory.fd().try_clone().map_err(|error| problem(format!("cannot be started: {error}")))?;
    let mut child = helper::command(target, program, super::KIND, shared)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| problem(format!("cannot be started: {error}")))?;
    let keeper = child.id() as i32;
    if !child.stdout.take().is_some_and(says_ready) {
        let _ = child.kill();
        // Its twin, too, which would go on in its place, and has its standard error.
        helper::end_all(super::KIND, target);
        let mut words = String::new();
        let _ = child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut words));
        let _ = child.wait();
        let words = if words.is_empty() { "it was killed, or hung" } else { words.trim() };
        return Err(problem(format!("did not start: {words}")));
    }
    // It outlives us; while we live, somebody must reap it when it ends before us.
    std::thread::Builder::new()
        .name("reaper".into())
        .spawn(move || drop(child.wait()))
        .map_err(|error| problem(format!("cannot be waited for: {error}")))?;
    Ok(keeper)
}
