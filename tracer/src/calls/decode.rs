//! From registers to effects: what every decoder works with.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use hotbackup_event::look::LookError;
use hotbackup_event::{Effect, FileId};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::sys::notify::CallData;
use crate::sys::stat::{self, Identity};
use crate::target::process::{Process, open_below};

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
    pub(crate) descriptors: &'a mut Descriptors,
    pub(crate) resolver: Option<&'a mut Resolver>,
    /// What the call may change.
    pub effects: Vec<Effect>,
    /// What it does to descriptors and their positions: what that changes is still to be found out.
    pub on_descriptors: Vec<OnDescriptor>,
    /// Why the call, and all that follows from it, cannot be followed.
    pub blind: Option<String>,
    /// Whether the call may change where paths lead.
    pub moves_names: bool,
    /// Whether it may lead a path that was decoded already to another directory.
    pub redirects: bool,
    /// Whether grace waits for it though it has no effect that is known: a path that led nowhere may lead somewhere when the
    /// call runs.
    pub awaited: bool,
}

/// What a call does to a descriptor. What it may change by that depends on calls that are on their way: where the position
/// is by the time it runs, and what is written unseen until then.
#[derive(Debug, Clone, Copy)]
pub enum OnDescriptor {
    /// It writes where the position is.
    Writes {
        /// The descriptor.
        fd: i32,
        /// Its file.
        file: Identity,
        /// How many bytes.
        length: u64,
    },
    /// It moves the position, as lseek(2) does with these arguments.
    Seeks {
        /// The descriptor.
        fd: i32,
        /// Its file.
        file: Identity,
        /// By how much.
        offset: i64,
        /// From where.
        whence: i32,
    },
    /// It closes a descriptor.
    Closes(i32),
    /// It makes a descriptor that of something else.
    Replaces(i32),
    /// It opens a file for writing; `None` when it is made.
    Opens(Option<Identity>),
    /// It opens a file for writing that nobody knows before it is open.
    OpensByHandle,
}

impl<'a> Decoder<'a> {
    /// A call of thread `tid` that is to be decoded; `resolver` for one by path.
    pub fn new(
        process: &'a Process,
        tid: i32,
        data: CallData,
        descriptors: &'a mut Descriptors,
        resolver: Option<&'a mut Resolver>,
    ) -> Self {
        Self {
            process,
            tid,
            data,
            descriptors,
            resolver,
            effects: Vec::new(),
            on_descriptors: Vec::new(),
            blind: None,
            moves_names: false,
            redirects: false,
            awaited: false,
        }
    }

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
            Err(errno) if errno == Errno::EBADF || LookError::of(errno as i32).is_nothing() => None,
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
        self.on_descriptors.push(OnDescriptor::Writes { fd, file, length });
    }

    /// Descriptors from `first` to `last` are about to be closed.
    pub fn closes_range(&mut self, first: u32, last: u32) {
        let open = self.process.descriptors().into_iter().map(|(fd, _)| fd);
        let closed = open.filter(|&fd| (first..=last).contains(&(fd as u32)));
        self.on_descriptors.extend(closed.map(OnDescriptor::Closes));
    }

    /// A file is opened for writing; `None` when it is made.
    pub fn opens_for_writing(&mut self, file: Option<Identity>) {
        self.on_descriptors.push(OnDescriptor::Opens(file.filter(Identity::is_file)));
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
