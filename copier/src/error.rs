//! Why a backup, or a look at one, fails.
use hotbackup_event::change::{Change, ChangeError};
use hotbackup_event::look::{Lack, LookError};
use hotbackup_event::remedy;
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};
use std::io;
use std::path::{Path, PathBuf};

/// Why a backup fails. Each message is a sentence with the cause and, where known, the remedy.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The destination holds something already.
    #[error("the destination {} is not empty; name a new directory, or an empty one", path.display())]
    DestNotEmpty {
        /// The destination.
        path: PathBuf,
    },
    /// The destination lies in a source, or a source in the destination.
    #[error(
        "the destination {} and the source {} lie inside one another; name a destination elsewhere",
        dest.display(), source_path.display()
    )]
    DestInsideSource {
        /// The destination.
        dest: PathBuf,
        /// The source that it collides with.
        source_path: PathBuf,
    },
    /// The destination's file system is mounted read-only.
    #[error("the destination {} is on a read-only file system; name one that can be written", path.display())]
    DestReadOnly {
        /// The path that could not be written.
        path: PathBuf,
    },
    /// A quota at the destination is used up; the disk need not be.
    #[error(
        "a quota at the destination is used up: {} could not be written, whatever room there is; raise the quota, or name \
         another destination",
        path.display()
    )]
    DestOverQuota {
        /// The path that could not be written.
        path: PathBuf,
    },
    /// The destination is full.
    #[error("the destination is full: {} could not be written; free space, or name another one", path.display())]
    DestFull {
        /// The path that could not be written.
        path: PathBuf,
    },
    /// The destination's file system can hold no more files; there may be room for data.
    #[error(
        "the destination has no inodes left: {} could not be made, whatever room there is; remove files there, or name another one",
        path.display()
    )]
    DestOutOfInodes {
        /// The path that could not be made.
        path: PathBuf,
    },
    /// The destination exists and is no directory.
    #[error("the destination {} is not a directory; name a new directory, or an empty one", path.display())]
    DestNotDirectory {
        /// The destination.
        path: PathBuf,
    },
    /// The destination is a mount point, which cannot be replaced in one step.
    #[error("the destination {0} is a mount point; name a directory inside it, such as {0}/backup", path.display())]
    DestMountPoint {
        /// The destination.
        path: PathBuf,
    },
    /// The directory in which the destination would be made does not exist.
    #[error("the directory {} in which the destination is to be made does not exist; make it first", path.display())]
    DestParentMissing {
        /// The parent directory.
        path: PathBuf,
    },
    /// A destination that was to become the backup lies in another one, or is the same.
    #[error("the destinations {} and {} are the same or lie inside one another; name one directory for each source", first.display(), second.display())]
    DestsOverlap {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Another backup grows in the destination.
    #[error("another backup to {} is running; wait for its end, or name another directory", path.display())]
    DestBusy {
        /// The destination.
        path: PathBuf,
    },
    /// The destination's file system cannot hold what is in the source.
    #[error(
        "the destination cannot hold {}: {cause}; name a destination on another file system, or exclude it (--exclude)",
        path.display()
    )]
    DestCannotHold {
        /// What.
        path: PathBuf,
        /// Why not.
        cause: String,
    },
    /// Anything else that went wrong on the destination.
    #[error("cannot {op} {} on the destination: {source}{}", path.display(), remedy::after(source))]
    DestIo {
        /// What was tried, as a verb.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A source does not exist.
    #[error("the source {} does not exist", path.display())]
    SourceNotFound {
        /// The source.
        path: PathBuf,
    },
    /// A source is no directory.
    #[error("the source {} is not a directory", path.display())]
    SourceNotDirectory {
        /// The source.
        path: PathBuf,
    },
    /// The same source twice, one inside another, or two that would go to the same place.
    #[error("the sources {} and {} overlap or go to the same place; name each tree once", first.display(), second.display())]
    SourcesOverlap {
        /// One of them.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Something in a source cannot be read.
    #[error("cannot read {} in the source: {source}{}", path.display(), remedy::after(source))]
    SourceUnreadable {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A symbolic link out of the source leads back to a directory that holds it.
    #[error("the symbolic link {} leads to a directory that contains it; exclude it", path.display())]
    SymlinkLoop {
        /// The link.
        path: PathBuf,
    },
    /// A directory of a source contains itself, through a mount.
    #[error(
        "the directory {} contains itself: something above it is mounted there; exclude it, or unmount it",
        path.display()
    )]
    SourceContainsItself {
        /// Where it turns up again.
        path: PathBuf,
    },
    /// What is to be copied does not fit, with what is to be left free.
    #[error(
        "the backup does not fit on the file system of {}: it needs {needed} {what}, {free} are free, and {reserve} of these are to be \
         left for others (--reserve); free space, or name a destination elsewhere",
        path.display()
    )]
    DestTooSmall {
        /// A directory on that file system.
        path: PathBuf,
        /// Of what: bytes, or inodes.
        what: &'static str,
        /// How much is to be copied, as far as known.
        needed: u64,
        /// How much is free.
        free: u64,
        /// How much is to be left free.
        reserve: u64,
    },
    /// While it was copied, free space fell to what is to be left.
    #[error(
        "the backup was given up, to leave the file system of {} to its other users: {free} {what} are free there, and \
         {reserve} are to be left (--reserve); free space, or name a destination elsewhere",
        path.display()
    )]
    ReserveReached {
        /// A directory on that file system.
        path: PathBuf,
        /// Of what: bytes, or inodes.
        what: &'static str,
        /// How much is free.
        free: u64,
        /// How much is to be left free.
        reserve: u64,
    },
    /// A glob to exclude is malformed.
    #[error("the pattern {pattern:?} to exclude is malformed: {cause}")]
    BadExclude {
        /// The glob.
        pattern: String,
        /// What is wrong with it.
        cause: String,
    },
    /// More files or directories must be open at once than this process may have.
    #[error("too many open files while opening {}; raise the limit of open files (ulimit -Hn)", path.display())]
    TooManyOpenFiles {
        /// What could not be opened.
        path: PathBuf,
    },
    /// A limit of this process's own keeps a file from being written.
    #[error(
        "{} could not be written: hotbackup itself may make no file larger than {most} bytes (RLIMIT_FSIZE); raise that limit (ulimit \
         -f) where it is started, or give it CAP_SYS_RESOURCE",
        path.display()
    )]
    OwnLimit {
        /// What was to be written.
        path: PathBuf,
        /// The limit.
        most: u64,
    },
    /// It cannot be known whether earlier calls have finished.
    #[error("cannot wait for calls of the target to finish: {0}")]
    Quiesce(String),
    /// Something happened that cannot be tracked.
    #[error("the backup would not be complete: {0}")]
    Blind(String),
    /// A file can change without a system call.
    #[error("{} can change unseen, through {cause}; close it there, or exclude it", path.display())]
    Untraceable {
        /// The file.
        path: PathBuf,
        /// How.
        cause: &'static str,
    },
    /// Too much is mapped for writing to be read while the target stands still.
    #[error(
        "{} has a writable shared mapping, and more than {limit} bytes of such files would have to be copied while the \
         process stands still; allow more (--mapped), or exclude it",
        path.display()
    )]
    MappedTooLarge {
        /// The file that was one too many.
        path: PathBuf,
        /// The most that may be read.
        limit: usize,
    },
    /// The target could not be made to stand still for the files that it has mapped for writing.
    #[error(
        "the process could not be stopped to copy what it has mapped for writing, in {tries} tries: {cause}; take the backup \
         when it has less to do, or exclude the files that are mapped"
    )]
    NotFrozen {
        /// Why not, in the last try.
        cause: String,
        /// How many tries.
        tries: u32,
    },
    /// A file or directory changed though no call of the target explains it.
    #[error(
        "{} was changed by something other than process {pid}, such as another process \
         (stop that, or exclude it), the kernel with a core file, or overlayfs, which makes another file of what it copies to its upper layer (try again)",
        path.display()
    )]
    ForeignChange {
        /// The file or directory.
        path: PathBuf,
        /// The target.
        pid: i32,
    },
    /// A block of a file is not what was copied of it, though no call of the target explains that.
    #[error(
        "{} is not what was copied of it at offset {offset}, and no call of process {pid} explains that: it was changed by \
         something else (stop that, or exclude it), or not read right (look at the disk)",
        path.display()
    )]
    Unexplained {
        /// The file.
        path: PathBuf,
        /// The first byte that differs.
        offset: u64,
        /// The target.
        pid: i32,
    },
    /// Before-images could not be written as fast as the target overwrote what they save.
    #[error(
        "the destination is slower than the target's writers: {} waited {waited_ms} ms for a before-image; \
         use a faster destination, or take the backup when less is written",
        path.display()
    )]
    BeforeImagesFull {
        /// The file that was about to be changed.
        path: PathBuf,
        /// How long the call had waited.
        waited_ms: u64,
    },
    /// A before-image could not be read in time.
    #[error(
        "{} is read too slowly: a call that changes it waited {waited_ms} ms for its before-image; let calls wait longer \
         (--max-wait), or take the backup when the disk has less to do",
        path.display()
    )]
    BeforeImageSlow {
        /// The file that was about to be changed.
        path: PathBuf,
        /// How long the call had waited.
        waited_ms: u64,
    },
    /// No hold was short enough.
    #[error(
        "no point in time could be fixed without holding the target's calls for more than {lease_ms} ms, in {tries} tries: \
         in the last, waiting for calls under way took {grace_ms} ms, and looking up changed names {names_ms} ms; take the \
         backup when the disk has less to do and fewer files are created and renamed, or allow a longer hold (--hold)"
    )]
    HoldTooLong {
        /// How long calls that had begun before the hold were waited for, in the last try.
        grace_ms: u64,
        /// How long changed names and sizes were looked up after that.
        names_ms: u64,
        /// The longest that a hold may take.
        lease_ms: u64,
        /// How many holds were tried.
        tries: u32,
    },
    /// Marked names piled up.
    #[error(
        "the target changed {marks} names while hotbackup could not look at them: it waits for a disk that is slow or \
         stands still; use a faster destination, or take the backup when fewer files are created and renamed"
    )]
    TooManyMarks {
        /// How many names.
        marks: usize,
    },
    /// The target was let go before everything of the point in time was saved.
    #[error("the target was let go before the backup was complete")]
    LetGo,
    /// Cancelled on request.
    #[error("the backup was cancelled")]
    Cancelled,
    /// A thread of the copier ended unexpectedly.
    #[error("internal error: {0}; please report this")]
    Internal(String),
    /// There is no manifest, so this is no finished backup.
    #[error("{} holds no finished backup: its manifest is missing", path.display())]
    ManifestMissing {
        /// The directory that was looked at.
        path: PathBuf,
    },
    /// The manifest cannot be understood.
    #[error("the manifest {} cannot be understood: {cause}", path.display())]
    ManifestBad {
        /// The manifest.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
}

