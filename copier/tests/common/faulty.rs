//! A destination (and source) that misbehaves on demand.
use hotbackup_copier::io::{Direct, Io};
use hotbackup_event::change::Change;
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Read,
    Create,
    Write,
    Punch,
    SetLen,
    Sync,
}

/// Who comes waits while it is shut.
#[derive(Default)]
pub struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicU64,
}

impl Gate {
    /// Shuts or opens it.
    pub fn shut(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }

    pub fn is_shut(&self) -> bool {
        *self.shut.lock().unwrap()
    }

    fn pass(&self) {
        let mut shut = self.shut.lock().unwrap();
        self.waiting.fetch_add(1, Ordering::SeqCst);
        while *shut {
            shut = self.opened.wait(shut).unwrap();
        }
        self.waiting.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

/// Counts operations, fails one of them, and holds up writes or reads while their gate is shut.
#[derive(Default)]
pub struct Faulty {
    counts: [AtomicU64; 6],
    pub fail: Option<(Kind, u64, i32)>,
    pub failed: AtomicBool,
    /// Every change of this kind fails, as soon as it is armed.
    pub change: Option<(Change, i32)>,
    pub armed: AtomicBool,
    pub writes: Gate,
    /// Of the source.
    pub reads: Gate,
}

impl Faulty {
    pub fn failing(kind: Kind, number: u64, errno: rustix::io::Errno) -> Self {
        Self { fail: Some((kind, number, errno.raw_os_error())), ..Self::default() }
    }

    /// Fails every change of a kind: from the beginning, so that the trial finds it, or once it is armed.
    pub fn changing(change: Change, errno: rustix::io::Errno, armed: bool) -> Self {
        Self { change: Some((change, errno.raw_os_error())), armed: armed.into(), ..Self::default() }
    }

    pub fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize].load(Ordering::SeqCst)
    }

    fn step(&self, kind: Kind) -> io::Result<()> {
        let number = self.counts[kind as usize].fetch_add(1, Ordering::SeqCst);
        match self.fail {
            Some((which, at, errno)) if (which, at) == (kind, number) => {
                self.failed.store(true, Ordering::SeqCst);
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        }
    }
}

impl Io for Faulty {
    fn read_at(&self, fd: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.reads.pass();
        self.step(Kind::Read)?;
        Direct.read_at(fd, buffer, offset)
    }

    fn create(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
        self.changes(Change::Create)?;
        self.step(Kind::Create)?;
        Direct.create(dir, name)
    }

    fn write_at(&self, fd: BorrowedFd<'_>, data: &[u8], offset: u64) -> io::Result<()> {
        self.writes.pass();
        self.changes(Change::Write)?;
        self.step(Kind::Write)?;
        Direct.write_at(fd, data, offset)
    }

    fn punch(&self, fd: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
        self.changes(Change::Punch)?;
        self.step(Kind::Punch)?;
        Direct.punch(fd, range)
    }

    fn set_len(&self, fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
        self.changes(Change::SetLen)?;
        self.step(Kind::SetLen)?;
        Direct.set_len(fd, len)
    }

    fn changes(&self, change: Change) -> io::Result<()> {
        match self.change {
            Some((which, errno)) if which == change && self.armed.load(Ordering::SeqCst) => {
                self.failed.store(true, Ordering::SeqCst);
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        }
    }

    fn sync(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        let is_dir = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode).is_dir();
        self.changes(if is_dir { Change::SyncDir } else { Change::Sync })?;
        self.step(Kind::Sync)?;
        Direct.sync(fd)
    }

    fn sync_all(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.step(Kind::Sync)?;
        Direct.sync_all(fd)
    }
}
