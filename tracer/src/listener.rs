//! The receiver: takes each stopped call from the kernel as soon as it comes, and sees to its answer.
//!
//! A call that was received but not answered is a [`Ticket`]: dropping it lets the call go, so that no path through
//! the program forgets one. Between receipt and answer it is recorded in a slot of the memory shared with the
//! keeper, which answers it if we cannot.
//!
//! Two threads: the receiver decodes calls by descriptor itself, in a few microseconds; calls by path go to the
//! second, one after the other (see `calls/names.rs`). Neither ever waits for the destination.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use hotbackup_event::Effect;
use hotbackup_event::failpoint::{hit, is_skipped};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::calls::decode::{Decoder, Descriptors};
use crate::calls::order::Order;
use crate::calls::resolve::Resolver;
use crate::calls::{Decode, Row, TABLE};
use crate::inflight::State;
use crate::keeper::copy;
use crate::ptracer::client::Ptracer;
use crate::sys::mapping::SLOTS;
use crate::sys::notify::Notification;

pub(crate) use crate::answering::Answering;
pub use crate::answering::Ticket;

/// How often the receiver shows the keeper that it lives, when nothing comes.
pub const BEAT: Duration = Duration::from_millis(10);
/// The same while a hold is on: it is to be cut when its lease ends, not some time later.
const BEAT_IN_HOLD: Duration = Duration::from_millis(1);
/// How often the receiver looks whether a call has waited for too long.
const LOOK: Duration = Duration::from_millis(50);
/// How long a call waits for its answer at most, where the sink knows no better.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the second thread is waited for at the end. What it holds after that, the keeper answers.
const FAREWELL: Duration = Duration::from_millis(50);
const X86_64: u32 = 0xc000_003e;
const X32_BIT: i32 = 0x4000_0000;

/// What a call may change, or why that cannot be known.
#[derive(Debug)]
pub struct Event {
    /// The thread; 0 for what was found at attach.
    pub tid: i32,
    /// The call's name.
    pub call: &'static str,
    /// What it may change.
    pub effects: Vec<Effect>,
    /// Why the call, or what follows from it, cannot be followed.
    pub blind: Option<String>,
}

/// Who the events go to. None of these may wait for anything but memory and locks held for microseconds.
pub trait Sink: Send + Sync + 'static {
    /// A call is stopped and waits for its ticket to be dropped.
    fn deliver(&self, event: Event, ticket: Ticket);
    /// Something was found at attach that no call stands for.
    fn found(&self, event: Event);
    /// Something cannot be followed that no call stands for.
    fn blind(&self, cause: String);
    /// Returns when paths may be resolved: not while calls are held, for those would move what paths mean.
    fn wait_until_released(&self);
    /// Nobody will deliver any more: the target ended, or the keeper took over.
    fn lost(&self, cause: crate::Error);
    /// Called every [`BEAT`] or so, more often in a hold, and at each call: time to cut short what takes too long.
    fn tick(&self) {}
    /// How long a call may wait for its ticket to be dropped. After that the sink is [lost](Self::lost), and the call is
    /// answered.
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// The threads that receive.
pub(crate) struct Receivers {
    receiver: Option<JoinHandle<()>>,
    paths: Option<JoinHandle<()>>,
}

impl Receivers {
    pub fn start(shared: &Arc<Answering>, ptracer: Arc<Mutex<Ptracer>>, sink: Arc<dyn Sink>) -> std::io::Result<Self> {
        let (sender, receiver) = bounded(SLOTS);
        let (for_paths, shared_for_paths, sink_for_paths) = (receiver, shared.clone(), sink.clone());
        let paths = std::thread::Builder::new()
            .name("paths".into())
            .spawn(move || resolve_paths(&shared_for_paths, &for_paths, &ptracer, &*sink_for_paths))?;
        let shared = shared.clone();
        let receiver =
            std::thread::Builder::new().name("receiver".into()).spawn(move || receive(&shared, &sender, &*sink))?;
        Ok(Self { receiver: Some(receiver), paths: Some(paths) })
    }

    /// Waits for the threads' end; not for one that is stuck in a lookup, as nobody receives any more meanwhile.
    pub fn join(&mut self) {
        let _ = self.receiver.take().map(JoinHandle::join);
        let Some(paths) = self.paths.take() else { return };
        let limit = Instant::now() + FAREWELL;
        while !paths.is_finished() && Instant::now() < limit {
            std::thread::sleep(Duration::from_micros(200));
        }
        if paths.is_finished() {
            let _ = paths.join();
        }
    }
}

