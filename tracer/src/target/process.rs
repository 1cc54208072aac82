//! The target process as /proc shows it.
//!
//! Everything is reached through one open directory of procfs, so that a thread of ours may change its root and
//! still find it, and the process itself is held by a pidfd: its number may be reused, the pidfd may not.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use hotbackup_event::look::{Lack, LookError};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, readlinkat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use crate::error::Error;
use crate::shared::memory::Target;
use crate::sys::{pidfd, procfs, stat};

/// What a thread is doing at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThreadState {
    /// Asleep in a system call.
    Sleeping {
        /// The call's number.
        nr: i64,
        /// Its arguments.
        args: [u64; 6],
    },
    /// On a processor, or about to be: in a call or not, nobody can tell from outside.
    Running,
    /// Asleep or stopped, but not in a system call.
    Stopped,
    /// It ended.
    Gone,
}

/// Where a thread stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Registers {
    /// Its instruction pointer.
    pub ip: u64,
    /// Its stack pointer.
    pub sp: u64,
}

/// What /proc/TID/status said.
pub struct Status(String);

impl Status {
    /// One of its fields.
    pub fn field(&self, field: &str) -> Option<&str> {
        self.0.lines().find_map(|line| Some(line.strip_prefix(field)?.strip_prefix(':')?.trim()))
    }

    /// What the thread is doing, by the letter of proc_pid_stat(5).
    pub fn state(&self) -> Option<char> {
        self.field("State")?.chars().next()
    }

    /// Whether it has ended, and nobody has asked for its end yet.
    pub fn is_dead(&self) -> bool {
        matches!(self.state(), None | Some('Z' | 'X'))
    }
}

/// A process by its number, held so that it cannot turn into another one.
pub struct Process {
    pid: i32,
    start: u64,
    pidfd: OwnedFd,
    proc: OwnedFd,
    /// The errno of a look that failed, and says nothing about what is there.
    missed: AtomicI32,
    /// Asked where an attach waits.
    given_up: OnceLock<GivenUp>,
    attached: AtomicBool,
    /// It was seen to hold a listener.
    held_listener: AtomicBool,
}

/// Whether whoever wanted something of the process wants it no more.
pub type GivenUp = Box<dyn Fn() -> bool + Send + Sync>;

impl Process {
    /// Finds the process `pid`.
    ///
    /// # Errors
    /// [`Error::NoSuchProcess`]; [`Error::Os`] when /proc is not there.
    pub fn open(pid: i32) -> Result<Self, Error> {
        if pid <= 0 {
            return Err(Error::NoSuchProcess(pid));
        }
        let pidfd = pidfd::open(pid).map_err(|errno| match errno {
            // EINVAL, ENOENT: the number of a thread, not of a process.
            Errno::ESRCH | Errno::EINVAL | Errno::ENOENT => Error::NoSuchProcess(pid),
            Errno::ENOSYS => Error::KernelTooOld { feature: "pidfd_open", since: "5.3" },
            errno => Error::Os { pid, operation: "opening a pidfd of", errno },
        })?;
        let proc = procfs::open(".", OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        let proc = proc.map_err(Error::os(pid, "opening /proc for"))?;
        let mut process = Self {
            pid,
            start: 0,
            pidfd,
            proc,
            missed: AtomicI32::new(0),
            given_up: OnceLock::new(),
            attached: AtomicBool::new(false),
            held_listener: AtomicBool::new(false),
        };
        process.start = process.start_time().ok_or(Error::NoSuchProcess(pid))?;
        Ok(process)
    }

    /// From here on an attach asks this while it waits.
    pub fn ask_whether_given_up(&self, ask: GivenUp) {
        let _ = self.given_up.set(ask);
    }

    /// Whether an attach is to end.
    pub fn is_given_up(&self) -> bool {
        !self.attached.load(Ordering::Relaxed) && self.given_up.get().is_some_and(|ask| ask())
    }

    /// The attach is over, and nothing waits for it any more.
    pub fn set_attached(&self) {
        self.attached.store(true, Ordering::Relaxed);
    }

    /// Its number.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// When it started, in clock ticks since boot: with the number, its name for ever.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// What it is called in every namespace.
    pub fn name(&self) -> Target {
        let inner = || self.status_field(self.pid, "NSpid")?.split_whitespace().next_back()?.parse().ok();
        Target { start: self.start, inner: inner().unwrap_or(self.pid) }
    }

    /// Whether `look` says, or has said before, that it holds a listener: what was attached to once stays so.
    pub(super) fn has_held_listener(&self, look: impl FnOnce() -> bool) -> bool {
        let held = self.held_listener.load(Ordering::Relaxed) || look();
        self.held_listener.store(held, Ordering::Relaxed);
        held
    }

    /// Its pidfd.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// procfs.
    pub fn proc(&self) -> BorrowedFd<'_> {
        self.proc.as_fd()
    }

