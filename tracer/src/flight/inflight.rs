//! Which calls are on their way, and the proof that one has finished: grace.
//!
//! A notification comes before its call runs, and nobody reports the end of it. But a thread does one call at a
//! time, so each of these proves that a call which was let go is over:
//!
//! 1. the same thread's next notification;
//! 2. the thread sleeping in another call, or in none (/proc/TID/syscall);
//! 3. the thread's end;
//! 4. the thread stopped by ptrace: it stops on its way out of the kernel, or outside of it. This is only for a
//!    thread that stays on a processor, and never for one whose notification is held, which would not stop until
//!    answered;
//! 5. the thread waiting at a FIFO, in a call that opens it (/proc/TID/wchan): the call changes nothing any more;
//! 6. the thread found stopped, by job control or another's ptrace, for the same reason: /proc still shows the call that it
//!    was on its way out of. (ptrace also stops a thread on its way *into* a call. That is then its next one, which the filter
//!    is still to see; only for a call from before the filter it proves nothing.)
//!
//! A call moves through these states:
//!
//! ```text
//!   Received --admitting--> Admitting --answered--> LetGo --(1..6)--> gone
//!                               |                     ^
//!                               +--held--> Parked ----+
//! ```
//!
//! What grace waits for: `LetGo`, and `Admitting`, which is from before the call is decoded to its answer. Not
//! `Received`: it waits to be decoded, and its marks come after whatever the caller of grace took. Not `Parked`: it has
//! not run.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hotbackup_event::FileId;

use crate::sys::notify::CallData;
use crate::target::process::{Process, ThreadState, read_below};

/// Where a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Received,
    Admitting,
    Parked,
    LetGo,
    /// Of a thread that was there before the filter: it may be in a call that nobody saw.
    BeforeFilter,
}

/// A thread's last call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub tid: i32,
    pub serial: u64,
    pub state: State,
    pub data: CallData,
    /// The file whose position this call reads or moves.
    pub positions: Option<FileId>,
}

impl Call {
    /// It was received, and has not been let go.
    pub fn is_held(&self) -> bool {
        matches!(self.state, State::Received | State::Admitting | State::Parked)
    }
}

/// What is known of a call now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is over, or has not run and will not before it is admitted.
    Settled,
    /// It is still in the kernel.
    InCall,
    /// Its thread is on a processor: it cannot be told from outside.
    Running,
}

#[derive(Default)]
pub(crate) struct InFlight {
    calls: Mutex<HashMap<i32, Call>>,
    serial: AtomicU64,
    /// The backup is given up: nothing depends on grace any more, and it is not to wait for a call that may never end.
    given_up: AtomicBool,
}

impl InFlight {
    /// A thread's call was received; its previous one is over by that.
    pub fn begin(&self, tid: i32, data: CallData) -> u64 {
        let serial = self.serial.fetch_add(1, Ordering::SeqCst) + 1;
        self.lock().insert(tid, Call { tid, serial, state: State::Received, data, positions: None });
        serial
    }

    /// A thread that may be in a call from before the filter.
    pub fn begin_unseen(&self, tid: i32) {
        let serial = self.serial.fetch_add(1, Ordering::SeqCst) + 1;
        let call = Call { tid, serial, state: State::BeforeFilter, data: CallData::default(), positions: None };
        self.lock().entry(tid).or_insert(call);
    }

    /// Moves a call on; one that was replaced by the thread's next is left alone.
    pub fn set_state(&self, tid: i32, serial: u64, state: State) {
        self.update(tid, serial, |call| call.state = state);
    }

    /// From `Admitting` to `Parked`, unless it was answered meanwhile.
    pub fn park_unless_answered(&self, tid: i32, serial: u64) {
        self.update(tid, serial, |call| {
            if call.state == State::Admitting {
                call.state = State::Parked;
            }
        });
    }

    /// The backup is given up, and whoever took it has been told: every call that was held or is being looked at is about to
    /// be answered, whoever has it, and no grace waits from here on.
    pub fn give_up(&self) {
        self.given_up.store(true, Ordering::SeqCst);
        for call in self.lock().values_mut() {
            if call.is_held() {
                call.state = State::LetGo;
            }
        }
    }

    /// Notes that a call reads or moves the position of a file.
    pub fn set_positions(&self, tid: i32, serial: u64, file: FileId) {
        self.update(tid, serial, |call| call.positions = Some(file));
    }

    /// The calls that are not known to be over, those before their admission aside.
    pub fn pending(&self) -> Vec<Call> {
        let waits = |call: &&Call| matches!(call.state, State::Admitting | State::LetGo | State::BeforeFilter);
        self.lock().values().filter(waits).copied().collect()
    }

