//! The way to mongod.
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use bson::Document;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::access;
use super::base::keep_alive;
use super::link::Link;
use crate::wire::{self, HEADER, Header};

/// mongod answers at once, or is not well.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer of mongod's to a question of ours: privileges can be many.
pub(super) const LONGEST_ANSWER: usize = 16 << 20;

/// Where mongod is.
pub(super) struct Upstream {
    /// `host:port`.
    pub server: String,
    /// TLS, with the name that its certificate must hold.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
}

impl Upstream {
    /// A connection. Of one for a client on another machine, mongod itself must be closed to strangers.
    pub fn connect(&self, from_elsewhere: bool) -> io::Result<Link> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the server's name has no address");
        for address in self.server.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(socket) => return self.set_up(socket, from_elsewhere),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn set_up(&self, socket: TcpStream, from_elsewhere: bool) -> io::Result<Link> {
        socket.set_nodelay(true)?;
        keep_alive(&socket)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut link = match &self.tls {
            None => Link::Clear(socket),
            Some((config, name)) => {
                let connection = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
                let mut tls = StreamOwned::new(connection, socket);
                while tls.conn.is_handshaking() {
                    tls.conn.complete_io(&mut tls.sock)?;
                }
                Link::Asked(Box::new(tls))
            }
        };
        if from_elsewhere && !access::refuses_strangers(&ask(&mut link, &access::is_open_to_all())?) {
            let words = "mongod has no access control, or no users yet: it is reached from this machine only";
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, words));
        }
        link.socket().set_nonblocking(true)?;
        Ok(link)
    }
}

/// Asks mongod something before the client can say anything.
fn ask(link: &mut Link, question: &Document) -> io::Result<Document> {
    let bytes = wire::encode(1, 0, false, question).ok_or(io::ErrorKind::InvalidData)?;
    link.write_all(&bytes)?;
    link.flush()?;
    let mut head = [0; HEADER];
    link.read_exact(&mut head)?;
    let header = Header::read(head).map_err(io::Error::other)?;
    if header.length > LONGEST_ANSWER {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = head.to_vec();
    message.resize(header.length, 0);
    link.read_exact(&mut message[HEADER..])?;
    Ok(wire::parse(&message).map_err(io::Error::other)?.body)
}