    /// Whether it still runs (a zombie does not).
    pub fn is_alive(&self) -> bool {
        let mut poll_fd = [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)];
        !matches!(poll(&mut poll_fd, PollTimeout::ZERO), Ok(n) if n > 0)
    }

    /// Whether its first thread has ended while others go on: nothing of it can be looked at then.
    pub fn first_thread_ended(&self) -> bool {
        self.status(self.pid).is_some_and(|status| status.is_dead()) && self.is_alive()
    }

    /// Opens `name` below its directory in /proc.
    ///
    /// # Errors
    /// The kernel's.
    pub fn open_file(&self, name: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
        open_below(self.proc(), &format!("{}/{name}", self.pid), flags)
    }

    /// Reads the file `name` below its directory in /proc.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read_file(&self, name: &str) -> Result<String, Errno> {
        read_below(self.proc(), &format!("{}/{name}", self.pid))
    }

    /// The entries of a directory below /proc that are numbers: none where there is no such directory (any more). Where it could
    /// not be listed, [`Self::take_missed_look`] tells.
    pub fn list(&self, path: &str) -> Vec<i32> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match nix::dir::Dir::openat(self.proc(), path, flags, Mode::empty()) {
            Ok(mut listing) => {
                listing.iter().flatten().filter_map(|entry| entry.file_name().to_str().ok()?.parse().ok()).collect()
            }
            Err(errno) => {
                self.note(errno);
                Vec::new()
            }
        }
    }

    /// A look has failed. What we may not see is another user's; else it says nothing about what is there.
    fn note(&self, errno: Errno) {
        if !matches!(LookError::of(errno as i32), LookError::Gone | LookError::Never | LookError::Ours(Lack::Rights)) {
            self.missed.store(errno as i32, Ordering::SeqCst);
        }
    }

    /// Why processes, threads or descriptors were not listed since this was asked last: whoever took none for none may be wrong.
    pub fn take_missed_look(&self) -> Option<Errno> {
        let missed = self.missed.swap(0, Ordering::SeqCst);
        (missed != 0).then(|| Errno::from_raw(missed))
    }

    /// Its threads.
    pub fn threads(&self) -> Vec<i32> {
        self.list(&format!("{}/task", self.pid))
    }

    /// Whether `tid` is one of its threads, and not a child's.
    pub fn has_thread(&self, tid: i32) -> bool {
        let path = CString::new(format!("{}/task/{tid}", self.pid)).unwrap_or_default();
        // Not told: then it may be.
        !stat::identity(self.proc(), &path, false).is_err_and(|errno| LookError::of(errno as i32).is_nothing())
    }

    /// Whether thread `tid` uses the descriptors that are [`Self::descriptors`], and has no table of its own
    /// (`unshare(CLONE_FILES)`). Where that cannot be known, only of the first thread it is.
    pub fn shares_descriptors(&self, tid: i32) -> bool {
        tid == self.pid || crate::sys::process::share_descriptors(self.pid, tid).unwrap_or(false)
    }

    /// Its open descriptors with what they link to: `/data/a`, `anon_inode:[eventfd]`, `socket:[123]`.
    pub fn descriptors(&self) -> Vec<(RawFd, OsString)> {
        self.descriptors_of(self.pid)
    }

    /// The same of another process.
    pub fn descriptors_of(&self, pid: i32) -> Vec<(RawFd, OsString)> {
        let path = format!("{pid}/fd");
        let dir = match open_below(self.proc(), &path, OFlag::O_RDONLY | OFlag::O_DIRECTORY) {
            Ok(dir) => dir,
            Err(errno) => {
                self.note(errno);
                return Vec::new();
            }
        };
        let link = |fd: RawFd| Some((fd, readlinkat(&dir, fd.to_string().as_str()).ok()?));
        self.list(&path).into_iter().filter_map(link).collect()
    }

    /// What thread `tid` (of this process or a child) is doing.
    pub fn thread_state(&self, tid: i32) -> ThreadState {
        self.thread_at(tid).0
    }

    /// What thread `tid` is doing, with its stack pointer and its instruction pointer where these can be told.
    pub fn thread_at(&self, tid: i32) -> (ThreadState, Option<Registers>) {
        match read_below(self.proc(), &format!("{tid}/syscall")) {
            Ok(text) => {
                let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
                let mut last = text.split_whitespace().rev().map(hex);
                let registers = match (last.next(), last.next()) {
                    (Some(Some(ip)), Some(Some(sp))) => Some(Registers { ip, sp }),
                    _ => None,
                };
                (parse_state(&text), registers)
            }
            Err(errno) if LookError::of(errno as i32).is_nothing() => (ThreadState::Gone, None),
            // Not told: then nothing is proven.
            Err(_) => (ThreadState::Running, None),
        }
    }

    /// A word of the memory of thread `tid`, of this process or a child.
    pub fn word(&self, tid: i32, address: u64) -> Option<u64> {
        use std::os::unix::fs::FileExt;
        let memory = File::from(open_below(self.proc(), &format!("{tid}/mem"), OFlag::O_RDONLY).ok()?);
        let mut word = [0; 8];
        memory.read_exact_at(&mut word, address).ok()?;
        Some(u64::from_ne_bytes(word))
    }

    /// /proc/TID/status.
    pub fn status(&self, tid: i32) -> Option<Status> {
        read_below(self.proc(), &format!("{tid}/status")).ok().map(Status)
    }

    /// A field of /proc/TID/status.
    pub fn status_field(&self, tid: i32, field: &str) -> Option<String> {
        self.status(tid)?.field(field).map(str::to_owned)
    }

    /// Whether a thread, or the first of a process, has ended: it is gone, or nobody has asked for its end yet.
    pub fn has_ended(&self, tid: i32) -> bool {
        match read_below(self.proc(), &format!("{tid}/status")) {
            Ok(status) => Status(status).is_dead(),
            // Not told: then nothing is proven.
            Err(errno) => LookError::of(errno as i32).is_nothing(),
        }
    }

    /// Who traces thread `tid`, of this process or another.
    pub fn tracer(&self, tid: i32) -> Option<i32> {
        self.status_field(tid, "TracerPid")?.parse().ok().filter(|&tracer| tracer != 0)
    }

    /// Who the file behind descriptor `fd` is, in the table of thread `tid`.
    ///
    /// # Errors
    /// The kernel's; `ENOENT` when there is none.
    pub fn descriptor_identity(&self, tid: i32, fd: RawFd) -> Result<stat::Identity, Errno> {
        let path = CString::new(format!("{tid}/fd/{fd}")).map_err(|_| Errno::EINVAL)?;
        stat::identity(self.proc(), &path, true)
    }

    fn start_time(&self) -> Option<u64> {
        start_of(self.proc(), self.pid)
    }
}

