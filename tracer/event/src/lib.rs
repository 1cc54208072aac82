//! The few types that the tracer and the copier share.
//!
//! The tracer turns a stopped system call into [`Effect`]s: what the call *may* change. The copier marks what
//! they name, and later reads from the source what really happened. Neither knows more of the other than this.
#![forbid(unsafe_code)]

pub mod change;
pub mod failpoint;
pub mod look;
pub mod remedy;

use std::ffi::OsString;

/// Who a file is, whatever it is called: a renamed file keeps its identity, and an inode number that the file
/// system hands out again belongs to another file, told apart by its birth time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId {
    /// Device number as statx(2) gives it: `major << 32 | minor`.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Birth time in nanoseconds since the epoch; 0 where the file system keeps none.
    pub btime_ns: u64,
}

/// What one system call may change, before it has run. Whether it does is for the source to show afterwards:
/// marking too much is harmless, marking too little is a bug.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// The bytes from `start` up to, not including, `end` may change; `end` is `u64::MAX` for "to the end".
    /// Covers writes, hole punches, and (with `u64::MAX`) modes of fallocate(2) that shift what follows.
    Content {
        /// The file written to.
        file: FileId,
        /// First byte that may change.
        start: u64,
        /// First byte after those that may change.
        end: u64,
    },
    /// Bytes may be appended: from the end of the file on, wherever that is once earlier calls have finished.
    Append {
        /// The file appended to.
        file: FileId,
        /// Its size in bytes when the call was seen.
        size: u64,
    },
    /// The file's length may become `len`: everything from there on may change.
    Resize {
        /// The file cut or grown.
        file: FileId,
        /// Its new length in bytes.
        len: u64,
    },
    /// A directory entry may be created, removed or made to name something else.
    Entry {
        /// The directory.
        dir: FileId,
        /// The entry's name in it.
        name: OsString,
    },
    /// Owner, mode, times or extended attributes may change, or the number of links.
    Metadata {
        /// The file or directory.
        file: FileId,
    },
    /// From now on stores to memory may change the file: it has a writable shared mapping.
    Mapped {
        /// The file.
        file: FileId,
    },
    /// From now on the file may change in ways that no system call shows.
    Untraceable {
        /// The file.
        file: FileId,
        /// How, in words for the operator: `"io_submit, which returns before the write is done"`.
        cause: &'static str,
    },
}

impl Effect {
    /// The file or directory whose state the effect concerns.
    pub fn subject(&self) -> FileId {
        match self {
            Self::Content { file, .. }
            | Self::Append { file, .. }
            | Self::Resize { file, .. }
            | Self::Metadata { file }
            | Self::Mapped { file }
            | Self::Untraceable { file, .. } => *file,
            Self::Entry { dir, .. } => *dir,
        }
    }
}
