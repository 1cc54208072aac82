//! From registers to effects: what every decoder works with.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hotbackup_event::{Effect, FileId};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::grace;
use crate::inflight::{Call, InFlight, State};
use crate::process::{Process, open_below, read_below};
use crate::sys::notify::CallData;
use crate::sys::stat::{self, Identity};
use crate::unseen::Unseen;

use super::memory::{self, Unread};
use super::resolve::Resolver;

/// Threads whose descriptor directory is kept open.
const DIRECTORIES: usize = 2048;

/// `/proc/TID/fd` of the threads seen lately: each thread may have a descriptor table of its own.
#[derive(Default)]
pub struct Descriptors {
    open: HashMap<i32, OwnedFd>,
}

impl Descriptors {
    fn identity(&mut self, proc: BorrowedFd<'_>, tid: i32, fd: i32) -> Result<Identity, Errno> {
        let name = CString::new(fd.to_string()).map_err(|_| Errno::EBADF)?;
        if let Some(dir) = self.open.get(&tid) {
            match stat::identity(dir.as_fd(), &name, true) {
                Ok(identity) => return Ok(identity),
                // The thread may have ended and its number come back: look afresh.
                Err(_) => drop(self.open.remove(&tid)),
            }
        }
        if self.open.len() >= DIRECTORIES {
            self.open.clear();
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let dir = open_below(proc, &format!("{tid}/fd"), flags)?;
        let identity = stat::identity(dir.as_fd(), &name, true);
        self.open.insert(tid, dir);
        identity
    }
}

/// One call being decoded.
pub struct Decoder<'a> {
    /// The target.
    pub process: &'a Process,
    /// The thread that made the call.
    pub tid: i32,
    /// The call.
    pub data: CallData,
    /// The positions, if 8-byte writes are not shown.
    pub(crate) unseen: Option<&'a Mutex<Unseen>>,
    pub(crate) serial: u64,
    pub(crate) inflight: &'a InFlight,
    pub(crate) descriptors: &'a mut Descriptors,
    pub(crate) resolver: Option<&'a mut Resolver>,
    /// What the call may change.
    pub effects: Vec<Effect>,
    /// Why the call, and all that follows from it, cannot be followed.
    pub blind: Option<String>,
    /// Whether the call may change where paths lead.
    pub moves_names: bool,
    /// Whether it may lead a path that was decoded already to another directory.
    pub redirects: bool,
    /// Whether grace waits for it though it has no effect that is known: a path that led nowhere may lead somewhere when the
    /// call runs, and a descriptor or position that is watched is only then what the call makes it.
    pub awaited: bool,
}

/// Where a write without an offset goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Position {
    At(u64),
    End,
    /// Not open for writing.
    ReadOnly,
    Unknown,
}

impl<'a> Decoder<'a> {
    /// Argument `index`.
    pub fn arg(&self, index: usize) -> u64 {
        self.data.args[index]
    }

    /// Argument `index` as a descriptor.
    pub fn fd(&self, index: usize) -> i32 {
        self.data.args[index] as i32
    }

    /// Who is behind descriptor `fd`; `None` when there is none, and the call will fail.
    pub fn identity(&mut self, fd: i32) -> Option<Identity> {
        match self.descriptors.identity(self.process.proc(), self.tid, fd) {
            Ok(identity) => Some(identity),
            Err(Errno::ENOENT | Errno::EBADF | Errno::ESRCH) => None,
            Err(errno) => {
                self.blind = Some(format!("descriptor {fd} of thread {} could not be looked at: {errno}", self.tid));
                None
            }
        }
    }

    /// The regular file behind descriptor `fd`.
    pub fn file(&mut self, fd: i32) -> Option<Identity> {
        self.identity(fd).filter(Identity::is_file)
    }

    /// Bytes of the file may change.
    pub fn content(&mut self, file: FileId, start: u64, length: u64) {
        if length > 0 {
            self.effects.push(Effect::Content { file, start, end: start.saturating_add(length) });
        }
    }

    /// Any byte of the file may change.
    pub fn whole(&mut self, file: FileId) {
        self.content(file, 0, u64::MAX);
    }

    /// `length` bytes may be written to descriptor `fd` where its position is.
    pub fn write_at_position(&mut self, fd: i32, file: Identity, length: u64) {
        self.inflight.set_positions(self.tid, self.serial, file.id);
        let position = self.position(fd, file.id);
        if let Some(mut unseen) = self.unseen() {
            unseen.writes(fd, file.id, file.size, position, length);
        }
        match position {
            Position::At(position) => self.content(file.id, position, length),
            Position::End => self.effects.push(Effect::Append { file: file.id, size: file.size }),
            Position::ReadOnly | Position::Unknown => self.whole(file.id),
        }
    }

