//! Attach: one thread of the target is stopped for well under a millisecond and runs a few injected calls; the
//! filter reaches all threads by `TSYNC`.
//!
//! No instant of it is an exception to "do no harm". When a tracer dies, a stopped thread runs on with the registers
//! it has at that moment. So the thread's registers are set exactly once, to a line of code that restores the
//! thread by itself ([`payload`]); before that nothing of the target is changed but a few zero bytes of padding,
//! and after it nothing is needed from us. The keeper is there before the filter is.

pub mod payload;
pub mod preflight;
mod site;

pub use site::{Mapping, parse_mapping};

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Pid;
use seccompiler::sock_filter;

use crate::error::{Error, errno};
use crate::process::Process;
use crate::sys::trace::{self, Stopped, Waited};
use payload::{Call, MAP_BYTES, Value};

/// How long a thread may take to stop, or to pass from one of the injected calls to the next.
const STEP_LIMIT: Duration = Duration::from_secs(2);
/// How many threads are tried before giving up.
const ATTEMPTS: usize = 32;

/// What an injection brought.
#[derive(Debug, Clone)]
pub struct Injected {
    /// Each call's result, a negative errno on failure.
    pub results: Vec<i64>,
    /// How long the thread was kept from its work.
    pub stopped: Duration,
}

/// The calls that install `filter`, with the filter's bytes to be written once the page is there.
///
/// `no_new_privs`: set it first, because the target may not install a filter otherwise.
pub fn install_calls(no_new_privs: bool) -> Vec<Call> {
    use Value::{Number as N, Page};
    const PRIVATE_ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let none = N(u64::MAX);
    let read_write = N((libc::PROT_READ | libc::PROT_WRITE) as u64);
    let call = |name, nr, args| Call { name, nr, args };
    let mut calls =
        vec![call("mmap", libc::SYS_mmap, vec![N(0), N(MAP_BYTES), read_write, N(PRIVATE_ANONYMOUS), none, N(0)])];
    if no_new_privs {
        let set = N(libc::PR_SET_NO_NEW_PRIVS as u64);
        calls.push(call("prctl", libc::SYS_prctl, vec![set, N(1), N(0), N(0), N(0)]));
    }
    let mode = N(u64::from(libc::SECCOMP_SET_MODE_FILTER));
    calls.push(call("seccomp", libc::SYS_seccomp, vec![mode, N(preflight::FILTER_FLAGS), Page]));
    calls.push(call("munmap", libc::SYS_munmap, vec![Page, N(MAP_BYTES)]));
    calls
}

/// A call that the filter shows and that changes nothing: for a live probe.
pub fn probe_calls() -> Vec<Call> {
    vec![Call { name: "ftruncate", nr: libc::SYS_ftruncate, args: vec![Value::Number(u64::MAX), Value::Number(0)] }]
}

