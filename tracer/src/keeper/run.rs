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

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::signal::Signal;

use super::state::{Control, Role};
use crate::process::Process;
use crate::sys::mapping::{Mapping, SLOTS};
use crate::sys::{notify, pidfd, process as low};

/// How often a supervisor's progress is looked at.
const WATCH: Duration = Duration::from_millis(200);
/// Looks without progress after which the supervisor counts as hung: about a second.
const LEASE_LOOKS: u32 = 5;
/// How long after the supervisor's death a filter that was being installed is looked for.
const SEARCH: Duration = Duration::from_secs(60);

/// The keeper's whole life; the arguments are those after the subcommand: `PID START`.
///
/// Standard input is the shared memory, standard output a pipe on which one byte says that the keeper is ready.
/// Returns the process's exit code.
pub fn main(arguments: &[String]) -> i32 {
    match prepare(arguments) {
        Ok(mut keeper) => {
            keeper.run();
            0
        }
        Err(problem) => {
            eprintln!("hotbackup keeper: {problem}");
            1
        }
    }
}

struct Keeper {
    target: Process,
    memory: Mapping,
    wake: EventFd,
    listener: Option<OwnedFd>,
    /// Looks at a supervisor that is attaching.
    attach_looks: u32,
    /// The supervisor that is watched, with its generation.
    supervisor: Option<(OwnedFd, u32)>,
}

fn prepare(arguments: &[String]) -> Result<Keeper, String> {
    let [pid, start] = arguments else { return Err("it is started by hotbackup alone".into()) };
    let pid: i32 = pid.parse().map_err(|_| "bad pid")?;
    let _ = nix::unistd::setsid();
    low::set_name(super::NAME);
    // Stopping a service signals its whole cgroup, and mongod still writes while it shuts down.
    for ignored in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGPIPE,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        low::ignore_signal(ignored);
    }
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let memory = Mapping::open(input).map_err(|errno| format!("no shared memory on its standard input: {errno}"))?;
    let target = Process::open(pid).map_err(|error| error.to_string())?;
    if target.start().to_string() != *start {
        return Err(format!("process {pid} is another one now"));
    }
    let supervisor = memory.supervisor.load(Ordering::SeqCst);
    let generation = Control::load(&memory.control).generation;
    let supervisor = pidfd::open(supervisor).map_err(|errno| format!("its supervisor is gone: {errno}"))?;
    let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)
        .map_err(|errno| errno.to_string())?;
    let _ = std::env::set_current_dir("/");
    // Without the right to lock memory it may be paged out, which makes an answer late, not wrong.
    let _ = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
    nix::unistd::write(std::io::stdout(), b"k").map_err(|errno| errno.to_string())?;
    low::replace_stdout(wake.as_fd()).map_err(|errno| errno.to_string())?;
    memory.watched.store(generation, Ordering::SeqCst);
    Ok(Keeper { target, memory, wake, listener: None, attach_looks: 0, supervisor: Some((supervisor, generation)) })
}

