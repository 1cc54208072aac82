//! The keeper itself.
//!
//! One thread that waits in poll(2). While a supervisor answers, it watches that supervisor: its pidfd, and its
//! progress (the lease). When the supervisor dies or hangs, it changes the control word to `Kept`, answers every
//! call recorded in a slot, and from then on receives and answers everything itself, until the target ends or the
//! next supervisor takes over.
//!
//! Whoever is received is recorded: the kernel writes a notification straight into shared memory before the call
//! that receives it returns, and a slot is zeroed only after the answer. An answer given twice is `ENOENT`, and
//! harmless. A revoked supervisor that is still alive may receive one more call into a slot; so the slots are
//! looked at again as long as it lives.
//!
//! Keepers come in pairs: one acts, its twin ([`super::twin`]) waits for its end, and acts in its place. All that the
//! twin needs to know stands in the shared memory.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;

use super::state::{Control, Role};
use super::twin::Twin;
use crate::process::Process;
use crate::sys::mapping::{Mapping, SLOTS};
use crate::sys::{notify, pidfd, process as low};

/// How often a supervisor's progress is looked at, and while a hold is on.
const WATCH: Duration = Duration::from_millis(200);
const WATCH_HOLD: Duration = Duration::from_millis(10);
/// Looks without progress after which the supervisor counts as hung: a second; 50 ms while a hold is on.
const LEASE_LOOKS: u32 = 5;
/// How long the keeper waits when nobody is to be watched.
const IDLE: Duration = Duration::from_secs(10);
/// How often a filter that was being installed is looked for.
const WATCH_ATTACH: Duration = Duration::from_millis(100);

pub(super) struct Keeper {
    pub target: Process,
    pub memory: Mapping,
    pub wake: EventFd,
    pub listener: Option<OwnedFd>,
    /// The supervisor that is watched, with its generation.
    pub supervisor: Option<(OwnedFd, u32)>,
    pub twin: Twin,
    /// Looks without progress.
    pub idle_looks: u32,
}

/// What poll(2) found.
struct Woken {
    by_wake: bool,
    by_listener: bool,
    /// The last process with the filter is gone.
    target_gone: bool,
}

impl Keeper {
    /// Acts until the target ends.
    pub fn run(&mut self) {
        self.memory.keeper.store(std::process::id() as i32, Ordering::SeqCst);
        let mut hurried = false;
        loop {
            let control = Control::load(&self.memory.control);
            if control.role != Role::Attaching && !hurried {
                // Not before: a real-time process cannot be moved to every cgroup.
                low::hurry();
                hurried = true;
            }
            let goes_on = match control.role {
                Role::Attaching => self.wait_for_filter(control),
                Role::Supervised => self.watch(control),
                Role::Kept => self.answer(control),
            };
            if !goes_on {
                self.twin.end();
                return;
            }
        }
    }

    /// The supervisor installs the filter, or dies at it. Afterwards a listener may stand among the target's
    /// descriptors that nobody else knows of.
    fn wait_for_filter(&mut self, control: Control) -> bool {
        let woken = self.wait(WATCH_ATTACH, false);
        if woken.target_gone {
            return false;
        }
        if woken.by_wake {
            return true;
        }
        if self.supervisor.as_ref().is_none_or(|(_, generation)| *generation != control.generation) {
            self.open_supervisor();
        }
        let armed = self.memory.armed.load(Ordering::SeqCst) != 0;
        let gone = self.supervisor_gone();
        if !armed {
            self.idle_looks = 0;
            return !gone; // nothing was begun, or it is proven that it came to nothing
        }
        // A filter may come at any time, even late: a thread may be frozen on its way to it. And if the supervisor
        // hangs with a filter installed, the target must not wait for it.
        self.idle_looks += 1;
        if !gone && self.idle_looks < LEASE_LOOKS {
            return true;
        }
        !self.find_listener() || self.take_over(control)
    }

    fn find_listener(&mut self) -> bool {
        self.listener = super::find::target_listener(&self.target).map(|(fd, _)| fd);
        self.listener.is_some()
    }

    /// The supervisor answers: watch it.
    fn watch(&mut self, control: Control) -> bool {
        if self.listener.is_none() {
            self.fetch_listener();
        }
        if self.supervisor.as_ref().is_none_or(|(_, generation)| *generation != control.generation) {
            self.open_supervisor();
            if self.supervisor.is_none() {
                return self.take_over(control);
            }
        }
        self.memory.watched.store(control.generation, Ordering::SeqCst);
        let mut beat = self.memory.beat.load(Ordering::SeqCst);
        self.idle_looks = 0;
        while Control::load(&self.memory.control) == control {
            let holding = self.memory.holding.load(Ordering::SeqCst) != 0;
            let woken = self.wait(if holding { WATCH_HOLD } else { WATCH }, false);
            if woken.target_gone {
                return false;
            }
            if self.supervisor_gone() {
                return self.take_over(control);
            }
            let now = self.memory.beat.load(Ordering::SeqCst);
            if now != beat {
                (beat, self.idle_looks) = (now, 0);
            } else if !woken.by_wake {
                self.idle_looks += 1;
                if self.idle_looks >= LEASE_LOOKS {
                    return self.take_over(control);
                }
            }
        }
        true
    }

