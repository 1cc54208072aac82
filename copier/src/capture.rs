//! Where the target's stopped calls come in, and the gate that decides when they go on.
//!
//! # The gate
//!
//! - *Tracking*: the effects are marked, the permit is dropped.
//! - *Holding*: a call that concerns no device with anything known on it is marked and goes on. Everything else is
//!   parked, and has not run when the point in time is fixed.
//! - *Draining*: a call that changes nothing unsaved goes on at once. Another waits until what it would change has
//!   been read; threads made for that do it, never the one that calls [`Capture::admit`].
//! - *Open*: everything goes on, nothing is marked. The end of every backup, good or bad.
//!
//! Receivers pass the gate under a read lock and mark and drop the permit inside; switching takes the write lock. So
//! when the gate has been switched to Holding, every call that passed it before has been let go, and the grace that
//! follows waits for those; every call that comes later is parked. What was received but has not come to the gate yet
//! is parked when it does. Nothing that may take long is done under either lock.
use crate::drain::{Drain, Need};
use crate::ledger::Ledger;
use crate::util::{lock, read, write};
use crate::{Error, tree::Tree};
use crossbeam::channel::Sender;
use hotbackup_event::Effect;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

/// Takes in the target's stopped calls. `P` is what lets a call run when it is dropped.
pub struct Capture<P: Send + 'static> {
    pub(crate) ledger: Arc<Ledger>,
    gate: RwLock<Gate<P>>,
}

enum Gate<P> {
    Tracking,
    Holding(Mutex<Vec<(Vec<Effect>, P)>>),
    Draining(Drain<P>),
    /// `true`: everything of the point in time is saved.
    Open(bool),
}

impl<P: Send + 'static> std::fmt::Debug for Capture<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gate = match *read(&self.gate) {
            Gate::Tracking => "tracking",
            Gate::Holding(_) => "holding",
            Gate::Draining(_) => "draining",
            Gate::Open(_) => "open",
        };
        f.debug_struct("Capture").field("gate", &gate).finish_non_exhaustive()
    }
}

/// A call whose before-images are to be saved.
pub(crate) struct Job<P> {
    pub needs: Vec<Need>,
    pub permit: P,
    pub since: Instant,
}

impl<P: Send + 'static> Capture<P> {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, gate: RwLock::new(Gate::Tracking) }
    }

    /// Takes in a stopped call, before it runs: what it may change, and the permit that lets it run when dropped.
    /// Never waits for I/O. The permit may be dropped before this returns, or later by another thread.
    pub fn admit(&self, effects: Vec<Effect>, permit: P) {
        let gate = read(&self.gate);
        match &*gate {
            Gate::Tracking => self.pass(&effects, permit),
            Gate::Holding(_) if !self.ledger.concerns(&effects) => self.pass(&effects, permit),
            Gate::Holding(parked) => lock(parked).push((effects, permit)),
            Gate::Draining(drain) => drain.admit(&effects, permit),
            Gate::Open(_) => drop(permit),
        }
    }

    fn pass(&self, effects: &[Effect], permit: P) {
        for effect in effects {
            self.ledger.mark(effect);
        }
        drop(permit);
    }

    /// Something happened that cannot be tracked: unless everything is saved already, the backup fails with this cause.
    /// The target is let go.
    pub fn blind(&self, cause: String) {
        self.end(Error::Blind(cause), true);
    }

    /// Whatever the state: stops capturing, drops all parked permits now, and each later one at once. A backup that is
    /// not over the drain fails. May be called at any time, from any thread, and again.
    pub fn let_go(&self) {
        self.end(Error::LetGo, true);
    }

    /// Whether calls are being held.
    pub fn is_holding(&self) -> bool {
        matches!(*read(&self.gate), Gate::Holding(_))
    }

    /// The backup cannot succeed. Lets the target go.
    pub(crate) fn fail(&self, error: Error) {
        self.end(error, false);
    }

    /// `outside`: what happens there does not matter any more once everything is saved.
    fn end(&self, error: Error, outside: bool) {
        let before = {
            let mut gate = write(&self.gate);
            if outside && matches!(*gate, Gate::Open(true)) {
                return;
            }
            // Under the lock, so that nobody who finds the gate open misses the failure.
            self.ledger.fail(error);
            match *gate {
                Gate::Open(_) => return,
                _ => std::mem::replace(&mut *gate, Gate::Open(false)),
            }
        };
        // Parked permits are dropped here. Those in the hands of the threads that save before-images are dropped by
        // them, which look for the failure wherever they wait.
        drop(before);
    }

    /// Everything is saved: the target is free. Fails if it had been let go before.
    pub(crate) fn release(&self) -> Result<(), Error> {
        let before = {
            let mut gate = write(&self.gate);
            if matches!(*gate, Gate::Open(_)) || self.ledger.has_failed() {
                return Err(Error::LetGo);
            }
            std::mem::replace(&mut *gate, Gate::Open(true))
        };
        drop(before);
        Ok(())
    }

    /// Tracking to Holding.
    pub(crate) fn park(&self) -> Result<(), Error> {
        let mut gate = write(&self.gate);
        match *gate {
            Gate::Tracking => *gate = Gate::Holding(Mutex::default()),
            _ => return Err(Error::LetGo),
        }
        Ok(())
    }

    /// Holding back to Tracking: what was parked is marked and goes on.
    pub(crate) fn unpark(&self) -> Result<(), Error> {
        for (effects, permit) in self.leave_hold(Gate::Tracking)? {
            self.pass(&effects, permit);
        }
        Ok(())
    }

    /// Holding to Draining: what was parked goes the way of all calls from now on.
    pub(crate) fn drain(&self, tree: Arc<Tree>, jobs: Sender<Job<P>>) -> Result<(), Error> {
        let drain = Drain::new(Arc::clone(&self.ledger), tree, jobs);
        for (effects, permit) in self.leave_hold(Gate::Draining(drain))? {
            self.admit(effects, permit);
        }
        Ok(())
    }

    fn leave_hold(&self, next: Gate<P>) -> Result<Vec<(Vec<Effect>, P)>, Error> {
        let mut gate = write(&self.gate);
        if !matches!(*gate, Gate::Holding(_)) {
            return Err(Error::LetGo);
        }
        match std::mem::replace(&mut *gate, next) {
            Gate::Holding(parked) => Ok(parked.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)),
            _ => Ok(Vec::new()),
        }
    }
}
