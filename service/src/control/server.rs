//! Who answers: one thread for the socket and all who speak to it, as a backup counts its threads.
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Answer, Bound, Request, TargetStatus, bind, may_steer};

/// Who is connected at a time; further ones wait in the kernel's queue.
const CLIENTS: usize = 16;
/// The longest request.
const LINE: usize = 64 << 10;
/// Answers that nobody reads are not kept beyond this.
const UNREAD: usize = 4 << 20;
/// How often followers hear.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// What is steered.
pub trait Steered: Send + Sync {
    /// How it stands.
    fn status(&self) -> Vec<TargetStatus>;
    /// Sets a rate.
    ///
    /// # Errors
    /// There is no such target, or it must be named.
    fn throttle(&self, target: Option<&str>, rate: Option<u64>) -> Result<(), String>;
    /// Ends the backup that runs.
    ///
    /// # Errors
    /// Nothing runs, or see above.
    fn cancel(&self, target: Option<&str>) -> Result<(), String>;
}

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Server {
    end: Arc<AtomicBool>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens at `path` for who may steer.
    ///
    /// # Errors
    /// It cannot be listened there, or no thread can be had.
    pub fn start(path: &Path, steered: Arc<dyn Steered>) -> io::Result<Self> {
        let bound = bind(path)?;
        bound.listener.set_nonblocking(true)?;
        let (wake, woken) = UnixStream::pair()?;
        let end = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&end);
        let thread = std::thread::Builder::new()
            .name("control".into())
            .spawn(move || serve(&bound, &woken, &ended, &*steered))?;
        Ok(Self { end, wake, thread: Some(thread) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Release);
        let _ = self.wake.write_all(b".");
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

struct Connection {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    follows: bool,
}

fn serve(bound: &Bound, woken: &UnixStream, end: &AtomicBool, steered: &dyn Steered) {
    let mut connections: Vec<Connection> = Vec::new();
    let mut told = Instant::now();
    loop {
        wait(bound, woken, &connections);
        if end.load(Ordering::Acquire) {
            return;
        }
        while connections.len() < CLIENTS
            && let Ok((stream, _)) = bound.listener.accept()
        {
            if may_steer(&stream) && stream.set_nonblocking(true).is_ok() {
                connections.push(Connection { stream, input: Vec::new(), output: Vec::new(), follows: false });
            }
        }
        let tell = told.elapsed() >= FOLLOW_EVERY;
        if tell {
            told = Instant::now();
        }
        connections.retain_mut(|connection| connection.turn(steered, tell).is_ok());
    }
}

fn wait(bound: &Bound, woken: &UnixStream, connections: &[Connection]) {
    let mut all = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
    if connections.len() < CLIENTS {
        all.push(PollFd::new(bound.listener.as_fd(), PollFlags::POLLIN));
    }
    for connection in connections {
        let out = if connection.output.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        all.push(PollFd::new(connection.stream.as_fd(), PollFlags::POLLIN | out));
    }
    let followed = connections.iter().any(|connection| connection.follows);
    let limit = if followed { PollTimeout::from(100_u8) } else { PollTimeout::NONE };
    // Interrupted or out of memory: the next turn sees.
    let _ = poll(&mut all, limit);
}

impl Connection {
    /// Reads, answers and writes what can be. An error is the end of the connection.
    fn turn(&mut self, steered: &dyn Steered, tell: bool) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.input.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.input.len() > LINE {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        while let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.input.drain(..=end).collect();
            let answer = match serde_json::from_slice(&line) {
                Ok(request) => self.answer(steered, request),
                Err(error) => refused(format!("the request is not understood: {error}")),
            };
            self.put(&answer)?;
        }
        // A follower who does not read is not told more.
        if tell && self.follows && self.output.is_empty() {
            self.put(&Answer { ok: true, targets: steered.status(), ..Answer::default() })?;
        }
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn answer(&mut self, steered: &dyn Steered, request: Request) -> Answer {
        let done = match request {
            Request::Status | Request::Follow => {
                self.follows |= request == Request::Follow;
                return Answer { ok: true, targets: steered.status(), ..Answer::default() };
            }
            Request::Throttle { target, rate } => steered.throttle(target.as_deref(), rate),
            Request::Cancel { target } => steered.cancel(target.as_deref()),
        };
        done.map_or_else(refused, |()| Answer { ok: true, ..Answer::default() })
    }

    fn put(&mut self, answer: &Answer) -> io::Result<()> {
        if self.output.len() > UNREAD {
            return Err(io::ErrorKind::WriteZero.into());
        }
        serde_json::to_writer(&mut self.output, answer)?;
        self.output.push(b'\n');
        Ok(())
    }
}

fn refused(error: String) -> Answer {
    Answer { ok: false, error: Some(error), targets: Vec::new() }
}
