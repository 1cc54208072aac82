//! Sending a thread of the target through a line of code ([`payload`]), in a place of its own: a thread
//! may still be on its way out of the last one.

use std::cell::RefCell;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::Pid;
use seccompiler::sock_filter;

use super::guard::Hold;
use super::payload::{self, Call, PENDING};
use super::request::Failure;
use super::site;
use crate::calls::filter::{USER_NOTIF, begins_as_ours, emulate};
use crate::error::errno;
use crate::shared::board::REGION_BYTES;
use crate::shared::memory::{ARMED, Memory, UNARMED};
use crate::sys::process as low;
use crate::sys::trace::{self, Running, Stopped, Waited};
use crate::target::process::Process;

/// How long a thread may take to stop until another is tried: it may be in an uninterruptible call.
const STOP_LIMIT: Duration = Duration::from_millis(50);
/// The same for a thread that is only looked at.
const LOOK_LIMIT: Duration = Duration::from_millis(20);
/// How often a stop is looked for in quick succession.
const QUICK_ROUNDS: u32 = 100;
/// How many threads are tried in a round, and how long: the only thread may be in an uninterruptible call just now.
const ATTEMPTS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(3);
/// The same for a line by which a call site is patched: the next backup tries again.
const PATIENCE_FOR_A_SITE: Duration = Duration::from_millis(250);

/// Why an attempt on one thread ended.
enum Attempt {
    /// Nothing was changed: another thread may do.
    Next(&'static str),
    /// No other thread will do.
    Fatal(Failure),
}

/// The line of code to run.
struct Line<'a> {
    process: &'a Process,
    hold: &'a Hold<'a>,
    memory: File,
    site: u64,
    /// Where stubs are.
    region: Range<u64>,
    calls: &'a [Call],
    result: Option<u64>,
    /// Threads that were asked to stop and have not yet.
    slow: RefCell<Vec<Running>>,
}

/// What a thread is to run: see [`super::request::Request::Run`].
pub(super) struct Wanted<'a> {
    pub calls: &'a [Call],
    pub result: Option<u64>,
    pub arm: bool,
    pub within: Option<(u64, u64)>,
}

