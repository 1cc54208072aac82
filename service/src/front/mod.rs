//! Where clients come in: a Unix socket for each target, and a port in front of its mongod. A thread for each client, whose memory
//! is bounded, as is their number.
mod access;
mod arriving;
mod base;
mod frames;
mod link;
mod local;
mod relay;
mod upstream;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

pub use self::arriving::take_in;
use self::base::keep_alive;
use self::link::Link;
use self::relay::Relay;
use self::upstream::Upstream;
use crate::config::FrontConfig;
use crate::control::{bind, may_steer};
use crate::jobs::Target;
use crate::tls;

/// A client's stack. Nothing here is recursive.
const STACK: usize = 512 << 10;

/// Counts clients, of all sockets and ports together.
#[derive(Debug)]
pub(crate) struct Seats {
    taken: AtomicUsize,
    most: usize,
}

struct Seat(Arc<Seats>);

impl Seats {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), most })
    }

    fn take(self: &Arc<Self>) -> Option<Seat> {
        if self.taken.fetch_add(1, Ordering::AcqRel) < self.most {
            return Some(Seat(Arc::clone(self)));
        }
        self.taken.fetch_sub(1, Ordering::AcqRel);
        None
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Listens at a Unix socket, until the process ends.
pub(crate) fn listen_local(path: &Path, target: &Arc<Target>, seats: &Arc<Seats>) -> io::Result<crate::control::Bound> {
    let bound = bind(path)?;
    let listener = bound.listener.try_clone()?;
    let (target, seats) = (Arc::clone(target), Arc::clone(seats));
    std::thread::Builder::new().name("socket".into()).spawn(move || {
        accept(|| listener.accept().map(|(stream, _)| stream), &seats, &mut |stream: UnixStream, seat| {
            if !may_steer(&stream) {
                tracing::warn!("a client of {}'s socket is neither root nor the service's user", target.name());
                return;
            }
            let target = Arc::clone(&target);
            client(seat, move || local::serve(stream, &target));
        });
    })?;
    Ok(bound)
}

/// Listens at the port in front of a target's mongod, until the process ends. Says where.
pub(crate) fn listen_front(
    config: &FrontConfig,
    target: &Arc<Target>,
    seats: &Arc<Seats>,
) -> Result<SocketAddr, String> {
    let server_tls = config.server_tls.as_ref().map(|tls| tls::towards_server(tls, &config.server)).transpose()?;
    let client_tls = config.tls.as_ref().map(tls::towards_clients).transpose()?;
    let upstream = Arc::new(Upstream { server: config.server.clone(), tls: server_tls });
    let cannot = |error: io::Error| format!("cannot listen at {}: {error}", config.listen);
    let listener = TcpListener::bind(config.listen).map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let (target, seats) = (Arc::clone(target), Arc::clone(seats));
    let thread = std::thread::Builder::new().name("front".into()).spawn(move || {
        accept(|| listener.accept(), &seats, &mut |(socket, peer): (TcpStream, SocketAddr), seat| {
            let (target, upstream, tls) = (Arc::clone(&target), Arc::clone(&upstream), client_tls.clone());
            client(seat, move || match secure(socket, tls) {
                Ok(link) => Relay::new(link, !peer.ip().to_canonical().is_loopback(), &upstream, &target).run(),
                Err(error) => tracing::debug!("a client at {peer} cannot be served: {error}"),
            });
        });
    });
    thread.map_err(cannot)?;
    Ok(address)
}

fn secure(socket: TcpStream, tls: Option<Arc<ServerConfig>>) -> io::Result<Link> {
    socket.set_nodelay(true)?;
    keep_alive(&socket)?;
    socket.set_nonblocking(true)?;
    Ok(match tls {
        None => Link::Clear(socket),
        Some(config) => {
            let connection = ServerConnection::new(config).map_err(io::Error::other)?;
            Link::Served(Box::new(StreamOwned::new(connection, socket)))
        }
    })
}

fn accept<T>(next: impl Fn() -> io::Result<T>, seats: &Arc<Seats>, serve: &mut dyn FnMut(T, Seat)) {
    loop {
        match next() {
            // Where all seats are taken the connection is closed: who waits would not know why.
            Ok(stream) => match seats.take() {
                Some(seat) => serve(stream, seat),
                None => tracing::warn!("a client was turned away: as many are connected as may be"),
            },
            Err(error) => {
                // Descriptors or memory: some client will go.
                tracing::warn!("a client cannot be accepted: {error}");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
    }
}

fn client(seat: Seat, work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().name("client".into()).stack_size(STACK);
    let started = thread.spawn(move || {
        let _seat = seat;
        work();
    });
    if let Err(error) = started {
        tracing::warn!("a client was turned away: {error}");
    }
}
