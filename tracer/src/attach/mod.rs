//! Attach: one thread of the target is stopped twice, each time for as long as it takes to read and set its registers,
//! and runs a few injected calls; the filter reaches all threads by `TSYNC`.
//!
//! No instant of it is an exception to "do no harm". When a tracer dies, a stopped thread runs on with the registers
//! it has at that moment. So a thread's registers are set exactly once, to a line of code that restores the thread by
//! itself ([`payload`]); before that nothing of the target is changed but a few zero bytes of padding, and after it
//! nothing is needed from us. The keeper is there before the filter is.

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
use crate::filter::{USER_NOTIF, emulate};
use crate::process::Process;
use crate::sys::trace::{self, Stopped, Waited};
use payload::Call;

/// How long a thread may take to stop: one that is in an uninterruptible call is left to itself.
const STOP_LIMIT: Duration = Duration::from_secs(2);
/// How long the thread may take to run the calls, once let run: it needs a processor, that is all.
const RUN_LIMIT: Duration = Duration::from_secs(10);
/// How many threads are tried in a round, and how long: the only thread may be in an uninterruptible call just now.
const ATTEMPTS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes mapped for the result, the header and the filter: room for the longest filter there may be.
const PAGE_BYTES: u64 = 36 << 10;
const RESULT: u64 = 0;
const HEADER: u64 = 8;
const PROGRAM: u64 = 24;
/// What stands in the place of the result until there is one.
const PENDING: u64 = 0x5555_5555_5555_5555;

/// A filter that was installed.
#[derive(Debug, Clone, Copy)]
pub struct Installed {
    /// What seccomp returned: the listener's number in the target, or a negative errno.
    pub result: i64,
    /// The longer of the two stops.
    pub stopped: Duration,
}

/// Installs `filter` for all threads of the target. `before_start` is called when all is prepared, just before the
/// thread is let run into the call.
///
/// # Errors
/// When no thread could be used, or we may not.
pub fn install(
    process: &Process,
    filter: &[sock_filter],
    no_new_privs: bool,
    before_start: impl FnOnce() + Send,
) -> Result<Installed, Error> {
    let pid = process.pid();
    let injector = Injector::new(process)?;
    let page = site::find_hole(process).ok_or_else(|| Error::NoThread(pid, "no room in its address space".into()))?;
    let read_write = (libc::PROT_READ | libc::PROT_WRITE) as u64;
    let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let map = Call { nr: libc::SYS_mmap, args: vec![page, PAGE_BYTES, read_write, flags, u64::MAX, 0] };
    let first = injector.run(&[map], None, || {})?;
    let bytes = page_bytes(page, filter);
    injector.wait_for("mmap", || site::is_fresh_mapping(process, &injector.memory, page, PAGE_BYTES).then_some(()))?;
    injector
        .memory
        .write_all_at(&bytes, page)
        .map_err(|error| Error::os(pid, "writing to the memory of")(errno(&error)))?;

    let mut calls = Vec::new();
    if no_new_privs {
        calls.push(Call { nr: libc::SYS_prctl, args: vec![libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0] });
    }
    let mode = u64::from(libc::SECCOMP_SET_MODE_FILTER);
    calls.push(Call { nr: libc::SYS_seccomp, args: vec![mode, preflight::FILTER_FLAGS, page + HEADER] });
    let second = injector.run(&calls, Some(page + RESULT), before_start)?;
    let result = injector.wait_for("seccomp", || {
        let mut word = [0; 8];
        injector.memory.read_exact_at(&mut word, page + RESULT).ok()?;
        Some(u64::from_ne_bytes(word)).filter(|&result| result != PENDING)
    })?;
    Ok(Installed { result: result as i64, stopped: first.max(second) })
}

