//! Calls that were received and not answered: where each is recorded, and whose the duty is to answer it.
//!
//! No call waits without end, whatever thread sits on its ticket, at a dead disk or in a lookup that never returns: the
//! receiver looks how long each recorded call has waited. When one has waited too long, it gives the backup up, *then*
//! answers all that is recorded, and from there on lets everything go as it comes. Who owns a slot is one word: a ticket
//! dropped after that finds that the slot is no longer its own, and its answer is one too many, which is harmless.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hotbackup_event::failpoint::hit;
use nix::errno::Errno;

use super::free::Free;
use crate::error::Error;
use crate::flight::inflight::{Call, InFlight, State};
use crate::flight::unseen::Unseen;
use crate::hot::Source;
use crate::shared::control::Control;
use crate::shared::memory::{Memory, SLOTS, SUPERVISOR_SLOTS};
use crate::sys::notify::{self, Notification};
use crate::target::process::Process;

/// What receiver, tickets and grace share.
pub(crate) struct Answering {
    pub process: Process,
    pub memory: Memory,
    pub listener: OwnedFd,
    pub inflight: InFlight,
    pub generation: Control,
    /// Calls captured at their sites, where there is a region of code for it in the target.
    pub hot: Option<Source>,
    /// The net under 8-byte writes, when those are not shown.
    pub unseen: Option<Mutex<Unseen>>,
    pub stop: AtomicBool,
    pub probed: AtomicBool,
    /// Calls by which a process other than the target may have mapped a file for writing.
    pub mapped_elsewhere: AtomicU64,
    /// Threads that have made their first call, as far as nobody has looked at them yet.
    pub newcomers: Mutex<Vec<i32>>,
    /// Calls received.
    pub received: AtomicU64,
    /// Longest time between receipt and answer, in nanoseconds.
    pub longest: AtomicU64,
    free: Free,
    held: Vec<Held>,
    began: Instant,
}

/// Whose a slot is.
#[derive(Default)]
struct Held {
    /// The call's id; 0 for none. Whoever changes it back to 0 frees the slot.
    id: AtomicU64,
    /// When it was received, in nanoseconds since `began`.
    since: AtomicU64,
}

impl Answering {
    pub fn new(process: Process, memory: Memory, listener: OwnedFd, generation: Control, hot: Option<Source>) -> Self {
        let free = Free::all(SUPERVISOR_SLOTS);
        let unseen = (memory.eight_bytes_unseen.load(Ordering::SeqCst) != 0).then(Mutex::default);
        Self {
            process,
            memory,
            listener,
            inflight: InFlight::default(),
            generation,
            hot,
            unseen,
            stop: AtomicBool::new(false),
            probed: AtomicBool::new(false),
            mapped_elsewhere: AtomicU64::new(0),
            newcomers: Mutex::default(),
            received: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            free,
            held: (0..SLOTS).map(|_| Held::default()).collect(),
            began: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        (self.began.elapsed().as_nanos() as u64).max(1)
    }

    /// Receives one call into a free slot. Without one, the call waits in the kernel until a slot is free.
    pub fn receive(self: &Arc<Self>) -> Option<(Ticket, Notification)> {
        let Some(slot) = self.free.take() else {
            std::thread::sleep(Duration::from_micros(50));
            return None;
        };
        if let Err(errno) = notify::receive(self.listener.as_fd(), self.memory.slot(slot)) {
            // Not zeroed: a keeper cleared it while the kernel was still writing there for a supervisor that was revoked. It would be the
            // first to be taken again. What holds a call is its keeper's, and is not used.
            let place = self.memory.slot(slot);
            if errno == Errno::EINVAL && place.id() != 0 {
                return None;
            }
            if errno == Errno::EINVAL {
                place.clear();
            }
            self.free.give(slot);
            return None;
        }
        hit("receive.received");
        let stopped = self.memory.slot(slot).notification();
        self.held[slot].since.store(self.now(), Ordering::Relaxed);
        self.held[slot].id.store(stopped.id, Ordering::SeqCst);
        self.received.fetch_add(1, Ordering::Relaxed);
        let tid = stopped.pid as i32;
        let serial = self.inflight.begin(tid, stopped.data);
        Some((Ticket { shared: self.clone(), slot, id: stopped.id, tid, serial }, stopped))
    }

    /// The slot whose call has waited longest, if that is longer than `limit`.
    pub fn overdue(&self, limit: Duration) -> Option<(usize, Duration)> {
        if self.free.count() == SUPERVISOR_SLOTS {
            return None; // none is held
        }
        let now = self.now();
        let waited = |held: &Held| match held.id.load(Ordering::SeqCst) {
            0 => 0,
            _ => now.saturating_sub(held.since.load(Ordering::Relaxed)),
        };
        let longest = self.held.iter().map(waited).enumerate().max_by_key(|(_, waited)| *waited);
        longest.map(|(slot, waited)| (slot, Duration::from_nanos(waited))).filter(|(_, waited)| *waited > limit)
    }

    /// Answers a call, and frees its slot if it is still the call's own.
    fn answer(&self, slot: usize, id: u64) {
        hit("receive.before-answer");
        // ENOENT: a fatal signal ended the wait, or somebody else was quicker. Both are fine.
        while notify::let_go(self.listener.as_fd(), id) == Err(Errno::EINTR) {}
        hit("receive.answered");
        let held = &self.held[slot];
        let since = held.since.load(Ordering::Relaxed);
        if held.id.compare_exchange(id, 0, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            return;
        }
        self.longest.fetch_max(self.now().saturating_sub(since), Ordering::Relaxed);
        // A supervisor after us may have taken the memory over, if this comes very late.
        let place = self.memory.slot(slot);
        if place.id() == id {
            place.clear();
        }
        // A keeper that has taken over may have read this slot before it was cleared, and is about to clear it itself: what is received
        // there now would be lost. It changed the word before it read, so who still sees ours was here first.
        std::sync::atomic::fence(Ordering::SeqCst);
        if !self.is_revoked() {
            self.free.give(slot);
        }
    }

    /// Answers all that is recorded, whoever has the tickets. Only once the backup is given up.
    pub fn answer_all(&self) {
        self.inflight.give_up();
        for (slot, held) in self.held.iter().enumerate() {
            let id = held.id.load(Ordering::SeqCst);
            if id != 0 {
                self.answer(slot, id);
            }
        }
    }

    pub fn waited_too_long(&self, slot: usize, waited: Duration) -> Error {
        let stopped = self.memory.slot(slot).notification();
        let call = crate::calls::row(i64::from(stopped.data.nr)).map_or("a call", |row| row.name);
        let (pid, tid) = (self.process.pid(), stopped.pid as i32);
        Error::WaitedTooLong { pid, tid, call, waited_ms: waited.as_millis() as u64 }
    }

    pub fn is_revoked(&self) -> bool {
        Control::load(&self.memory.control) != self.generation
    }
}

/// The right, and the duty, to let one stopped call go. Dropping it does.
pub struct Ticket {
    shared: Arc<Answering>,
    slot: usize,
    id: u64,
    pub(crate) tid: i32,
    pub(crate) serial: u64,
}

impl Ticket {
    /// The call that waits, for those who count the calls on their way.
    pub(crate) fn call(&self, stopped: &Notification, state: State) -> Call {
        Call { tid: self.tid, serial: self.serial, state, data: stopped.data, positions: None }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let shared = &self.shared;
        // Before the answer: grace must never look between the two and see nothing.
        shared.inflight.set_state(self.tid, self.serial, State::LetGo);
        shared.answer(self.slot, self.id);
    }
}
