//! The receiver: takes each stopped call from the kernel as soon as it comes, and sees to its answer.
//!
//! A call that was received but not answered is a [`Ticket`]: dropping it lets the call go, so that no path through
//! the program forgets one. Between receipt and answer it is recorded in a slot of the memory shared with the
//! keeper, which answers it if we cannot.
//!
//! Two threads: the receiver decodes calls by descriptor itself, in a few microseconds; calls by path go to the
//! second, one after the other (see `calls/names.rs`). Neither ever waits for the destination.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use crossbeam::queue::ArrayQueue;
use hotbackup_event::Effect;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::calls::decode::{Decoder, Descriptors};
use crate::calls::names::Order;
use crate::calls::resolve::Resolver;
use crate::calls::{Decode, Row, TABLE};
use crate::inflight::{InFlight, State};
use crate::keeper::state::Control;
use crate::process::Process;
use crate::sys::mapping::{Mapping, SLOTS, SUPERVISOR_SLOTS};
use crate::sys::notify::{self, Notification};
use crate::unseen::Unseen;

/// How often the receiver shows the keeper that it lives, when nothing comes.
pub const BEAT: Duration = Duration::from_millis(10);
/// How often the receiver looks whether a call has waited for too long.
const LOOK: Duration = Duration::from_millis(100);
/// A call that has waited this long for its answer means that we hang, whatever the reason: the beat stops, and the
/// keeper takes over.
const LONGEST_WAIT: Duration = Duration::from_secs(4);
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
    /// Called every [`BEAT`] or so, and at each call: time to cut short what takes too long.
    fn tick(&self) {}
}

/// What receiver, tickets and grace share.
pub(crate) struct Answering {
    pub process: Process,
    pub memory: Mapping,
    pub listener: OwnedFd,
    pub inflight: InFlight,
    pub generation: Control,
    /// The net under 8-byte writes, when those are not shown.
    pub unseen: Option<Mutex<Unseen>>,
    pub stop: AtomicBool,
    pub probed: AtomicBool,
    /// Calls received.
    pub received: AtomicU64,
    /// Longest time between receipt and answer, in nanoseconds.
    pub longest: AtomicU64,
    free: ArrayQueue<usize>,
    /// When each slot's call was received, in nanoseconds since `began`; 0 for none.
    since: Vec<AtomicU64>,
    began: Instant,
}

impl Answering {
    pub fn new(process: Process, memory: Mapping, listener: OwnedFd, generation: Control) -> Self {
        let free = ArrayQueue::new(SLOTS);
        for slot in 0..SUPERVISOR_SLOTS {
            let _ = free.push(slot);
        }
        let unseen = (memory.eight_bytes_unseen.load(Ordering::SeqCst) != 0).then(Mutex::default);
        Self {
            process,
            memory,
            listener,
            inflight: InFlight::default(),
            generation,
            unseen,
            stop: AtomicBool::new(false),
            probed: AtomicBool::new(false),
            received: AtomicU64::new(0),
            longest: AtomicU64::new(0),
            free,
            since: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            began: Instant::now(),
        }
    }

    fn now(&self) -> u64 {
        (self.began.elapsed().as_nanos() as u64).max(1)
    }

    /// Whether some call has waited for too long.
    fn hangs(&self) -> bool {
        let limit = LONGEST_WAIT.as_nanos() as u64;
        let now = self.now();
        self.since.iter().map(|since| since.load(Ordering::Relaxed)).any(|at| at != 0 && now.saturating_sub(at) > limit)
    }

    pub fn is_revoked(&self) -> bool {
        Control::load(&self.memory.control) != self.generation
    }
}

/// The right, and the duty, to let one stopped call go. Dropping it does.
pub struct Ticket {
    shared: Arc<Answering>,
    slot: usize,
    id: u64,
    tid: i32,
    serial: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let shared = &self.shared;
        // Before the answer: grace must never look between the two and see nothing.
        shared.inflight.set_state(self.tid, self.serial, State::LetGo);
        // ENOENT: a fatal signal ended the wait, or the keeper was quicker. Both are fine.
        while notify::let_go(shared.listener.as_fd(), self.id) == Err(Errno::EINTR) {}
        shared.memory.clear_slot(self.slot);
        let since = shared.since[self.slot].swap(0, Ordering::Relaxed);
        shared.longest.fetch_max(shared.now().saturating_sub(since), Ordering::Relaxed);
        let _ = shared.free.push(self.slot);
    }
}