/// Has a thread run `calls`, and returns for how long it was stopped. When this returns the thread is on its way.
pub(super) fn run(
    process: &Process,
    session: Option<&Memory>,
    hold: &Hold<'_>,
    wanted: Wanted<'_>,
) -> Result<Duration, Failure> {
    let Wanted { calls, result, arm, within } = wanted;
    let memory = process.open_file("mem", OFlag::O_RDWR).map_err(|errno| Failure::Memory(errno as i32))?;
    let memory = File::from(memory);
    let room = payload::longest(calls);
    let site = within
        .map_or_else(|| site::find_padding(process, &memory, room), |within| site::find_zeros(&memory, within, room))
        .ok_or_else(|| Failure::NoThread("no room for code in any executable mapping".into()))?;
    if arm {
        // The keeper ends when its supervisor dies before this; one of the two comes first.
        hold.progress();
        let armed =
            session.map(|session| session.armed.compare_exchange(UNARMED, ARMED, Ordering::SeqCst, Ordering::SeqCst));
        if !matches!(armed, Some(Ok(_) | Err(ARMED))) {
            return Err(Failure::NoKeeper);
        }
        failpoint::hit("inject.armed");
    }
    let region = session.map_or(0, |session| session.region.load(Ordering::SeqCst));
    let region = region..region.saturating_add(if region == 0 { 0 } else { REGION_BYTES });
    let line = Line { process, hold, memory, site, region, calls, result, slow: RefCell::default() };
    let mut reason = String::from("none that has the process's descriptors sleeps in a restartable call or runs");
    // What only makes calls cheaper must not keep the ptracer from a grace, which calls may be waiting for.
    let limit = Instant::now() + if within.is_some() { PATIENCE_FOR_A_SITE } else { PATIENCE };
    while Instant::now() < limit && process.is_alive() {
        hold.progress();
        let suits = |tid: &i32| result.is_none() || process.shares_descriptors(*tid);
        let candidates = site::candidates(process, || hold.progress()).into_iter().filter(suits);
        // First those that were asked before: the only thread of a program may be about to finish a long call.
        for tid in std::iter::once(None).chain(candidates.take(ATTEMPTS).map(Some)) {
            if within.is_some() && Instant::now() > limit {
                break;
            }
            // Only while a thread stands still: what else there is to do may take milliseconds.
            low::hurry();
            let tried = match (line.try_slow_ones(), tid) {
                (None, None) => Err(Attempt::Next("none sleeps in a restartable call or runs")),
                (None, Some(tid)) => line.try_thread(tid),
                (Some(tried), _) => tried,
            };
            low::relax();
            match (tried, tid) {
                (Ok(stopped), _) => {
                    failpoint::hit("inject.let-go");
                    return Ok(stopped);
                }
                // Which is so for good, whatever comes in the way after it.
                (Err(Attempt::Next(_)), Some(_)) if reason.ends_with(DISPATCHED) => {}
                (Err(Attempt::Next(why)), Some(tid)) => reason = format!("thread {tid}: {why}"),
                (Err(Attempt::Next(_)), None) => {}
                (Err(Attempt::Fatal(failure)), _) => return Err(failure),
            }
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Err(if process.is_alive() { Failure::NoThread(reason) } else { Failure::TargetExited })
}

impl Line<'_> {
    fn try_thread(&self, tid: i32) -> Result<Duration, Attempt> {
        self.hold.progress();
        let running = seize(self.process, tid)?;
        running.interrupt().map_err(|_| Attempt::Next("it ended"))?;
        let stopped = match wait_stopped(running, self.hold, STOP_LIMIT) {
            Waited::Stopped(stopped) => stopped,
            Waited::Running(running) => {
                self.slow.borrow_mut().push(running);
                return Err(Attempt::Next("it did not stop"));
            }
            Waited::Gone => return Err(Attempt::Next("it ended")),
        };
        let began = Instant::now();
        failpoint::hit("inject.thread-held");
        self.redirect(stopped)?;
        Ok(began.elapsed())
    }

    /// Sends a stopped thread through the code, and lets go of it.
    fn redirect(&self, stopped: Stopped) -> Result<(), Attempt> {
        // It is counted, and is to be seen there.
        let at = stopped.registers().map_or(0, |all| all.rip);
        if self.region.contains(&at) {
            let _ = stopped.detach();
            return Err(Attempt::Next("it is in a call that is captured at its site"));
        }
        // A pending signal goes first, to where the thread is now; a critical section must not be left.
        if stopped.has_signal() || low::in_restartable_sequence(stopped.tid()) {
            let _ = stopped.detach();
            return Err(Attempt::Next("a signal or a restartable sequence was in the way"));
        }
        let Ok(registers) = stopped.registers() else { return Err(Attempt::Next("it died")) };
        const USER_CODE_64: u64 = 0x33;
        if registers.cs != USER_CODE_64 {
            let _ = stopped.detach();
            return Err(Attempt::Fatal(Failure::ForeignArchitecture));
        }
        // A call that our stop has ended, as with a timeout of its socket: begun again by letting go.
        if registers.orig_rax as i64 >= 0 && registers.rax as i64 == -i64::from(libc::EINTR) {
            let _ = stopped.detach();
            return Err(Attempt::Next("it sleeps in a call that a stop ends"));
        }
        // It may have gone to sleep since it was seen running. (A call that our stop found just finished is no sleep.)
        let resume = payload::resume_point(&registers);
        if resume.rip != registers.rip && !site::restarts_unseen(registers.orig_rax as i64) {
            let _ = stopped.detach();
            return Err(Attempt::Next("it sleeps in a call that a signal is meant to end"));
        }
        if trace::is_dispatched(stopped.tid()) {
            let _ = stopped.detach();
            return Err(Attempt::Next(DISPATCHED));
        }
        if let Some(forbidden) = forbidden_call(self.process, &stopped, self.calls) {
            let _ = stopped.detach();
            return Err(Attempt::Fatal(Failure::OwnFilter(forbidden)));
        }
        // In a table of its own, nobody would find the listener.
        if self.result.is_some() && !self.process.shares_descriptors(stopped.tid().as_raw()) {
            let _ = stopped.detach();
            return Err(Attempt::Next("its descriptors are not those of the process, or kcmp(2) is forbidden"));
        }
        // A stopped thread cannot exec; it may have done so before, and then nothing of what was prepared is there.
        if self.result.is_some_and(|result| !self.is_prepared(&stopped, result)) {
            let _ = stopped.detach();
            return Err(Attempt::Fatal(Failure::NoThread("it runs another program now".into())));
        }
        let code = payload::assemble(self.calls, &resume);
        assert!(code.len() <= payload::longest(self.calls), "the code outgrew its place");
        if let Err(error) = self.memory.write_all_at(&code, self.site) {
            let _ = stopped.detach();
            return Err(Attempt::Fatal(Failure::Memory(errno(&error) as i32)));
        }
        failpoint::hit("inject.code-written");
        let mut start = registers;
        start.rip = self.site;
        start.orig_rax = u64::MAX; // no call to restart
        if stopped.set_registers(start).is_err() {
            return Err(Attempt::Next("it died"));
        }
        failpoint::hit("inject.redirected");
        stopped.detach().map_err(|_| Attempt::Next("it died"))
    }
}

impl Line<'_> {
    /// Whether the place for the result is there, in the memory that the thread has now, and waits for it.
    fn is_prepared(&self, stopped: &Stopped, result: u64) -> bool {
        let memory = self.process.open_file(&format!("task/{}/mem", stopped.tid()), OFlag::O_RDONLY).map(File::from);
        let mut word = [0; 8];
        memory.is_ok_and(|memory| memory.read_exact_at(&mut word, result).is_ok())
            && u64::from_ne_bytes(word) == PENDING
    }

    /// A thread that did not stop in time does as well once it has stopped.
    fn try_slow_ones(&self) -> Option<Result<Duration, Attempt>> {
        let waiting = std::mem::take(&mut *self.slow.borrow_mut());
        let mut tried = None;
        for running in waiting {
            match running.poll() {
                Waited::Stopped(stopped) if tried.is_none() => {
                    let began = Instant::now();
                    tried = Some(self.redirect(stopped).map(|()| began.elapsed()));
                }
                Waited::Stopped(stopped) => drop(stopped.detach()),
                Waited::Running(running) => self.slow.borrow_mut().push(running),
                Waited::Gone => {}
            }
        }
        tried
    }
}

