//! The operations that move data, behind a trait, so that tests can record, count, delay and fail each of them.
use hotbackup_event::change::Change;
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::{Errno, retry_on_intr};
use std::ffi::OsStr;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};

/// Reads of the sources, and everything that takes or frees space at the destination.
pub trait Io: Send + Sync {
    /// Reads from a source at an offset; fewer bytes than asked for only at the end of the file.
    fn read_at(&self, fd: BorrowedFd<'_>, mut buffer: &mut [u8], mut offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while !buffer.is_empty() {
            match rustix::io::pread(fd, &mut *buffer, offset) {
                Ok(0) => break,
                Ok(n) => {
                    done += n;
                    offset += n as u64;
                    buffer = &mut buffer[n..];
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    /// The next range that holds data at or after `offset`, or `None` if only a hole is left. A file system that
    /// knows no holes says everything is data.
    fn data_after(&self, fd: BorrowedFd<'_>, offset: u64) -> io::Result<Option<Range<u64>>> {
        let start = match rustix::fs::seek(fd, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some(offset..u64::MAX)),
            Err(error) => return Err(error.into()),
        };
        match rustix::fs::seek(fd, SeekFrom::Hole(start)) {
            Ok(end) => Ok(Some(start..end)),
            // Cut off in between: what is left is read, and found to be short.
            Err(Errno::NXIO) => Ok(Some(start..u64::MAX)),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a staged file for writing and reading; makes it where it does not exist.
    fn create(&self, dir: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(retry_on_intr(|| rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR))?)
    }

    /// Writes all of `data` to a staged file at an offset.
    fn write_at(&self, fd: BorrowedFd<'_>, mut data: &[u8], mut offset: u64) -> io::Result<()> {
        while !data.is_empty() {
            match rustix::io::pwrite(fd, data, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => {
                    data = &data[n..];
                    offset += n as u64;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Has the system begin to write a range of a staged file to disk, so that less is left when it is synced.
    fn write_back(&self, fd: BorrowedFd<'_>, range: Range<u64>) {
        // Pages still to be written cannot be dropped; the advice makes the system begin to write them. Only advice.
        let len = std::num::NonZeroU64::new(range.end - range.start);
        let _ = rustix::fs::fadvise(fd, range.start, len, rustix::fs::Advice::DontNeed);
    }

    /// Makes a range of a staged file read as zeros and frees its space where the file system can do that. Does not
    /// change the file's length.
    fn punch(&self, fd: BorrowedFd<'_>, range: Range<u64>) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match retry_on_intr(|| rustix::fs::fallocate(fd, flags, range.start, range.end - range.start)) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                let end = range.end.min(rustix::fs::fstat(fd)?.st_size as u64);
                let zeros = [0; 64 << 10];
                let mut at = range.start;
                while at < end {
                    let n = (end - at).min(zeros.len() as u64);
                    self.write_at(fd, &zeros[..n as usize], at)?;
                    at += n;
                }
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Asked before each change at the destination that has no operation of its own here: names, owners, modes, times,
    /// attributes. An error is taken for that change's.
    fn changes(&self, change: Change) -> io::Result<()> {
        let _ = change;
        Ok(())
    }

    /// Sets the length of a staged file.
    fn set_len(&self, fd: BorrowedFd<'_>, len: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::ftruncate(fd, len))?)
    }

    /// Makes a staged file or directory durable.
    fn sync(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::fsync(fd))?)
    }

    /// Makes the whole file system of a staged file or directory durable, and tells the errors of everything written to it
    /// since `fd` was opened.
    fn sync_all(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::syncfs(fd))?)
    }
}

/// The system's own operations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Direct;

impl Io for Direct {}
