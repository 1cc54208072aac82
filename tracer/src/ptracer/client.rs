//! The supervisor's side of the ptracer: starts it, asks it, and starts another when it is gone.

use std::io::ErrorKind::WouldBlock;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::payload::Call;
use super::request::{Reply, Request};
use crate::calls::Shape;
use crate::error::Error;
use crate::helper::process::{self as helper, PTRACER};
use crate::helper::program::Program;
use crate::shared::memory::Memory;
use crate::sys::pidfd;
use crate::target::cgroups;
use crate::target::process::{Process, Registers};

/// How long a thread may take to be found, stopped and redirected.
const RUN_LIMIT: Duration = Duration::from_secs(12);
/// How long a round of pauses may take: the round itself is bounded to 20 ms.
const PAUSE_LIMIT: Duration = Duration::from_millis(500);
/// How long a descriptor may take to be closed.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// How long one may take to end.
const END_LIMIT: Duration = Duration::from_millis(200);
/// How often it is looked at whether the target was frozen meanwhile.
const FROZEN_LOOK: Duration = Duration::from_millis(100);
/// How often another ptracer is started when one ends amid a request.
const TRIES: u32 = 3;

/// A ptracer for one target.
pub(crate) struct Ptracer {
    program: Program,
    /// The session memory, once there is one.
    memory: Option<OwnedFd>,
    running: Option<Running>,
}

struct Running {
    child: Child,
    socket: BufReader<UnixStream>,
}

impl Ptracer {
    /// Starts one.
    ///
    /// # Errors
    /// [`Error::Ptracer`] when it does not start.
    pub fn start(process: &Process, program: Program, memory: Option<&Memory>) -> Result<Self, Error> {
        let problem = |error: std::io::Error| Error::Ptracer { pid: process.pid(), problem: error.to_string() };
        let memory = memory.map(|memory| memory.fd().try_clone()).transpose().map_err(problem)?;
        let running = Running::start(process, program, memory.as_ref()).map_err(problem)?;
        Ok(Self { program, memory, running: Some(running) })
    }

    /// Has a thread of the target run `calls`; returns for how long it was stopped. See [`Request::Run`].
    ///
    /// # Errors
    /// Why no thread could be used.
    pub fn run(
        &mut self,
        process: &Process,
        calls: Vec<Call>,
        result: Option<u64>,
        arm: bool,
    ) -> Result<Duration, Error> {
        self.run_request(process, &Request::Run { calls, result, arm, within: None })
    }

