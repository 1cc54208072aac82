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
//!
//! # The lease of a hold, and the race between its cut and the point in time
//!
//! The thread that runs the backup may be stuck in the hold, in a grace or at a dead disk, or may not get a processor.
//! So it is not alone in ending one: whoever receives calls also calls [`Capture::tick`], which *cuts* a hold whose
//! lease is over, that is, switches the gate from Holding back to Tracking.
//!
//! Both the cut and the fixing of the point in time are one step under the gate's write lock, and both begin with a look
//! whether this hold is still on. So exactly one of them happens. If the cut comes first, the one who comes to fix the
//! point in time, however late, finds its hold cut, and the try counts for nothing. If fixing comes first, there is no
//! hold left to cut. Every hold is a [`Hold`] of its own: the end of one's lease never cuts the next.
//!
//! What was looked at in a hold that is then cut: [`Hold::is_cut`] turns true before the first of its calls goes on. So
//! who looks at the source, and *afterwards* finds the hold not cut, has seen what nobody was changing. If it is cut,
//! the look was worth as much as one while tracking, and the marks of the calls that go on are there for the next sync.
//! Marks must not be taken while such calls are on their way between their mark and their answer, where a grace does not
//! see them: [`Capture::unpark`] returns only when none is.
//!
//! What was parked goes on by way of a queue that both threads take from. So a call is not left waiting because the one
//! who ended the hold was put aside right after.
use crate::base::util::{lock, read, write};
use crate::gate::needs::{Drain, Job};
use crate::marks::lease::Hold;
use crate::marks::ledger::Ledger;
use crate::{Error, Tuning, tree::Tree};
use crossbeam::channel::Sender;
use hotbackup_event::Effect;
use hotbackup_event::failpoint::hit;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

/// Takes in the target's stopped calls. `P` is what lets a call run when it is dropped.
pub struct Capture<P: Send + 'static> {
    pub(crate) ledger: Arc<Ledger>,
    gate: RwLock<Gate<P>>,
    /// What a hold parked and that may go on now.
    released: Mutex<VecDeque<Parked<P>>>,
    /// How many of those are taken out, and not let go yet.
    in_hand: AtomicUsize,
    /// When the lease of the hold that is on ends, or of one whose calls have not all gone on; 0 for none. In
    /// nanoseconds since `began`.
    lease_ends: AtomicU64,
    began: Instant,
    lease: Duration,
    max_marks: usize,
}

type Parked<P> = (Vec<Effect>, P);

enum Gate<P> {
    Tracking,
    Holding(Hold, Mutex<VecDeque<Parked<P>>>),
    Draining(Drain<P>),
    /// `true`: everything of the point in time is saved.
    Open(bool),
}

impl<P: Send + 'static> std::fmt::Debug for Capture<P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let gate = match *read(&self.gate) {
            Gate::Tracking => "tracking",
            Gate::Holding(..) => "holding",
            Gate::Draining(_) => "draining",
            Gate::Open(_) => "open",
        };
        f.debug_struct("Capture").field("gate", &gate).finish_non_exhaustive()
    }
}