/// Takes hold of a thread. It may be in our hands already: it was asked to stop and is in an uninterruptible call still, as
/// the only thread of a program may be for long on a busy disk; or the thread of ours that held it for the last request
/// has given its answer and not quite ended.
fn seize(process: &Process, tid: i32) -> Result<Running, Attempt> {
    let mut last_look = false;
    loop {
        match trace::seize(Pid::from_raw(tid)) {
            Ok(running) => return Ok(running),
            Err(Errno::ESRCH) => return Err(Attempt::Next("it ended")),
            Err(Errno::EPERM) => {}
            Err(errno) => return Err(Attempt::Fatal(Failure::Ptrace(errno as i32))),
        }
        match process.tracer(tid) {
            Some(tracer) if std::fs::exists(format!("/proc/self/task/{tracer}")).unwrap_or(false) => {
                return Err(Attempt::Next("it is in a call that cannot be interrupted"));
            }
            Some(tracer) => return Err(Attempt::Fatal(Failure::AlreadyTraced(tracer))),
            // Somebody may have let go of it since.
            None if !last_look => last_look = true,
            None => return Err(Attempt::Fatal(Failure::NotPermitted)),
        }
    }
}

/// Whether a thread of the target carries a filter of ours, of whatever release: a listener of somebody else's is none of our
/// business.
pub(super) fn carries_our_filter(process: &Process, hold: &Hold<'_>) -> bool {
    shared_filters(process, hold).is_some()
}

/// The filters that all threads of the target carry, and all that it has started since: ours, and those from before it, which are the
/// same for all (TSYNC). Those after it are what a thread has put on itself, as a sandbox, or a child between fork and exec:
/// what they forbid others may do. `None` when they cannot be read, or none is ours.
pub(super) fn shared_filters(process: &Process, hold: &Hold<'_>) -> Option<Vec<Vec<sock_filter>>> {
    // As a thread carries them that a stop does not disturb.
    site::candidates(process, || hold.progress()).into_iter().take(ATTEMPTS).find_map(|tid| {
        let stopped = trace::seize(Pid::from_raw(tid)).ok().filter(|running| running.interrupt().is_ok());
        let Some(Waited::Stopped(stopped)) = stopped.map(|running| wait_stopped(running, hold, LOOK_LIMIT)) else {
            return None;
        };
        let filters = stopped.filters();
        let _ = stopped.detach();
        up_to_ours(filters?.iter().map(|filter| in_our_form(filter)).collect())
    })
}