    /// The same, once, with its code between two addresses: in memory of ours.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_within(
        &mut self,
        process: &Process,
        calls: Vec<Call>,
        result: u64,
        within: (u64, u64),
    ) -> Result<Duration, Error> {
        let (result, within) = (Some(result), Some(within));
        self.run_request(process, &Request::Run { calls, result, arm: false, within })
    }

    fn run_request(&mut self, process: &Process, request: &Request) -> Result<Duration, Error> {
        let pid = process.pid();
        match self.ask(process, request, RUN_LIMIT)? {
            Reply::Ran(nanoseconds) => Ok(Duration::from_nanos(nanoseconds)),
            Reply::Failed(failure) => Err(failure.into_error(pid)),
            _ => Err(Error::Ptracer { pid, problem: "it answered another question".into() }),
        }
    }

    /// Whether the target carries our filter.
    ///
    /// # Errors
    /// When no thread could be looked at.
    pub fn recognises(&mut self, process: &Process) -> Result<bool, Error> {
        Ok(matches!(self.ask(process, &Request::Recognise, RUN_LIMIT)?, Reply::Recognised(true)))
    }

    /// Which calls the target's filters do not show that today's would; `None` when they cannot be read. A thread is stopped for it.
    ///
    /// # Errors
    /// When the ptracer cannot be asked.
    pub fn unseen(&mut self, process: &Process, shape: Shape) -> Result<Option<Vec<String>>, Error> {
        match self.ask(process, &Request::Unseen { shape }, RUN_LIMIT)? {
            Reply::Unseen(found) => Ok(found),
            _ => Ok(None),
        }
    }

    /// Whether a copy of the target's descriptor `number` can be closed within a while; this ptracer ends if it cannot.
    ///
    /// # Errors
    /// When it cannot be asked.
    pub fn closes(&mut self, process: &Process, number: RawFd) -> Result<bool, Error> {
        let pid = process.pid();
        let hope = || !process.is_given_up() && cgroups::check_thawed(process).is_ok();
        let Some(running) = &mut self.running else {
            return Err(Error::Ptracer { pid, problem: "it has ended".into() });
        };
        let Err(error) = running.ask(&Request::Close { number }, CLOSE_LIMIT, hope) else { return Ok(true) };
        self.end();
        if process.is_given_up() {
            return Err(Error::GivenUp(pid));
        }
        cgroups::check_thawed(process)?;
        if error.kind() == WouldBlock { Ok(false) } else { Err(Error::Ptracer { pid, problem: error.to_string() }) }
    }

    /// Stops threads, each for an instant; returns those that were stopped, or are gone. When the ptracer dies at it, that
    /// is none: the caller asks again.
    pub fn pause(&mut self, process: &Process, tids: Vec<i32>) -> Vec<i32> {
        match self.ask(process, &Request::Pause { tids }, PAUSE_LIMIT) {
            Ok(Reply::Paused(paused)) => paused,
            Ok(_) => Vec::new(),
            Err(error) => {
                tracing::warn!(%error, "threads could not be stopped for an instant");
                Vec::new()
            }
        }
    }

    /// The same, with where they stood; nothing for those that are gone.
    pub fn look(&mut self, process: &Process, tids: Vec<i32>) -> Vec<(i32, Option<Registers>)> {
        match self.ask(process, &Request::Look { tids }, PAUSE_LIMIT) {
            Ok(Reply::Looked(found)) => found,
            Ok(_) | Err(_) => Vec::new(),
        }
    }

    /// Has all threads stand still, for at most `limit`.
    ///
    /// # Errors
    /// Which thread would not, or that the ptracer died at it: then they went on.
    pub fn freeze(&mut self, process: &Process, limit: Duration) -> Result<Frozen<'_>, String> {
        let limit_us = limit.as_micros() as u64;
        match self.ask(process, &Request::Freeze { limit_us }, limit + PAUSE_LIMIT) {
            Ok(Reply::Frozen(waiting)) => Ok(Frozen { ptracer: self, waiting, thawed: false }),
            Ok(Reply::NotFrozen(cause)) => Err(cause),
            Ok(_) => Err("the ptracer answered another question".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Asks, and asks another one where the first is killed at it. To ask twice is harmless: a thread that was sent
    /// through the code installs the filter, and to install another is refused by the kernel.
    fn ask(&mut self, process: &Process, request: &Request, limit: Duration) -> Result<Reply, Error> {
        let pid = process.pid();
        let mut problem = String::new();
        for _ in 0..TRIES {
            if self.running.is_none() {
                match Running::start(process, self.program, self.memory.as_ref()) {
                    Ok(running) => self.running = Some(running),
                    Err(error) => return Err(Error::Ptracer { pid, problem: error.to_string() }),
                }
            }
            let Some(running) = &mut self.running else { continue };
            match running.ask(request, limit, || !process.is_given_up() && cgroups::check_thawed(process).is_ok()) {
                Ok(reply) => return Ok(reply),
                Err(error) => problem = error.to_string(),
            }
            self.end();
            if process.is_given_up() {
                return Err(Error::GivenUp(pid));
            }
            cgroups::check_thawed(process)?;
            if !process.is_alive() {
                return Err(Error::TargetExited(pid));
            }
            if matches!(request, Request::Run { result: Some(_), .. }) {
                break; // what became of it is for the caller to find out
            }
        }
        Err(Error::Ptracer { pid, problem })
    }

    /// Whether our helpers stand in the target's cgroups.
    ///
    /// # Errors
    /// When the ptracer cannot be asked.
    pub fn is_with(&mut self, process: &Process) -> Result<bool, Error> {
        Ok(matches!(self.ask(process, &Request::Place, RUN_LIMIT)?, Reply::Placed(true)))
    }

    /// Ends it: whatever it holds goes on.
    pub fn end(&mut self) {
        if let Some(Running { mut child, socket }) = self.running.take() {
            // By that the guard kills the ptracer and ends, unless it is stopped.
            drop(socket);
            if !end_pair(child.id() as i32) {
                // Frozen where it cannot be taken out: it ends when it is thawed.
                let _ = std::thread::Builder::new().spawn(move || drop(child.wait()));
                return;
            }
            let _ = child.wait();
        }
    }
}

/// The target's threads stand still while this lives, unless the time is up or the ptracer dies.
pub(crate) struct Frozen<'a> {
    ptracer: &'a mut Ptracer,
    waiting: Vec<i32>,
    thawed: bool,
}