impl<P: Send + 'static> Capture<P> {
    pub(crate) fn new(ledger: Arc<Ledger>, tuning: &Tuning) -> Self {
        Self {
            ledger,
            gate: RwLock::new(Gate::Tracking),
            released: Mutex::default(),
            in_hand: AtomicUsize::new(0),
            lease_ends: AtomicU64::new(0),
            began: Instant::now(),
            lease: tuning.hold_lease,
            max_marks: tuning.most_entry_marks,
        }
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Takes in a stopped call, before it runs: what it may change, and the permit that lets it run when dropped.
    /// Never waits for I/O. The permit may be dropped before this returns, or later by another thread.
    pub fn admit(&self, effects: Vec<Effect>, permit: P) {
        let marks = {
            let gate = read(&self.gate);
            match &*gate {
                Gate::Tracking => self.pass(&effects, permit),
                Gate::Holding(..) if !self.ledger.concerns(&effects) => self.pass(&effects, permit),
                Gate::Holding(_, parked) => {
                    lock(parked).push_back((effects, permit));
                    0
                }
                Gate::Draining(drain) => {
                    drain.admit(&effects, permit);
                    0
                }
                Gate::Open(_) => 0,
            }
        };
        if marks > self.max_marks {
            // Nobody has come to look at them for long: rather no backup than no memory.
            self.fail(Error::TooManyMarks { marks });
        }
    }

    /// Whether a call with this effect, which has been [admitted](Self::admit), may be made again and need not be: the drain is on, and what
    /// it changes is saved, or does not belong to the backup. Once this says yes of some bytes it never says no again.
    pub fn is_settled(&self, effect: &Effect) -> bool {
        matches!(&*read(&self.gate), Gate::Draining(drain) if drain.is_settled(effect))
    }

    /// Marks, and lets go. Returns how many names are marked by now.
    fn pass(&self, effects: &[Effect], permit: P) -> usize {
        for effect in effects {
            self.ledger.mark(effect);
        }
        drop(permit);
        self.ledger.entry_count()
    }

    /// To be called again and again while calls are received, by a thread that nothing holds up: ends a hold whose lease
    /// is over. Takes a moment only, unless there is something to be let go.
    pub fn tick(&self) {
        let ends = self.lease_ends.load(Ordering::SeqCst);
        if ends == 0 || self.now() < ends {
            return;
        }
        {
            let mut gate = write(&self.gate);
            // By now it may be the next hold, with a lease of its own.
            if let Gate::Holding(hold, parked) = &mut *gate
                && self.now() >= hold.ends()
            {
                // In this order: who sees the hold cut finds what it parked in the queue.
                lock(&self.released).append(&mut lock(parked));
                hold.cut();
                *gate = Gate::Tracking;
            }
        }
        self.go_on(ends);
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
        matches!(*read(&self.gate), Gate::Holding(..))
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
        self.go_on(self.lease_ends.load(Ordering::SeqCst));
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

    /// Tracking to Holding, for as long as the lease at most.
    pub(crate) fn park(&self) -> Result<Hold, Error> {
        let mut gate = write(&self.gate);
        match *gate {
            Gate::Tracking => {
                let ends = self.now() + self.lease.as_nanos() as u64;
                let hold = Hold::new(ends);
                *gate = Gate::Holding(hold.clone(), Mutex::default());
                self.lease_ends.store(ends, Ordering::SeqCst);
                Ok(hold)
            }
            _ => Err(Error::LetGo),
        }
    }

    /// Holding back to Tracking, unless the hold was cut: what was parked is marked and goes on. When this returns, all of
    /// it has gone on, whoever ended the hold.
    pub(crate) fn unpark(&self, hold: &Hold) -> Result<(), Error> {
        self.leave(hold, Gate::Tracking)?;
        self.go_on(hold.ends());
        while self.in_hand.load(Ordering::SeqCst) > 0 {
            self.ledger.check()?;
            std::thread::sleep(Duration::from_micros(20));
        }
        Ok(())
    }

    /// Holding to Draining: what was parked goes the way of all calls from now on. `false`: the hold was cut before.
    pub(crate) fn drain(&self, hold: &Hold, tree: Arc<Tree>, jobs: Sender<Job<P>>) -> Result<bool, Error> {
        self.ledger.begin_later();
        let drain = Drain::new(Arc::clone(&self.ledger), tree, jobs);
        let fixed = self.leave(hold, Gate::Draining(drain))?;
        if fixed {
            hit("hold.fixed");
            self.go_on(hold.ends());
        }
        Ok(fixed)
    }

    /// Ends a hold; what it parked may go on. `false`: it was cut before.
    fn leave(&self, hold: &Hold, next: Gate<P>) -> Result<bool, Error> {
        let mut gate = write(&self.gate);
        match &mut *gate {
            Gate::Holding(_, parked) => {
                lock(&self.released).append(&mut lock(parked));
                *gate = next;
                Ok(true)
            }
            Gate::Tracking if hold.is_cut() => Ok(false),
            _ => Err(Error::LetGo),
        }
    }

    /// What may go on goes on, in whatever way the gate says now. Two threads may be at it. `ends` says whose calls these
    /// are: the lease of a later hold is not touched.
    fn go_on(&self, ends: u64) {
        loop {
            let next = {
                let mut released = lock(&self.released);
                let next = released.pop_front();
                // Before the queue can be seen without it.
                self.in_hand.fetch_add(usize::from(next.is_some()), Ordering::SeqCst);
                next
            };
            let Some((effects, permit)) = next else { break };
            let _in_hand = InHand(&self.in_hand);
            self.admit(effects, permit);
        }
        let _ = self.lease_ends.compare_exchange(ends, 0, Ordering::SeqCst, Ordering::SeqCst);
    }
}

/// A call that was taken from the queue, until it has gone on.
struct InHand<'a>(&'a AtomicUsize);

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
#[path = "capture_tests.rs"]
mod tests;
