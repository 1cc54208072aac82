//! The hold: the point in time.
//!
//! The gate is switched to Holding; a grace later, no call that concerns a tracked device is under way and none can
//! begin. The names and files marked since the last sync are looked at: nothing moves, so what is seen is exact. That is the
//! point in time. Sizes, modes, owners and times in the model are those of the point in time from here on, since nobody
//! changes them any more; the tree is frozen; the bits due are what the backup still lacks. Then the gate is switched to
//! Draining. No content is read, and nothing is written, in between; what is mapped for writing is an exception (`mapped`).
//!
//! Three things make a hold be given up, which costs nothing but a try: it takes longer than its budget, because much was
//! renamed or created just before; its lease runs out, and it is cut, wherever this thread is by then (`gate::capture` says how
//! that meets the fixing of the point in time); or a device turns up that nothing known was on so far, whose calls were
//! not parked. A sync before the next try looks at all that had changed, without a limit: each try has less to look at.
pub(crate) mod mapped;

use crate::base::sys;
use crate::base::util::micros;
use crate::drain::saver::{Image, Saver};
use crate::gate::needs::Job;
use crate::interface::report::Mapped;
use crate::marks::lease::Hold;
use crate::marks::ledger::Ledger;
use crate::passes::track::Tracker;
use crate::tree::{Look, Tree};
use crate::{Error, HoldTimes, Phase};
use crossbeam::channel::Sender;
use hotbackup_event::FileId;
use hotbackup_event::failpoint::hit;
use mapped::Copies;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the hold fixed.
pub(crate) struct Held {
    pub tree: Arc<Tree>,
    pub time_ns: u64,
    pub hold_us: u64,
    pub times: HoldTimes,
    pub mapped: Mapped,
}

/// One try, and how far it came.
struct Try {
    hold: Hold,
    start: Instant,
    quiet: Instant,
    looked: Instant,
    /// All was looked at, and nothing new turned up.
    stands: bool,
    /// What was read while the target stood still, if it had to.
    frozen: Option<Frozen>,
    /// Why it did not.
    refused: Option<String>,
}

/// The point in time, and what was mapped then.
struct Frozen {
    copies: Copies,
    time_ns: u64,
    frozen_us: u64,
}

impl<P: Send + 'static> Tracker<'_, P> {
    /// Fixes the point in time, and switches to the drain.
    pub fn hold(mut self, jobs: Sender<Job<P>>, saver: Saver<'_, P>, images: Sender<Image>) -> Result<Held, Error> {
        let (context, tuning) = (self.context, self.context.tuning);
        let mut budget = tuning.hold_budget;
        let mut abandoned = 0;
        loop {
            context.check()?;
            context.phase(Phase::Hold);
            let last = abandoned + 1 >= tuning.hold_tries;
            // One that goes beyond the lease is cut, whatever the budget.
            let limit = if last { tuning.hold_lease } else { budget };
            let mut tried = self.try_hold(limit, saver)?;
            let frozen = tried.frozen.take();
            if tried.stands {
                context.traceable()?;
                // Counts only if the hold turns out to be on after it.
                let time_ns = frozen.as_ref().map_or_else(sys::now_ns, |frozen| frozen.time_ns);
                let tree = Arc::new(self.tree);
                if context.capture.drain(&tried.hold, Arc::clone(&tree), jobs.clone())? {
                    hit("hold.over");
                    let times = HoldTimes {
                        grace_us: micros(tried.quiet - tried.start),
                        resolve_us: micros(tried.looked - tried.quiet),
                        release_us: micros(tried.looked.elapsed()),
                        abandoned,
                    };
                    let hold_us = micros(tried.start.elapsed());
                    let mapped = frozen.map(|frozen| frozen.copies.keep(&images, frozen.frozen_us));
                    return Ok(Held { tree, time_ns, hold_us, times, mapped: mapped.unwrap_or_default() });
                }
                self.tree =
                    Arc::into_inner(tree).ok_or_else(|| Error::Internal("a tree is shared too early".into()))?;
            }
            if let Some(frozen) = frozen {
                frozen.copies.forget(&context.ledger);
            }
            context.capture.unpark(&tried.hold)?;
            abandoned += 1;
            if last {
                return Err(tried.why(abandoned, tuning.hold_lease));
            }
            context.phase(Phase::Track);
            budget = budget.saturating_mul(2);
            self.sync(false)?;
        }
    }

