//! The port in front of mongod: one thread for a client and his connection to mongod.
//!
//! Every message passes as it is, but for three kinds:
//! - A command of ours, on `admin`, does not pass. mongod is asked on the same connection who its user is; then it is answered here.
//!   Whose answer is whose is told by numbers, and a client may give his messages any: so each question of ours has one that he cannot
//!   guess. An answer to something of his own must never be taken for mongod's word about him.
//! - The answer to a hello loses its `compression`, so that nothing is ever compressed. One that streams (`moreToCome`) is followed by
//!   answers to the answer, which are taken for answers to the same hello.
//! - A compressed message is not understood, as nobody has agreed on it: an error, and the end.
//!
//! What is looked at of other messages is their first few bytes, and what is kept of them at a time is some 100 KiB.
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::Document;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::access::{self, Verdict};
use super::base::{IDLE, Numbers, is_on_admin, is_there};
use super::frames::{CHUNK, Fate, Frames, Step};
use super::link::Link;
use super::upstream::{LONGEST_ANSWER, Upstream};
use crate::commands::{self, Code, NAMES, Refusal, refusal};
use crate::jobs::Target;
use crate::tls;
use crate::wire::{self, Header, MAX_COMMAND, Malformed, Peek, peek};

/// mongod answers our question in this time, or the connection ends.
const PATIENCE: Duration = Duration::from_secs(30);
/// So long a client may not take in what is said last.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Hellos that are under way: drivers have one. Those beyond are forgotten.
const HELLOS: usize = 16;
/// An answer to a hello.
const LONGEST_HELLO: usize = 1 << 20;

/// A client in front of mongod.
pub(super) struct Relay<'a> {
    client: Link,
    from_elsewhere: bool,
    upstream: &'a Upstream,
    target: &'a Arc<Target>,
    server: Option<Link>,
    to_server: Frames,
    to_client: Frames,
    /// Messages whose answers are answers to a hello.
    hellos: VecDeque<i32>,
    question: Option<Question>,
    numbers: Numbers,
}

/// A command of ours that waits for mongod's word.
struct Question {
    /// The number of its message.
    id: i32,
    /// The number under which mongod was asked.
    asked: i32,
    body: Document,
    /// It was asked who it is, and that was nobody.
    nobody: bool,
    since: Instant,
}

/// Why a relay ended.
type End = io::Error;

impl<'a> Relay<'a> {
    pub fn new(client: Link, from_elsewhere: bool, upstream: &'a Upstream, target: &'a Arc<Target>) -> Self {
        Self {
            client,
            from_elsewhere,
            upstream,
            target,
            server: None,
            to_server: Frames::default(),
            to_client: Frames::default(),
            hellos: VecDeque::new(),
            question: None,
            numbers: Numbers::default(),
        }
    }

    /// Until either side goes.
    pub fn run(mut self) {
        let Err(error) = self.turn_until_the_end();
        tracing::debug!("a client of {}'s port has gone: {error}", self.target.name());
        // What was still to be said is said, to who goes on reading: all that a server sends before it ends arrives.
        let rest = std::mem::take(&mut self.to_client.output);
        if !rest.is_empty() && self.patient().is_ok() {
            let _ = self.client.write_all(&rest);
        }
        let _ = self.client.socket().set_nonblocking(true);
        self.client.close();
        if let Some(server) = &mut self.server {
            server.close();
        }
    }

    /// The client's socket waits from here on, and never for long: also TLS, which may want to read before it writes.
    fn patient(&self) -> io::Result<()> {
        let socket = self.client.socket();
        socket.set_read_timeout(Some(LAST_WORDS))?;
        socket.set_write_timeout(Some(LAST_WORDS))?;
        socket.set_nonblocking(false)
    }