/// Has a thread of the target make a call that the filter shows and that changes nothing; returns when `seen`, or
/// after a while.
///
/// # Errors
/// When no thread could be used, or we may not.
pub fn probe(process: &Process, seen: impl Fn() -> bool) -> Result<bool, Error> {
    let injector = Injector::new(process)?;
    injector.run(&[Call { nr: libc::SYS_ftruncate, args: vec![u64::MAX, 0] }], None, || {})?;
    match injector.wait_for("ftruncate", || seen().then_some(())) {
        Ok(()) => Ok(true),
        Err(Error::NoThread(..)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// The page: result, header (`struct sock_fprog`), program.
fn page_bytes(page: u64, filter: &[sock_filter]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PROGRAM as usize + filter.len() * 8);
    bytes.extend(PENDING.to_ne_bytes());
    bytes.extend((filter.len() as u64).to_ne_bytes()); // u16 length, padding
    bytes.extend((page + PROGRAM).to_ne_bytes());
    for instruction in filter {
        bytes.extend(instruction.code.to_ne_bytes());
        bytes.extend([instruction.jt, instruction.jf]);
        bytes.extend(instruction.k.to_ne_bytes());
    }
    assert!(bytes.len() as u64 <= PAGE_BYTES, "the filter outgrew its place");
    bytes
}

/// Runs lines of code in the target, each in a place of its own: a thread may still be on its way out of the last one.
struct Injector<'a> {
    process: &'a Process,
    memory: File,
}

/// Why an attempt on one thread ended.
enum Attempt {
    /// Nothing was changed: another thread may do.
    Next(&'static str),
    /// No other thread will do.
    Fatal(Error),
}

impl<'a> Injector<'a> {
    fn new(process: &'a Process) -> Result<Self, Error> {
        let memory = process.open_file("mem", OFlag::O_RDWR);
        let memory = memory.map_err(Error::os(process.pid(), "writing to the memory of"))?;
        Ok(Self { process, memory: File::from(memory) })
    }

    /// Has a thread run `calls`, and returns for how long it was stopped. When this returns the thread is on its way.
    ///
    /// A thread of ours does it that ends afterwards: with it ends every hold that ptrace has on the target.
    fn run(&self, calls: &[Call], store: Option<u64>, before_start: impl FnOnce() + Send) -> Result<Duration, Error> {
        std::thread::scope(|scope| {
            let tracer = scope.spawn(move || self.run_here(calls, store, before_start));
            tracer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn run_here(&self, calls: &[Call], store: Option<u64>, before_start: impl FnOnce()) -> Result<Duration, Error> {
        let pid = self.process.pid();
        crate::sys::process::hurry();
        let room = payload::longest(calls, store);
        let site = site::find_padding(self.process, &self.memory, room)
            .ok_or_else(|| Error::NoThread(pid, "no room for code in any executable mapping".into()))?;
        let mut before_start = Some(before_start);
        let mut reason = String::from("none sleeps in a restartable call or runs");
        let limit = Instant::now() + PATIENCE;
        while Instant::now() < limit && self.process.is_alive() {
            for tid in site::candidates(self.process).into_iter().take(ATTEMPTS) {
                match self.try_thread(tid, site, calls, store, &mut before_start) {
                    Ok(stopped) => return Ok(stopped),
                    Err(Attempt::Next(why)) => reason = format!("thread {tid}: {why}"),
                    Err(Attempt::Fatal(error)) => return Err(error),
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.process.is_alive() { Err(Error::NoThread(pid, reason)) } else { Err(Error::TargetExited(pid)) }
    }

    fn try_thread(
        &self,
        tid: i32,
        site: u64,
        calls: &[Call],
        store: Option<u64>,
        before_start: &mut Option<impl FnOnce()>,
    ) -> Result<Duration, Attempt> {
        let pid = self.process.pid();
        let running = match trace::seize(Pid::from_raw(tid)) {
            Ok(running) => running,
            Err(Errno::ESRCH) => return Err(Attempt::Next("it ended")),
            Err(Errno::EPERM) => return Err(Attempt::Fatal(preflight::why_not_traced(self.process, tid))),
            Err(errno) => return Err(Attempt::Fatal(Error::Os { pid, operation: "ptrace", errno })),
        };
        running.interrupt().map_err(|_| Attempt::Next("it ended"))?;
        let stopped = wait_stopped(running).ok_or(Attempt::Next("it did not stop"))?;
        let began = Instant::now();
        self.redirect(stopped, site, calls, store, before_start)?;
        Ok(began.elapsed())
    }

    /// Sends a stopped thread through the code, and lets go of it.
    fn redirect(
        &self,
        stopped: Stopped,
        site: u64,
        calls: &[Call],
        store: Option<u64>,
        before_start: &mut Option<impl FnOnce()>,
    ) -> Result<(), Attempt> {
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
        // It may have gone to sleep since it was seen running. (A call that our stop found just finished is no sleep.)
        let resume = payload::resume_point(&registers);
        if resume.rip != registers.rip && !site::restarts_unseen(registers.orig_rax as i64) {
            let _ = stopped.detach();
            return Err(Attempt::Next("it sleeps in a call that a signal is meant to end"));
        }
        if !may_call(self.process, &stopped, calls) {
            let _ = stopped.detach();
            return Err(Attempt::Fatal(Error::OwnFilter(pid)));
        }
        let code = payload::assemble(calls, store, &resume);
        assert!(code.len() <= payload::longest(calls, store), "the code outgrew its place");
        if let Err(error) = self.memory.write_all_at(&code, site) {
            let _ = stopped.detach();
            return Err(Attempt::Fatal(Error::os(pid, "writing to the memory of")(errno(&error))));
        }
        if let Some(before_start) = before_start.take() {
            before_start();
        }
        let mut start = registers;
        start.rip = site;
        start.orig_rax = u64::MAX; // no call to restart
        if stopped.set_registers(start).is_err() {
            return Err(Attempt::Next("it died"));
        }
        stopped.detach().map_err(|_| Attempt::Next("it died"))
    }

    /// Waits until the thread has come so far.
    fn wait_for<T>(&self, call: &'static str, done: impl Fn() -> Option<T>) -> Result<T, Error> {
        let limit = Instant::now() + RUN_LIMIT;
        loop {
            if let Some(result) = done() {
                return Ok(result);
            }
            let pid = self.process.pid();
            if !self.process.is_alive() {
                return Err(Error::TargetExited(pid));
            }
            if Instant::now() > limit {
                return Err(Error::NoThread(pid, format!("its {call} call did not come about")));
            }
            std::thread::sleep(Duration::from_micros(20));
        }
    }
}

/// Whether the thread's own seccomp filters, if it has any, let it make these calls: one that kills or traps would harm
/// it. A container runtime's usual filters do let it.
fn may_call(process: &Process, stopped: &Stopped, calls: &[Call]) -> bool {
    const NONE: &str = "0"; // SECCOMP_MODE_DISABLED
    const ACTION: u32 = 0xffff_0000;
    const HARMLESS: [u32; 3] = [0x7fff_0000, 0x7ffc_0000, 0x0005_0000]; // allow, log, errno
    const X86_64: u32 = 0xc000_003e;
    if process.status_field(stopped.tid().as_raw(), "Seccomp").as_deref() == Some(NONE) {
        return true;
    }
    let Some(filters) = stopped.filters() else { return false };
    filters.iter().all(|filter| {
        let program: Vec<sock_filter> =
            filter.iter().map(|step| sock_filter { code: step.code, jt: step.jt, jf: step.jf, k: step.k }).collect();
        calls.iter().all(|call| {
            let mut args = [0; 6];
            args[..call.args.len()].copy_from_slice(&call.args);
            let answer = emulate(&program, call.nr as u32, X86_64, args).map(|answer| answer & ACTION);
            // The probe is meant to be shown, to us.
            let ours = call.nr == libc::SYS_ftruncate && answer == Some(USER_NOTIF);
            ours || answer.is_some_and(|answer| HARMLESS.contains(&answer))
        })
    })
}

/// Waits for a stop. The request to a thread that does not stop in time is taken back when this tracer thread ends.
fn wait_stopped(mut running: trace::Running) -> Option<Stopped> {
    let limit = Instant::now() + STOP_LIMIT;
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