/// Runs `calls` in a thread of the target, and returns their results.
///
/// `before_start` is called when the code is in place and the thread stopped, just before it is let run.
///
/// A thread of ours does it that ends afterwards: with it ends every hold that ptrace has on the target.
///
/// # Errors
/// When no thread could be used, or we may not.
pub fn inject(
    process: &Process,
    calls: &[Call],
    filter: &[sock_filter],
    before_start: impl FnMut() + Send,
) -> Result<Injected, Error> {
    std::thread::scope(|scope| {
        let tracer = scope.spawn(|| inject_here(process, calls, filter, before_start));
        tracer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn inject_here(
    process: &Process,
    calls: &[Call],
    filter: &[sock_filter],
    mut before_start: impl FnMut(),
) -> Result<Injected, Error> {
    let pid = process.pid();
    crate::sys::process::hurry();
    let memory = process.open_file("mem", OFlag::O_RDWR).map_err(Error::os(pid, "writing to the memory of"))?;
    let memory = File::from(memory);
    let site = site::find_padding(process, &memory)
        .ok_or_else(|| Error::NoThread(pid, "no room for code in any executable mapping".into()))?;
    let mut reason = String::from("none sleeps in a restartable call or runs");
    for tid in site::candidates(process).into_iter().take(ATTEMPTS) {
        let running = match trace::seize(Pid::from_raw(tid)) {
            Ok(running) => running,
            Err(Errno::ESRCH) => continue,
            Err(Errno::EPERM) => return Err(preflight::why_not_traced(process, tid)),
            Err(errno) => return Err(Error::Os { pid, operation: "ptrace", errno }),
        };
        let Ok(()) = running.interrupt() else { continue };
        let Some(stopped) = wait_stopped(running) else { continue };
        let began = Instant::now();
        let mut session = Session { process, memory: &memory, filter, calls, results: Vec::new() };
        match session.run(stopped, site, &mut before_start) {
            Ok(()) => return Ok(Injected { results: session.results, stopped: began.elapsed() }),
            Err(Attempt::Next(why)) => reason = format!("thread {tid}: {why}"),
            Err(Attempt::Fatal(error)) => return Err(error),
        }
    }
    if process.is_alive() { Err(Error::NoThread(pid, reason)) } else { Err(Error::TargetExited(pid)) }
}

/// Why an attempt on one thread ended.
enum Attempt {
    /// Nothing was changed: another thread may do.
    Next(&'static str),
    /// Something began: no second attempt.
    Fatal(Error),
}

struct Session<'a> {
    process: &'a Process,
    memory: &'a File,
    filter: &'a [sock_filter],
    calls: &'a [Call],
    results: Vec<i64>,
}

impl Session<'_> {
    fn run(&mut self, stopped: Stopped, site: u64, before_start: &mut impl FnMut()) -> Result<(), Attempt> {
        let pid = self.process.pid();
        // A pending signal goes first, to where the thread is now; a critical section must not be left.
        if stopped.has_signal() || crate::sys::process::in_restartable_sequence(stopped.tid()) {
            let _ = stopped.detach();
            return Err(Attempt::Next("a signal or a restartable sequence was in the way"));
        }
        let Ok(registers) = stopped.registers() else { return Err(Attempt::Next("it died")) };
        const USER_CODE_64: u64 = 0x33;
        if registers.cs != USER_CODE_64 {
            let _ = stopped.detach();
            return Err(Attempt::Fatal(Error::ForeignArchitecture(pid)));
        }
        let resume = payload::resume_point(&registers);
        let code = payload::assemble(self.calls, &resume);
        assert!(code.len() <= site::CODE_BYTES, "the code outgrew its place");
        if let Err(error) = self.memory.write_all_at(&code, site) {
            let _ = stopped.detach();
            let os = Error::os(pid, "writing to the memory of");
            return Err(Attempt::Fatal(os(errno(&error))));
        }
        before_start();
        let mut start = registers;
        start.rip = site;
        start.orig_rax = u64::MAX;
        if stopped.set_registers(start).is_err() {
            return Err(Attempt::Next("it died"));
        }
        self.follow(stopped)
    }

    /// Reads each call's result at its exit stop, and detaches after the one that matters last. From here on the
    /// thread needs nothing from us.
    fn follow(&mut self, mut stopped: Stopped) -> Result<(), Attempt> {
        let gone = || Attempt::Fatal(Error::TargetExited(self.process.pid()));
        let wanted = self.calls.iter().position(|call| call.name == "munmap").unwrap_or(self.calls.len());
        for at in 0..wanted {
            for entering in [true, false] {
                loop {
                    let running = stopped.run_to_call().map_err(|_| gone())?;
                    stopped = wait_stopped(running).ok_or_else(gone)?;
                    if stopped.at_call {
                        break;
                    }
                }
                if entering {
                    continue;
                }
                let result = stopped.registers().map_err(|_| gone())?.rax as i64;
                if self.calls[at].name == "mmap" && result > 0 {
                    self.write_filter(result as u64);
                }
                self.results.push(result);
            }
        }
        stopped.detach().map_err(|_| gone())
    }

    /// Puts header and program into the fresh page. When that fails, seccomp fails with it, and says so.
    fn write_filter(&self, page: u64) {
        const HEADER: u64 = 16;
        let mut bytes = Vec::with_capacity(HEADER as usize + self.filter.len() * 8);
        bytes.extend((self.filter.len() as u64).to_le_bytes()); // u16 length, padding
        bytes.extend((page + HEADER).to_le_bytes());
        for instruction in self.filter {
            bytes.extend(instruction.code.to_le_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_le_bytes());
        }
        debug_assert!(bytes.len() as u64 <= MAP_BYTES);
        if let Err(error) = self.memory.write_all_at(&bytes, page) {
            tracing::warn!(%error, "the filter could not be written to the target");
        }
    }
}

/// Waits for a stop; a thread that does not stop in time is in an uninterruptible call, and is left to itself: the
/// request is taken back when this tracer thread ends.
fn wait_stopped(mut running: trace::Running) -> Option<Stopped> {
    let limit = Instant::now() + STEP_LIMIT;
    loop {
        match running.poll() {
            Waited::Stopped(stopped) => return Some(stopped),
            Waited::Gone => return None,
            Waited::Running(again) => running = again,
        }
        if Instant::now() > limit {
            return None;
        }
        // Not spinning: the thread waited for may be queued for this very processor.
        std::thread::sleep(Duration::from_micros(5));
    }
}