/// When process `pid` of this procfs started, in clock ticks since boot.
pub(crate) fn start_of(proc: BorrowedFd<'_>, pid: i32) -> Option<u64> {
    let stat = read_below(proc, &format!("{pid}/stat")).ok()?;
    // The name may hold blanks and brackets; the numbers follow the last bracket (proc_pid_stat(5), field 22).
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Reads a line of /proc/TID/syscall (proc_pid_syscall(5)).
fn parse_state(text: &str) -> ThreadState {
    let mut words = text.split_whitespace();
    match words.next() {
        Some("running") => ThreadState::Running,
        Some("-1") => ThreadState::Stopped,
        Some(nr) => {
            let Ok(nr) = nr.parse() else { return ThreadState::Running };
            let mut args = [0; 6];
            for arg in &mut args {
                let word = words.next().and_then(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
                let Some(value) = word else { return ThreadState::Running };
                *arg = value;
            }
            ThreadState::Sleeping { nr, args }
        }
        // An empty file: the thread is on its way out.
        None => ThreadState::Gone,
    }
}

/// Opens a path below a directory.
pub(crate) fn open_below(dir: BorrowedFd<'_>, path: &str, flags: OFlag) -> Result<OwnedFd, Errno> {
    openat(dir, path, flags | OFlag::O_CLOEXEC, Mode::empty())
}

/// Reads a small file below a directory.
pub(crate) fn read_below(dir: BorrowedFd<'_>, path: &str) -> Result<String, Errno> {
    let mut bytes = Vec::with_capacity(512);
    let mut file = File::from(open_below(dir, path, OFlag::O_RDONLY)?);
    file.read_to_end(&mut bytes).map_err(|error| crate::error::errno(&error))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A path as bytes, for messages and for the kernel.
pub(crate) fn to_os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// A name as a C string; names from the kernel hold no NUL.
pub(crate) fn to_c(name: &std::ffi::OsStr) -> Option<CString> {
    CString::new(name.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_states_of_a_thread_are_told_apart() {
        assert_eq!(parse_state("running\n"), ThreadState::Running);
        assert_eq!(parse_state("-1 0x7ffd 0x7f12\n"), ThreadState::Stopped);
        assert_eq!(parse_state(""), ThreadState::Gone);
        let asleep = parse_state("18 0x5 0x7f 0x8 0x0 0x0 0x0 0x7ffc 0x7f11\n");
        assert_eq!(asleep, ThreadState::Sleeping { nr: 18, args: [5, 0x7f, 8, 0, 0, 0] });
    }

    #[test]
    fn a_directory_that_is_not_there_is_no_missed_look_and_one_that_cannot_be_listed_is() {
        let process = Process::open(std::process::id() as i32).unwrap();
        assert_eq!(process.list("0/task"), Vec::<i32>::new());
        assert_eq!(process.take_missed_look(), None);
        process.note(Errno::EMFILE);
        assert_eq!((process.take_missed_look(), process.take_missed_look()), (Some(Errno::EMFILE), None));
    }

    #[test]
    fn this_process_is_found_and_alive() {
        let process = Process::open(std::process::id() as i32).unwrap();
        assert!(process.is_alive());
        assert!(process.threads().contains(&(std::process::id() as i32)));
    }
}
