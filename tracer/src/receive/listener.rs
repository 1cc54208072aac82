//! The receiver: takes each stopped call from the kernel as soon as it comes, and sees to its answer.
//!
//! A call that was received but not answered is a [`Ticket`]: dropping it lets the call go, so that no path through
//! the program forgets one. Between receipt and answer it is recorded in a slot of the memory shared with the
//! keeper, which answers it if we cannot.
//!
//! Two threads: the receiver decodes calls by descriptor itself, in a few microseconds; calls by path go to the
//! second, one after the other (`paths.rs`). Neither ever waits for the destination.

use std::collections::HashSet;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Sender, bounded};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::answering::{Answering, Ticket};
use super::decoding::{decode, deliver};
use super::paths::{Stopped, resolve_paths};
use super::sink::Sink;
use crate::calls::decode::Descriptors;
use crate::calls::{Decode, Row, TABLE, every, ioctls};
use crate::error::Error;
use crate::ptracer::client::Ptracer;
use crate::shared::memory::SLOTS;
use crate::sys::notify::{CallData, Notification};

/// How often the receiver shows the keeper that it lives, when nothing comes.
const BEAT: Duration = Duration::from_millis(10);
/// The same while a hold is on: it is to be cut when its lease ends, not some time later.
const BEAT_IN_HOLD: Duration = Duration::from_millis(1);
/// How often the receiver looks whether a call has waited for too long.
const LOOK: Duration = Duration::from_millis(50);
/// How long the second thread is waited for at the end. What it holds after that, the keeper answers.
const FAREWELL: Duration = Duration::from_millis(50);
/// How many threads are remembered, of those that have called.
const MOST_SEEN: usize = 1 << 16;
const X86_64: u32 = 0xc000_003e;
const X32_BIT: i32 = 0x4000_0000;

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

fn receive(shared: &Arc<Answering>, paths: &Sender<Stopped>, sink: &dyn Sink) {
    crate::sys::process::hurry();
    let mut rows: Vec<Option<&'static Row>> = vec![None; 512];
    for row in TABLE {
        rows[row.nr as usize] = Some(row);
    }
    let mut descriptors = Descriptors::default();
    let (mut looked, mut given_up) = (Instant::now(), false);
    let mut seen = HashSet::new();
    while !shared.stop.load(Ordering::SeqCst) {
        shared.memory.beat.fetch_add(1, Ordering::SeqCst);
        // First: after a standstill of ours, what waited too long is not our concern any more.
        if shared.is_revoked() {
            sink.lost(Error::Revoked(shared.process.pid()));
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
                sink.lost(Error::TargetExited(shared.process.pid()));
                return;
            }
        }
        sink.tick();
        let mut fds = [PollFd::new(shared.listener.as_fd(), PollFlags::POLLIN)];
        let beat = if shared.memory.holding.load(Ordering::Relaxed) != 0 { BEAT_IN_HOLD } else { BEAT };
        let _ = poll(&mut fds, PollTimeout::from(beat.as_millis() as u16));
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            if let Some((ticket, stopped)) = shared.receive()
                && !given_up
            {
                if seen.insert(ticket.tid) {
                    shared.newcomers.lock().unwrap_or_else(PoisonError::into_inner).push(ticket.tid);
                    // To be seen twice is no harm.
                    if seen.len() > MOST_SEEN {
                        seen.clear();
                    }
                }
                dispatch(shared, &rows, &mut descriptors, paths, sink, ticket, stopped);
            }
        } else if events.intersects(PollFlags::POLLHUP | PollFlags::POLLERR) || !shared.process.is_alive() {
            sink.lost(Error::TargetExited(shared.process.pid()));
            return;
        }
    }
}

/// Whether this release knows what a call that is shown may change. A later one's filter may show more.
fn is_known(row: Option<&Row>, data: &CallData) -> bool {
    match row {
        Some(row) => row.nr != libc::SYS_ioctl || ioctls::is_of_interest(data.args[1]),
        None => every::changes_nothing(i64::from(data.nr)),
    }
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
    let row = rows.get(data.nr as usize).copied().flatten();
    if !is_known(row, &data) {
        let tid = ticket.tid;
        let call = if row.is_some() { format!("ioctl({:#x})", data.args[1]) } else { format!("call {}", data.nr) };
        sink.blind(format!(
            "thread {tid} made {call}, which a newer hotbackup's filter shows: back it up with that one"
        ));
    }
    let Some(row) = row else { return };
    if let Some(hot) = &shared.hot {
        hot.notice(&shared.process, ticket.tid, &stopped);
    }
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
        Decode::Descriptor(decoder) => {
            let decoded = decode(shared, &ticket, &stopped, row, decoder, descriptors, None);
            deliver(shared, sink, decoded, ticket);
        }
    }
}
