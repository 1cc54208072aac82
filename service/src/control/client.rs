//! Who asks.
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::{Answer, Request, connect};

/// Whoever listens answers at once; one that does not, hangs.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer that is read.
const LINE: u64 = 16 << 20;

/// A connection to the service, or to a backup.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Client {
    /// Connects to who listens at `path`.
    ///
    /// # Errors
    /// Nobody does, or it is not permitted.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { lines: BufReader::new(stream.try_clone()?), stream })
    }

    /// The other end of this connection, for who is to speak on it from elsewhere, without reading answers.
    pub(crate) fn voice(&self) -> io::Result<UnixStream> {
        self.stream.try_clone()
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// The connection ended, or the answer is none.
    pub fn ask(&mut self, request: &Request) -> io::Result<Answer> {
        say(&self.stream, request)?;
        self.hear()
    }

    /// The next answer, to a [`Request::Follow`] for one.
    ///
    /// # Errors
    /// See [`Self::ask`].
    pub fn hear(&mut self) -> io::Result<Answer> {
        let mut line = Vec::new();
        (&mut self.lines).take(LINE).read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_slice(&line)?)
    }
}

/// Sends a request.
pub(crate) fn say(mut stream: &UnixStream, request: &Request) -> io::Result<()> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)
}