impl Keeper {
    fn run(&mut self) {
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
                return;
            }
        }
    }

    /// The supervisor installs the filter, or dies at it. Afterwards a listener may stand among the target's
    /// descriptors that nobody else knows of.
    fn wait_for_filter(&mut self, control: Control) -> bool {
        if self.wait(WATCH) {
            return true;
        }
        if !self.supervisor_gone() {
            return self.watch_attach(control);
        }
        if self.memory.armed.load(Ordering::SeqCst) == 0 {
            return false; // nothing was begun
        }
        let limit = Instant::now() + SEARCH;
        while Instant::now() < limit && self.target.is_alive() {
            self.listener = super::find::target_listener(&self.target).map(|(fd, _)| fd);
            if self.listener.is_some() {
                return self.take_over(control);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// The supervisor lives: if it hangs with a filter installed, the target must not wait for it.
    fn watch_attach(&mut self, control: Control) -> bool {
        let armed = self.memory.armed.load(Ordering::SeqCst) != 0;
        self.attach_looks = if armed { self.attach_looks + 1 } else { 0 };
        if self.attach_looks >= LEASE_LOOKS {
            self.listener = super::find::target_listener(&self.target).map(|(fd, _)| fd);
            if self.listener.is_some() {
                return self.take_over(control);
            }
        }
        true
    }

    /// The supervisor answers: watch it.
    fn watch(&mut self, control: Control) -> bool {
        if self.listener.is_none() {
            self.fetch_listener();
        }
        if self.supervisor.as_ref().is_none_or(|(_, generation)| *generation != control.generation) {
            match pidfd::open(self.memory.supervisor.load(Ordering::SeqCst)) {
                Ok(supervisor) => self.supervisor = Some((supervisor, control.generation)),
                Err(_) => return self.take_over(control),
            }
            self.memory.watched.store(control.generation, Ordering::SeqCst);
        }
        let mut beat = self.memory.beat.load(Ordering::SeqCst);
        let mut idle_looks = 0;
        while Control::load(&self.memory.control) == control {
            let woken = self.wait(WATCH);
            if self.target_gone() {
                return false;
            }
            if self.supervisor_gone() {
                return self.take_over(control);
            }
            let now = self.memory.beat.load(Ordering::SeqCst);
            if now != beat {
                (beat, idle_looks) = (now, 0);
            } else if !woken {
                idle_looks += 1;
                if idle_looks >= LEASE_LOOKS {
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
        if self.listener.is_none() {
            self.fetch_listener();
        }
        let Some(listener) = self.listener.as_ref() else { return self.target.is_alive() };
        let listener = listener.as_fd();
        self.answer_slots(listener);
        while Control::load(&self.memory.control) == control {
            let revoked_alive = self.supervisor.is_some() && !self.supervisor_gone();
            let timeout = if revoked_alive { WATCH.as_millis() as u16 } else { 10_000 };
            let mut fds = [
                PollFd::new(listener, PollFlags::POLLIN),
                PollFd::new(self.wake.as_fd(), PollFlags::POLLIN),
                PollFd::new(
                    self.supervisor.as_ref().map_or(self.wake.as_fd(), |(fd, _)| fd.as_fd()),
                    PollFlags::POLLIN,
                ),
            ];
            let _ = poll(&mut fds, PollTimeout::from(timeout));
            let [on_listener, on_wake, on_supervisor] = fds.map(|fd| fd.revents().unwrap_or(PollFlags::empty()));
            if on_listener.contains(PollFlags::POLLIN) {
                self.receive_and_answer(listener);
            }
            if on_listener.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL) {
                return false; // the last process with the filter is gone
            }
            if on_wake.contains(PollFlags::POLLIN) {
                let _ = self.wake.read();
            }
            if revoked_alive {
                self.answer_slots(listener);
            }
            if self.supervisor.is_some() && on_supervisor.contains(PollFlags::POLLIN) && self.supervisor_gone() {
                self.answer_slots(listener);
                self.supervisor = None;
            }
        }
        true
    }

    /// Answers every recorded call.
    fn answer_slots(&self, listener: BorrowedFd<'_>) {
        for slot in 0..SLOTS {
            let id = self.memory.slot_id(slot);
            if id != 0 {
                self.let_go(listener, id);
                self.memory.clear_slot(slot);
            }
        }
    }

    fn receive_and_answer(&self, listener: BorrowedFd<'_>) {
        // The last slot is the keeper's own: supervisors do not use it.
        let slot = SLOTS - 1;
        if notify::receive(listener, self.memory.slot_ptr(slot)).is_ok() {
            self.let_go(listener, self.memory.slot_id(slot));
            self.memory.clear_slot(slot);
        }
    }

    fn let_go(&self, listener: BorrowedFd<'_>, id: u64) {
        while notify::let_go(listener, id) == Err(Errno::EINTR) {}
        self.memory.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a copy of the listener from the target, which keeps one open for good.
    fn fetch_listener(&mut self) {
        let number = self.memory.target_listener.load(Ordering::SeqCst);
        let direct = (number >= 0).then(|| super::find::listener_at(&self.target, number)).flatten();
        self.listener = direct.or_else(|| super::find::target_listener(&self.target).map(|(fd, _)| fd));
        let number = self.listener.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        self.memory.keeper_listener.store(number, Ordering::SeqCst);
    }

    /// Waits for the wake-up or the supervisor's end; whether it was woken.
    fn wait(&self, limit: Duration) -> bool {
        let mut fds = vec_of_two(self.wake.as_fd(), self.supervisor.as_ref().map(|(fd, _)| fd.as_fd()));
        let _ = poll(&mut fds, PollTimeout::from(limit.as_millis() as u16));
        let woken = fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN));
        if woken {
            let _ = self.wake.read();
        }
        woken
    }

    fn supervisor_gone(&self) -> bool {
        self.supervisor.as_ref().is_none_or(|(fd, _)| readable(fd.as_fd()))
    }

    /// The target and all its children that carry the filter are gone.
    fn target_gone(&self) -> bool {
        match &self.listener {
            Some(listener) => {
                let mut fds = [PollFd::new(listener.as_fd(), PollFlags::empty())];
                let _ = poll(&mut fds, PollTimeout::ZERO);
                fds[0].revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR))
            }
            None => !self.target.is_alive(),
        }
    }
}

/// The two descriptors to wait for; the first one twice when there is no second.
fn vec_of_two<'a>(first: BorrowedFd<'a>, second: Option<BorrowedFd<'a>>) -> [PollFd<'a>; 2] {
    [PollFd::new(first, PollFlags::POLLIN), PollFd::new(second.unwrap_or(first), PollFlags::POLLIN)]
}

fn readable(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(n) if n > 0)
}