impl Error {
    /// What went wrong with something in a source, with what to do about it where that is known.
    pub(crate) fn unreadable(path: PathBuf, source: io::Error) -> Self {
        match LookError::from(&source) {
            LookError::Ours(Lack::Files) => Self::TooManyOpenFiles { path },
            _ => Self::SourceUnreadable { path, source },
        }
    }

    /// What went wrong with a change at the destination, by the table of such errors.
    pub(crate) fn changing(change: Change, path: PathBuf, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let cannot = |cause: &str| Self::DestCannotHold { path: path.clone(), cause: cause.into() };
        match source.raw_os_error().map_or(ChangeError::Disk, |errno| ChangeError::of(change, errno)) {
            ChangeError::Full => Self::at_dest(change.verb(), path, source),
            ChangeError::ReadOnly => Self::DestReadOnly { path },
            ChangeError::Ours(Lack::Files) => Self::TooManyOpenFiles { path },
            ChangeError::Taken => {
                cannot("another name is the same to its file system, or was put there by somebody else")
            }
            ChangeError::Name => cannot("its file system allows no such name"),
            // Else it is the file system's limit.
            ChangeError::TooLarge if getrlimit(Resource::Fsize).current.is_some() => {
                Self::at_dest(change.verb(), path, source)
            }
            ChangeError::TooLarge => cannot("it is longer than a file may be there"),
            ChangeError::Links => cannot("its directory or file would have more links than its file system allows"),
            ChangeError::Kind => cannot("there is nothing of that kind on its file system"),
            _ => Self::DestIo { op: change.verb(), path, source },
        }
    }

    /// What went wrong at the destination, with what to do about it where that is known.
    pub(crate) fn at_dest(op: &'static str, path: PathBuf, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        let most = getrlimit(Resource::Fsize).current;
        match Errno::from_io_error(&source) {
            Some(Errno::NOSPC) if is_out_of_inodes(&path) => Self::DestOutOfInodes { path },
            Some(Errno::NOSPC) => Self::DestFull { path },
            Some(Errno::DQUOT) => Self::DestOverQuota { path },
            Some(Errno::ROFS) => Self::DestReadOnly { path },
            // Else it is the file system's limit.
            Some(Errno::FBIG) if most.is_some() => Self::OwnLimit { path, most: most.unwrap_or_default() },
            _ if LookError::from(&source) == LookError::Ours(Lack::Files) => Self::TooManyOpenFiles { path },
            _ => Self::DestIo { op, path, source },
        }
    }
}

/// Whether it is inodes that are lacking where something could not be made, and not room.
fn is_out_of_inodes(path: &Path) -> bool {
    let found = path.ancestors().skip(1).find_map(|above| rustix::fs::statvfs(above).ok());
    found.is_some_and(|found| found.f_files > 0 && found.f_favail == 0 && found.f_bavail > 0)
}