    fn take_over(&mut self, control: Control) -> bool {
        control.change(&self.memory.control, control.with(Role::Kept));
        true
    }

    /// Nobody else answers: do it.
    fn answer(&mut self, control: Control) -> bool {
        self.memory.holding.store(0, Ordering::SeqCst);
        if self.listener.is_none() {
            self.fetch_listener();
        }
        if self.listener.is_none() {
            std::thread::sleep(Duration::from_millis(1));
            return self.target.is_alive();
        }
        self.answer_slots();
        while Control::load(&self.memory.control) == control {
            let revoked_lives = self.supervisor.is_some();
            let woken = self.wait(if revoked_lives { WATCH } else { IDLE }, true);
            if woken.by_listener {
                self.receive_and_answer();
            }
            if woken.target_gone {
                return false;
            }
            if revoked_lives {
                if self.supervisor_gone() {
                    self.supervisor = None;
                }
                if !woken.by_listener {
                    self.answer_slots();
                }
            }
        }
        true
    }

    /// Answers every recorded call.
    fn answer_slots(&self) {
        for slot in 0..SLOTS {
            let id = self.memory.slot_id(slot);
            if id != 0 {
                self.let_go(id);
                self.memory.clear_slot(slot);
            }
        }
    }

    fn receive_and_answer(&self) {
        // The last slot is the keeper's own: supervisors do not use it.
        let slot = SLOTS - 1;
        if notify::receive(self.listener(), self.memory.slot_ptr(slot)).is_ok() {
            self.let_go(self.memory.slot_id(slot));
            self.memory.clear_slot(slot);
        }
    }

    fn let_go(&self, id: u64) {
        while notify::let_go(self.listener(), id) == Err(Errno::EINTR) {}
        self.memory.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// The listener, or something that never has anything to say.
    fn listener(&self) -> BorrowedFd<'_> {
        self.listener.as_ref().map_or(self.wake.as_fd(), |listener| listener.as_fd())
    }

    /// Takes a copy of the listener from the target, which keeps one open for good.
    fn fetch_listener(&mut self) {
        let number = self.memory.target_listener.load(Ordering::SeqCst);
        let direct = (number >= 0).then(|| super::find::listener_at(&self.target, number)).flatten();
        self.listener = direct.or_else(|| super::find::target_listener(&self.target).map(|(fd, _)| fd));
        let number = self.listener.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        self.memory.keeper_listener.store(number, Ordering::SeqCst);
    }

    /// Waits for anything to happen, and sees to the twin. Of the listener only the end is waited for unless `calls`.
    fn wait(&mut self, limit: Duration, calls: bool) -> Woken {
        let on_listener = if calls { PollFlags::POLLIN } else { PollFlags::empty() };
        let supervisor = self.supervisor.as_ref().map_or(self.wake.as_fd(), |(fd, _)| fd.as_fd());
        let mut fds = [
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(supervisor, PollFlags::POLLIN),
            PollFd::new(self.twin.pidfd().unwrap_or(self.wake.as_fd()), PollFlags::POLLIN),
            PollFd::new(self.listener(), if self.listener.is_some() { on_listener } else { PollFlags::empty() }),
        ];
        let _ = poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO));
        let [by_wake, _, by_twin, on_listener] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let woken = Woken {
            by_wake: by_wake.contains(PollFlags::POLLIN),
            by_listener: self.listener.is_some() && on_listener.contains(PollFlags::POLLIN),
            target_gone: match &self.listener {
                Some(_) => on_listener.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL),
                None => !self.target.is_alive(),
            },
        };
        if woken.by_wake {
            let _ = self.wake.read();
        }
        if !self.twin.is_there() || by_twin.contains(PollFlags::POLLIN) {
            self.renew_twin();
        }
        woken
    }

    /// Starts a twin where there is none. The twin comes back from here when it is to act, in the place of this one.
    pub fn renew_twin(&mut self) {
        if self.twin.renew() {
            // This is the twin, and the one it watched has ended.
            self.memory.keeper.store(std::process::id() as i32, Ordering::SeqCst);
            self.open_supervisor();
            if Control::load(&self.memory.control).role != Role::Attaching {
                low::hurry();
            }
        }
    }

    /// The supervisor that the shared memory names. If its number belongs to another process by now, the lease finds
    /// that out.
    pub fn open_supervisor(&mut self) {
        let generation = Control::load(&self.memory.control).generation;
        let supervisor = pidfd::open(self.memory.supervisor.load(Ordering::SeqCst));
        self.supervisor = supervisor.ok().map(|supervisor| (supervisor, generation));
    }

    fn supervisor_gone(&self) -> bool {
        self.supervisor.as_ref().is_none_or(|(fd, _)| readable(fd.as_fd()))
    }
}

/// Whether a pidfd's process has ended.
pub(super) fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
}