type Stopped = (Ticket, Notification, &'static Row);

fn receive(shared: &Arc<Answering>, paths: &Sender<Stopped>, sink: &dyn Sink) {
    crate::sys::process::hurry();
    let mut rows: Vec<Option<&'static Row>> = vec![None; 512];
    for row in TABLE {
        rows[row.nr as usize] = Some(row);
    }
    let mut descriptors = Descriptors::default();
    let (mut looked, mut given_up) = (Instant::now(), false);
    while !shared.stop.load(Ordering::SeqCst) {
        shared.memory.beat.fetch_add(1, Ordering::SeqCst);
        // First: after a standstill of ours, what waited too long is not our concern any more.
        if shared.is_revoked() {
            sink.lost(crate::Error::Revoked(shared.process.pid()));
            return;
        }
        if looked.elapsed() >= LOOK && !given_up {
            looked = Instant::now();
            if let Some((slot, waited)) = shared.overdue(sink.patience()) {
                given_up = true;
                // In this order: no call runs unseen in a backup that may still succeed.
                sink.lost(shared.waited_too_long(slot, waited));
                shared.answer_all();
            }
            // Its children may go on calling, so that poll(2) below never has time to find its end.
            if !shared.process.is_alive() {
                sink.lost(crate::Error::TargetExited(shared.process.pid()));
                return;
            }
        }
        sink.tick();
        let mut fds = [PollFd::new(shared.listener.as_fd(), PollFlags::POLLIN)];
        let beat = if shared.memory.holding.load(Ordering::Relaxed) != 0 { BEAT_IN_HOLD } else { BEAT };
        let _ = poll(&mut fds, PollTimeout::from(beat.as_millis() as u16));
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            if let Some((ticket, stopped)) = take(shared)
                && !given_up
            {
                dispatch(shared, &rows, &mut descriptors, paths, sink, ticket, stopped);
            }
        } else if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) || !shared.process.is_alive() {
            sink.lost(crate::Error::TargetExited(shared.process.pid()));
            return;
        }
    }
}

/// Takes in one call, if there is one.
fn take(shared: &Arc<Answering>) -> Option<(Ticket, Notification)> {
    let (ticket, stopped) = shared.receive()?;
    if copy::is_missing(&shared.memory) {
        copy::leave(&shared.process, &shared.memory, shared.listener.as_fd(), &stopped);
        hit("receive.copy-left");
    }
    Some((ticket, stopped))
}

fn dispatch(
    shared: &Arc<Answering>,
    rows: &[Option<&'static Row>],
    descriptors: &mut Descriptors,
    paths: &Sender<Stopped>,
    sink: &dyn Sink,
    ticket: Ticket,
    stopped: Notification,
) {
    let data = stopped.data;
    if data.arch != X86_64 || data.nr & X32_BIT != 0 {
        sink.blind(format!("thread {} made a system call of another architecture (i386 or x32)", ticket.tid));
        return;
    }
    let Some(row) = rows.get(data.nr as usize).copied().flatten() else { return };
    if data.nr == libc::SYS_ftruncate as i32 && data.args[0] == u64::MAX {
        shared.probed.store(true, Ordering::SeqCst);
    }
    match row.decode {
        // As many as there are slots, so there is always room.
        Decode::Path(_) => {
            if let Err(unsent) = paths.send((ticket, stopped, row)) {
                // Before the call goes: nobody marks what it changes.
                sink.blind("calls by path are not followed any more, by a fault of hotbackup itself".into());
                drop(unsent);
            }
        }
        Decode::Descriptor(decode) => {
            let decoded = decode_with(shared, &ticket, &stopped, row, decode, descriptors, None);
            deliver(shared, sink, decoded, ticket);
        }
    }
}

/// Decodes calls by path, in the order in which they came.
fn resolve_paths(shared: &Arc<Answering>, stopped: &Receiver<Stopped>, ptracer: &Mutex<Ptracer>, sink: &dyn Sink) {
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
        let (ticket, stopped, row) = match stopped.recv_timeout(BEAT) {
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
        let Decode::Path(decode) = row.decode else { continue };
        let decoded = decode_with(shared, &ticket, &stopped, row, decode, &mut descriptors, Some(&mut resolver));
        if decoded.redirects && !order.settle_all(&shared.process, &shared.inflight, ptracer) {
            too_long();
        }
        let (tid, serial) = (ticket.tid, ticket.serial);
        let call = crate::inflight::Call { tid, serial, state: State::Received, data: stopped.data, positions: None };
        order.add(call, decoded.moves_names, &shared.inflight);
        deliver(shared, sink, decoded, ticket);
    }
}

/// What became of decoding a call.
struct Decoded {
    event: Event,
    moves_names: bool,
    redirects: bool,
    awaited: bool,
}

fn decode_with(
    shared: &Answering,
    ticket: &Ticket,
    stopped: &Notification,
    row: &'static Row,
    decode: fn(&mut Decoder<'_>),
    descriptors: &mut Descriptors,
    resolver: Option<&mut Resolver>,
) -> Decoded {
    shared.inflight.set_state(ticket.tid, ticket.serial, State::Admitting);
    let mut decoder = Decoder {
        process: &shared.process,
        tid: ticket.tid,
        data: stopped.data,
        unseen: shared.unseen.as_ref(),
        serial: ticket.serial,
        inflight: &shared.inflight,
        descriptors,
        resolver,
        effects: Vec::new(),
        blind: None,
        moves_names: false,
        redirects: false,
        awaited: false,
    };
    if !is_skipped(row.name) {
        decode(&mut decoder);
    }
    let Decoder { effects, blind, moves_names, redirects, awaited, .. } = decoder;
    let event = Event { tid: ticket.tid, call: row.name, effects, blind };
    Decoded { event, moves_names, redirects, awaited }
}

/// Hands a call over, in the state `Admitting`: its marks and its answer belong together for grace.
fn deliver(shared: &Answering, sink: &dyn Sink, decoded: Decoded, ticket: Ticket) {
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
    sink.deliver(event, ticket);
    shared.inflight.park_unless_answered(tid, serial);
}