    fn turn_until_the_end(&mut self) -> Result<std::convert::Infallible, End> {
        let began = Instant::now();
        loop {
            let mut moved = false;
            // A question to mongod is answered before more of the client is heard.
            if self.question.is_none() {
                moved |= self.hear_client()?;
            }
            moved |= self.hear_server()?;
            moved |= send(&mut self.client, &mut self.to_client.output)?;
            if let Some(server) = &mut self.server {
                moved |= send(server, &mut self.to_server.output)?;
            }
            if self.question.as_ref().is_some_and(|question| question.since.elapsed() > PATIENCE) {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "mongod does not say who its user is"));
            }
            // Until the first message has come there is no connection to mongod, and a limit to the silence.
            if self.server.is_none() && began.elapsed() > IDLE {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was said"));
            }
            if !moved {
                self.wait()?;
            }
        }
    }

    fn wait(&self) -> Result<(), End> {
        let mut flags = self.client.waits_for();
        flags.set(PollFlags::POLLIN, self.hears_client() || flags.contains(PollFlags::POLLIN));
        flags.set(PollFlags::POLLOUT, !self.to_client.output.is_empty() || flags.contains(PollFlags::POLLOUT));
        let mut all = vec![PollFd::new(self.client.fd(), flags)];
        // A server that has gone is noticed when it is read from again.
        if let Some(server) = self.server.as_ref().filter(|_| !self.to_client.is_full()) {
            let mut flags = server.waits_for() | PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, !self.to_server.output.is_empty() || flags.contains(PollFlags::POLLOUT));
            all.push(PollFd::new(server.fd(), flags));
        }
        let limit = if self.server.is_none() || self.question.is_some() { 1000_u16.into() } else { PollTimeout::NONE };
        match poll(&mut all, limit) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        // A peer that is gone while we do not want to read from it would have poll return for ever.
        let gone =
            |fd: &PollFd<'_>| fd.revents().is_some_and(|seen| seen.intersects(PollFlags::POLLHUP | PollFlags::POLLERR));
        if gone(&all[0]) && !self.hears_client() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    fn hears_client(&self) -> bool {
        self.question.is_none() && !self.to_server.is_full()
    }

    fn hear_client(&mut self) -> Result<bool, End> {
        let mut moved = self.judge_client()?;
        if self.hears_client() && receive(&mut self.client, &mut self.to_server)? {
            moved = true;
            self.judge_client()?;
        }
        Ok(moved)
    }

    /// Sends what has come from the client on its way.
    fn judge_client(&mut self) -> Result<bool, End> {
        let mut moved = false;
        while self.question.is_none() {
            let (mut hello, mut too_long) = (None, None);
            let step = self.to_server.step(&mut |header, bytes| judge(header, bytes, &mut hello, &mut too_long));
            let step = match step {
                Ok(step) => step,
                Err(error) => return Err(self.complain(&error)),
            };
            if let Some(id) = hello {
                if self.hellos.len() == HELLOS {
                    self.hellos.pop_front();
                }
                self.hellos.push_back(id);
            }
            if let Some(id) = too_long {
                let words = format!("the command is too long: {MAX_COMMAND} bytes are enough for any here");
                self.answer(id, &refusal(&Refusal::new(Code::BSONObjectTooLarge, words)))?;
            }
            match step {
                Step::Hungry => return Ok(moved),
                Step::Moved => {}
                Step::Message(bytes) => self.take(bytes)?,
            }
            moved = true;
            if self.server.is_none() && (!self.to_server.output.is_empty() || self.question.is_some()) {
                self.connect()?;
            }
        }
        Ok(moved)
    }

    fn connect(&mut self) -> Result<(), End> {
        match self.upstream.connect(self.from_elsewhere) {
            Ok(link) => self.server = Some(link),
            Err(error) => {
                tracing::warn!("{}: mongod at {} cannot be used: {error}", self.target.name(), self.upstream.server);
                if let Some(question) = self.question.take() {
                    let words = format!("mongod, which has to say who may back up, cannot be reached: {error}");
                    self.answer(question.id, &refusal(&Refusal::new(Code::HostUnreachable, words)))?;
                }
                return Err(error);
            }
        }
        Ok(())
    }

    /// A message by one of our commands' names.
    fn take(&mut self, bytes: Vec<u8>) -> Result<(), End> {
        let message = match wire::parse(&bytes) {
            Ok(message) => message,
            Err(error) => return Err(self.complain(&error)),
        };
        if !is_on_admin(&message.body) || message.sequences {
            // mongod knows no such command, and says so in its own words.
            self.to_server.output.extend(bytes);
        } else if !message.more_to_come {
            let asked = self.ask(&access::who())?;
            let (id, body) = (message.header.id, message.body);
            self.question = Some(Question { id, asked, body, nobody: false, since: Instant::now() });
        }
        // What nobody wants an answer to is not done: who sent it would not learn that he may not.
        Ok(())
    }

    /// Asks mongod, under a number that nobody can guess, and gives that.
    fn ask(&mut self, question: &Document) -> Result<i32, End> {
        let number = tls::unguessable()?;
        self.to_server.output.extend(wire::encode(number, 0, false, question).ok_or(io::ErrorKind::InvalidData)?);
        Ok(number)
    }

    fn hear_server(&mut self) -> Result<bool, End> {
        let Some(server) = &mut self.server else { return Ok(false) };
        if self.to_client.is_full() || !receive(server, &mut self.to_client)? {
            return Ok(false);
        }
        loop {
            let (asked, hellos) = (self.question.as_ref().map(|question| question.asked), &self.hellos);
            let step = self.to_client.step(&mut |header, _| {
                if header.is_compressed() {
                    return Err(Malformed::Compressed);
                }
                let (wanted, most) = if asked == Some(header.response_to) {
                    (true, LONGEST_ANSWER)
                } else {
                    (hellos.contains(&header.response_to), LONGEST_HELLO)
                };
                if wanted && header.length > most {
                    return Err(Malformed::Shape("an answer of mongod's is too long"));
                }
                Ok(if wanted { Fate::Collect } else { Fate::Pass })
            });
            match step.map_err(io::Error::other)? {
                Step::Hungry => return Ok(true),
                Step::Moved => {}
                Step::Message(bytes) => self.answered(&bytes)?,
            }
        }
    }

    /// An answer of mongod's to a hello, or to a question of ours.
    fn answered(&mut self, bytes: &[u8]) -> Result<(), End> {
        let mut message = wire::parse(bytes).map_err(io::Error::other)?;
        let header = message.header;
        if self.question.as_ref().is_none_or(|question| question.asked != header.response_to) {
            self.hellos.retain(|id| *id != header.response_to);
            if message.more_to_come {
                self.hellos.push_back(header.id);
            }
            if message.body.remove("compression").is_none() {
                self.to_client.output.extend_from_slice(bytes);
                return Ok(());
            }
            let changed = if message.legacy {
                wire::encode_reply(header.id, header.response_to, &message.body)
            } else {
                wire::encode(header.id, header.response_to, message.more_to_come, &message.body)
            };
            self.to_client.output.extend(changed.ok_or(io::ErrorKind::InvalidData)?);
            return Ok(());
        }
        let Some(question) = self.question.take() else { return Ok(()) };
        let verdict = match question.nobody {
            true if access::there_is_none(&message.body) => Verdict::May,
            true => Verdict::MayNot("command requires authentication: log in as a user with the role 'backup'".into()),
            false => access::verdict(&message.body),
        };
        match verdict {
            Verdict::Nobody => {
                let asked = self.ask(&access::is_there_control())?;
                self.question = Some(Question { nobody: true, asked, ..question });
                Ok(())
            }
            Verdict::MayNot(words) => self.answer(question.id, &refusal(&Refusal::new(Code::Unauthorized, words))),
            Verdict::May => self.perform(&question),
        }
    }

    /// Does a command of ours. Until it is done, nothing else on this connection is.
    fn perform(&mut self, question: &Question) -> Result<(), End> {
        while !self.to_client.output.is_empty() {
            // What mongod had answered before comes first.
            if !send(&mut self.client, &mut self.to_client.output)? {
                let mut all = [PollFd::new(self.client.fd(), PollFlags::POLLOUT)];
                poll(&mut all, PollTimeout::from(1000_u16))?;
            }
        }
        let client = self.client.fd();
        match commands::run(self.target, &question.body, &|| is_there(client)) {
            Some(answer) => self.answer(question.id, &answer),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    fn answer(&mut self, id: i32, answer: &Document) -> Result<(), End> {
        let bytes = wire::encode(self.numbers.next(), id, false, answer).ok_or(io::ErrorKind::InvalidData)?;
        self.to_client.output.extend(bytes);
        Ok(())
    }

    /// The last that is said to who sends what is no message.
    fn complain(&mut self, error: &Malformed) -> End {
        let _ = self.answer(0, &refusal(&Refusal::new(Code::ProtocolError, error)));
        io::Error::other(error.clone())
    }
}

/// What becomes of a message of the client's. Notes the number of a hello, and of a command of ours that is too long.
pub(super) fn judge(
    header: Header,
    bytes: &[u8],
    hello: &mut Option<i32>,
    too_long: &mut Option<i32>,
) -> Result<Fate, Malformed> {
    if header.is_compressed() {
        return Err(Malformed::Compressed);
    }
    Ok(match peek(header, bytes) {
        Peek::Short => Fate::Unknown,
        Peek::Command(name) if NAMES.iter().any(|known| known.as_bytes() == name) => {
            if header.length > MAX_COMMAND {
                *too_long = Some(header.id);
                Fate::Drop
            } else {
                Fate::Collect
            }
        }
        Peek::Command(name) => {
            if [&b"hello"[..], b"isMaster", b"ismaster"].contains(&&name[..]) {
                *hello = Some(header.id);
            }
            Fate::Pass
        }
        Peek::Other => Fate::Pass,
    })
}

/// Reads what there is, a chunk at most.
fn receive(link: &mut Link, frames: &mut Frames) -> Result<bool, End> {
    let mut buffer = [0; CHUNK];
    match link.read(&mut buffer) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => {
            frames.feed(&buffer[..count]);
            Ok(true)
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Writes what can be written.
fn send(link: &mut Link, output: &mut Vec<u8>) -> Result<bool, End> {
    let mut moved = false;
    while !output.is_empty() {
        match link.write(output) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                output.drain(..count);
                moved = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    match link.flush() {
        Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Err(error),
        _ => Ok(moved),
    }
}
