//! The net under the 8-byte exception.
//!
//! mongod wakes its threads by writing 8 bytes to eventfds, one for each client operation and a new eventfd for each
//! connection; a stop for each costs a third of its throughput. A filter cannot see what a descriptor is. So in a
//! target that has eventfds, a plain `write` of 8 bytes is not shown, to whatever it goes. If it goes to a regular
//! file, it is found out here, because it moves the file's position, and nothing else that moves it forward goes
//! unnoticed but `read`:
//!
//! - every other write at the position is shown, and so are `lseek` and whatever closes a descriptor; each is a look at
//!   the position before it moves or is gone;
//! - every open for writing is shown, so that a new descriptor is known before its first use matters;
//! - at each grace, all descriptors that are open for writing are looked at.
//!
//! A call is shown before it runs: a seek or close that is still to run when the positions are looked at would make what is
//! found there worth nothing afterwards. So a look waits for those first; grace has waited for most of them already.
//!
//! What lies between two looks may have been written, and is marked at the next grace: too much where it was only read,
//! never too little. After the hold nothing can be marked any more: there, a move that no shown call explains means that
//! what belonged to T may be lost, and the backup fails if that part of the file was not saved before T.
//!
//! Positions belong to open file descriptions, so duplicates of a descriptor show the same; when a descriptor is closed,
//! its duplicates are looked for. When `dup2` puts another in its place, other threads may go on writing until it does (a log
//! file is replaced like this), and where that leaves the position nobody can see: what they may write is marked with the
//! call. For a plain `close` or `lseek` there is no such thing: a program that writes meanwhile does not know to what, or where. Only the target's own table is looked at: a child process that opens a file of the
//! source for writing makes that file untraceable. Not covered: a child that goes on writing, 8 bytes at a time, through a
//! descriptor which it inherited and the target has closed.

use std::collections::HashMap;
use std::time::Duration;

use hotbackup_event::{Effect, FileId};

use super::grace;
use super::inflight::{Call, InFlight};
use crate::sys::process::is_same_file;
use crate::target::process::{Process, read_below};

/// How long a look waits for closes and seeks that came since the grace before it. If that is too short, the backup may be
/// refused without need.
const SOON: Duration = if cfg!(test) { Duration::from_secs(30) } else { Duration::from_millis(5) };

/// How many bytes may be written, 8 at a time, from when a `dup2` is received until it runs.
const MEANWHILE: u64 = 64 << 10;

/// Where a write without an offset goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    At(u64),
    End,
    /// Not open for writing.
    ReadOnly,
    Unknown,
}

/// Position and O_APPEND from /proc/TID/fdinfo/FD (proc_pid_fdinfo(5)).
pub(crate) fn parse_position(info: &str) -> Position {
    let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let flags = field("flags:").and_then(|flags| u32::from_str_radix(flags, 8).ok());
    let position = field("pos:").and_then(|position| position.parse().ok());
    match (flags, position) {
        (Some(flags), _) if flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32 => Position::ReadOnly,
        (Some(flags), _) if flags & libc::O_APPEND as u32 != 0 => Position::End,
        (Some(_), Some(position)) => Position::At(position),
        _ => Position::Unknown,
    }
}

/// A descriptor of the target that is open for writing a regular file.
#[derive(Debug, Clone, Copy)]
struct Watched {
    file: FileId,
    /// Position at the last look; for an appending descriptor, the file's size.
    from: u64,
    /// Where the shown calls since then take it, if all of them do what they were asked.
    expected: u64,
    appends: bool,
}

/// What is known of the target's positions.
#[derive(Default)]
pub(crate) struct Unseen {
    watched: HashMap<i32, Watched>,
    /// What was found since the last grace: a descriptor, and where its position was by then.
    moved: Vec<(Watched, u64)>,
    /// Sizes, before, of the files that were opened for writing since the last grace.
    opened: HashMap<FileId, u64>,
    /// Some descriptor is new, or gone, since the last grace.
    rescan: bool,
    started: bool,
    /// The last call of each thread that closes a watched descriptor or moves a position, unless it is known to be over.
    under_way: HashMap<i32, Call>,
}

/// How a look at the positions is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Whatever moved is to be marked.
    Mark,
    /// Only what no shown call explains.
    Unexplained,
}

impl Unseen {
    /// A shown call is about to write `length` bytes at the position of `fd`.
    pub fn writes(&mut self, process: &Process, fd: i32, file: FileId, size: u64, position: Position, length: u64) {
        let (at, appends) = match position {
            Position::At(at) => (at, false),
            Position::End => (size, true),
            Position::ReadOnly | Position::Unknown => {
                self.watched.remove(&fd);
                self.rescan = true;
                return; // the call marks the whole file
            }
        };
        self.moves(process, fd, at, Watched { file, from: at, expected: at.saturating_add(length), appends });
    }

    /// A shown call is about to move the position of `fd` from `at` to `to`.
    pub fn seeks(&mut self, process: &Process, fd: i32, file: FileId, at: u64, to: u64) {
        self.moves(process, fd, at, Watched { file, from: to, expected: to, appends: false });
    }

    /// The position of `fd`, and of its duplicates, is at `at`, and a call is about to make it what `new` says.
    fn moves(&mut self, process: &Process, fd: i32, at: u64, new: Watched) {
        let duplicates = self.duplicates(process, fd, new.file);
        let known = duplicates.first().and_then(|first| self.watched.get(first)).copied();
        let old = self.watched.insert(fd, new).filter(|old| old.file == new.file).or(known);
        let old = old.or_else(|| self.as_opened(process, fd, Watched { from: at, ..new }));
        self.moved.extend(old.map(|old| (old, at)));
        self.watched.extend(duplicates.into_iter().map(|duplicate| (duplicate, new)));
    }

