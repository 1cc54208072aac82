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

/// Whether the calls of a thread, which must be stopped, are handed to itself (`PR_SET_SYSCALL_USER_DISPATCH`, 5.11). A kernel
/// that cannot say (before 6.4) says `false`.
pub fn is_dispatched(tid: Pid) -> bool {
    const GET_CONFIGURATION: libc::c_uint = 0x4211;
    #[repr(C)]
    #[derive(Default)]
    struct Configuration {
        mode: u64,
        selector: u64,
        offset: u64,
        length: u64,
    }
    let mut found = Configuration::default();
    let size = size_of::<Configuration>();
    // SAFETY: the kernel writes at most `size` bytes to `found`.
    let result = unsafe { libc::ptrace(GET_CONFIGURATION, tid.as_raw(), size, &raw mut found) };
    result == 0 && found.mode != 0
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

    /// Looks whether it has stopped, without waiting. The stop is not consumed (`WNOWAIT`): if we die before the thread is
    /// let go, the signal that it stopped for is delivered all the same; after waitpid(2) it would be lost.
    pub fn poll(self) -> Waited {
        // SAFETY: all zeros is a valid siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let options = libc::WSTOPPED | libc::WEXITED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
        // SAFETY: the kernel writes one siginfo_t.
        let found = unsafe { libc::waitid(libc::P_PID, self.0.as_raw() as libc::id_t, &raw mut info, options) };
        if found < 0 {
            return if Errno::last() == Errno::EINTR { Waited::Running(self) } else { Waited::Gone };
        }
        // SAFETY: waitid fills in the fields of SIGCHLD, or leaves zeros when there is nothing to tell.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        if pid == 0 {
            return Waited::Running(self);
        }
        if !matches!(info.si_code, libc::CLD_STOPPED | libc::CLD_TRAPPED) {
            // SAFETY: no memory is passed. A dead thread of another process is reaped by its tracer first.
            unsafe { libc::waitpid(self.0.as_raw(), std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
            return Waited::Gone;
        }
        // An event stop (ours, or a group stop) has no signal to deliver.
        let signal = if status >> 8 != 0 { 0 } else { status & 0x7f };
        Waited::Stopped(Stopped { tid: self.0, signal })
    }
}

impl Stopped {
    /// The seccomp filters that the thread carries, in the order in which they were installed; `None` when they cannot be read (CAP_SYS_ADMIN and a
    /// kernel with CONFIG_CHECKPOINT_RESTORE are needed).
    pub fn filters(&self) -> Option<Vec<Vec<libc::sock_filter>>> {
        const GET_FILTER: libc::c_uint = 0x420c; // PTRACE_SECCOMP_GET_FILTER, 4.4
        let mut filters = Vec::new();
        loop {
            let index = filters.len();
            let mut program = vec![libc::sock_filter { code: 0, jt: 0, jf: 0, k: 0 }; libc::BPF_MAXINSNS as usize];
            // SAFETY: the kernel writes at most BPF_MAXINSNS instructions, the longest program there may be.
            let count = unsafe { libc::ptrace(GET_FILTER, self.tid.as_raw(), index, program.as_mut_ptr()) };
            match usize::try_from(count) {
                Ok(count) => program.truncate(count),
                Err(_) if Errno::last() == Errno::ENOENT => return Some(filters),
                Err(_) => return None,
            }
            filters.push(program);
        }
    }

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

    /// Lets it run untraced, delivering its signal. A call that our stop alone made return `EINTR` is begun again, as the
    /// kernel does with others: epoll_wait(2) and its like (signal(7)).
    ///
    /// # Errors
    /// `ESRCH` when it died.
    pub fn detach(self) -> Result<(), Errno> {
        const RESTART_NO_HAND: i64 = -514; // ERESTARTNOHAND: EINTR all the same if a handler is to run
        if let Ok(mut registers) = self.registers()
            && registers.orig_rax as i64 >= 0
            && registers.rax as i64 == -i64::from(libc::EINTR)
            // Whatever close(2) answers, the number is free, and may be another thread's by now.
            && registers.orig_rax as i64 != libc::SYS_close
        {
            registers.rax = RESTART_NO_HAND as u64;
            let _ = self.set_registers(registers);
        }
        // SAFETY: no memory is passed.
        check(unsafe { libc::ptrace(libc::PTRACE_DETACH, self.tid.as_raw(), 0usize, self.signal as usize) }).map(drop)
    }
}
