//! From a stopped call to an event, and the event to the sink.

use std::sync::atomic::Ordering;

use hotbackup_event::failpoint::is_skipped;
use hotbackup_event::{Effect, FileId};

use super::answering::{Answering, Ticket};
use super::sink::{Event, Sink};
use crate::calls::Row;
use crate::calls::decode::{Decoder, Descriptors};
use crate::calls::resolve::Resolver;
use crate::flight::inflight::State;
use crate::flight::positions::{Found, Positions};
use crate::hot::Source;
use crate::sys::notify::Notification;

/// What became of decoding a call.
pub(super) struct Decoded {
    pub event: Event,
    pub moves_names: bool,
    pub redirects: bool,
    pub awaited: bool,
}

/// Decodes a call, and settles what its decoder left open.
pub(super) fn decode(
    shared: &Answering,
    ticket: &Ticket,
    stopped: &Notification,
    row: &'static Row,
    decoder: fn(&mut Decoder<'_>),
    descriptors: &mut Descriptors,
    resolver: Option<&mut Resolver>,
) -> Decoded {
    shared.inflight.set_state(ticket.tid, ticket.serial, State::Admitting);
    let mut call = Decoder::new(&shared.process, ticket.tid, stopped.data, descriptors, resolver);
    if !is_skipped(row.name) {
        decoder(&mut call);
    }
    let Decoder { mut effects, blind, moves_names, redirects, awaited, on_descriptors, .. } = call;
    let positions = Positions {
        process: &shared.process,
        inflight: &shared.inflight,
        unseen: shared.unseen.as_ref(),
        call: ticket.call(stopped, State::Admitting),
        go_by: shared.hot.as_ref().is_some_and(Source::is_draining),
        found: Found::default(),
    };
    let found = positions.look(on_descriptors);
    effects.extend(found.effects);
    let event = Event { tid: ticket.tid, call: row.name, effects, blind: blind.or(found.blind) };
    Decoded { event, moves_names, redirects, awaited: awaited || found.awaited }
}

/// Hands a call over, in the state `Admitting`: its marks and its answer belong together for grace.
pub(super) fn deliver(shared: &Answering, sink: &dyn Sink, decoded: Decoded, ticket: Ticket) {
    let (tid, serial) = (ticket.tid, ticket.serial);
    let Decoded { event, awaited, .. } = decoded;
    if event.effects.is_empty() && event.blind.is_none() && !awaited {
        // It changes no file. It may wait for ever, in a full pipe: grace has nothing to do with it.
        shared.inflight.disregard(tid, serial);
        return;
    }
    let maps = event.effects.iter().any(|effect| matches!(effect, Effect::Mapped { .. }));
    if maps && !shared.process.has_thread(tid) {
        shared.mapped_elsewhere.fetch_add(1, Ordering::SeqCst);
    }
    let draining = shared.hot.as_ref().filter(|hot| hot.is_draining());
    let again = draining.and_then(|hot| Some((hot, written_at_offset(&event)?)));
    sink.deliver(event, ticket);
    shared.inflight.park_unless_answered(tid, serial);
    if let Some((hot, (file, start, end))) = again
        && sink.is_settled(&Effect::Content { file, start, end })
    {
        hot.settled(file, start, end);
    }
}

/// The bytes that a call writes to a file at an offset. It might append instead, by a flag of its descriptor; one that goes by at a patched site
/// does not, since none with that flag is in the descriptor table.
fn written_at_offset(event: &Event) -> Option<(FileId, u64, u64)> {
    match event.effects[..] {
        [Effect::Content { file, start, end }, Effect::Append { file: same, .. }]
            if file == same && event.blind.is_none() =>
        {
            Some((file, start, end))
        }
        _ => None,
    }
}
