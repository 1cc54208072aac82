//! Keepers that are born from the target, where ours cannot be put into its cgroups (a sidecar). They have then its cgroups,
//! namespaces, user and seccomp filters by themselves, and end with none of us.
//!
//! ```text
//!   supervisor                      a thread of the target                      who is born
//!   ----------                      ----------------------                      -----------
//!   first line:                     memfd_create(the program), socketpair
//!                                   sendmsg(socket: the eventfd)
//!   writes the program, seals it,
//!   sends its /proc by the socket
//!   second line:                    rt_sigprocmask(block all)
//!                                   clone(VM, VFORK) ------------------------>  a go-between:
//!                                                                               clone(VM, VFORK) ----> dup2: memory, socket, program
//!                                                                                                      close_range(all else: on exec)
//!                                                                                                      setsid
//!                                                                                                      execveat(program)
//!                                                                               exit                   the keepers' parent
//!                                   wait4(the go-between)                                              takes eventfd and /proc from
//!                                   rt_sigprocmask(as before)                                          the socket, starts the keeper,
//!                                   close: the program, the far socket                                 which makes its twin
//!   waits for word by the socket  <------------------------------------------------------------------  "k": ready
//!   third line:                     seccomp(..) = listener
//!                                   sendmsg(socket: the listener) ---------------------------------->  has it
//! ```
//!
//! - The new tasks run in the target's memory, as posix_spawn(3) does it, for some hundred microseconds, on a stack of their own; all
//!   signals are blocked in them, so that no handler of the program runs there.
//! - No descriptor is closed before the new program runs (only marked): a close may wait for a file system.
//! - The go-between has no exit signal and executes nothing, and the thread itself waits for it: the program hears of no child.
//!   What is born is an orphan at once. Only where the target is process 1 of its namespace, or a subreaper, is it the target's child.
//! - The thread that installs the filter hands the listener on itself, so nothing depends on us from then on. That a descriptor can be
//!   handed on is tried before, with the eventfd; that the keeper can make the calls it will need, too.
//! - **What is mapped is unmapped** when it came to nothing, by the last call of a line that runs elsewhere. Nobody else uses the
//!   page then: who ran in it is in no call any more, as each line was seen to its end, with which the go-between had been waited
//!   for, and it had waited for the other to leave this memory (VFORK). Where a line was not seen to its end, the page stays.

