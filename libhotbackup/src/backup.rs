//! One call: its arguments, the helper, what it asks for until it is over, and the result.
use std::ffi::{CString, c_int};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use hotbackup_wire::{Ask, Begin, Incoming, Tell, VERSION};

use crate::callbacks::{Arguments, Callbacks, bytes, to_c};
use crate::find::variable;
use crate::live::Claim;
use crate::{launcher, live, socket};

/// How often the caller's poll function is called at least, as long as nothing else of the caller's runs.
const POLL: Duration = Duration::from_millis(50);

/// A sleep while the helper attaches.
const NAP: Duration = Duration::from_millis(2);

/// How a backup ended.
enum End {
    Complete,
    /// The poll function said so.
    Stopped(c_int),
    Failed(c_int, String),
}

/// Takes a backup; returns what the interface returns.
pub fn run(arguments: Arguments, callbacks: &Callbacks) -> c_int {
    let end = match arguments {
        Err(words) => End::Failed(libc::EINVAL, words),
        Ok(pairs) => match Claim::take() {
            None => End::Failed(libc::EBUSY, "a backup of this process is running already".into()),
            Some(claim) => {
                let pairs = pairs.into_iter().map(|(source, dest)| (bytes(source), bytes(dest))).collect();
                back_up(&claim, pairs, callbacks)
            }
        },
    };
    match end {
        End::Complete => 0,
        End::Stopped(value) => value,
        End::Failed(errno, text) => {
            callbacks.error(errno, &text);
            errno
        }
    }
}

fn back_up(claim: &Claim, pairs: Vec<(Vec<u8>, Vec<u8>)>, callbacks: &Callbacks) -> End {
    let socket = match launcher::connect() {
        Ok(socket) => socket,
        Err((errno, text)) => return End::Failed(errno, text),
    };
    if socket::set_patience(socket.as_fd(), POLL).is_err() {
        return gone();
    }
    let sent = (live::throttle(), live::keeps(), live::waits());
    let begin = Begin {
        version: VERSION,
        excludes: callbacks.exclude.0.is_some(),
        manifest: variable(c"HOTBACKUP_MANIFEST").is_some_and(|value| value.as_bytes() != b"0"),
        throttle: sent.0,
        keep: sent.1,
        wait: sent.2,
        pairs,
    };
    if socket::send_all(socket.as_fd(), &Ask::Begin(begin).encode()).is_err() {
        return gone();
    }
    claim.open(socket.as_raw_fd(), sent);
    let mut call = Call {
        claim,
        callbacks,
        socket: &socket,
        done: 0.0,
        text: c"starting".into(),
        polled: None,
        is_followed: false,
        stopped: None,
        is_between: false,
    };
    let end = call.serve();
    if call.is_between {
        // Whoever holds something between the two functions lets it go in the second.
        callbacks.after_stop();
    }
    let stopped = call.stopped;
    claim.close();
    match stopped {
        Some(value) => End::Stopped(value),
        None => end,
    }
}

fn gone() -> End {
    End::Failed(libc::EIO, "the helper was ended before the backup was complete".into())
}

/// A backup that runs.
struct Call<'a> {
    claim: &'a Claim,
    callbacks: &'a Callbacks,
    socket: &'a OwnedFd,
    done: f32,
    text: CString,
    polled: Option<Instant>,
    /// The helper has attached to this process. Before that it may need a thread of it, perhaps this one, that sleeps in a call which
    /// the kernel begins again unseen, as a sleep is, and waiting for a message with a limit is not.
    is_followed: bool,
    /// What the poll function returned to stop it.
    stopped: Option<c_int>,
    /// The first of the two functions around the end of capture has been called, and not the second.
    is_between: bool,
}

impl Call<'_> {
    fn serve(&mut self) -> End {
        let mut incoming = Incoming::default();
        let mut buffer = [0; 16 << 10];
        loop {
            loop {
                match incoming.take() {
                    Err(_) => {
                        return End::Failed(
                            libc::EPROTO,
                            "the helper says what libHotBackup does not understand".into(),
                        );
                    }
                    Ok(None) => break,
                    Ok(Some(message)) => match Tell::decode(&message) {
                        Err(_) => {
                            return End::Failed(libc::EPROTO, "the helper says what libHotBackup does not know".into());
                        }
                        Ok(Tell::End(0, _)) => return End::Complete,
                        Ok(Tell::End(errno, text)) => return End::Failed(errno, text),
                        Ok(told) => self.hear(told),
                    },
                }
                self.poll();
            }
            self.poll();
            self.claim.send_unsent();
            match socket::receive(self.socket.as_fd(), &mut buffer, self.is_followed) {
                Ok(0) => return gone(),
                Ok(n) => incoming.push(&buffer[..n]),
                Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && !self.is_followed => {
                    std::thread::sleep(NAP)
                }
                Err(error)
                    if error.raw_os_error() == Some(libc::EAGAIN) || error.raw_os_error() == Some(libc::EINTR) => {}
                Err(_) => return gone(),
            }
        }
    }

    fn hear(&mut self, told: Tell) {
        match told {
            Tell::Progress(done, text) => {
                // Never backwards, whatever is told.
                self.done = if done > self.done { done.min(1.0) } else { self.done };
                self.text = to_c(text.into_bytes());
            }
            Tell::State { capturing, copied } => {
                self.is_followed = true;
                live::set_state(capturing, copied);
            }
            Tell::Exclude(path) => {
                let excluded = self.callbacks.excludes(path);
                self.say(&Ask::Answer(excluded));
            }
            Tell::Stopping => {
                if self.stopped.is_none() {
                    self.callbacks.before_stop();
                    self.is_between = true;
                }
                self.say(&Ask::Answer(true));
            }
            Tell::Stopped => {
                if std::mem::take(&mut self.is_between) {
                    self.callbacks.after_stop();
                }
            }
            Tell::Completing => {
                // The last time that it can still say no.
                (self.done, self.polled) = (1.0, None);
                self.poll();
                self.say(&Ask::Answer(true));
                // A value that comes after this would stop nothing.
                self.polled = Some(Instant::now() + Duration::from_secs(1 << 30));
            }
            Tell::End(..) => {}
        }
    }

    fn poll(&mut self) {
        let now = Instant::now();
        if self.stopped.is_some() || self.polled.is_some_and(|at| now.saturating_duration_since(at) < POLL) {
            return;
        }
        self.polled = self.polled.map_or(Some(now), |at| Some(at.max(now)));
        let value = self.callbacks.poll(self.done, &self.text);
        if value != 0 {
            self.stopped = Some(value);
            self.say(&Ask::Cancel);
        }
    }

    /// That nobody hears it is found out by whoever reads next.
    fn say(&self, what: &Ask) {
        let _ = socket::send_all(self.socket.as_fd(), &what.encode());
    }
}