    /// The position of `fd` moves as lseek(2) does with these arguments.
    pub fn seek(&mut self, fd: i32, file: Identity, offset: i64, whence: i32) {
        self.inflight.set_positions(self.tid, self.serial, file.id);
        let at = match self.position(fd, file.id) {
            Position::At(at) => at,
            Position::End | Position::ReadOnly => return,
            // Another thread is about to move it: then nothing can be told from where it is.
            Position::Unknown => return self.whole(file.id),
        };
        let from = match whence {
            libc::SEEK_CUR => at,
            libc::SEEK_END => file.size,
            _ => 0, // SEEK_DATA and SEEK_HOLE go to the offset or beyond
        };
        let to = from.saturating_add_signed(offset);
        if let Some(mut unseen) = self.unseen() {
            unseen.seeks(fd, file.id, at, to);
            unseen.runs_later(self.call());
            self.awaited = true;
        }
    }

    /// Descriptor `fd` of this thread is about to be closed.
    pub fn closes(&mut self, fd: i32) {
        self.ends(fd);
    }

    /// Descriptor `fd` of this thread is about to be that of something else.
    pub fn replaces(&mut self, fd: i32) {
        let meanwhile = self.ends(fd);
        self.effects.extend(meanwhile);
    }

    /// The last that is seen of a descriptor; and what may be written through it, unseen, until the call runs.
    fn ends(&mut self, fd: i32) -> Option<Effect> {
        let mut unseen = self.unseen()?;
        let meanwhile = unseen.closes(self.process, fd)?;
        unseen.runs_later(self.call());
        self.awaited = true;
        Some(meanwhile)
    }

    /// Descriptors from `first` to `last` are about to be closed.
    pub fn closes_range(&mut self, first: u32, last: u32) {
        let open = self.process.descriptors();
        for (fd, _) in open.into_iter().filter(|(fd, _)| (first..=last).contains(&(*fd as u32))) {
            self.closes(fd);
        }
    }

    /// A file is opened for writing; `None` when it is made.
    pub fn opens_for_writing(&mut self, file: Option<Identity>) {
        let file = file.filter(Identity::is_file);
        if let Some(mut unseen) = self.unseen() {
            unseen.opens(file.map(|file| (file.id, file.size)));
        } else if let Some(file) = file.filter(|_| self.unseen.is_some()) {
            let cause = "a child process, whose writes of 8 bytes are not seen";
            self.effects.push(Effect::Untraceable { file: file.id, cause });
        }
    }

    /// The positions of the target's own descriptors; a child process has a table of its own.
    fn unseen(&mut self) -> Option<MutexGuard<'a, Unseen>> {
        let unseen = self.unseen.filter(|_| self.process.has_thread(self.tid))?;
        if !self.process.shares_descriptors(self.tid) {
            self.blind = Some(format!(
                "thread {} may write 8 bytes unseen, by descriptors of its own: restart the process, and take its first \
                 backup with --show-all-writes",
                self.tid
            ));
            return None;
        }
        Some(unseen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn call(&self) -> Call {
        Call { tid: self.tid, serial: self.serial, state: State::Admitting, data: self.data, positions: None }
    }

    /// The position is only known when nobody else is about to move it. (Another thread that calls lseek at the same
    /// time makes the outcome a matter of luck for the program itself.)
    fn position(&mut self, fd: i32, file: FileId) -> Position {
        let mut others = self.inflight.at_position_of(file, self.tid);
        let waiting = others.iter().any(Call::is_held);
        if waiting || !grace::settle(self.process, self.inflight, &mut others, std::time::Duration::ZERO) {
            return Position::Unknown;
        }
        let Ok(info) = read_below(self.process.proc(), &format!("{}/fdinfo/{fd}", self.tid)) else {
            return Position::Unknown;
        };
        parse_position(&info)
    }

    /// `length` bytes of the thread's memory, or fewer where the rest is not there.
    ///
    /// # Errors
    /// `EFAULT` when they are not there: the call will fail with it, too. Where that is not certain, it cannot be followed.
    pub fn memory(&mut self, address: u64, length: usize) -> Result<Vec<u8>, Errno> {
        memory::read(self.process, self.tid, address, length).map_err(|unread| {
            if let Unread::Hidden(errno) = unread {
                let tid = self.tid;
                self.blind = Some(format!(
                    "an argument of a call of thread {tid} stands in memory that could not be read: {errno}"
                ));
            }
            Errno::EFAULT
        })
    }

    /// A 64-bit number in the thread's memory.
    pub fn memory_u64(&mut self, address: u64) -> Option<u64> {
        let bytes = self.memory(address, 8).ok()?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    }

    /// The total length of an iovec array.
    pub fn vector_length(&mut self, address: u64, count: u64) -> u64 {
        const IOV_MAX: u64 = 1024;
        // The kernel takes 32 bits of it, too.
        let count = u64::from(count as u32);
        if count > IOV_MAX {
            return 0; // EINVAL
        }
        let Ok(bytes) = self.memory(address, 16 * count as usize) else { return u64::MAX };
        let lengths = bytes.chunks_exact(16).map(|entry| u64::from_ne_bytes(entry[8..].try_into().unwrap_or_default()));
        lengths.fold(0, u64::saturating_add)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_position_of_an_appending_descriptor_is_the_end() {
        assert_eq!(parse_position("pos:\t4096\nflags:\t0100002\nmnt_id:\t29\n"), Position::At(4096));
        assert_eq!(parse_position("pos:\t0\nflags:\t0102001\n"), Position::End);
        assert_eq!(parse_position("flags: x"), Position::Unknown);
    }
}