use std::fs::File;
use std::io::Error as IoError;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::fcntl::{OFlag, readlinkat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::messages::{self, MESSAGE, listener_place, message, send};
use super::page::{ATTEMPTS, CLOSED_BEFORE, Made, PAGE_BYTES, Page};
use super::{NotInstalled, Place, RUN_LIMIT, wait_for};
use crate::error::{Error, call_name};
use crate::helper::process::{BORN, KEEPER, PARENT, end_all};
use crate::helper::program::{self, Program};
use crate::ptracer::client::Ptracer;
use crate::ptracer::payload::{Call, PENDING, Value};
use crate::shared::memory::Memory;
use crate::sys::{passing, pidfd, procfs};
use crate::target::process::{Process, to_c};

/// How long the new keepers may take until they say that they are ready, on a busy machine.
const READY_LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked at whether they are still wanted.
const LOOK: Duration = Duration::from_millis(50);

// Where things stand, from the page's beginning.
const TRIAL: u64 = messages::END;
const PAIR: u64 = TRIAL + MESSAGE;
const PROGRAM: u64 = PAIR + 16;
const WORDS: u64 = PROGRAM + 32;
const NAME: u64 = WORDS + 8 * 12;
const ARGUMENTS: u64 = NAME + 24;
const STRINGS: u64 = ARGUMENTS + 8 * 8;
const STACK: u64 = 512;
const STRINGS_END: u64 = PAGE_BYTES - STACK;
const _: () = assert!(STRINGS + 512 < STRINGS_END && program::NAME.len() < 24, "all has its place");

/// The words of the results.
#[derive(Clone, Copy)]
#[repr(u64)]
enum Word {
    Paired,
    Near,
    Far,
    Sent,
    Gifts,
    Masked,
    Cloned,
    Born,
    Executed,
    All,
    Before,
    Done,
}

fn at(page: Page, word: Word) -> u64 {
    page.0 + WORDS + 8 * word as u64
}

/// What is given to those who are born, by its numbers in the target.
pub(crate) struct Given {
    /// The session's memory.
    pub memory: RawFd,
    /// The eventfd.
    pub wake: RawFd,
}

/// The target's socket by which they are spoken to.
pub(crate) struct Socket {
    /// Our own copy.
    pub near: OwnedFd,
    /// Its number in the target.
    pub number: RawFd,
    /// Its inode.
    pub id: u64,
}

/// Why nothing was born.
enum NotBorn {
    /// It cannot be, and why; all that was begun has ended.
    Cannot(String),
    /// Somebody may still be on his way.
    InDoubt(Error),
    /// The target is gone, frozen, or not wanted any more.
    Other(Error),
}

impl From<NotInstalled> for NotBorn {
    fn from(not: NotInstalled) -> Self {
        match not {
            NotInstalled { error, in_doubt: true } => Self::InDoubt(error),
            NotInstalled { error: Error::OwnFilter { call, .. }, .. } => Self::Cannot(format!(
                "a seccomp filter of its own forbids, or may forbid, the {} call that it takes",
                call_name(call)
            )),
            NotInstalled { error, .. } => Self::Other(error),
        }
    }
}

impl From<Error> for NotBorn {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

fn failed(call: &str, result: i64) -> NotBorn {
    let errno = Errno::from_raw(result.unsigned_abs() as i32);
    let hint = match (call, errno) {
        ("clone", Errno::EAGAIN) => " (pids.max of its cgroup, or RLIMIT_NPROC of its user)",
        ("execveat" | "memfd_create", Errno::EACCES | Errno::EPERM) => {
            " (the sysctl vm.memfd_noexec, a security module, or a seccomp filter of its own)"
        }
        (_, Errno::EPERM | Errno::EACCES | Errno::ENOSYS) => " (a seccomp filter of its own, or a security module)",
        _ => "",
    };
    NotBorn::Cannot(format!("its {call} call failed: {errno}{hint}"))
}

impl Place<'_> {
    /// Has the target start keepers that have what is `given`; returns when they are ready.
    ///
    /// # Errors
    /// [`Error::CannotOutlive`], with what is missing: then nothing of what was made in the target, also before this, is left
    /// there.
    pub fn bear(
        &mut self,
        ptracer: &mut Ptracer,
        program: Program,
        given: &Given,
        session: &Memory,
    ) -> Result<Socket, Error> {
        let pid = self.process.pid();
        let mut made = vec![given.memory, given.wake];
        let why = match self.try_to_bear(ptracer, program, given, session, &mut made) {
            Ok(socket) => {
                self.socket = Some(socket.number);
                return Ok(socket);
            }
            Err(NotBorn::InDoubt(error)) => return Err(error),
            Err(NotBorn::Other(error @ (Error::TargetExited(_) | Error::Frozen { .. } | Error::GivenUp(_)))) => {
                return Err(error);
            }
            Err(NotBorn::Other(error)) => error.to_string(),
            Err(NotBorn::Cannot(why)) => why,
        };
        end_all(KEEPER, self.process);
        end_all(PARENT, self.process);
        self.clear(ptracer, &made);
        Err(Error::CannotOutlive { pid, why })
    }

    /// Hands the listener on through a socket that was made before, by an attach that came to nothing.
    pub fn hand_on_through(&mut self, socket: RawFd) -> Result<(), Error> {
        self.write_messages()?;
        self.socket = Some(socket);
        Ok(())
    }

    fn write_messages(&self) -> Result<(), Error> {
        for attempt in 0..ATTEMPTS {
            let place = listener_place(self.page, attempt);
            self.write(&message(place, passing::LISTENER, CLOSED_BEFORE), place)?;
        }
        Ok(())
    }

    fn try_to_bear(
        &mut self,
        ptracer: &mut Ptracer,
        program: Program,
        given: &Given,
        session: &Memory,
        made: &mut Vec<RawFd>,
    ) -> Result<Socket, NotBorn> {
        self.write_all(given)?;
        let ends = self.make_gifts(ptracer, made)?;
        let socket = self.take_socket(ends.near)?;
        // Whoever comes after us, if we are killed, finds it by this.
        session.socket_id.store(socket.id, Ordering::SeqCst);
        session.target_socket.store(socket.number, Ordering::SeqCst);
        failpoint::hit("birth.gifts-made");
        let file = self.write_program(program, ends.program)?;
        let proc = procfs::root().map_err(|errno| NotBorn::Cannot(format!("/proc cannot be handed on: {errno}")))?;
        passing::send(socket.near.as_fd(), &[passing::PROC], Some(proc))
            .map_err(|errno| NotBorn::Cannot(format!("a descriptor cannot be handed on to it: {errno}")))?;
        // Nobody may have it open for writing when it is executed.
        drop(file);
        failpoint::hit("birth.program-written");
        let began = Instant::now();
        self.start(ptracer, given, &ends, made)?;
        let born = began.elapsed();
        failpoint::hit("birth.born");
        self.wait_until_ready(&socket)?;
        tracing::debug!(?born, ready = ?began.elapsed(), "the process has started its keepers itself");
        failpoint::hit("birth.ready");
        Ok(socket)
    }

    /// All that the lines work on.
    fn write_all(&self, given: &Given) -> Result<(), Error> {
        let (page, process) = (self.page, self.process);
        let put = |offset: u64, bytes: &[u8]| self.write(bytes, page.0 + offset);
        put(TRIAL, &message(page.0 + TRIAL, passing::WAKE, given.wake as u64))?;
        let four = [PENDING, PENDING, CLOSED_BEFORE, PENDING];
        put(PROGRAM, &four.map(u64::to_ne_bytes).concat())?;
        put(PAIR, &[0xff; 16])?;
        let mut words = [PENDING; Word::Done as usize + 1];
        words[Word::All as usize] = u64::MAX;
        words[Word::Before as usize] = 0;
        put(WORDS, &words.map(u64::to_ne_bytes).concat())?;
        self.write_messages()?;
        put(NAME, program::NAME.as_bytes())?;
        // As it counts processes itself.
        let (number, start) = (process.name().inner.to_string(), process.start().to_string());
        let mut strings = vec![to_c(PARENT.name()).unwrap_or_default()];
        strings.extend([number.as_str(), &start, BORN].map(|word| std::ffi::CString::new(word).unwrap_or_default()));
        let armed = std::env::var(failpoint::VARIABLE).unwrap_or_default();
        let armed = std::ffi::CString::new(format!("{}={armed}", failpoint::VARIABLE)).unwrap_or_default();
        let (mut bytes, mut pointers) = (Vec::new(), Vec::new());
        for string in &strings {
            pointers.push(page.0 + STRINGS + bytes.len() as u64);
            bytes.extend(string.as_bytes_with_nul());
        }
        pointers.push(0);
        let room = (STRINGS_END - STRINGS) as usize;
        let is_armed = std::env::var_os(failpoint::VARIABLE).is_some();
        if is_armed && bytes.len() + armed.as_bytes_with_nul().len() <= room {
            pointers.push(page.0 + STRINGS + bytes.len() as u64);
            bytes.extend(armed.as_bytes_with_nul());
        }
        pointers.push(0);
        put(STRINGS, &bytes)?;
        put(ARGUMENTS, &pointers.iter().flat_map(|pointer| pointer.to_ne_bytes()).collect::<Vec<u8>>())
    }

    /// The first line: an empty memfd for the program and a socket pair, at high numbers; and a descriptor is handed on.
    fn make_gifts(&mut self, ptracer: &mut Ptracer, made: &mut Vec<RawFd>) -> Result<Ends, NotBorn> {
        let (page, high) = (self.page, self.high);
        let program = Made::at(page.0 + PROGRAM);
        let usual = u64::from(libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        // Since 6.3 it must be said that it is to be executed; before that the kernel knows no such word.
        let exec = if may_say_exec() { u64::from(libc::MFD_EXEC) } else { 0 };
        let [near, far] = [Value::At(page.0 + PAIR), Value::At(page.0 + PAIR + 4)];
        let kind = (libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC) as u64;
        let high_copy = |of, to| Call::of(libc::SYS_fcntl, of, [libc::F_DUPFD_CLOEXEC as u64, high]).into(at(page, to));
        let mut calls = vec![program.made_by(Call::new(libc::SYS_memfd_create, [page.0 + NAME, usual | exec]))];
        calls.extend(program.moved(high));
        let pair = [libc::AF_UNIX as u64, kind, 0, page.0 + PAIR];
        calls.push(Call::new(libc::SYS_socketpair, pair).into(at(page, Word::Paired)));
        calls.push(send(near, page.0 + TRIAL).unless_failed().into(at(page, Word::Sent)));
        calls.extend([high_copy(near, Word::Near), high_copy(far, Word::Far)]);
        // Where there is no pair, these are the numbers of nothing.
        calls.push(Call::of(libc::SYS_close, near, []));
        calls.push(Call::of(libc::SYS_close, far, []).into(at(page, Word::Gifts)));
        let end = at(page, Word::Gifts);
        self.run_once(ptracer, "socketpair", calls, end)?;
        let result = |word| self.word(at(page, word)).map(u64::cast_signed);
        let (program, near, far) = (self.number(program)?, result(Word::Near)?, result(Word::Far)?);
        made.extend([program, near, far].into_iter().filter(|&number| number >= 0).map(|number| number as RawFd));
        let of = |call: &str, result: i64| if result < 0 { Err(failed(call, result)) } else { Ok(result as RawFd) };
        of("socketpair", result(Word::Paired)?)?;
        of("sendmsg", result(Word::Sent)?)?;
        Ok(Ends { program: of("memfd_create", program)?, near: of("fcntl", near)?, far: of("fcntl", far)? })
    }

    fn write_program(&self, program: Program, number: RawFd) -> Result<File, NotBorn> {
        let cannot = |why: String| NotBorn::Cannot(format!("the keeper cannot be written to its memory: {why}"));
        let file = self.process.open_file(&format!("fd/{number}"), OFlag::O_RDWR);
        let file = File::from(file.map_err(|errno| cannot(errno.to_string()))?);
        if link_of(self.process, number).as_deref() != Some(&*format!("/memfd:{} (deleted)", program::NAME)) {
            return Err(cannot("it is gone".into()));
        }
        program.write_to(&file).map_err(|error: IoError| cannot(error.to_string()))?;
        Ok(file)
    }

    fn take_socket(&self, number: RawFd) -> Result<Socket, NotBorn> {
        socket_at(self.process, number).ok_or_else(|| NotBorn::Cannot("it has closed the socket for it".into()))
    }

    /// The second line.
    fn start(
        &mut self,
        ptracer: &mut Ptracer,
        given: &Given,
        ends: &Ends,
        made: &mut Vec<RawFd>,
    ) -> Result<(), NotBorn> {
        const SET: u64 = libc::SIG_SETMASK as u64;
        const BYTES: u64 = 8;
        const ON_EXEC: u64 = libc::CLOSE_RANGE_CLOEXEC as u64;
        let page = self.page;
        let [all, before] = [at(page, Word::All), at(page, Word::Before)];
        let stack = page.0 + PAGE_BYTES - 64;
        let flags = (libc::CLONE_VM | libc::CLONE_VFORK) as u64;
        let clone = |child: Vec<Call>, more: i32| Call {
            child: Some(child),
            ..Call::new(libc::SYS_clone, [flags | more as u64, stack, 0, 0, 0])
        };
        let (arguments, environment) = (page.0 + ARGUMENTS, page.0 + ARGUMENTS + 8 * 5);
        let put = |fd: RawFd, number: u64| Call::new(libc::SYS_dup2, [fd as u64, number]);
        let exit = || Call::new(libc::SYS_exit, [0]);
        let execute = [2, page.0 + NAME + 23, arguments, environment, libc::AT_EMPTY_PATH as u64];
        let born = vec![
            put(given.memory, 0),
            put(ends.far, 1).unless_failed(),
            put(ends.program, 2).unless_failed(),
            Call::new(libc::SYS_close_range, [3, u64::from(u32::MAX), ON_EXEC]).unless_failed(),
            Call::new(libc::SYS_setsid, []).unless_failed(),
            Call::new(libc::SYS_execveat, execute).unless_failed().into(at(page, Word::Executed)),
            exit(),
        ];
        // Who goes between shares the descriptors, and does nothing with them: its exit then flushes none, which can wait for a dead disk.
        let between = vec![clone(born, 0).into(at(page, Word::Born)), exit()];
        let wait = [0, libc::__WALL as u64, 0];
        let close = |fd: RawFd| Call::new(libc::SYS_close, [fd as u64]);
        let calls = vec![
            Call::new(libc::SYS_rt_sigprocmask, [SET, all, before, BYTES]).into(at(page, Word::Masked)),
            clone(between, libc::CLONE_FILES).unless_failed().into(at(page, Word::Cloned)),
            Call::of(libc::SYS_wait4, Value::At(at(page, Word::Cloned)), wait).unless_failed(),
            Call::new(libc::SYS_rt_sigprocmask, [SET, before, 0, BYTES]),
            close(ends.program),
            close(ends.far).into(at(page, Word::Done)),
        ];
        self.run_once(ptracer, "clone", calls, at(page, Word::Done))?;
        // The line has closed them: at their numbers may stand the program's own by now.
        made.retain(|number| ![ends.program, ends.far].contains(number));
        let result = |word| self.word(at(page, word)).map(u64::cast_signed);
        for (call, word) in [("rt_sigprocmask", Word::Masked), ("clone", Word::Cloned), ("clone", Word::Born)] {
            let result = result(word)?;
            if result == PENDING.cast_signed() {
                // Who was born of it may be at work on the page still.
                let why = "who was to start it was killed".into();
                return Err(NotBorn::InDoubt(Error::CannotOutlive { pid: self.process.pid(), why }));
            }
            if result < 0 {
                return Err(failed(call, result));
            }
        }
        match result(Word::Executed)? {
            failure if failure < 0 => Err(failed("execveat", failure)),
            _ => Ok(()),
        }
    }

    fn wait_until_ready(&self, socket: &Socket) -> Result<(), NotBorn> {
        let limit = Instant::now() + READY_LIMIT;
        loop {
            match passing::receive(socket.near.as_fd(), false) {
                Ok(message) => match message.bytes.split_first() {
                    Some((&passing::READY, _)) => return Ok(()),
                    Some((&passing::PROBLEM, words)) => {
                        let words = String::from_utf8_lossy(words).into_owned();
                        return Err(NotBorn::Cannot(format!("the keeper that it started said: {words}")));
                    }
                    _ => return Err(NotBorn::Cannot(ENDED.into())),
                },
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(_) => return Err(NotBorn::Cannot(ENDED.into())),
            }
            if !self.process.is_alive() {
                return Err(Error::TargetExited(self.process.pid()).into());
            }
            if self.process.is_given_up() {
                return Err(Error::GivenUp(self.process.pid()).into());
            }
            if Instant::now() > limit {
                crate::target::cgroups::check_thawed(self.process)?;
                return Err(NotBorn::Cannot("the keeper that it started was not ready in time".into()));
            }
            let mut fds = [PollFd::new(socket.near.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::ZERO));
        }
    }

    /// Closes what was made, where the page has to stay.
    fn close_all(&mut self, ptracer: &mut Ptracer, mut calls: Vec<Call>) {
        let pending = self.page.listener(ATTEMPTS - 1).at_end();
        let Some(last) = calls.pop() else { return };
        calls.push(last.into(pending));
        if let Err(not) = self.run_once(ptracer, "close", calls, pending) {
            tracing::warn!(error = %not.error, "what was made in the process is left there");
        }
    }

    /// Closes what others have left there.
    ///
    /// # Errors
    /// When no thread could be used.
    pub fn close_left(&mut self, ptracer: &mut Ptracer, left: &[RawFd]) -> Result<(), Error> {
        let pending = self.page.listener(ATTEMPTS - 1).at_end();
        let mut calls: Vec<Call> = left.iter().map(|&number| Call::new(libc::SYS_close, [number as u64])).collect();
        if let Some(last) = calls.pop() {
            calls.push(last.into(pending));
            self.run_once(ptracer, "close", calls, pending).map_err(|not| not.error)?;
            self.write(&PENDING.to_ne_bytes(), pending)?;
        }
        Ok(())
    }

    /// The last line of an attach that came to nothing: closes what was made, as far as it is still there, and unmaps the page.
    fn clear(&mut self, ptracer: &mut Ptracer, made: &[RawFd]) {
        let is_ours = |number: &&RawFd| {
            let link = link_of(self.process, **number).unwrap_or_default();
            ["/memfd:hotbackup-", "anon_inode:[eventfd]", "socket:["].iter().any(|start| link.starts_with(start))
        };
        let mut calls: Vec<Call> =
            made.iter().filter(is_ours).map(|&number| Call::new(libc::SYS_close, [number as u64])).collect();
        if self.doubtful {
            self.close_all(ptracer, calls);
            return;
        }
        calls.push(Call::new(libc::SYS_munmap, [self.page.0, PAGE_BYTES]));
        // A word that is pending still, so that a thread is chosen as for any other line; its end is the page's.
        let pending = self.page.session(ATTEMPTS - 1)[1].at_end();
        if self.word(pending).is_ok_and(|word| word != PENDING) && self.write(&PENDING.to_ne_bytes(), pending).is_err()
        {
            return;
        }
        if let Err(error) = ptracer.run(self.process, calls, Some(pending), false) {
            tracing::warn!(%error, "what was made in the process is left there");
            return;
        }
        let _ = wait_for(self.process, "munmap", RUN_LIMIT, || self.word(pending).is_err().then_some(()));
    }
}

const ENDED: &str =
    "the keeper that it started ended at once (a seccomp filter of its own, or a security module, may have killed it)";

/// The numbers in the target of what the first line has made.
struct Ends {
    program: RawFd,
    near: RawFd,
    far: RawFd,
}

fn link_of(process: &Process, number: RawFd) -> Option<String> {
    let link = readlinkat(process.proc(), format!("{}/fd/{number}", process.pid()).as_str()).ok()?;
    link.into_string().ok()
}

/// The target's socket with this number, if it is one of the kind that is made here.
pub(crate) fn socket_at(process: &Process, number: RawFd) -> Option<Socket> {
    let near = pidfd::get_fd(process.pidfd(), number).ok().filter(|near| passing::is_packet_socket(near.as_fd()))?;
    let id = nix::sys::stat::fstat(&near).ok()?.st_ino;
    Some(Socket { near, number, id })
}

/// What births have left in the target whose supervisor was killed: the program, and the ends of the socket.
pub(crate) fn leftovers(process: &Process, session: &Memory) -> Vec<RawFd> {
    let (near, id) = (session.target_socket.load(Ordering::SeqCst), session.socket_id.load(Ordering::SeqCst));
    let (program, near_link) = (format!("/memfd:{} (deleted)", program::NAME), format!("socket:[{id}]"));
    // The other end was made with it, and moved next to it.
    let far_link = format!("socket:[{}]", id.wrapping_add(1));
    let is_far = |number: RawFd| (number - near).abs() <= 2 && socket_at(process, number).is_some();
    let is_left = |number: RawFd, link: &std::ffi::OsStr| {
        link == &*program || near > 0 && (number == near && link == &*near_link || link == &*far_link && is_far(number))
    };
    process
        .descriptors()
        .into_iter()
        .filter(|(number, link)| is_left(*number, link))
        .map(|(number, _)| number)
        .collect()
}

/// Whether this kernel knows `MFD_EXEC`.
fn may_say_exec() -> bool {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    let exec = MFdFlags::MFD_CLOEXEC | MFdFlags::from_bits_retain(libc::MFD_EXEC);
    memfd_create("hotbackup-trial", exec).err() != Some(Errno::EINVAL)
}