    /// The other threads' calls that read or move the position of `file`, in whatever state, and those of which nothing
    /// is known because they began before the filter.
    pub fn at_position_of(&self, file: FileId, except: i32) -> Vec<Call> {
        let may = |call: &&Call| call.positions == Some(file) || call.state == State::BeforeFilter;
        self.lock().values().filter(|call| call.tid != except).filter(may).copied().collect()
    }

    /// Whether a call that moves the position of `file` was received and has not been let go.
    pub fn is_held_at(&self, file: FileId) -> bool {
        self.lock().values().any(|call| call.positions == Some(file) && call.is_held())
    }

    /// Whether `call` is over; if so it is forgotten.
    pub fn judge(&self, process: &Process, call: &Call) -> Verdict {
        if self.given_up.load(Ordering::SeqCst) {
            return Verdict::Settled;
        }
        match self.now(call) {
            None | Some(State::Parked | State::Received) => return Verdict::Settled,
            Some(State::Admitting) => return Verdict::InCall,
            Some(State::LetGo | State::BeforeFilter) => {}
        }
        let verdict = match process.thread_state(call.tid) {
            ThreadState::Gone | ThreadState::Stopped => Verdict::Settled,
            ThreadState::Running => Verdict::Running,
            ThreadState::Sleeping { nr, args } => self.judge_sleeper(process, call, nr, args),
        };
        if verdict == Verdict::Settled {
            self.forget(call);
        }
        verdict
    }

    fn judge_sleeper(&self, process: &Process, call: &Call, nr: i64, args: [u64; 6]) -> Verdict {
        let over = if call.state == State::BeforeFilter {
            !changes_a_file(process, call.tid, nr, args)
        } else {
            // The same call with the same arguments may be the next one, waiting for us: that one will be received.
            nr != i64::from(call.data.nr) || args != call.data.args
        };
        let over = over || is_stopped(process, call) || waits_at_fifo(process, call.tid, nr);
        if over { Verdict::Settled } else { Verdict::InCall }
    }

    /// A call turned out to change nothing: whether it is over does not matter.
    pub fn disregard(&self, tid: i32, serial: u64) {
        let mut calls = self.lock();
        if calls.get(&tid).is_some_and(|now| now.serial == serial) {
            calls.remove(&tid);
        }
    }

    /// A call was seen to be over.
    pub fn forget(&self, call: &Call) {
        self.disregard(call.tid, call.serial);
    }

    /// A thread's last call, if it has not been let go.
    pub fn waiting(&self, tid: i32) -> Option<u64> {
        self.lock().get(&tid).filter(|call| call.is_held()).map(|call| call.serial)
    }

    /// The state of exactly this call now; `None` when its thread has come to another.
    pub fn now(&self, call: &Call) -> Option<State> {
        self.lock().get(&call.tid).filter(|now| now.serial == call.serial).map(|now| now.state)
    }

