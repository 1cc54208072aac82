//! Grace: wait until every call that was let go has finished. The argument is in [`crate::inflight`].

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::inflight::{Call, InFlight, Verdict};
use crate::process::Process;
use crate::ptracer::client::Ptracer;

/// How long a thread may be seen running before ptrace asks it to stop for an instant.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long a call may take until the backup is given up: a write to a frozen disk, say.
const LIMIT: Duration = Duration::from_secs(30);

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
    let mut round = 0u32;
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
        if waited > limit {
            return false;
        }
        if waited > PATIENCE && !running.is_empty() {
            for call in stop_for_an_instant(process, inflight, ptracer, &running) {
                inflight.forget(&call);
            }
            continue;
        }
        pause(round);
        round += 1;
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

/// Stops threads that are running, each for an instant, and returns the calls that are over by that: the thread was
/// stopped, or it has come to its next call.
fn stop_for_an_instant(process: &Process, inflight: &InFlight, ptracer: &Mutex<Ptracer>, calls: &[Call]) -> Vec<Call> {
    let tids = calls.iter().map(|call| call.tid).collect();
    let paused = ptracer.lock().unwrap_or_else(PoisonError::into_inner).pause(process, tids);
    let is_over = |call: &&Call| paused.contains(&call.tid) || inflight.now(call).is_none();
    calls.iter().filter(is_over).copied().collect()
}