    /// Which of those that are watched are the same open file. That another stands at the same place proves nothing. Where the
    /// kernel does not say, it is none: then too much is marked.
    fn duplicates(&self, process: &Process, fd: i32, file: FileId) -> Vec<i32> {
        let pid = process.pid();
        let is_one = |(&other, watched): (&i32, &Watched)| {
            other != fd && watched.file == file && is_same_file((pid, other), (pid, fd)) == Ok(true)
        };
        self.watched.iter().filter(|watched| is_one(*watched)).map(|(&other, _)| other).collect()
    }

    /// A file of this size is about to be opened for writing; `None` when it is about to be made.
    pub fn opens(&mut self, file: Option<(FileId, u64)>) {
        self.rescan = true;
        if let Some((file, size)) = file {
            self.opened.entry(file).or_insert(size);
        }
    }

    /// A descriptor is about to be closed, or to become a duplicate of another. If it is one to be watched: what other threads
    /// may write through it before that, unseen.
    pub fn closes(&mut self, process: &Process, fd: i32) -> Option<Effect> {
        let old = self.watched.remove(&fd);
        if old.is_none() && !self.rescan {
            return None; // no file, or not open for writing
        }
        let now = Self::now(process, fd)?;
        let old = old.filter(|old| old.file == now.file).or_else(|| self.as_opened(process, fd, now));
        self.moved.extend(old.map(|old| (old, now.from)));
        self.rescan = true; // for its duplicates
        Some(now.moved_by(MEANWHILE))
    }

    /// This call is the one that closes, or seeks.
    pub fn runs_later(&mut self, call: Call) {
        self.under_way.insert(call.tid, call);
    }

    /// A descriptor that was never looked at, as it was when it was opened; `None` when it is a duplicate of one that is
    /// watched, or nothing has begun yet.
    fn as_opened(&self, process: &Process, fd: i32, now: Watched) -> Option<Watched> {
        if !self.started || !self.duplicates(process, fd, now.file).is_empty() {
            return None;
        }
        let from = if now.appends { self.opened.get(&now.file).copied().unwrap_or(0) } else { 0 };
        Some(Watched { from, expected: from, ..now })
    }

    /// Looks at all positions, and returns what may have been written unseen since the last time.
    pub fn look(&mut self, process: &Process, inflight: &InFlight, look: Look) -> Vec<Effect> {
        let mut under_way = self.under_way.drain().map(|(_, call)| call).collect();
        grace::settle(process, inflight, &mut under_way, SOON);
        let mut moved = std::mem::take(&mut self.moved);
        let before = self.watched.len();
        let mut lost = Vec::new();
        self.watched.retain(|&fd, watched| match Self::now(process, fd) {
            Some(now) if now.file == watched.file => {
                moved.push((*watched, now.from));
                let is_held = |watched: &Watched| now.from == watched.from && inflight.is_held_at(watched.file);
                if watched.expected == watched.from || !is_held(watched) {
                    *watched = now;
                }
                true
            }
            // Closed in a way that was not shown (execve), after it may have moved on by any way.
            _ => {
                lost.push(watched.rest());
                false
            }
        });
        // What was closed may go on under another number.
        self.rescan |= self.watched.len() < before;
        if self.rescan || !self.started {
            for (fd, link) in process.descriptors() {
                if self.watched.contains_key(&fd) || !link.as_encoded_bytes().starts_with(b"/") {
                    continue;
                }
                let Some(now) = Self::now(process, fd) else { continue };
                moved.extend(self.as_opened(process, fd, now).map(|old| (old, now.from)));
                self.watched.insert(fd, now);
            }
        }
        self.opened.clear();
        (self.rescan, self.started) = (false, true);
        lost.extend(moved.into_iter().filter_map(|(old, now)| old.moved_to(now, look)));
        lost
    }

    fn now(process: &Process, fd: i32) -> Option<Watched> {
        let info = read_below(process.proc(), &format!("{}/fdinfo/{fd}", process.pid())).ok()?;
        let identity = process.descriptor_identity(process.pid(), fd).ok().filter(|identity| identity.is_file())?;
        let (from, appends) = match parse_position(&info) {
            Position::At(at) => (at, false),
            Position::End => (identity.size, true),
            Position::ReadOnly | Position::Unknown => return None,
        };
        Some(Watched { file: identity.id, from, expected: from, appends })
    }
}

impl Watched {
    /// What may have been written unseen when the position is found at `now`.
    fn moved_to(&self, now: u64, look: Look) -> Option<Effect> {
        if now == self.from || (look == Look::Unexplained && now == self.expected) {
            return None;
        }
        let (start, end) = (self.from.min(now), self.from.max(now).max(self.expected));
        Some(if self.appends { self.rest() } else { Effect::Content { file: self.file, start, end } })
    }

    /// The next `length` bytes.
    fn moved_by(&self, length: u64) -> Effect {
        if self.appends {
            self.rest()
        } else {
            Effect::Content { file: self.file, start: self.from, end: self.from.saturating_add(length) }
        }
    }

    /// Everything from the last known position on.
    fn rest(&self) -> Effect {
        if self.appends {
            Effect::Append { file: self.file, size: self.from }
        } else {
            Effect::Content { file: self.file, start: self.from, end: u64::MAX }
        }
    }
}

#[cfg(test)]
#[path = "unseen_tests.rs"]
mod tests;
