//! Starting a keeper, before the target is touched, or when both of a pair were killed.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::state::{Control, Role};
use crate::error::Error;
use crate::helper;
use crate::process::Process;
use crate::sys::mapping::Mapping;

/// How long the supervisor may make no progress while a hold is on.
const HOLD_LEASE_MS: u32 = 50;

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

/// Starts a keeper for `target`; returns its process id once it is ready, with its twin in place.
///
/// # Errors
/// [`Error::Keeper`] when it does not start.
pub fn spawn(target: &Process, program: &Path, memory: &Mapping) -> Result<i32, Error> {
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
    helper::place(pid, keeper);
    let mut ready = [0u8];
    let output = child.stdout.take().map(|mut pipe| pipe.read_exact(&mut ready));
    if !matches!(output, Some(Ok(()))) {
        let _ = child.kill();
        let mut words = String::new();
        let _ = child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut words));
        let _ = child.wait();
        return Err(problem(format!("did not start: {}", words.trim())));
    }
    // It outlives us; while we live, somebody must reap it when it ends before us.
    std::thread::Builder::new()
        .name("reaper".into())
        .spawn(move || drop(child.wait()))
        .map_err(|error| problem(format!("cannot be waited for: {error}")))?;
    Ok(keeper)
}
