//! The hold: the point in time.
//!
//! The gate is switched to Holding; a grace later, no call that concerns a tracked device is under way and none can
//! begin. The names and files marked since the last sync are looked at: nothing moves, so what is seen is exact. That is the
//! point in time. Sizes, modes, owners and times in the model are those of the point in time from here on, since nobody
//! changes them any more; the tree is frozen; the bits due are what the backup still lacks. Then the gate is switched to
//! Draining. No content is read, and nothing is written, in between.
//!
//! Two things make a hold be given up, which costs nothing but a try: it takes longer than its budget, because much was
//! renamed or created just before; or a device turns up that nothing known was on so far, whose calls were not parked.
use crate::capture::Job;
use crate::track::Tracker;
use crate::tree::{Look, Tree};
use crate::util::micros;
use crate::{Error, HoldTimes, Phase, sys};
use crossbeam::channel::Sender;
use std::sync::Arc;
use std::time::Instant;

/// What the hold fixed.
pub(crate) struct Held {
    pub tree: Arc<Tree>,
    pub time_ns: u64,
    pub hold_us: u64,
    pub times: HoldTimes,
}

impl<P: Send + 'static> Tracker<'_, P> {
    /// Fixes the point in time, and switches to the drain.
    pub fn hold(mut self, jobs: Sender<Job<P>>) -> Result<Held, Error> {
        let context = self.context;
        let mut budget = context.tuning.hold_budget;
        let mut abandoned = 0;
        loop {
            context.check()?;
            context.phase(Phase::Hold);
            let last = abandoned + 1 >= context.tuning.hold_tries;
            let start = Instant::now();
            context.capture.park()?;
            context.grace()?;
            let quiet = Instant::now();
            let devices = context.ledger.device_count();
            let deadline = if last { None } else { Some(start + budget) };
            let complete = self.tree.resolve(context.ledger.take(), Look { exact: true, deadline })?;
            if complete && context.ledger.device_count() == devices {
                if let Some((file, cause)) = context.ledger.untraceable() {
                    return Err(Error::Untraceable { path: file.path(), cause });
                }
                let resolved = Instant::now();
                let time_ns = sys::now_ns();
                let tree = Arc::new(self.tree);
                context.capture.drain(Arc::clone(&tree), jobs)?;
                let times = HoldTimes {
                    grace_us: micros(quiet - start),
                    resolve_us: micros(resolved - quiet),
                    release_us: micros(resolved.elapsed()),
                    abandoned,
                };
                return Ok(Held { tree, time_ns, hold_us: micros(start.elapsed()), times });
            }
            if last && complete {
                return Err(Error::Internal("devices keep turning up in the hold".into()));
            }
            context.capture.unpark()?;
            context.phase(Phase::Track);
            abandoned += 1;
            budget *= 2;
            self.sync(false)?;
        }
    }
}
