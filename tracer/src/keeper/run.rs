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

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::twin::{Twin, wait_for_end};
use super::{LOOK, LOOKS, before};
use crate::shared::board::Mode;
use crate::shared::control::{Control, Role};
use crate::shared::memory::{CLOSED, Memory, SLOTS, SUPERVISOR_SLOTS, UNARMED};
use crate::shared::roles::{Held, Part};
use crate::sys::{pidfd, process as low};
use crate::target::process::Process;

/// How often a filter that was being installed is looked for.
const WATCH_ATTACH: Duration = Duration::from_millis(100);
/// How long the supervisor may take to answer once there is a filter.
const ATTACH_LEASE: Duration = Duration::from_millis(500);
/// How often it is looked for when its supervisor is gone.
const WATCH_GONE: Duration = Duration::from_millis(10);

pub(super) struct Keeper {
    pub target: Process,
    pub memory: Memory,
    pub wake: OwnedFd,
    pub listener: Option<OwnedFd>,
    /// By which the listener is handed on to one that was born from the target.
    pub socket: Option<OwnedFd>,
    /// The supervisor that is watched.
    pub(super) supervisor: Option<Watched>,
    /// That we are the keeper which acts, or its twin.
    part: Option<Held>,
    pub(super) twin: Twin,
    /// Looks without progress of the supervisor.
    idle_looks: u32,
    /// Since when there has been a filter that nobody answers for yet.
    found: Option<Instant>,
    /// The slot for calls that the keeper receives itself. A twin uses another than the keeper it follows, in case that
    /// one is slow to die.
    pub(super) own_slot: usize,
    /// Nobody is left at the other end of the socket.
    is_alone: bool,
    /// It took another keeper's place: that one may have received a call and not answered it.
    inherited: bool,
    twin_looked_at: Instant,
}

/// A supervisor. That it lives, its lock on the session's memory says; its pidfd tells of its end sooner, where it counts
/// processes as we do.
pub(super) struct Watched {
    generation: u32,
    pub(super) pidfd: Option<OwnedFd>,
}

/// What poll(2) found.
struct Woken {
    by_wake: bool,
    by_listener: bool,
    /// The last process with the filter is gone.
    target_gone: bool,
}

