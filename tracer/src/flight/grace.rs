//! Grace: wait until every call that was let go has finished. The argument is in [`super::inflight`].

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::inflight::{Call, InFlight, State, Verdict};
use crate::ptracer::client::Ptracer;
use crate::target::process::Process;

/// How long a thread may be seen running before ptrace asks it to stop for an instant.
const PATIENCE: Duration = Duration::from_millis(2);
/// The same for a call that would come back with less done, or with nothing, because it is asked.
const PATIENCE_WITH_COPIES: Duration = Duration::from_secs(1);
/// The same for a call of which nothing is known, because it began before we were there: once in a backup, and not in a hold.
const PATIENCE_WITH_UNKNOWN: Duration = Duration::from_millis(250);
/// How long a call may take until the backup is given up: a write to a frozen disk, say.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

/// Waits until every call pending now has finished.
///
/// # Errors
/// Says which thread has been in which call for how long.
pub(crate) fn wait(process: &Process, inflight: &InFlight, ptracer: &Mutex<Ptracer>) -> Result<(), String> {
    let began = Instant::now();
    let mut pending = inflight.pending();
    if wait_for(process, inflight, ptracer, &mut pending, LIMIT) {
        return Ok(());
    }
    Err(unsettled(&pending, began.elapsed()))
}

/// Waits at most `limit` until these calls have finished; whether all have. The others are left in `calls`.
pub(crate) fn wait_for(
    process: &Process,
    inflight: &InFlight,
    ptracer: &Mutex<Ptracer>,
    calls: &mut Vec<Call>,
    limit: Duration,
) -> bool {
    let began = Instant::now();
    let (mut round, mut has_stopped) = (0u32, false);
    loop {
        let mut running = Vec::new();
        calls.retain(|call| match inflight.judge(process, call) {
            Verdict::Settled => false,
            Verdict::InCall => true,
            Verdict::Running => {
                running.push(*call);
                true
            }
        });
        if calls.is_empty() {
            return true;
        }
        let waited = began.elapsed();
        running.retain(|call| waited > patience(call));
        if waited > limit {
            // Nothing else would tell of a thread that runs on and on.
            if !has_stopped && !running.is_empty() {
                has_stopped = true;
                let ptracer = ptracer.lock().unwrap_or_else(PoisonError::into_inner);
                stop_for_an_instant(process, inflight, ptracer, &running);
                continue;
            }
            return false;
        }
        if !running.is_empty() {
            // Somebody else may have the ptracer for long, and threads come to sleep, or to their next call, all the same.
            let free = match ptracer.try_lock() {
                Ok(ptracer) => Some(ptracer),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            };
            if let Some(ptracer) = free {
                has_stopped = true;
                stop_for_an_instant(process, inflight, ptracer, &running);
                continue;
            }
        }
        pause(round);
        round += 1;
    }
}

/// A copy within the kernel looks for signals as it goes on, and returns how far it came (`splice_direct_to_actor`); so does
/// fallocate(2) on tmpfs, which then fails (`shmem_fallocate`). Others on files end only for a fatal signal.
fn patience(call: &Call) -> Duration {
    if call.state == State::BeforeFilter {
        return PATIENCE_WITH_UNKNOWN;
    }
    match i64::from(call.data.nr) {
        libc::SYS_sendfile | libc::SYS_splice | libc::SYS_copy_file_range | libc::SYS_fallocate => PATIENCE_WITH_COPIES,
        _ => PATIENCE,
    }
}

/// Waits at most `limit` for these calls, and stops nobody; whether all are settled.
pub(crate) fn settle(process: &Process, inflight: &InFlight, calls: &mut Vec<Call>, limit: Duration) -> bool {
    let began = Instant::now();
    let mut round = 0;
    loop {
        calls.retain(|call| inflight.judge(process, call) != Verdict::Settled);
        if calls.is_empty() {
            return true;
        }
        if began.elapsed() > limit {
            return false;
        }
        pause(round);
        round += 1;
    }
}

/// First give the processor away, for most calls are over in microseconds; then sleep.
fn pause(round: u32) {
    match round {
        0..8 => std::thread::yield_now(),
        8..40 => std::thread::sleep(Duration::from_micros(30)),
        _ => std::thread::sleep(Duration::from_micros(300)),
    }
}

fn unsettled(pending: &[Call], waited: Duration) -> String {
    let call = &pending[0];
    let name = crate::calls::row(i64::from(call.data.nr)).map_or("a call from before", |row| row.name);
    let (tid, seconds) = (call.tid, waited.as_secs());
    format!(
        "thread {tid} has been in {name} for {seconds} s, so no consistent copy can be taken: is its disk or its cgroup frozen, or does a debugger hold it?"
    )
}

/// Stops threads that are running, each for an instant, and forgets the calls that are over by that: the thread was
/// stopped, or it has come to its next call.
fn stop_for_an_instant(process: &Process, inflight: &InFlight, mut ptracer: MutexGuard<'_, Ptracer>, calls: &[Call]) {
    let paused = ptracer.pause(process, calls.iter().map(|call| call.tid).collect());
    for call in calls.iter().filter(|call| paused.contains(&call.tid)) {
        inflight.forget(call);
    }
}
