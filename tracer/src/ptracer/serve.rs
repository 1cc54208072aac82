//! The ptracer's life: it answers one request after the other, until its supervisor is gone.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::request::{Reply, Request};
use super::{Hold, freeze, inject, pause};
use crate::helper::process::{self as helper, PTRACER};
use crate::shared::memory::Memory;
use crate::target::process::Process;

/// How often the keeper is told that we are alive while threads are kept stopped.
const BEAT_MS: u8 = 2;

/// The ptracer's whole life; the arguments are those after the subcommand: `PID START`.
///
/// Standard input is the shared memory, standard output a socket on which requests come and answers go. Returns the
/// process's exit code.
pub fn main(arguments: &[String]) -> i32 {
    match run(arguments) {
        Ok(()) => 0,
        Err(_) => 1, // there is nobody to tell
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let (process, memory) = helper::begin(PTRACER, arguments)?;
    let words = |error: std::io::Error| error.to_string();
    let socket = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned().map_err(words)?);
    memory.ptracer.store(std::process::id() as i32, Ordering::SeqCst);
    // The one before may have died while it held a thread: that hold ended with it.
    if let Some(traced) = memory.held_by_ptracer() {
        memory.ptracer_holds_nothing(traced);
    }
    let mut supervisor = Supervisor(BufReader::new(socket));
    while let Some(request) = supervisor.read()? {
        let reply = match request {
            Request::Freeze { limit_us } => {
                freeze(&process, &memory, &mut supervisor, Duration::from_micros(limit_us))?
            }
            request => answer(&process, &memory, request),
        };
        supervisor.tell(&reply)?;
    }
    Ok(())
}

/// Who asks.
struct Supervisor(BufReader<UnixStream>);

impl Supervisor {
    /// The next request; `None` when the supervisor is gone.
    fn read(&mut self) -> Result<Option<Request>, String> {
        let mut line = String::new();
        match self.0.read_line(&mut line).map_err(|error| error.to_string())? {
            0 => Ok(None),
            _ => serde_json::from_str(&line).map(Some).map_err(|error| error.to_string()),
        }
    }

    fn tell(&mut self, reply: &Reply) -> Result<(), String> {
        let mut line = serde_json::to_vec(reply).map_err(|error| error.to_string())?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line).map_err(|error| error.to_string())
    }

    /// Waits for a request, or for the supervisor's end. `false`: neither came in time.
    fn wait(&self, until: Instant, mut beat: impl FnMut()) -> bool {
        while Instant::now() < until {
            beat();
            let mut fds = [PollFd::new(self.0.get_ref().as_fd(), PollFlags::POLLIN)];
            if matches!(poll(&mut fds, PollTimeout::from(BEAT_MS)), Ok(1..)) {
                return true;
            }
        }
        false
    }
}

/// Keeps all threads stopped until the supervisor's next request. When it is gone, or the time is up, they go on at once.
fn freeze(process: &Process, memory: &Memory, supervisor: &mut Supervisor, limit: Duration) -> Result<Reply, String> {
    let until = Instant::now() + limit;
    let in_thread = || {
        let hold = Hold::begin(memory);
        crate::sys::process::hurry();
        let frozen = match freeze::freeze(process, memory, &hold, until) {
            Ok(frozen) => frozen,
            Err(cause) => return Ok(Err(cause)),
        };
        failpoint::hit("freeze.frozen");
        supervisor.tell(&Reply::Frozen(frozen.waiting()))?;
        let asked = supervisor.wait(until, || hold.progress());
        frozen.thaw(&hold);
        failpoint::hit("freeze.thawed");
        Ok::<_, String>(Ok(asked))
    };
    // Only with the end of the thread do those go on that were asked to stop and have not. So a supervisor that asks late, or
    // never, is waited for after it.
    match in_a_thread(in_thread)? {
        Err(cause) => Ok(Reply::NotFrozen(cause)),
        Ok(asked) => {
            let thaw = matches!(supervisor.read()?, Some(Request::Thaw));
            Ok(Reply::Thawed(asked && thaw))
        }
    }
}

fn answer(process: &Process, memory: &Memory, request: Request) -> Reply {
    in_a_thread(|| {
        let hold = Hold::begin(memory);
        match request {
            Request::Run { calls, store, arm } => match inject::run(process, &hold, &calls, store, arm) {
                Ok(stopped) => Reply::Ran(stopped.as_nanos() as u64),
                Err(failure) => Reply::Failed(failure),
            },
            Request::Recognise => Reply::Recognised(inject::carries_our_filter(process, &hold)),
            Request::Pause { tids } => Reply::Paused(pause::pause(process, &hold, tids)),
            // Nothing is frozen.
            Request::Thaw => Reply::Thawed(false),
            Request::Freeze { .. } => Reply::NotFrozen("it is asked for in another way".into()),
        }
    })
}

/// Does something in a thread of its own: when that ends, so does every hold that ptrace has on the target, also a request
/// to stop which a thread has not followed yet.
fn in_a_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let tracer = scope.spawn(work);
        tracer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
