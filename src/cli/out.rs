//! What is said on standard output and standard error, in such a way that nobody who reads it can hold the work up.
//!
//! A reader may stop reading: a pipe is full then, a terminal is stopped, a log lies on a disk that stands still. So nothing is
//! written by a thread that has other work: a line goes to its stream's thread, through a queue with a bound; what is only
//! progress is dropped first. Pipes and terminals are tried at once, by an open file of our own that does not block, so that a line
//! is out before what comes next whenever there is room for it.
//!
//! Only the result, and a failure's words, are waited for, as long as nobody asks the command to end; see [`deliver`].

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::bar::{Bar, Frame};

/// A line that is only of passing interest is dropped while so many wait.
const FEW: usize = 64;
/// No more lines than this wait.
const MOST: usize = 4096;
/// How long words are waited for by one who was asked to end.
const PARTING: Duration = Duration::from_secs(1);
/// How often one who waits looks whether he was asked to end.
const GLANCE: Duration = Duration::from_millis(20);

/// Somebody has asked this command to end: nobody's reading is waited for any more.
static ENDING: AtomicBool = AtomicBool::new(false);
/// Since when words are waited for although somebody has.
static PARTED: OnceLock<Instant> = OnceLock::new();

/// Standard output.
pub static OUT: Lane = Lane::new();
/// Standard error.
pub static ERR: Lane = Lane::new();

/// From here on no reader is waited for, but for a moment.
pub fn end() {
    ENDING.store(true, Ordering::SeqCst);
}

/// What becomes of a line for which there is no room just now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is dropped.
    Passing,
    /// It waits with others, as long as those are not too many.
    Queued,
}

enum Item {
    Line(Vec<u8>),
    Frame(Frame),
    /// The bar goes off the screen.
    NoBar,
}

/// One stream and its thread.
pub struct Lane {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    begun: bool,
    has_thread: bool,
    direct: Option<File>,
    queue: VecDeque<Item>,
    /// How many items were ever queued, and how many of them are out.
    queued: u64,
    written: u64,
    /// The last of them that could not be written, and why.
    failed: Option<(u64, io::Error)>,
    has_bar: bool,
}

impl Lane {
    const fn new() -> Self {
        let state = State {
            begun: false,
            has_thread: false,
            direct: None,
            queue: VecDeque::new(),
            queued: 0,
            written: 0,
            failed: None,
            has_bar: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Says something. Never waits, and tells nobody that it cannot be said.
    pub fn say(&'static self, line: Vec<u8>, keep: Keep) {
        let mut state = self.begin();
        match state.write_now(line) {
            Err((left, is_begun)) if state.has_room(keep) || is_begun => self.queue(&mut state, Item::Line(left)),
            Ok(_) | Err(_) => {}
        }
    }

    /// Draws a bar, now or a little later; the newest frame alone counts.
    pub fn draw(&'static self, frame: Frame) {
        let mut state = self.begin();
        state.has_bar = true;
        if let Some(Item::Frame(last)) = state.queue.back_mut() {
            *last = frame;
        } else if state.has_room(Keep::Passing) {
            self.queue(&mut state, Item::Frame(frame));
        }
    }

    /// Takes the bar off the screen, if there is one: before anything else comes there, if the terminal takes it.
    pub fn clear_bar(&'static self) {
        let mut state = self.begin();
        if std::mem::take(&mut state.has_bar) {
            self.queue(&mut state, Item::NoBar);
            let number = state.queued;
            drop(self.wait_for(state, number, Some(PARTING)));
        }
    }

    /// Says what must not be lost, and waits until it is out: for as long as its reader takes, unless this command is asked to
    /// end.
    ///
    /// # Errors
    /// It cannot be written, or was not taken by then.
    pub fn deliver(&'static self, line: Vec<u8>) -> io::Result<()> {
        let mut state = self.begin();
        let left = match state.write_now(line) {
            Ok(written) => return written,
            Err((left, _)) => left,
        };
        self.queue(&mut state, Item::Line(left));
        let number = state.queued;
        let state = self.wait_for(state, number, None);
        match &state.failed {
            Some((failed, error)) if *failed == number => Err(copy(error)),
            _ if state.written >= number => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::TimedOut, "nobody reads it")),
        }
    }

    /// Gives what was said a moment to get out.
    pub fn flush(&'static self) {
        let state = self.begin();
        let number = state.queued;
        drop(self.wait_for(state, number, Some(PARTING)));
    }

