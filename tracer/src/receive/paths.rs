//! The thread that decodes calls by path, one after the other (see `flight/order.rs`).

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError};
use hotbackup_event::failpoint::hit;

use super::answering::{Answering, Ticket};
use super::decoding::{decode, deliver};
use super::sink::Sink;
use crate::calls::decode::Descriptors;
use crate::calls::resolve::Resolver;
use crate::calls::{Decode, Row};
use crate::flight::inflight::State;
use crate::flight::order::Order;
use crate::ptracer::client::Ptracer;
use crate::sys::notify::Notification;

/// How often it looks whether there will be no more.
const LOOK: Duration = Duration::from_millis(10);

/// A call that was received, and its row in the table.
pub(super) type Stopped = (Ticket, Notification, &'static Row);

/// Decodes calls by path, in the order in which they came.
pub(super) fn resolve_paths(
    shared: &Arc<Answering>,
    stopped: &Receiver<Stopped>,
    ptracer: &Mutex<Ptracer>,
    sink: &dyn Sink,
) {
    let mut resolver = match Resolver::new(&shared.process) {
        Ok(resolver) => resolver,
        Err(errno) => {
            sink.blind(format!("paths of the target cannot be followed: {errno}"));
            for call in stopped {
                drop(call);
            }
            return;
        }
    };
    let mut descriptors = Descriptors::default();
    let mut order = Order::default();
    loop {
        let (ticket, stopped, row) = match stopped.recv_timeout(LOOK) {
            Ok(next) => next,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        hit("receive.path");
        if shared.stop.load(Ordering::SeqCst) {
            continue; // nobody is interested any more: let it go
        }
        sink.wait_until_released();
        let too_long = || sink.blind("a call by path took longer than a second: is the disk frozen?".into());
        if !order.settle(&shared.process, &shared.inflight, ptracer) {
            too_long();
        }
        let Decode::Path(decoder) = row.decode else { continue };
        let decoded = decode(shared, &ticket, &stopped, row, decoder, &mut descriptors, Some(&mut resolver));
        if decoded.redirects && !order.settle_all(&shared.process, &shared.inflight, ptracer) {
            too_long();
        }
        order.add(ticket.call(&stopped, State::Received), decoded.moves_names, &shared.inflight);
        deliver(shared, sink, decoded, ticket);
    }
}