    /// Holds, and looks. The hold is still on when this returns, unless it was cut.
    fn try_hold(&mut self, limit: Duration, saver: Saver<'_, P>) -> Result<Try, Error> {
        let context = self.context;
        let ever_mapped = || {
            let known = if context.tuning.takes_mapped() { context.ledger.known_mapped() } else { Vec::new() };
            known.iter().map(|file| file.id).collect::<Vec<_>>()
        };
        let is_any = !ever_mapped().is_empty();
        let mut refused = if is_any { context.quiesce.prepare_to_freeze(&ever_mapped).err() } else { None };
        let start = Instant::now();
        let hold = context.capture.park()?;
        hit("hold.parked");
        context.grace()?;
        let quiet = Instant::now();
        hit("hold.quiet");
        let devices = context.ledger.device_count();
        let deadline = start + limit;
        // Calls that map are held like others.
        let (mapped, mut complete, mut frozen) = (ever_mapped(), false, None);
        if mapped.is_empty() {
            // One may have come in from elsewhere with this look.
            complete = self.look(&hold, deadline)? && ever_mapped().is_empty();
        } else if refused.is_none() {
            let lease = context.tuning.hold_lease.saturating_sub(start.elapsed());
            match self.look_frozen(&hold, saver, &mapped, deadline, lease)? {
                Ok(found) => (complete, frozen) = (found.is_some(), found),
                Err(cause) => refused = Some(cause),
            }
        }
        hit("hold.resolved");
        let stands = complete && context.ledger.device_count() == devices;
        Ok(Try { hold, start, quiet, looked: Instant::now(), stands, frozen, refused })
    }

    /// Looks at what was marked. `false`: not at all of it.
    fn look(&mut self, hold: &Hold, deadline: Instant) -> Result<bool, Error> {
        match take_in(hold, &self.context.ledger) {
            Some(taken) => self.tree.resolve(taken, Look { hold: Some(hold), deadline: Some(deadline) }),
            None => Ok(false),
        }
    }

    /// Looks at what was marked, and reads what is mapped, while the target stands still. `None`: not at all of it. An error
    /// inside says why it did not stand still.
    fn look_frozen(
        &mut self,
        hold: &Hold,
        saver: Saver<'_, P>,
        ever: &[FileId],
        deadline: Instant,
        limit: Duration,
    ) -> Result<Result<Option<Frozen>, String>, Error> {
        let context = self.context;
        mapped::touch(&context.ledger, ever);
        let start = Instant::now();
        let mut seen = Ok(None);
        let mut work = |now: &[FileId]| {
            let time_ns = sys::now_ns();
            seen = self.look(hold, deadline).and_then(|complete| {
                let copies = if complete { Copies::take(context, saver, ever, now)? } else { None };
                Ok(copies.map(|copies| Frozen { copies, time_ns, frozen_us: 0 }))
            });
        };
        let still = context.quiesce.while_frozen(limit, ever, &mut work);
        let frozen_us = micros(start.elapsed());
        Ok(match (still, seen?) {
            (Ok(()), seen) => Ok(seen.map(|frozen| Frozen { frozen_us, ..frozen })),
            (Err(cause), seen) => {
                if let Some(frozen) = seen {
                    frozen.copies.forget(&context.ledger);
                }
                Err(cause)
            }
        })
    }
}

/// The marks, if they were taken while the hold was on. Those of a hold that was cut may belong to calls that are still
/// to run: they are for the next sync.
fn take_in(hold: &Hold, ledger: &Ledger) -> Option<crate::marks::ledger::Taken> {
    let taken = ledger.take();
    if hold.is_cut() {
        ledger.put_back(taken);
        return None;
    }
    Some(taken)
}

impl Try {
    /// Why this was the last.
    fn why(self, tries: u32, lease: Duration) -> Error {
        if let Some(cause) = self.refused {
            return Error::NotFrozen { cause, tries };
        }
        let ms = |time: Duration| micros(time) / 1000;
        let (grace_ms, names_ms) = (ms(self.quiet - self.start), ms(self.looked - self.quiet));
        Error::HoldTooLong { grace_ms, names_ms, lease_ms: ms(lease), tries }
    }
}