    fn update(&self, tid: i32, serial: u64, change: impl FnOnce(&mut Call)) {
        if let Some(call) = self.lock().get_mut(&tid).filter(|call| call.serial == serial) {
            change(call);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Call>> {
        self.calls.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// Whether a thread is stopped in a way that proves its call to be over.
fn is_stopped(process: &Process, call: &Call) -> bool {
    const BY_JOB_CONTROL: char = 'T';
    const BY_PTRACE: char = 't';
    match process.status(call.tid).and_then(|status| status.state()) {
        Some(BY_JOB_CONTROL) => true,
        Some(BY_PTRACE) => call.state != State::BeforeFilter,
        _ => false,
    }
}

/// Whether a thread asleep in call `nr` waits for somebody to open the other end of a FIFO, which may take for ever. It has
/// found the FIFO by then, so there is nothing for it to make or to cut (`fifo_open`; `wait_for_partner` may be inlined).
fn waits_at_fifo(process: &Process, tid: i32, nr: i64) -> bool {
    let opens = matches!(nr, libc::SYS_open | libc::SYS_openat | libc::SYS_openat2 | libc::SYS_creat);
    let sleeps_in = || read_below(process.proc(), &format!("{tid}/wchan")).unwrap_or_default();
    opens && matches!(&*sleeps_in(), "wait_for_partner" | "fifo_open")
}

/// Whether a thread asleep in call `nr` since before the filter may still change a file: a write to a pipe or a
/// socket may sleep for ever, and changes none.
pub(crate) fn changes_a_file(process: &Process, tid: i32, nr: i64, args: [u64; 6]) -> bool {
    use crate::calls::{Decode, ioctls, row};
    let Some(row) = row(nr) else { return false };
    let opens = |flags: u64| flags & (libc::O_CREAT | libc::O_TRUNC) as u64 != 0;
    match (row.decode, nr) {
        (Decode::Path(_), libc::SYS_open) => opens(args[1]),
        (Decode::Path(_), libc::SYS_openat) => opens(args[2]),
        (Decode::Path(_), libc::SYS_ioctl) => ioctls::is_of_interest(args[1]),
        (Decode::Path(_), _) => true,
        // What they concern is told by an address, or not at all; none of them waits for long.
        (_, libc::SYS_mmap | libc::SYS_mprotect | libc::SYS_pkey_mprotect | libc::SYS_io_submit) => true,
        (_, libc::SYS_io_uring_setup) => true,
        // Shown for the table of descriptors alone; a wait for a lock may be long.
        (_, libc::SYS_fcntl | libc::SYS_unshare | libc::SYS_clone | libc::SYS_clone3 | libc::SYS_vfork) => false,
        (Decode::Descriptor(_), libc::SYS_copy_file_range | libc::SYS_splice) => is_file(process, tid, args[2]),
        (Decode::Descriptor(_), _) => is_file(process, tid, args[0]),
    }
}

/// In the thread's own table. One that cannot be looked at any more, because another thread has closed it, may have been one.
fn is_file(process: &Process, tid: i32, fd: u64) -> bool {
    process.descriptor_identity(tid, fd as i32).map_or(true, |identity| identity.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(nr: i64) -> CallData {
        CallData { nr: nr as i32, ..CallData::default() }
    }

    /// A call that is being looked at, and so is waited for.
    fn being_admitted() -> (Process, InFlight, Call) {
        let process = Process::open(std::process::id() as i32).unwrap();
        let inflight = InFlight::default();
        let serial = inflight.begin(7, data(1));
        inflight.set_state(7, serial, State::Admitting);
        let call = inflight.pending()[0];
        assert_eq!(inflight.judge(&process, &call), Verdict::InCall);
        (process, inflight, call)
    }

    #[test]
    fn a_threads_next_call_settles_its_last() {
        let (process, inflight, call) = being_admitted();
        inflight.begin(7, data(1));
        assert_eq!(inflight.judge(&process, &call), Verdict::Settled);
    }

    #[test]
    fn nothing_is_waited_for_once_the_backup_is_given_up() {
        let (process, inflight, call) = being_admitted();
        inflight.give_up();
        assert_eq!(inflight.now(&call), Some(State::LetGo));
        assert_eq!(inflight.judge(&process, &call), Verdict::Settled);
    }

    #[test]
    fn what_is_held_or_not_yet_admitted_is_not_waited_for() {
        let inflight = InFlight::default();
        let serial = inflight.begin(7, data(1));
        assert!(inflight.pending().is_empty());
        inflight.set_state(7, serial, State::Admitting);
        inflight.park_unless_answered(7, serial);
        assert!(inflight.pending().is_empty());
        inflight.set_state(7, serial, State::LetGo);
        assert_eq!(inflight.pending().len(), 1);
        inflight.park_unless_answered(7, serial);
        assert_eq!(inflight.pending().len(), 1);
    }

    /// Under one number the thread has a file, and the process a device; and the other way round.
    #[test]
    fn a_call_from_before_the_filter_is_judged_by_the_threads_own_descriptors() {
        use nix::fcntl::{FcntlArg, fcntl};
        use nix::sched::{CloneFlags, unshare};
        use std::sync::mpsc::channel;

        const NUMBER: i32 = 900;
        let process = Process::open(std::process::id() as i32).unwrap();
        let (tell, told) = channel();
        let (end, ended) = channel::<()>();
        let at = |fd: &std::fs::File| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(NUMBER)).unwrap();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_FILES).unwrap();
            let (file, device) = (tempfile::tempfile().unwrap(), std::fs::File::open("/dev/null").unwrap());
            tell.send((nix::unistd::gettid().as_raw(), [at(&file), at(&device)])).unwrap();
            let _ = ended.recv();
        });
        let (tid, [of_file, of_device]) = told.recv().unwrap();
        let (file, device) = (tempfile::tempfile().unwrap(), std::fs::File::open("/dev/null").unwrap());
        assert_eq!([at(&device), at(&file)], [of_file, of_device], "the numbers are the same in both tables");
        let writes = |tid, fd| changes_a_file(&process, tid, libc::SYS_write, [fd as u64, 0, 0, 0, 0, 0]);
        assert_eq!([writes(tid, of_file), writes(tid, of_device)], [true, false], "the thread's own");
        assert_eq!([writes(process.pid(), of_file), writes(process.pid(), of_device)], [false, true]);
        let waits = [of_file as u64, libc::F_OFD_SETLKW as u64, 0, 0, 0, 0];
        assert!(!changes_a_file(&process, tid, libc::SYS_fcntl, waits), "a wait for a lock");
        drop(end);
        thread.join().unwrap();
    }
}
