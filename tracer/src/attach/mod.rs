//! Attach: a thread of the target is stopped three times, each time for as long as it takes to read and set its registers,
//! and runs a few injected calls: it maps a page; it makes the session's memory and an eventfd; and, once a keeper is there
//! that has this memory, it installs the filter, which reaches all threads by `TSYNC`.
//!
//! No instant of it is an exception to "do no harm". When a tracer dies, a stopped thread runs on with the registers
//! it has at that moment. So a thread's registers are set exactly once, to a line of code that restores the thread by
//! itself (`ptracer/payload.rs`); before that nothing of the target is changed but a few zero bytes of padding, and after it
//! nothing is needed from us. The keeper is there before the filter is. And the tracer is a process of its own
//! ([`crate::ptracer`]), which the keeper ends if it hangs.
//!
//! A ptracer that is killed on its way leaves open whether a thread runs the code. So another one is asked only after a
//! while, each attempt has a word of its own for its result, and that there is no filter counts as proven only when every
//! attempt has said so.

pub(crate) mod birth;
mod messages;
mod page;
pub mod preflight;
pub(crate) mod region;
mod rights;

use std::fs::File;
use std::os::fd::RawFd;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use seccompiler::sock_filter;

use page::{ATTEMPTS, Made, PAGE_BYTES, Page};

use crate::error::{Error, errno};
use crate::ptracer::client::Ptracer;
use crate::ptracer::payload::{Call, PENDING};
use crate::ptracer::site;
use crate::target::cgroups;
use crate::target::process::Process;
use crate::target::room;

/// How long the thread may take to run the calls, once let run: it needs a processor, that is all.
const RUN_LIMIT: Duration = Duration::from_secs(10);
/// How long it may take when the ptracer was killed, and perhaps before it let any thread run them.
const DOUBT_LIMIT: Duration = Duration::from_secs(1);
/// How often it is looked at whether the target was frozen meanwhile.
const FROZEN_LOOK: Duration = Duration::from_millis(100);

/// The page in the target through which the lines get what they work on, and tell what came of it.
pub(crate) struct Place<'a> {
    process: &'a Process,
    memory: File,
    page: Page,
    /// From this number on, descriptors of ours stand.
    high: u64,
    /// The number, in the target, of the socket by which it hands the listener to keepers that were born from it.
    socket: Option<RawFd>,
    /// A thread may still come to an earlier line on the page: it is never unmapped then.
    doubtful: bool,
    /// The longest time for which a thread has been stopped so far.
    pub stopped: Duration,
}

/// The numbers, in the target, of the two descriptors that a session needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Session {
    /// The memory, empty.
    pub memory: RawFd,
    /// The eventfd that wakes the keeper.
    pub wake: RawFd,
}

/// What came of installing the filter.
#[derive(Debug)]
pub(crate) struct Installed {
    /// The listener's number in the target, or a negative errno.
    pub result: i64,
    /// Whether another attempt may still bring a filter.
    pub in_doubt: bool,
}

/// An attempt that brought no result, and whether one may come of it all the same.
#[derive(Debug)]
pub(crate) struct NotInstalled {
    /// Why.
    pub error: Error,
    /// Whether a thread may still be on its way.
    pub in_doubt: bool,
}

impl<'a> Place<'a> {
    /// Has a thread of the target map the page.
    ///
    /// # Errors
    /// When no thread could be used, or we may not.
    pub fn map(process: &'a Process, ptracer: &mut Ptracer) -> Result<Self, Error> {
        let pid = process.pid();
        let memory = process.open_file("mem", OFlag::O_RDWR);
        let memory = File::from(memory.map_err(Error::os(pid, "writing to the memory of"))?);
        let hole = site::find_hole(process);
        let page = Page(hole.ok_or_else(|| Error::NoThread(pid, "no room in its address space".into()))?);
        let read_write = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
        let map = Call::new(libc::SYS_mmap, [page.0, PAGE_BYTES, read_write, flags, u64::MAX, 0]);
        let stopped = ptracer.run(process, vec![map], None, false)?;
        let mapped = || site::is_fresh_mapping(process, &memory, page.0, PAGE_BYTES).then_some(());
        wait_for(process, "mmap", RUN_LIMIT, mapped)?;
        failpoint::hit("attach.page-mapped");
        let place =
            Self { process, memory, page, high: room::high_number(process), socket: None, doubtful: false, stopped };
        place.write(&page.before(), page.0)?;
        Ok(place)
    }

