//! A destination (and source) that misbehaves on demand.
use hotbackup_copier::io::{Direct, Io};
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
struct Gate {
    shut: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicU64,
}

impl Gate {
    fn shut(&self, shut: bool) {
        *self.shut.lock().unwrap() = shut;
        self.opened.notify_all();
    }

    fn is_shut(&self) -> bool {
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

    fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }
}

/// Counts operations, fails one of them, and holds up writes or reads while told to.
#[derive(Default)]
pub struct Faulty {
    counts: [AtomicU64; 6],
    pub fail: Option<(Kind, u64, i32)>,
    pub failed: AtomicBool,
    writes: Gate,
    reads: Gate,
}

impl Faulty {
    pub fn failing(kind: Kind, number: u64, errno: rustix::io::Errno) -> Self {
        Self { fail: Some((kind, number, errno.raw_os_error())), ..Self::default() }
    }

    pub fn count(&self, kind: Kind) -> u64 {
        self.counts[kind as usize].load(Ordering::SeqCst)
    }

    /// From now on writes wait, until told otherwise.
    pub fn stall(&self, stalled: bool) {
        self.writes.shut(stalled);
    }

    /// The same with reads of the source.
    pub fn stall_reads(&self, stalled: bool) {
        self.reads.shut(stalled);
    }

    /// Whether a read waits.
    pub fn is_stalling_reads(&self) -> bool {
        self.reads.has_waiting()
    }

    /// Whether a write waits.
    pub fn is_stalling(&self) -> bool {
        self.writes.has_waiting()
    }

    pub fn is_stalled(&self) -> bool {
        self.writes.is_shut()
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
        self.step(Kind::Create)?;
        Direct.create(dir, name)
    }

    fn write_at(&self, fd: BorrowedFd<'_>, data: &[u8], offset: u64) -> io::Result<()> {
        self.writes.pass();
        self.step(Kind::Write)?;
        Direct.write_at(fd, data, offset)
    }

    fn punch(&self, fd: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
        self.step(Kind::Punch)?;
        Direct.punch(fd, range)
    }

    fn set_len(&self, fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
        self.step(Kind::SetLen)?;
        Direct.set_len(fd, len)
    }

    fn sync(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.step(Kind::Sync)?;
        Direct.sync(fd)
    }

    fn sync_all(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.step(Kind::Sync)?;
        Direct.sync_all(fd)
    }
}