impl Frozen<'_> {
    /// The threads that were not stopped, because they wait for an answer.
    pub fn waiting(&self) -> &[i32] {
        &self.waiting
    }

    /// Lets them go on; whether they had stood still all the time.
    pub fn thaw(mut self) -> bool {
        self.ask()
    }

    fn ask(&mut self) -> bool {
        self.thawed = true;
        let Some(running) = &mut self.ptracer.running else { return false };
        match running.ask(&Request::Thaw, PAUSE_LIMIT, || true) {
            Ok(Reply::Thawed(in_time)) => in_time,
            Ok(_) | Err(_) => {
                self.ptracer.end(); // whatever it holds goes on
                false
            }
        }
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if !self.thawed {
            self.ask();
        }
    }
}

/// Ends a guard and its ptracer, if they do not end by themselves; whether both have ended. They may have been frozen with the
/// target.
fn end_pair(guard: i32) -> bool {
    let (Ok(proc), Ok(pidfd)) = (std::fs::File::open("/proc"), pidfd::open(guard)) else { return true };
    if pidfd::ends_within(pidfd.as_fd(), END_LIMIT) {
        return true;
    }
    let children = std::fs::read_to_string(format!("/proc/{guard}/task/{guard}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    let ended = children.filter_map(|pid| Some((pid, pidfd::open(pid).ok()?))).all(|(pid, ptracer)| {
        // It is a child of the guard still, which is not waiting for it.
        cgroups::end(proc.as_fd(), pid, ptracer.as_fd())
    });
    cgroups::end(proc.as_fd(), guard, pidfd.as_fd()) && ended
}

impl Drop for Ptracer {
    fn drop(&mut self) {
        self.end();
    }
}

impl Running {
    fn start(process: &Process, program: Program, memory: Option<&OwnedFd>) -> std::io::Result<Self> {
        // One at a time: that of a dead supervisor may be at work still, in the same place of the target's memory.
        helper::end_all(PTRACER, process);
        let (ours, theirs) = UnixStream::pair()?;
        let output = Stdio::from(OwnedFd::from(theirs));
        // Nobody reads it. /dev/null may not be there.
        let (_, error) = std::io::pipe()?;
        let memory = memory.map(OwnedFd::try_clone).transpose()?;
        let child = helper::start(process, program, PTRACER, memory, output, error.into())?;
        Ok(Self { child, socket: BufReader::new(ours) })
    }

    /// Asks, and waits for the answer for so long, as long as there is hope.
    fn ask(&mut self, request: &Request, limit: Duration, hope: impl Fn() -> bool) -> std::io::Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        let mut socket = self.socket.get_ref();
        socket.set_read_timeout(Some(limit.min(FROZEN_LOOK)))?;
        socket.write_all(&line)?;
        let limit = Instant::now() + limit;
        let mut answer = String::new();
        loop {
            // What has been read of a line so far stays in `answer`.
            match self.socket.read_line(&mut answer) {
                Ok(0) => return Err(std::io::Error::other("it was killed")),
                Ok(_) => return Ok(serde_json::from_str(&answer)?),
                Err(late) if late.kind() == WouldBlock && Instant::now() < limit && hope() => {}
                Err(error) => return Err(error),
            }
        }
    }
}
