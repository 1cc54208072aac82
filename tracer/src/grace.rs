//! Grace: wait until every call that was let go has finished. The argument is in [`crate::inflight`].

use std::collections::HashMap;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::inflight::{Call, InFlight, Verdict};
use crate::process::Process;
use crate::sys::trace::{self, Running, Waited};

/// How long a thread may be seen running before ptrace asks it to stop for an instant.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long one round of such stops may take: a thread that does not stop is tried again.
const ROUND: Duration = Duration::from_millis(20);
/// How long a call may take until the backup is given up: a write to a frozen disk, say.
const LIMIT: Duration = Duration::from_secs(30);

/// SECCOMP_MODE_FILTER in /proc/TID/status.
const FILTERED: &str = "2";

/// Waits until every call pending now has finished.
///
/// # Errors
/// Says which thread has been in which call for how long.
pub(crate) fn wait(process: &Process, inflight: &InFlight) -> Result<(), String> {
    let began = Instant::now();
    let mut pending = inflight.pending();
    let mut round = 0u32;
    loop {
        let mut running = Vec::new();
        pending.retain(|call| match inflight.judge(process, call) {
            Verdict::Settled => false,
            Verdict::InCall => true,
            Verdict::Running => {
                running.push(*call);
                true
            }
        });
        if pending.is_empty() {
            return Ok(());
        }
        let waited = began.elapsed();
        if waited > LIMIT {
            return Err(unsettled(&pending, waited));
        }
        if waited > PATIENCE && !running.is_empty() {
            for call in stop_for_an_instant(process, inflight, &running) {
                inflight.forget(&call);
            }
            continue;
        }
        pause(round);
        round += 1;
    }
}

/// Waits at most `limit` for these calls; whether all are settled.
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
    format!("thread {tid} has been in {name} for {seconds} s, so no consistent copy can be taken: is its disk frozen?")
}

/// Stops threads that are running, each for an instant, and returns the calls that are over by that.
///
/// The tracer is a thread of its own: when it ends, so does every hold it has on the target, also a request to stop
/// that a thread has not followed yet.
fn stop_for_an_instant(process: &Process, inflight: &InFlight, calls: &[Call]) -> Vec<Call> {
    std::thread::scope(|scope| {
        let tracer = scope.spawn(|| {
            crate::sys::process::hurry();
            let mut over = Vec::new();
            let mut seized: HashMap<i32, (Running, Call)> = HashMap::new();
            for call in calls {
                // A number that came back as another program's thread: ours is over, and that one is not to be touched.
                if process.status_field(call.tid, "Seccomp").as_deref() != Some(FILTERED) {
                    over.push(*call);
                    continue;
                }
                match trace::seize(Pid::from_raw(call.tid)) {
                    Ok(running) if running.interrupt().is_ok() => {
                        seized.insert(call.tid, (running, *call));
                    }
                    Ok(_) | Err(Errno::ESRCH) => over.push(*call),
                    Err(_) => {} // somebody else traces it: look again later
                }
            }
            let limit = Instant::now() + ROUND;
            while !seized.is_empty() && Instant::now() < limit {
                for (tid, (running, call)) in std::mem::take(&mut seized) {
                    match running.poll() {
                        Waited::Stopped(stopped) => {
                            let _ = stopped.detach();
                            over.push(call);
                        }
                        Waited::Gone => over.push(call),
                        // Its next call has come, perhaps to be held: this one is over, and it will not stop.
                        Waited::Running(_) if inflight.now(&call) != Some(call.state) => over.push(call),
                        Waited::Running(running) => {
                            seized.insert(tid, (running, call));
                        }
                    }
                }
                std::thread::sleep(Duration::from_micros(20));
            }
            over
        });
        tracer.join().unwrap_or_default()
    })
}
