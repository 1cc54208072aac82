//! The hold: the point in time.
//!
//! The gate is switched to Holding; a grace later, no call that concerns a tracked device is under way and none can
//! begin. The names and files marked since the last sync are looked at: nothing moves, so what is seen is exact. That is the
//! point in time. Sizes, modes, owners and times in the model are those of the point in time from here on, since nobody
//! changes them any more; the tree is frozen; the bits due are what the backup still lacks. Then the gate is switched to
//! Draining. No content is read, and nothing is written, in between.
//!
//! Three things make a hold be given up, which costs nothing but a try: it takes longer than its budget, because much was
//! renamed or created just before; its lease runs out, and it is cut, wherever this thread is by then (`capture` says how
//! that meets the fixing of the point in time); or a device turns up that nothing known was on so far, whose calls were
//! not parked. A sync before the next try looks at all that had changed, without a limit: each try has less to look at.
use crate::capture::{Hold, Job};
use crate::ledger::Ledger;
use crate::track::Tracker;
use crate::tree::{Look, Tree};
use crate::util::micros;
use crate::{Error, HoldTimes, Phase, sys};
use crossbeam::channel::Sender;
use hotbackup_event::failpoint::hit;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the hold fixed.
pub(crate) struct Held {
    pub tree: Arc<Tree>,
    pub time_ns: u64,
    pub hold_us: u64,
    pub times: HoldTimes,
}

/// One try, and how far it came.
struct Try {
    hold: Hold,
    start: Instant,
    quiet: Instant,
    looked: Instant,
    /// All was looked at, and nothing new turned up.
    stands: bool,
}

impl<P: Send + 'static> Tracker<'_, P> {
    /// Fixes the point in time, and switches to the drain.
    pub fn hold(mut self, jobs: Sender<Job<P>>) -> Result<Held, Error> {
        let (context, tuning) = (self.context, self.context.tuning);
        let mut budget = tuning.hold_budget;
        let mut abandoned = 0;
        loop {
            context.check()?;
            context.phase(Phase::Hold);
            let last = abandoned + 1 >= tuning.hold_tries;
            // One that goes beyond the lease is cut, whatever the budget.
            let limit = if last { tuning.hold_lease } else { budget };
            let tried = self.try_hold(limit)?;
            if tried.stands {
                if let Some((file, cause)) = context.ledger.untraceable() {
                    return Err(Error::Untraceable { path: file.path(), cause });
                }
                // Counts only if the hold turns out to be on after it.
                let time_ns = sys::now_ns();
                let tree = Arc::new(self.tree);
                if context.capture.drain(&tried.hold, Arc::clone(&tree), jobs.clone())? {
                    hit("hold.over");
                    let times = HoldTimes {
                        grace_us: micros(tried.quiet - tried.start),
                        resolve_us: micros(tried.looked - tried.quiet),
                        release_us: micros(tried.looked.elapsed()),
                        abandoned,
                    };
                    return Ok(Held { tree, time_ns, hold_us: micros(tried.start.elapsed()), times });
                }
                self.tree =
                    Arc::into_inner(tree).ok_or_else(|| Error::Internal("a tree is shared too early".into()))?;
            }
            context.capture.unpark(&tried.hold)?;
            abandoned += 1;
            if last {
                return Err(tried.too_long(abandoned, tuning.hold_lease));
            }
            context.phase(Phase::Track);
            budget = budget.saturating_mul(2);
            self.sync(false)?;
        }
    }

    /// Holds, and looks. The hold is still on when this returns, unless it was cut.
    fn try_hold(&mut self, limit: Duration) -> Result<Try, Error> {
        let context = self.context;
        let start = Instant::now();
        let hold = context.capture.park()?;
        hit("hold.parked");
        context.grace()?;
        let quiet = Instant::now();
        hit("hold.quiet");
        let devices = context.ledger.device_count();
        let complete = match take_in(&hold, &context.ledger) {
            Some(taken) => self.tree.resolve(taken, Look { hold: Some(&hold), deadline: Some(start + limit) })?,
            None => false,
        };
        hit("hold.resolved");
        let stands = complete && context.ledger.device_count() == devices;
        Ok(Try { hold, start, quiet, looked: Instant::now(), stands })
    }
}

/// The marks, if they were taken while the hold was on. Those of a hold that was cut may belong to calls that are still
/// to run: they are for the next sync.
fn take_in(hold: &Hold, ledger: &Ledger) -> Option<crate::ledger::Taken> {
    let taken = ledger.take();
    if hold.is_cut() {
        ledger.put_back(taken);
        return None;
    }
    Some(taken)
}

impl Try {
    /// Why this was the last.
    fn too_long(&self, tries: u32, lease: Duration) -> Error {
        let ms = |time: Duration| micros(time) / 1000;
        let (grace_ms, names_ms) = (ms(self.quiet - self.start), ms(self.looked - self.quiet));
        Error::HoldTooLong { grace_ms, names_ms, lease_ms: ms(lease), tries }
    }
}
