//! From what a call does to descriptors to what it may change by that: where their positions are, given the calls that are
//! on their way, and what the net under unseen writes has to know.
//!
//! A position is only known when nobody else is about to move it. So a call says that it moves one *before* the position is
//! looked at, and another thread's call that has said so and may not have run makes it unknown: then any byte of the file may
//! change. (Another thread that calls lseek at the same time makes the outcome a matter of luck for the program itself.)

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hotbackup_event::{Effect, FileId};

use super::grace;
use super::inflight::{Call, InFlight};
use super::unseen::{Position, Unseen, parse_position};
use crate::calls::decode::OnDescriptor;
use crate::sys::stat::Identity;
use crate::target::process::{Process, read_below};

/// How long another thread's call may take to be over, in the drain: there a call of whose position nothing is known waits for all of the
/// file. It has been let go and mostly is over; but its thread runs on, and what it does then may not be shown.
const A_MOMENT: Duration = Duration::from_micros(300);

/// What a call does to descriptors changes this.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What may change.
    pub effects: Vec<Effect>,
    /// Why that cannot be known.
    pub blind: Option<String>,
    /// Whether grace waits for the call though it has no effect that is known: only when it has run is a descriptor or
    /// position that is watched what the call makes it.
    pub awaited: bool,
}

/// A call whose doings are looked at.
pub(crate) struct Positions<'a> {
    pub process: &'a Process,
    pub inflight: &'a InFlight,
    /// The net, if 8-byte writes are not shown.
    pub unseen: Option<&'a Mutex<Unseen>>,
    pub call: Call,
    /// Whether calls that are captured at their sites go by, and no longer tell that their thread's call before them is over.
    pub go_by: bool,
    pub found: Found,
}

impl<'a> Positions<'a> {
    /// Looks at all of them, in the order in which the decoder named them.
    pub fn look(mut self, on_descriptors: Vec<OnDescriptor>) -> Found {
        for doing in on_descriptors {
            match doing {
                OnDescriptor::Writes { fd, file, length } => self.writes(fd, file, length),
                OnDescriptor::Seeks { fd, file, offset, whence } => self.seeks(fd, file, offset, whence),
                OnDescriptor::Closes(fd) => drop(self.ends(fd)),
                OnDescriptor::Replaces(fd) => {
                    let meanwhile = self.ends(fd);
                    self.found.effects.extend(meanwhile);
                }
                OnDescriptor::Opens(file) => self.opens(file),
                OnDescriptor::OpensByHandle => self.opens_by_handle(),
            }
        }
        self.found
    }

    fn content(&mut self, file: FileId, start: u64, length: u64) {
        if length > 0 {
            self.found.effects.push(Effect::Content { file, start, end: start.saturating_add(length) });
        }
    }

    fn writes(&mut self, fd: i32, file: Identity, length: u64) {
        let position = self.position(fd, file.id);
        if let Some(mut unseen) = self.unseen() {
            unseen.writes(self.process, fd, file.id, file.size, position, length);
        }
        match position {
            Position::At(position) => self.content(file.id, position, length),
            Position::End => self.found.effects.push(Effect::Append { file: file.id, size: file.size }),
            Position::ReadOnly | Position::Unknown => self.content(file.id, 0, u64::MAX),
        }
    }

    fn seeks(&mut self, fd: i32, file: Identity, offset: i64, whence: i32) {
        let at = match self.position(fd, file.id) {
            Position::At(at) => at,
            Position::End | Position::ReadOnly => return,
            // Another thread is about to move it: then nothing can be told from where it is.
            Position::Unknown => return self.content(file.id, 0, u64::MAX),
        };
        let from = match whence {
            libc::SEEK_CUR => at,
            libc::SEEK_END => file.size,
            _ => 0, // SEEK_DATA and SEEK_HOLE go to the offset or beyond
        };
        let to = from.saturating_add_signed(offset);
        if let Some(mut unseen) = self.unseen() {
            unseen.seeks(self.process, fd, file.id, at, to);
            unseen.runs_later(self.call);
            self.found.awaited = true;
        }
    }

    /// The last that is seen of a descriptor; and what may be written through it, unseen, until the call runs.
    fn ends(&mut self, fd: i32) -> Option<Effect> {
        let mut unseen = self.unseen()?;
        let meanwhile = unseen.closes(self.process, fd)?;
        unseen.runs_later(self.call);
        self.found.awaited = true;
        Some(meanwhile)
    }

    fn opens(&mut self, file: Option<Identity>) {
        if let Some(mut unseen) = self.unseen() {
            unseen.opens(file.map(|file| (file.id, file.size)));
        } else if let Some(file) = file.filter(|_| self.unseen.is_some()) {
            let cause = "a child process, whose writes of 8 bytes are not seen";
            self.found.effects.push(Effect::Untraceable { file: file.id, cause });
        }
    }

    fn opens_by_handle(&mut self) {
        self.opens(None);
        if self.unseen.is_some() && !self.process.has_thread(self.call.tid) {
            let cause =
                "a child process, whose writes of 8 bytes are not seen, opened a file by its handle for writing";
            self.found.blind = Some(cause.into());
        }
    }

    /// The positions of the target's own descriptors; a child process has a table of its own.
    fn unseen(&mut self) -> Option<MutexGuard<'a, Unseen>> {
        let tid = self.call.tid;
        let unseen = self.unseen.filter(|_| self.process.has_thread(tid))?;
        if !self.process.shares_descriptors(tid) {
            self.found.blind = Some(format!(
                "thread {tid} may write 8 bytes unseen, by descriptors of its own: restart the process, and take its first \
                 backup with --show-all-writes"
            ));
            return None;
        }
        Some(unseen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn position(&mut self, fd: i32, file: FileId) -> Position {
        let tid = self.call.tid;
        self.inflight.set_positions(tid, self.call.serial, file);
        let mut others = self.inflight.at_position_of(file, tid);
        let waiting = others.iter().any(Call::is_held);
        let patience = if self.go_by { A_MOMENT } else { Duration::ZERO };
        if waiting || !grace::settle(self.process, self.inflight, &mut others, patience) {
            return Position::Unknown;
        }
        let Ok(info) = read_below(self.process.proc(), &format!("{tid}/fdinfo/{fd}")) else {
            return Position::Unknown;
        };
        parse_position(&info)
    }
}