    /// Has a thread of the target make the session's memory and the eventfd.
    ///
    /// # Errors
    /// As [`Self::map`]; [`Error::Injected`] when the target may not make them.
    pub fn make_session(&mut self, ptracer: &mut Ptracer) -> Result<Session, Error> {
        let (page, high) = (self.page, self.high);
        let line = |attempt: usize| {
            let [memory, wake] = page.session(attempt);
            let flags = u64::from(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
            // Its length and its seals it gets from us, by its high number: the low one may be another file's by the next call.
            let mut calls = vec![memory.made_by(Call::new(libc::SYS_memfd_create, [page.name(), flags]))];
            calls.extend(memory.moved(high));
            let flags = (libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) as u64;
            calls.push(wake.made_by(Call::new(libc::SYS_eventfd2, [0, flags])));
            calls.extend(wake.moved(high));
            (calls, wake)
        };
        let (attempt, in_doubt) = self.run(ptracer, "memfd_create", false, line).map_err(|not| not.error)?;
        self.doubtful |= in_doubt;
        let [memory, wake] = page.session(attempt);
        let number = |made: Made, call| match self.number(made)? {
            number @ 0.. => Ok(number as RawFd),
            failed => Err(Error::Injected { pid: self.process.pid(), call, errno: Errno::from_raw(-failed as i32) }),
        };
        Ok(Session { memory: number(memory, "memfd_create")?, wake: number(wake, "eventfd2")? })
    }

    /// Has a thread of the target install `filter` for all of them.
    ///
    /// # Errors
    /// When no thread could be used, or we may not.
    pub fn install(
        &mut self,
        ptracer: &mut Ptracer,
        filter: &[sock_filter],
        no_new_privs: bool,
    ) -> Result<Installed, NotInstalled> {
        let (page, high, socket) = (self.page, self.high, self.socket);
        let untouched = |error| NotInstalled { error, in_doubt: false };
        self.write(&page.program(filter), page.header()).map_err(untouched)?;
        failpoint::hit("attach.page-written");
        let line = |attempt: usize| {
            let mut calls = Vec::new();
            if no_new_privs {
                calls.push(Call::new(libc::SYS_prctl, [libc::PR_SET_NO_NEW_PRIVS as u64, 1, 0, 0, 0]));
            }
            let mode = u64::from(libc::SECCOMP_SET_MODE_FILTER);
            let seccomp = Call::new(libc::SYS_seccomp, [mode, preflight::FILTER_FLAGS, page.header()]);
            let listener = match socket {
                None => page.listener(attempt),
                Some(_) => page.listener(attempt).with_closed_at(messages::listener_word(page, attempt)),
            };
            calls.push(listener.made_by(seccomp));
            // By the thread itself: nobody may be there any more who could do it.
            calls.extend(socket.map(|socket| messages::hand_on(page, attempt, socket)));
            calls.extend(listener.moved(high));
            (calls, listener)
        };
        let (attempt, in_doubt) = self.run(ptracer, "seccomp", true, line)?;
        let result = self.number(page.listener(attempt)).map_err(untouched)?;
        Ok(Installed { result, in_doubt })
    }

    /// Has a thread run a line that makes descriptors, once if that can be known. Each attempt has words of its own, for what
    /// is made and, last, for the one by which the line's end is known. Returns the attempt that came to it, and whether
    /// another one may still.
    fn run(
        &mut self,
        ptracer: &mut Ptracer,
        call: &'static str,
        arm: bool,
        line: impl Fn(usize) -> (Vec<Call>, Made),
    ) -> Result<(usize, bool), NotInstalled> {
        let lines: Vec<(Vec<Call>, Made)> = (0..ATTEMPTS).map(line).collect();
        let come_to_an_end = || {
            let ended = lines.iter().map(|(_, last)| self.word(last.at_end()).unwrap_or(PENDING));
            let mut ended = ended.enumerate().filter(|(_, word)| *word != PENDING);
            // Of two attempts, one may have been told that the other was quicker.
            let first = ended.next()?.0;
            let well = |attempt: &usize| self.number(lines[*attempt].1).is_ok_and(|number| number >= 0);
            Some(std::iter::once(first).chain(ended.map(|(attempt, _)| attempt)).find(well).unwrap_or(first))
        };
        let (mut in_doubt, mut error, mut longest) = (false, None, self.stopped);
        for (calls, last) in &lines {
            let asked = ptracer.run(self.process, calls.clone(), Some(last.at_end()), arm);
            let limit = if asked.is_ok() { RUN_LIMIT } else { DOUBT_LIMIT };
            match asked {
                Ok(stopped) => longest = longest.max(stopped),
                // As it was frozen, or is not wanted any more, perhaps on its way.
                Err(ended @ (Error::Frozen { .. } | Error::GivenUp(_))) => {
                    return Err(NotInstalled { error: ended, in_doubt: true });
                }
                // It was killed, and nobody knows whether a thread runs the code.
                Err(ended @ Error::Ptracer { .. }) => {
                    in_doubt = true;
                    error = Some(ended);
                }
                Err(error) => return Err(NotInstalled { error, in_doubt }),
            }
            match wait_for(self.process, call, limit, come_to_an_end) {
                Ok(attempt) => {
                    self.stopped = longest;
                    return Ok((attempt, in_doubt));
                }
                Err(gone @ Error::TargetExited(_)) => return Err(NotInstalled { error: gone, in_doubt: false }),
                Err(given_up @ Error::GivenUp(_)) => return Err(NotInstalled { error: given_up, in_doubt: true }),
                Err(late) if error.is_none() => return Err(NotInstalled { error: late, in_doubt: true }),
                Err(_) => {}
            }
        }
        let pid = self.process.pid();
        Err(NotInstalled { error: error.unwrap_or_else(|| Error::NoThread(pid, "none ran".into())), in_doubt })
    }

    /// Has a thread run a line, once; `end` is the word by which its end is known.
    fn run_once(
        &mut self,
        ptracer: &mut Ptracer,
        call: &'static str,
        calls: Vec<Call>,
        end: u64,
    ) -> Result<(), NotInstalled> {
        let (limit, killed) = match ptracer.run(self.process, calls, Some(end), false) {
            Ok(stopped) => {
                self.stopped = self.stopped.max(stopped);
                (RUN_LIMIT, None)
            }
            Err(error @ Error::Ptracer { .. }) => (DOUBT_LIMIT, Some(error)),
            Err(error) => {
                let in_doubt = matches!(error, Error::Frozen { .. } | Error::GivenUp(_));
                return Err(NotInstalled { error, in_doubt });
            }
        };
        let ended = || self.word(end).is_ok_and(|word| word != PENDING).then_some(());
        wait_for(self.process, call, limit, ended)
            .map_err(|late| NotInstalled { error: killed.unwrap_or(late), in_doubt: true })
    }

    /// The number that a descriptor has come to, or why it was not made.
    fn number(&self, made: Made) -> Result<i64, Error> {
        let [low, high] = [self.word(made.at_low())?, self.word(made.at_high())?].map(u64::cast_signed);
        Ok(if low >= 0 && high >= 0 { high } else { low })
    }

    fn word(&self, address: u64) -> Result<u64, Error> {
        let mut word = [0; 8];
        let read = self.memory.read_exact_at(&mut word, address);
        read.map_err(|error| Error::os(self.process.pid(), "reading the memory of")(errno(&error)))?;
        Ok(u64::from_ne_bytes(word))
    }

    fn write(&self, bytes: &[u8], address: u64) -> Result<(), Error> {
        let written = self.memory.write_all_at(bytes, address);
        written.map_err(|error| Error::os(self.process.pid(), "writing to the memory of")(errno(&error)))
    }
}

/// Has a thread of the target make a call that the filter shows and that changes nothing; returns when `seen`, or
/// after a while.
///
/// # Errors
/// When no thread could be used, or we may not.
pub(crate) fn probe(process: &Process, ptracer: &mut Ptracer, seen: impl Fn() -> bool) -> Result<bool, Error> {
    ptracer.run(process, vec![Call::new(libc::SYS_ftruncate, [u64::MAX, 0])], None, false)?;
    match wait_for(process, "ftruncate", RUN_LIMIT, || seen().then_some(())) {
        Ok(()) => Ok(true),
        Err(Error::NoThread(..)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Waits until the thread has come so far.
fn wait_for<T>(
    process: &Process,
    call: &'static str,
    limit: Duration,
    done: impl Fn() -> Option<T>,
) -> Result<T, Error> {
    let (pid, limit) = (process.pid(), Instant::now() + limit);
    let mut looked = Instant::now();
    loop {
        if let Some(result) = done() {
            return Ok(result);
        }
        if !process.is_alive() {
            return Err(Error::TargetExited(pid));
        }
        if process.is_given_up() {
            return Err(Error::GivenUp(pid));
        }
        if looked.elapsed() > FROZEN_LOOK {
            looked = Instant::now();
            cgroups::check_thawed(process)?;
        }
        if Instant::now() > limit {
            return Err(Error::NoThread(pid, format!("its {call} call did not come about")));
        }
        std::thread::sleep(Duration::from_micros(20));
    }
}