/// Of a thread's filters in the order in which they were installed.
fn up_to_ours(mut filters: Vec<Vec<sock_filter>>) -> Option<Vec<Vec<sock_filter>>> {
    let ours = filters.iter().position(|filter| begins_as_ours(filter))?;
    filters.truncate(ours + 1);
    Some(filters)
}

fn in_our_form(filter: &[libc::sock_filter]) -> Vec<sock_filter> {
    filter.iter().map(|step| sock_filter { code: step.code, jt: step.jt, jf: step.jf, k: step.k }).collect()
}

/// Its calls would not be made, but bring it SIGSYS (syscall-user-dispatch.rst).
const DISPATCHED: &str = "it has its calls handed to itself, as Wine does (PR_SET_SYSCALL_USER_DISPATCH), so that it can make \
                          none for hotbackup";

/// The first of these calls that the thread's own seccomp filters, if it has any, do not let it make: one that kills or
/// traps would harm it. A container runtime's usual filters do let it.
fn forbidden_call(process: &Process, stopped: &Stopped, calls: &[Call]) -> Option<i64> {
    const NONE: &str = "0"; // SECCOMP_MODE_DISABLED
    const ACTION: u32 = 0xffff_0000;
    const HARMLESS: [u32; 3] = [0x7fff_0000, 0x7ffc_0000, 0x0005_0000]; // allow, log, errno
    const X86_64: u32 = 0xc000_003e;
    if process.status_field(stopped.tid().as_raw(), "Seccomp").as_deref() == Some(NONE) {
        return None;
    }
    let all: Vec<&Call> = calls.iter().flat_map(Call::all).collect();
    let Some(filters) = stopped.filters() else { return all.first().map(|call| call.nr) };
    filters.iter().find_map(|filter| {
        let program = in_our_form(filter);
        let may = |call: &Call| {
            let mut args = [0; 6];
            for (arg, value) in args.iter_mut().zip(&call.args) {
                *arg = value.known_before();
            }
            let answer = emulate(&program, call.nr as u32, X86_64, args).map(|answer| answer & ACTION);
            // It is shown to us: the probe, or a line that runs where keepers of before answer.
            let ours = begins_as_ours(&program) && answer == Some(USER_NOTIF);
            ours || answer.is_some_and(|answer| HARMLESS.contains(&answer))
        };
        all.iter().find(|call| !may(call)).map(|call| call.nr)
    })
}

/// Waits for a stop. The request to a thread that does not stop in time is taken back when this tracer thread ends.
fn wait_stopped(mut running: Running, hold: &Hold<'_>, limit: Duration) -> Waited {
    let limit = Instant::now() + limit;
    let mut round = 0;
    loop {
        match running.poll() {
            Waited::Running(again) => running = again,
            done => return done,
        }
        if Instant::now() > limit {
            return Waited::Running(running);
        }
        hold.progress();
        // Not spinning: the thread waited for may be queued for this very processor. At first it is a matter of
        // microseconds; later it is the machine that is busy.
        std::thread::sleep(if round < QUICK_ROUNDS { Duration::from_micros(5) } else { Duration::from_micros(200) });
        round += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_has_put_on_itself_after_our_filter_does_not_count() {
        let ours = crate::calls::filter::compile(crate::calls::Shape::default()).unwrap();
        let other = |k| vec![sock_filter { code: 0x06, jt: 0, jf: 0, k }];
        let kept = up_to_ours(vec![other(1), ours.clone(), other(2), other(3)]);
        assert_eq!(kept, Some(vec![other(1), ours]));
        assert_eq!(up_to_ours(vec![other(1), other(2)]), None);
    }

    #[test]
    fn a_thread_that_is_in_our_own_hands_is_not_somebody_elses() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let process = Process::open(pid).unwrap();
        assert!(seize(&process, pid).is_ok());
        // The hold lasts as long as this thread of ours.
        assert!(matches!(seize(&process, pid), Err(Attempt::Next(_))));
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
