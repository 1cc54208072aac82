//! Who is connected: a bounded number, none of whom keeps anybody else out.
//!
//! Who connects is let in at once. Where all seats are taken, whoever has been quiet for longest loses his: silent connections, however
//! many, push out one another, and one that asks is the last to go. A head of a request that does not come to its end in time
//! ends its connection, also between requests.
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

/// So many are connected at a time: a page or two, and who collects the metrics, need five.
const SEATS: usize = 64;
/// So long the head of a request may take, from when the last one was answered.
const HEAD: Duration = Duration::from_secs(5);
/// Heads are some hundred bytes.
const BUFFER: usize = 16 << 10;
/// Without descriptors or memory nobody can be let in: some will go.
const BREATH: Duration = Duration::from_millis(100);

/// Those who are connected, the one that has been quiet for longest first.
#[derive(Default)]
struct Seats(Mutex<VecDeque<(u64, AbortHandle)>>);

impl Seats {
    fn lock(&self) -> MutexGuard<'_, VecDeque<(u64, AbortHandle)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// He has asked something.
    fn heard(&self, number: u64) {
        let mut all = self.lock();
        if let Some(at) = all.iter().position(|(other, _)| *other == number)
            && let Some(seat) = all.remove(at)
        {
            all.push_back(seat);
        }
    }
}

/// A seat, free again when this is dropped.
struct Seat {
    number: u64,
    seats: Arc<Seats>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().retain(|(number, _)| *number != self.number);
    }
}

/// Lets clients in, for as long as the process lives.
pub(crate) async fn let_in(listener: &TcpListener, router: &Router) {
    let (seats, mut number) = (Arc::new(Seats::default()), 0);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!("nobody can be let in to look: {error}");
                tokio::time::sleep(BREATH).await;
                continue;
            }
        };
        number += 1;
        let seat = Seat { number, seats: Arc::clone(&seats) };
        let inner = TowerToHyperService::new(router.clone());
        let client = async move {
            let service = service_fn(|request| {
                seat.seats.heard(seat.number);
                inner.call(request)
            });
            let mut protocol = http1::Builder::new();
            protocol.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(BUFFER);
            if let Err(error) = protocol.serve_connection(TokioIo::new(stream), service).await {
                tracing::debug!("somebody who looked has gone: {error}");
            }
        };
        let mut all = seats.lock();
        if all.len() >= SEATS
            && let Some((_, quiet)) = all.pop_front()
        {
            quiet.abort();
        }
        all.push_back((number, tokio::spawn(client).abort_handle()));
    }
}
