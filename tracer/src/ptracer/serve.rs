//! The ptracer's life: it answers one request after the other, until its supervisor is gone.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::guard::{self, Progress};
use super::request::{Reply, Request};
use super::{freeze, inject, pause};
use crate::calls::coverage;
use crate::helper::place;
use crate::helper::process::{self as helper, PTRACER};
use crate::shared::memory::Memory;
use crate::shared::roles::{Held, Part};
use crate::sys::pidfd;
use crate::target::process::Process;

/// How long the ptracer of another supervisor may take to end.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(2);
/// How often the guard is told that we are alive while threads are kept stopped.
const BEAT_MS: u8 = 2;

/// The ptracer's whole life; the arguments are those after the subcommand: `PID START`.
///
/// Standard input is the shared memory, standard output a socket on which requests come and answers go. Returns the
/// process's exit code.
pub fn main(arguments: &[String]) -> i32 {
    run(arguments).unwrap_or(1) // there is nobody to tell
}

fn run(arguments: &[String]) -> Result<i32, String> {
    let (process, memory) = helper::begin(PTRACER, arguments)?;
    // There is none before the target has made it.
    let memory = memory.map(Memory::open).transpose().map_err(|why| format!("no session memory: {why}"))?;
    let progress = match guard::begin(std::io::stdout().as_fd()) {
        Ok(progress) => progress,
        Err(code) => return Ok(code),
    };
    let _part = memory.as_ref().map(take_part).transpose()?;
    let words = |error: std::io::Error| error.to_string();
    let socket = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned().map_err(words)?);
    let memory = memory.as_ref();
    let mut supervisor = Supervisor(BufReader::new(socket));
    while let Some(request) = supervisor.read()? {
        let reply = match request {
            Request::Freeze { limit_us } => {
                freeze(&process, memory, &progress, &mut supervisor, Duration::from_micros(limit_us))?
            }
            // No thread is held: the guard lets it take its time.
            Request::Close { number } => {
                drop(pidfd::get_fd(process.pidfd(), number));
                Reply::Closed
            }
            request => answer(&process, memory, &progress, request),
        };
        supervisor.tell(&reply)?;
    }
    Ok(0)
}

/// One at a time: that of a dead supervisor may be at work still, in the same place of the target's memory.
fn take_part(memory: &Memory) -> Result<Held, String> {
    let limit = Instant::now() + PREDECESSOR_LIMIT;
    loop {
        match memory.take(Part::Ptracer) {
            Err(Errno::EAGAIN) if Instant::now() < limit => std::thread::sleep(Duration::from_millis(1)),
            taken => return taken.map_err(|errno| format!("another ptracer is at work: {errno}")),
        }
    }
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
fn freeze(
    process: &Process,
    memory: Option<&Memory>,
    progress: &Progress,
    supervisor: &mut Supervisor,
    limit: Duration,
) -> Result<Reply, String> {
    let Some(memory) = memory else { return Ok(Reply::NotFrozen("there is no session yet".into())) };
    let until = Instant::now() + limit;
    let in_thread = || {
        let hold = progress.hold();
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

fn answer(process: &Process, memory: Option<&Memory>, progress: &Progress, request: Request) -> Reply {
    in_a_thread(|| {
        let hold = progress.hold();
        match request {
            Request::Run { calls, result, arm, within } => {
                match inject::run(process, memory, &hold, inject::Wanted { calls: &calls, result, arm, within }) {
                    Ok(stopped) => Reply::Ran(stopped.as_nanos() as u64),
                    Err(failure) => Reply::Failed(failure),
                }
            }
            Request::Place => Reply::Placed(place::is_with(process, std::process::id() as i32)),
            Request::Recognise => Reply::Recognised(inject::carries_our_filter(process, &hold)),
            Request::Unseen { shape } => {
                let filters = inject::shared_filters(process, &hold);
                Reply::Unseen(filters.map(|filters| coverage::unseen(&filters, shape)))
            }
            Request::Pause { tids } => {
                Reply::Paused(pause::pause(process, &hold, tids).into_iter().map(|(tid, _)| tid).collect())
            }
            Request::Look { tids } => Reply::Looked(pause::pause(process, &hold, tids)),
            // Nothing is frozen.
            Request::Thaw => Reply::Thawed(false),
            Request::Freeze { .. } | Request::Close { .. } => Reply::NotFrozen("it is asked for in another way".into()),
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
