//! The worker's end of the socket: telling, asking, and two threads, one that hears and one that writes what is told.
//!
//! Nobody who takes the backup ever waits for a program that does not listen just now: it may be in a slow function of its own.
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use hotbackup_copier::Control;
use hotbackup_wire::{Ask, Begin, Incoming, Tell, UNLIMITED};

/// How often somebody who waits for an answer looks whether there is still a backup.
const LOOK: Duration = Duration::from_millis(100);
/// With so many messages unread, those that only inform are left out.
const UNREAD: usize = 16;

/// The line to the library. Answers come in the order of the questions.
pub(super) struct Line {
    socket: UnixStream,
    /// What is still to be written; `None` is the last.
    unwritten: Sender<Option<Vec<u8>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    state: Mutex<State>,
    answered: Condvar,
    control: Control,
    /// The other end is gone.
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    asked: usize,
    answers: Vec<bool>,
}

impl Line {
    /// Reads what is asked for, and hears from then on what is said besides.
    pub fn open(socket: UnixStream) -> io::Result<(Arc<Self>, Begin)> {
        let malformed = || io::Error::new(io::ErrorKind::InvalidData, "no message of libHotBackup");
        let mut incoming = Incoming::default();
        let begin = match read(&socket, &mut incoming)?.ok_or_else(malformed)? {
            Ask::Begin(begin) => begin,
            _ => return Err(malformed()),
        };
        let control = Control::new(rate(begin.throttle));
        control.keep_capturing(begin.keep);
        control.wait_to_copy(begin.wait);
        let (state, answered, closed) = (Mutex::default(), Condvar::new(), AtomicBool::new(false));
        let (unwritten, written) = unbounded();
        let out = socket.try_clone()?;
        let writer = std::thread::Builder::new().name("tell".into()).spawn(move || write(out, &written))?;
        let writer = Mutex::new(Some(writer));
        let line = Arc::new(Self { socket, unwritten, writer, state, answered, control, closed });
        let hearing = Arc::clone(&line);
        std::thread::Builder::new().name("line".into()).spawn(move || hearing.hear(incoming))?;
        Ok((line, begin))
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    fn hear(&self, mut incoming: Incoming) {
        while let Ok(Some(ask)) = read(&self.socket, &mut incoming) {
            match ask {
                Ask::Begin(_) => break,
                Ask::Throttle(bytes) => self.control.set_throttle(rate(bytes)),
                Ask::Keep(keep) => self.control.keep_capturing(keep),
                Ask::Wait(wait) => self.control.wait_to_copy(wait),
                Ask::Answer(answer) => {
                    self.lock().answers.push(answer);
                    self.answered.notify_all();
                    self.control.wake();
                }
                Ask::Cancel => self.control.cancel(),
            }
        }
        self.closed.store(true, Ordering::SeqCst);
        self.control.cancel();
        self.answered.notify_all();
    }

    /// Tells something. Not all of what is only told for information arrives.
    pub fn tell(&self, what: &Tell) {
        if !matches!(what, Tell::Progress(..)) || self.unwritten.len() < UNREAD {
            // That nobody writes any more is known by the one who hears: the other end is gone.
            let _ = self.unwritten.send(Some(what.encode()));
        }
    }

    /// Returns when all that was told is written.
    pub fn finish(&self) {
        let _ = self.unwritten.send(None);
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(writer.map(JoinHandle::join));
    }

    /// Asks something; returns the number of the question.
    pub fn ask(&self, what: &Tell) -> usize {
        // Numbers and questions go in one order.
        let mut state = self.lock();
        self.tell(what);
        state.asked += 1;
        state.asked - 1
    }

    /// The answer, if it is there.
    pub fn answer(&self, question: usize) -> Option<bool> {
        self.lock().answers.get(question).copied()
    }

    /// Waits for the answer. `None`: there is no backup any more.
    pub fn wait(&self, question: usize) -> Option<bool> {
        let mut state = self.lock();
        loop {
            if let Some(answer) = state.answers.get(question) {
                return Some(*answer);
            }
            if self.control.is_cancelled() {
                return None;
            }
            let waited = self.answered.wait_timeout(state, LOOK);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The same when a cancel may come before the answer, and both belong together.
    pub fn wait_beyond_cancel(&self, question: usize) {
        while self.answer(question).is_none() && !self.closed.load(Ordering::SeqCst) {
            let waited = self.answered.wait_timeout(self.lock(), LOOK);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write(mut socket: UnixStream, unwritten: &Receiver<Option<Vec<u8>>>) {
    while let Ok(Some(message)) = unwritten.recv() {
        if socket.write_all(&message).is_err() {
            return;
        }
    }
}

fn rate(bytes: u64) -> Option<u64> {
    (bytes != UNLIMITED).then_some(bytes)
}

/// The next message; `None` when there is none any more.
fn read(mut socket: &UnixStream, incoming: &mut Incoming) -> io::Result<Option<Ask>> {
    let malformed = |_| io::Error::new(io::ErrorKind::InvalidData, "a malformed message");
    let mut buffer = [0; 4096];
    loop {
        if let Some(message) = incoming.take().map_err(malformed)? {
            return Ask::decode(&message).map(Some).map_err(malformed);
        }
        match socket.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(n) => incoming.push(&buffer[..n]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