impl Keeper {
    pub fn new(target: Process, memory: Memory, wake: OwnedFd, part: Held) -> Self {
        Self {
            target,
            memory,
            wake,
            listener: None,
            socket: None,
            supervisor: None,
            part: Some(part),
            twin: Twin::default(),
            idle_looks: 0,
            found: None,
            own_slot: SLOTS - 1,
            is_alone: false,
            inherited: false,
            twin_looked_at: Instant::now(),
        }
    }

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
        if Control::load(&self.memory.control) != control {
            return true; // another supervisor, or all is done
        }
        self.watch_supervisor(control);
        self.memory.watched.store(control.generation, Ordering::SeqCst);
        let gone = self.supervisor_gone();
        if gone {
            // Its pidfd is readable from now on, and poll(2) would not wait.
            std::thread::sleep(WATCH_GONE);
        }
        if self.memory.armed.load(Ordering::SeqCst) == UNARMED {
            // Nothing was begun, or it is proven that it came to nothing. And nothing must begin once we are gone.
            let closed =
                gone && self.memory.armed.compare_exchange(UNARMED, CLOSED, Ordering::SeqCst, Ordering::SeqCst).is_ok();
            return !closed;
        }
        // A filter may come at any time, even late: a thread may be frozen on its way to it. And if the supervisor
        // hangs with a filter installed, the target must not wait for it.
        if !self.find_listener() {
            self.found = None;
            return true;
        }
        let found = self.found.get_or_insert_with(Instant::now);
        (!gone && found.elapsed() < ATTACH_LEASE) || self.take_over(control)
    }

    /// The supervisor answers: watch it.
    fn watch(&mut self, control: Control) -> bool {
        if self.listener.is_none() {
            self.fetch_listener();
            // A twin that was made by that goes on here when it comes to act.
            if Control::load(&self.memory.control) != control {
                return true;
            }
        }
        self.watch_supervisor(control);
        self.settle_before(control);
        self.memory.watched.store(control.generation, Ordering::SeqCst);
        failpoint::hit("keeper.watching");
        let mut beat = self.memory.beat.load(Ordering::SeqCst);
        self.idle_looks = 0;
        while Control::load(&self.memory.control) == control {
            let (look, looks) = self.supervisor_look();
            let woken = self.wait(look, false);
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
                if self.idle_looks >= looks {
                    return self.take_over(control);
                }
            }
        }
        true
    }

    /// How often the supervisor is looked at, and after how many looks without progress its lease is over.
    fn supervisor_look(&self) -> (Duration, u32) {
        let holding = self.memory.holding.load(Ordering::SeqCst) != 0;
        let lease = if holding { &self.memory.hold_lease_ms } else { &self.memory.lease_ms };
        let lease = Duration::from_millis(u64::from(lease.load(Ordering::SeqCst)));
        let look = (lease / LOOKS).clamp(Duration::from_millis(1), LOOK);
        (look, LOOKS.max((lease.as_nanos() / look.as_nanos()) as u32))
    }

    fn take_over(&mut self, control: Control) -> bool {
        if control.change(&self.memory.control, control.with(Role::Kept)) {
            failpoint::hit("keeper.took-over");
        }
        true
    }

    /// Nobody else answers: do it.
    fn answer(&mut self, control: Control) -> bool {
        self.memory.holding.store(0, Ordering::SeqCst);
        if self.listener.is_none() {
            self.fetch_listener();
        }
        if self.listener.is_none() {
            return !self.wait(Duration::from_millis(1), false).target_gone;
        }
        // A twin that was made by that goes on here when it comes to act: perhaps beside a supervisor, whose calls it must not answer.
        if Control::load(&self.memory.control) != control {
            return true;
        }
        // Nobody takes marks any more. One later than us has the last word.
        self.memory.set_mode(control, Mode::Direct);
        self.answer_slots();
        self.memory.kept.store(control.generation, Ordering::SeqCst);
        let mut slots_looked_at = Instant::now();
        while Control::load(&self.memory.control) == control {
            let revoked_lives = self.supervisor.is_some();
            let woken = self.wait(LOOK, true);
            // A twin comes back from there, in another one's place and perhaps much later.
            if Control::load(&self.memory.control) != control {
                break;
            }
            if std::mem::take(&mut self.inherited) {
                self.answer_slots();
            }
            if woken.by_listener {
                self.receive_and_answer();
            }
            if woken.target_gone {
                return false;
            }
            if revoked_lives {
                // A revoked supervisor may receive one more call before it finds out, and die with it.
                let gone = self.supervisor_gone();
                if gone || !woken.by_listener || slots_looked_at.elapsed() >= LOOK {
                    slots_looked_at = Instant::now();
                    self.answer_slots();
                }
                if gone {
                    self.supervisor = None;
                }
            }
        }
        true
    }

    /// Waits for anything to happen, and sees to the twin. Of the listener only the end is waited for unless `calls`.
    fn wait(&mut self, limit: Duration, calls: bool) -> Woken {
        self.memory.keeper_beat.fetch_add(1, Ordering::SeqCst);
        // First: until there is a twin, nobody would take our place.
        if !self.twin.is_there() || self.twin.pidfd().is_some_and(readable) {
            self.renew_twin();
        } else if self.twin_looked_at.elapsed() >= LOOK {
            self.twin_looked_at = Instant::now();
            self.twin.look(&self.memory);
            before::go_on(&self.target, &self.memory);
        }
        let limit = limit.min(LOOK);
        let on_listener = if calls { PollFlags::POLLIN } else { PollFlags::empty() };
        let supervisor =
            self.supervisor.as_ref().and_then(|watched| watched.pidfd.as_ref()).unwrap_or(&self.wake).as_fd();
        // Until the listener has come by it.
        let socket = self.socket.as_ref().filter(|_| self.listener.is_none() && !self.is_alone).unwrap_or(&self.wake);
        let mut fds = [
            PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
            PollFd::new(supervisor, PollFlags::POLLIN),
            PollFd::new(self.twin.pidfd().unwrap_or(self.wake.as_fd()), PollFlags::POLLIN),
            PollFd::new(socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.listener(), if self.listener.is_some() { on_listener } else { PollFlags::empty() }),
        ];
        let _ = poll(&mut fds, PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO));
        let [by_wake, _, _, on_socket, on_listener] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
        let woken = Woken {
            by_wake: (by_wake | on_socket).contains(PollFlags::POLLIN),
            by_listener: self.listener.is_some() && on_listener.contains(PollFlags::POLLIN),
            target_gone: match &self.listener {
                Some(_) => on_listener.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL),
                None => !self.target.is_alive(),
            },
        };
        // The target has closed its end, by executing another program for one: nothing more comes, and nothing is waited for.
        self.is_alone |= self.listener.is_none() && on_socket.contains(PollFlags::POLLHUP);
        if self.listener.is_none() && on_socket.contains(PollFlags::POLLIN) {
            self.listener = self.handed_on();
            self.listener_is_there();
        }
        if by_wake.contains(PollFlags::POLLIN) {
            let _ = nix::unistd::read(&self.wake, &mut [0; 8]);
        }
        woken
    }

    /// Starts a twin where there is none. The twin comes back from here when it is to act, in the place of this one.
    pub fn renew_twin(&mut self) {
        if self.twin.renew(&self.memory, &mut self.part) {
            self.own_slot = if self.own_slot == SLOTS - 1 { SUPERVISOR_SLOTS } else { SLOTS - 1 };
            // This is the twin, and the one it watched has ended, perhaps with a call in its hand: from before a supervisor
            // took over, or else the supervisor would not have begun.
            self.inherited = true;
            if self.listener.is_none() {
                self.fetch_listener();
            }
            self.answer_each((SUPERVISOR_SLOTS..SLOTS).map(|slot| self.memory.slot(slot)));
            self.memory.keeper.store(std::process::id() as i32, Ordering::SeqCst);
            // What it inherited may be another's by now.
            self.supervisor = None;
            let control = Control::load(&self.memory.control);
            self.watch_supervisor(control);
            if control.role != Role::Attaching {
                low::hurry();
            }
        }
    }

    /// Watches the supervisor of this generation.
    pub fn watch_supervisor(&mut self, control: Control) {
        if self.supervisor.as_ref().is_none_or(|watched| watched.generation != control.generation) {
            let pidfd = self.memory.supervisor_here().and_then(|pid| pidfd::open(pid).ok());
            self.supervisor = Some(Watched { generation: control.generation, pidfd });
        }
    }

    fn supervisor_gone(&self) -> bool {
        let Some(watched) = &self.supervisor else { return true };
        watched.pidfd.as_ref().is_some_and(|pidfd| readable(pidfd.as_fd())) || !self.memory.lives(Part::Supervisor)
    }
}

/// Whether a pidfd's process has ended.
fn readable(fd: BorrowedFd<'_>) -> bool {
    wait_for_end(fd, PollTimeout::ZERO)
}
