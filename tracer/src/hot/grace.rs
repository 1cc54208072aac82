//! Grace among the trampolines: every call that was counted in before is over.
//!
//! A thread counts in and only then reads the mode again, so once the mode says another epoch, nobody new stays in the old one; and an
//! epoch whose counters have each been seen at zero since has let out everybody who was in it. Both epochs must be seen at zero:
//! a thread that was counted into the idle one before the last flip may still be there. The idle one first, since new ones
//! come into the other (as in the kernel's SRCU).
//!
//! A counter may never come to zero: its thread was killed, cancelled, or left by longjmp, or it sleeps in a call on a pipe. Then
//! the mode is set to *notify*, every thread is seen outside once, or asleep on what is no file; nobody is inside who could still change
//! one, and nobody can come in. If none sleeps there, the counters begin anew.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::outside;
use super::source::{Source, State};
use crate::ptracer::client::Ptracer;
use crate::shared::board::Mode;
use crate::target::process::Process;

/// How long the counters are waited for before the threads are looked at.
const PATIENCE: Duration = Duration::from_millis(2);
/// How long a thread may stay on a processor then: one amid a copy within the kernel is to be cut short rarely, and a hold has 50 ms.
const PATIENCE_WITH_THREADS: Duration = Duration::from_millis(15);

impl Source {
    /// Waits until all calls that were counted in before this are over.
    ///
    /// # Errors
    /// In words, which thread is in one.
    pub fn grace(&self, process: &Process, ptracer: &Mutex<Ptracer>, limit: Duration) -> Result<(), String> {
        if self.counters_settle() {
            return Ok(());
        }
        let _one_at_a_time = self.gracing.lock().unwrap_or_else(PoisonError::into_inner);
        self.look_at_all(process, ptracer, limit)
    }

    /// The same, as far as the counters tell.
    pub(super) fn counters_settle(&self) -> bool {
        let _one_at_a_time = self.gracing.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = match self.state().mode {
            Mode::Mark0 => 0,
            Mode::Mark1 => 1,
            Mode::Direct | Mode::Notify => return [0, 1].into_iter().all(|epoch| self.is_over(epoch)),
        };
        self.is_over(1 - epoch) && {
            let other = [Mode::Mark1, Mode::Mark0][epoch];
            let mut state = self.state();
            // It may have become notify meanwhile: then nobody comes in at all.
            if state.mode == [Mode::Mark0, Mode::Mark1][epoch] {
                self.set(&mut state, other);
            }
            drop(state);
            self.is_over(epoch)
        }
    }

    /// Whether an epoch was seen at zero, within a while.
    fn is_over(&self, epoch: usize) -> bool {
        let began = Instant::now();
        let mut round = 0;
        while !self.board.is_zero(epoch) {
            if began.elapsed() > PATIENCE {
                return false;
            }
            match round {
                0..16 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(30)),
            }
            round += 1;
        }
        true
    }

    fn look_at_all(&self, process: &Process, ptracer: &Mutex<Ptracer>, limit: Duration) -> Result<(), String> {
        self.change(|state| state.stuck = true);
        let seen = self.all_outside(process, ptracer, process.threads(), (PATIENCE_WITH_THREADS, limit));
        if seen == Ok(false) {
            self.board.reset_counters();
        }
        self.change(|state| state.stuck = false);
        seen.map(drop)
    }

    /// Waits until all these threads have been seen outside; whether one sleeps inside for good.
    pub(super) fn all_outside(
        &self,
        process: &Process,
        ptracer: &Mutex<Ptracer>,
        tids: Vec<i32>,
        (patience, limit): (Duration, Duration),
    ) -> Result<bool, String> {
        let seen = outside::wait(process, ptracer, &self.region, tids, (patience, limit));
        seen.map(|seen| seen.asleep_inside).map_err(|tid| {
            let seconds = limit.as_secs();
            format!(
                "thread {tid} has been in a call, or stood still amid one, for {seconds} s, so no consistent copy can be \
                 taken: is its disk or its cgroup frozen, or does a debugger hold it?"
            )
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
