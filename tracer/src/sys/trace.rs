//! ptrace(2) with the thread's state in its type: a running thread can only be waited for, a stopped one only be
//! looked at and resumed, and resuming consumes it.
//!
//! In a stopped state `ESRCH` can only mean that the thread died. All calls must come from one OS thread, the
//! tracer.

use nix::errno::Errno;
use nix::unistd::Pid;

use super::check;

/// `user_regs_struct`.
pub type Registers = libc::user_regs_struct;

/// A thread that we trace and that runs.
#[derive(Debug)]
pub struct Running(Pid);

/// A thread that we trace and that is stopped, with the signal that waits to be delivered to it (0: none).
#[derive(Debug)]
pub struct Stopped {
    tid: Pid,
    signal: i32,
}

/// What waiting for a thread brought.
#[derive(Debug)]
pub enum Waited {
    /// It stopped.
    Stopped(Stopped),
    /// It still runs.
    Running(Running),
    /// It is no more.
    Gone,
}

/// Starts to trace `tid` without stopping it (`PTRACE_SEIZE`, 3.4).
///
/// # Errors
/// `ESRCH`, or `EPERM` when it is traced already or not ours to trace.
pub fn seize(tid: Pid) -> Result<Running, Errno> {
    // SAFETY: no memory is passed.
    check(unsafe { libc::ptrace(libc::PTRACE_SEIZE, tid.as_raw(), 0usize, 0usize) })?;
    Ok(Running(tid))
}

impl Running {
    /// Asks it to stop at the next chance.
    ///
    /// # Errors
    /// `ESRCH` when it died.
    pub fn interrupt(&self) -> Result<(), Errno> {
        // SAFETY: no memory is passed.
        check(unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, self.0.as_raw(), 0usize, 0usize) }).map(drop)
    }

    /// Looks whether it has stopped, without waiting.
    pub fn poll(self) -> Waited {
        let mut status = 0;
        // SAFETY: the kernel writes one int.
        let found = unsafe { libc::waitpid(self.0.as_raw(), &raw mut status, libc::__WALL | libc::WNOHANG) };
        if found == 0 {
            return Waited::Running(self);
        }
        if found < 0 {
            return if Errno::last() == Errno::EINTR { Waited::Running(self) } else { Waited::Gone };
        }
        if !libc::WIFSTOPPED(status) {
            return Waited::Gone;
        }
        let event = status >> 16;
        // An event stop (ours, or a group stop) has no signal to deliver.
        let signal = if event != 0 { 0 } else { libc::WSTOPSIG(status) };
        Waited::Stopped(Stopped { tid: self.0, signal })
    }
}

impl Stopped {
    /// The thread.
    pub fn tid(&self) -> Pid {
        self.tid
    }

    /// Whether a signal is about to be delivered.
    pub fn has_signal(&self) -> bool {
        self.signal != 0
    }

    /// Its registers.
    ///
    /// # Errors
    /// `ESRCH` when it died.
    pub fn registers(&self) -> Result<Registers, Errno> {
        nix::sys::ptrace::getregs(self.tid)
    }

    /// Sets its registers.
    ///
    /// # Errors
    /// `ESRCH` when it died.
    pub fn set_registers(&self, registers: Registers) -> Result<(), Errno> {
        nix::sys::ptrace::setregs(self.tid, registers)
    }

    /// Lets it run untraced, delivering its signal.
    ///
    /// # Errors
    /// `ESRCH` when it died.
    pub fn detach(self) -> Result<(), Errno> {
        // SAFETY: no memory is passed.
        check(unsafe { libc::ptrace(libc::PTRACE_DETACH, self.tid.as_raw(), 0usize, self.signal as usize) }).map(drop)
    }
}
