//! A connection without waiting, in clear or over TLS.
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use nix::poll::PollFlags;
use rustls::{ClientConnection, ServerConnection, StreamOwned};

/// One end of a relay.
pub(super) enum Link {
    /// In clear.
    Clear(TcpStream),
    /// TLS, we are the server.
    Served(Box<StreamOwned<ServerConnection, TcpStream>>),
    /// TLS, we are the client.
    Asked(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Link {
    /// The socket below.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Clear(socket) => socket,
            Self::Served(tls) => &tls.sock,
            Self::Asked(tls) => &tls.sock,
        }
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket().as_fd()
    }

    /// What TLS waits for by itself.
    pub fn waits_for(&self) -> PollFlags {
        let (reads, writes) = match self {
            Self::Clear(_) => return PollFlags::empty(),
            Self::Served(tls) => (tls.conn.is_handshaking(), tls.conn.wants_write()),
            Self::Asked(tls) => (tls.conn.is_handshaking(), tls.conn.wants_write()),
        };
        let mut flags = PollFlags::empty();
        flags.set(PollFlags::POLLIN, reads);
        flags.set(PollFlags::POLLOUT, writes);
        flags
    }

    /// Says that this is the end.
    pub fn close(&mut self) {
        match self {
            Self::Clear(_) => {}
            Self::Served(tls) => tls.conn.send_close_notify(),
            Self::Asked(tls) => tls.conn.send_close_notify(),
        }
        let _ = self.flush();
        let _ = self.socket().shutdown(std::net::Shutdown::Both);
    }
}

impl Read for Link {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(socket) => socket.read(buffer),
            Self::Served(tls) => tls.read(buffer),
            Self::Asked(tls) => tls.read(buffer),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(socket) => socket.write(bytes),
            Self::Served(tls) => tls.write(bytes),
            Self::Asked(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(socket) => socket.flush(),
            Self::Served(tls) => tls.flush(),
            Self::Asked(tls) => tls.flush(),
        }
    }
}