/// The threads that receive.
pub(crate) struct Receivers {
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Receivers {
    pub fn start(shared: &Arc<Answering>, sink: Arc<dyn Sink>) -> std::io::Result<Self> {
        let (sender, receiver) = bounded(SLOTS);
        let (for_paths, shared_for_paths, sink_for_paths) = (receiver, shared.clone(), sink.clone());
        let paths = std::thread::Builder::new()
            .name("paths".into())
            .spawn(move || resolve_paths(&shared_for_paths, &for_paths, &*sink_for_paths))?;
        let shared = shared.clone();
        let receiver =
            std::thread::Builder::new().name("receiver".into()).spawn(move || receive(&shared, &sender, &*sink))?;
        Ok(Self { threads: vec![receiver, paths] })
    }

    pub fn join(&mut self) {
        for thread in self.threads.drain(..) {
            let _ = thread.join();
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
    let (mut looked, mut hangs) = (Instant::now(), false);
    while !shared.stop.load(Ordering::SeqCst) {
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            hangs = shared.hangs();
            // Its children may go on calling, so that poll(2) below never has time to find its end.
            if !shared.process.is_alive() {
                sink.lost(crate::Error::TargetExited(shared.process.pid()));
                return;
            }
        }
        if !hangs {
            shared.memory.beat.fetch_add(1, Ordering::SeqCst);
        }
        if shared.is_revoked() {
            sink.lost(crate::Error::Revoked(shared.process.pid()));
            return;
        }
        sink.tick();
        let mut fds = [PollFd::new(shared.listener.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(BEAT.as_millis() as u16));
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            if let Some((ticket, stopped)) = take(shared) {
                dispatch(shared, &rows, &mut descriptors, paths, sink, ticket, stopped);
            }
        } else if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) || !shared.process.is_alive() {
            sink.lost(crate::Error::TargetExited(shared.process.pid()));
            return;
        }
    }
}

/// Receives one call into a free slot. Without one, the call waits in the kernel until a slot is free.
fn take(shared: &Arc<Answering>) -> Option<(Ticket, Notification)> {
    let Some(slot) = shared.free.pop() else {
        std::thread::sleep(Duration::from_micros(50));
        return None;
    };
    if notify::receive(shared.listener.as_fd(), shared.memory.slot_ptr(slot)).is_err() {
        let _ = shared.free.push(slot);
        return None;
    }
    shared.since[slot].store(shared.now(), Ordering::Relaxed);
    shared.received.fetch_add(1, Ordering::Relaxed);
    let stopped = shared.memory.slot(slot);
    if shared.memory.kept_by_target.load(Ordering::Relaxed) == 0 {
        leave_copy(shared, stopped.id);
    }
    let tid = stopped.pid as i32;
    let serial = shared.inflight.begin(tid, stopped.data);
    Some((Ticket { shared: shared.clone(), slot, id: stopped.id, tid, serial }, stopped))
}

/// Leaves a copy of the shared memory with the target, as it holds one of the listener: if supervisor and keepers are
/// all killed, a rescue finds there which calls had been received.
fn leave_copy(shared: &Answering, id: u64) {
    const DONE: u32 = 1;
    const IMPOSSIBLE: u32 = 2;
    let done = match notify::add_fd(shared.listener.as_fd(), id, shared.memory.fd().as_fd()) {
        Ok(_) => DONE,
        Err(Errno::ENOENT | Errno::EINTR | Errno::EINPROGRESS) => return, // with the next call
        Err(errno) => {
            tracing::warn!(%errno, "the target holds no copy of the shared memory");
            IMPOSSIBLE
        }
    };
    shared.memory.kept_by_target.store(done, Ordering::Relaxed);
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
        Decode::Path(_) => drop(paths.send((ticket, stopped, row))),
        Decode::Descriptor(decode) => {
            let event = decode_with(shared, &ticket, &stopped, row, decode, descriptors, None).0;
            deliver(shared, sink, event, ticket);
        }
    }
}

/// Decodes calls by path, in the order in which they came.
fn resolve_paths(shared: &Arc<Answering>, stopped: &Receiver<Stopped>, sink: &dyn Sink) {
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
        if shared.stop.load(Ordering::SeqCst) {
            continue; // nobody is interested any more: let it go
        }
        sink.wait_until_released();
        if !order.settle(&shared.process, &shared.inflight) {
            sink.blind(
                "a call that renames or makes directories took longer than a second: is the disk frozen?".into(),
            );
        }
        let Decode::Path(decode) = row.decode else { continue };
        let (event, moves_names) =
            decode_with(shared, &ticket, &stopped, row, decode, &mut descriptors, Some(&mut resolver));
        if moves_names {
            let (tid, serial) = (ticket.tid, ticket.serial);
            order.add(crate::inflight::Call {
                tid,
                serial,
                state: State::Received,
                data: stopped.data,
                positions: None,
            });
        }
        deliver(shared, sink, event, ticket);
    }
}

fn decode_with(
    shared: &Answering,
    ticket: &Ticket,
    stopped: &Notification,
    row: &'static Row,
    decode: fn(&mut Decoder<'_>),
    descriptors: &mut Descriptors,
    resolver: Option<&mut Resolver>,
) -> (Event, bool) {
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
    };
    decode(&mut decoder);
    let Decoder { effects, blind, moves_names, .. } = decoder;
    (Event { tid: ticket.tid, call: row.name, effects, blind }, moves_names)
}

/// Hands a call over, in the state `Admitting`: its marks and its answer belong together for grace.
fn deliver(shared: &Answering, sink: &dyn Sink, event: Event, ticket: Ticket) {
    let (tid, serial) = (ticket.tid, ticket.serial);
    if event.effects.is_empty() && event.blind.is_none() {
        // It changes no file. It may wait for ever, in a full pipe: grace has nothing to do with it.
        shared.inflight.disregard(tid, serial);
        return;
    }
    sink.deliver(event, ticket);
    shared.inflight.park_unless_answered(tid, serial);
}