    /// Waits until an item is out, for no longer than `limit`, nor for longer than a moment when asked to end.
    fn wait_for<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        number: u64,
        limit: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        let began = Instant::now();
        while state.written < number {
            let is_parting = || PARTED.get_or_init(Instant::now).elapsed() >= PARTING;
            if limit.is_some_and(|limit| began.elapsed() >= limit) || ENDING.load(Ordering::SeqCst) && is_parting() {
                break;
            }
            state = self.changed.wait_timeout(state, GLANCE).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }

    fn queue(&self, state: &mut State, item: Item) {
        state.queued += 1;
        if state.has_thread {
            state.queue.push_back(item);
            self.changed.notify_all();
        } else {
            let done = self.write(item, &mut None);
            state.note(done);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_out(&self) -> bool {
        std::ptr::eq(self, &OUT)
    }

    /// The state, with a thread that takes care of the queue.
    fn begin(&'static self) -> MutexGuard<'static, State> {
        let mut state = self.lock();
        if !state.begun {
            state.begun = true;
            state.direct = if self.is_out() { direct(io::stdout().as_fd()) } else { direct(io::stderr().as_fd()) };
            let name = if self.is_out() { "stdout" } else { "stderr" };
            // Without one, whoever has something to say has to wait.
            let thread = std::thread::Builder::new().name(name.into()).spawn(|| self.write_all());
            state.has_thread = thread.is_ok();
        }
        state
    }

    fn write_all(&self) {
        let mut bar = None;
        let mut state = self.lock();
        loop {
            let Some(item) = state.queue.pop_front() else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let done = self.write(item, &mut bar);
            state = self.lock();
            state.note(done);
            self.changed.notify_all();
        }
    }

    fn write(&self, item: Item, bar: &mut Option<Bar>) -> io::Result<()> {
        match (item, &bar) {
            (Item::Line(line), Some(bar)) => bar.suspend(|| self.write_line(&line)),
            (Item::Line(line), None) => self.write_line(&line),
            (Item::Frame(frame), _) => {
                bar.get_or_insert_with(Bar::new).draw(&frame);
                Ok(())
            }
            (Item::NoBar, _) => {
                bar.take().into_iter().for_each(Bar::clear);
                Ok(())
            }
        }
    }

    /// By the descriptor alone: a lock on the stream would be in the way of whoever else wants it, at the end for one.
    fn write_line(&self, line: &[u8]) -> io::Result<()> {
        if self.is_out() { write_all(io::stdout().as_fd(), line) } else { write_all(io::stderr().as_fd(), line) }
    }
}

impl State {
    /// One more item is out, or never will be.
    fn note(&mut self, done: io::Result<()>) {
        self.written += 1;
        if let Err(error) = done {
            self.failed = Some((self.written, error));
        }
    }

    fn has_room(&self, keep: Keep) -> bool {
        self.queue.len() < if keep == Keep::Passing { FEW } else { MOST }
    }

    /// Writes a line if that can be done at once. `Err`: what is left of it, and whether it was begun.
    fn write_now(&mut self, mut line: Vec<u8>) -> Result<io::Result<()>, (Vec<u8>, bool)> {
        let mut is_begun = false;
        let Some(direct) = self.direct.as_mut().filter(|_| self.written == self.queued && !self.has_bar) else {
            return Err((line, false));
        };
        while !line.is_empty() {
            match direct.write(&line) {
                Ok(count) => {
                    line.drain(..count);
                    is_begun = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err((line, is_begun)),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(Ok(()))
    }
}

/// The same pipe or terminal by an open file of our own that does not block. `None` where there is none: a file may lie on a disk that
/// stands still, whatever is asked for, and a socket is not opened twice.
fn direct(stream: BorrowedFd<'_>) -> Option<File> {
    const O_NOCTTY: i32 = nix::fcntl::OFlag::O_NOCTTY.bits();
    const O_NONBLOCK: i32 = nix::fcntl::OFlag::O_NONBLOCK.bits();
    let path = format!("/proc/self/fd/{}", stream.as_raw_fd());
    let kind = std::fs::metadata(&path).ok()?.file_type();
    if !kind.is_fifo() && !kind.is_char_device() {
        return None;
    }
    OpenOptions::new().write(true).custom_flags(O_NONBLOCK | O_NOCTTY).open(path).ok()
}

fn write_all(stream: BorrowedFd<'_>, mut line: &[u8]) -> io::Result<()> {
    while !line.is_empty() {
        match nix::unistd::write(stream, line) {
            Ok(count) => line = &line[count..],
            Err(nix::errno::Errno::EINTR) => {}
            // Somebody else has made it one that does not block.
            Err(nix::errno::Errno::EAGAIN) => std::thread::sleep(GLANCE),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

fn copy(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error)
}

/// Where the log goes, a line at a time.
#[derive(Debug, Clone, Copy)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        ERR.say(line.to_vec(), Keep::Queued);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
