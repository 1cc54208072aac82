//! Known files and directories: what several threads share of each.
use crate::Error;
use crate::base::digest::Digest;
use crate::base::sys::{self, Attributes, Stat};
use crate::base::util::lock;
use crate::marks::blockmap::BlockMap;
use hotbackup_event::FileId;
use hotbackup_event::look::is_gone;
use std::borrow::Borrow;
use std::ffi::OsStr;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// A name as directories and files share it.
pub(crate) type Name = Arc<OsStr>;

/// Set by marks, taken by the next sync.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    /// A call that may change the status was seen since the status was last looked at after a grace. While it is
    /// clear, a change time that differs from the recorded one is nobody's we know.
    pub dirty: AtomicBool,
    /// Extended attributes may differ from those read.
    pub meta: AtomicBool,
    /// A call named it since it became known: between then and the last look, its change time proves nothing.
    pub named: AtomicBool,
}

/// A directory that is tracked. Held open, so that it is found wherever it is moved to.
#[derive(Debug)]
pub(crate) struct Dir {
    pub id: FileId,
    pub fd: OwnedFd,
    pub flags: Flags,
    state: Mutex<DirState>,
}

#[derive(Debug, Default, Clone)]
pub(crate) struct DirState {
    pub stat: Stat,
    pub xattrs: Attributes,
}

impl Dir {
    pub fn new(id: FileId, fd: OwnedFd, state: DirState) -> Self {
        // Dirty from the start, attributes as well: a call seen before the directory was known may only run now.
        let flags = Flags { dirty: AtomicBool::new(true), meta: AtomicBool::new(true), ..Flags::default() };
        Self { id, fd, flags, state: Mutex::new(state) }
    }

    pub fn state(&self) -> MutexGuard<'_, DirState> {
        lock(&self.state)
    }

    pub fn path(&self) -> PathBuf {
        sys::fd_path(&self.fd)
    }
}

/// A regular file that is tracked, whatever it is called.
#[derive(Debug)]
pub(crate) struct File {
    pub id: FileId,
    /// Its name among the staged files, and the order in which files became known.
    pub number: u64,
    pub flags: Flags,
    state: Mutex<FileState>,
    /// Blocks, or attributes, are no longer claimed.
    pub saved: Condvar,
}

#[derive(Debug)]
pub(crate) struct FileState {
    pub map: BlockMap,
    /// Bytes allocated for it when it was last looked at.
    pub allocated: u64,
    /// Drain: from the first to the last block that was still to be read from the source then.
    pub late: Range<u64>,
    pub stat: Stat,
    /// Where it can be opened. Empty for a moment while it is moved, and for good once it is gone.
    pub links: Vec<Link>,
    pub low: LowWater,
    /// Length of the staged file as far as it was written; what lies beyond is zeros or was never there.
    pub staged: u64,
    /// Copied to the end at least once.
    pub copied: bool,
    pub hash: Option<Box<StagedHash>>,
    /// Counts changes of the staged file: a hash of what it was before is not stored.
    pub version: u32,
    pub xattrs: Xattrs,
    /// Drain: the file itself, opened before its name may have changed.
    pub open: Option<Arc<Opened>>,
}

/// A source file, opened for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    pub fd: OwnedFd,
    pub size: u64,
    /// Bytes of holes, as far as is known: with any they are worth looking for.
    pub holes: u64,
}

impl Opened {
    /// Whether this is still the file that was opened. On overlayfs it becomes another one when it is copied to the upper
    /// layer, which opening it to write does, and nobody shows.
    pub fn is(&self, id: FileId) -> std::io::Result<bool> {
        Ok(sys::stat_fd(&self.fd)?.id == id)
    }
}

/// The hash of a staged file that was written from start to end, and not since.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StagedHash {
    pub hash: Digest,
    pub size: u64,
}

/// Extended attributes, which are read and saved like one more block.
#[derive(Debug, Default)]
pub(crate) enum Xattrs {
    /// Not read, or not since they may have changed.
    #[default]
    Due,
    /// Drain: somebody is reading them.
    Claimed,
    /// As at the last look. Most files have none.
    Known(Option<Box<Attributes>>),
}

impl Xattrs {
    /// Whether a change of content may change them, too: the kernel takes a file's capabilities away when it is written
    /// to (`file_remove_privs`). What has not been read may hold some.
    pub fn may_be_stripped(&self) -> bool {
        match self {
            Self::Due | Self::Claimed => true,
            Self::Known(all) => {
                all.iter().flat_map(|all| all.iter()).any(|(name, _)| &**name == c"security.capability")
            }
        }
    }

    pub fn known(all: Attributes) -> Self {
        Self::Known(if all.is_empty() { None } else { Some(Box::new(all)) })
    }
}

/// The lowest length the file may have been cut to by calls that an append may not have seen yet. See `ledger`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LowWater {
    pub len: u64,
    pub grace: u64,
}

/// One name of a file.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub dir: Arc<Dir>,
    pub name: Name,
    /// The name is a symbolic link out of the sources, and this is the file that it leads to.
    pub via: Option<Arc<OwnedFd>>,
}

impl Link {
    pub fn is(&self, dir: &Dir, name: &OsStr) -> bool {
        self.dir.id == dir.id && *self.name == *name
    }

    pub fn stat(&self) -> std::io::Result<sys::Found> {
        match &self.via {
            Some(fd) => sys::stat_fd(fd),
            None => sys::stat_at(&self.dir.fd, &self.name),
        }
    }

    pub fn open(&self) -> std::io::Result<OwnedFd> {
        match &self.via {
            Some(fd) => sys::reopen(fd.as_fd()),
            None => sys::open_file(&self.dir.fd, &self.name),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join(&*self.name)
    }
}

/// The source file does not lie where it was last seen.
#[derive(Debug)]
pub(crate) enum OpenError {
    Moved,
    Io(std::io::Error),
}

impl OpenError {
    /// Where the calls of the target would have been seen, or are held: nobody we know has moved the file.
    pub fn while_held(self, file: &File, pid: i32) -> Error {
        match self {
            Self::Moved => match file.refusal() {
                Some(error) => Error::unreadable(file.path(), error),
                None => Error::ForeignChange { path: file.path(), pid },
            },
            Self::Io(error) => Error::unreadable(file.path(), error),
        }
    }
}

impl File {
    pub fn new(id: FileId, number: u64, stat: Stat) -> Self {
        let state = FileState {
            map: BlockMap::new(stat.size),
            allocated: 0,
            late: 0..0,
            stat,
            links: Vec::new(),
            low: LowWater { len: u64::MAX, grace: 0 },
            staged: 0,
            copied: false,
            hash: None,
            version: 0,
            xattrs: Xattrs::Due,
            open: None,
        };
        let flags = Flags { dirty: AtomicBool::new(true), ..Flags::default() };
        Self { id, number, flags, state: Mutex::new(state), saved: Condvar::new() }
    }

    /// Never held while anything is read or written.
    pub fn state(&self) -> MutexGuard<'_, FileState> {
        lock(&self.state)
    }

    /// Its names, one after the other: the first will nearly always do, and there may be a million.
    fn names(&self) -> impl Iterator<Item = Link> {
        (0..).map_while(|index| self.state().links.get(index).cloned())
    }

    /// For messages: one of its names.
    pub fn path(&self) -> PathBuf {
        let link = self.state().links.first().cloned();
        link.map_or_else(|| PathBuf::from(format!("inode {}", self.id.ino)), |link| link.path())
    }

    /// Opens the source file by any of its names, and makes sure that it is this file.
    pub fn open(&self) -> Result<Opened, OpenError> {
        for link in self.names() {
            match link.open().and_then(|fd| Ok((sys::stat_fd(&fd)?, fd))) {
                Ok((found, fd)) if found.id == self.id => {
                    return Ok(Opened { fd, size: found.stat.size, holes: found.holes() });
                }
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(OpenError::Io(error)),
            }
        }
        Err(OpenError::Moved)
    }

    /// Why it cannot be opened though it is where it was: what says so in the words of a name that is gone is the file system then.
    fn refusal(&self) -> Option<std::io::Error> {
        let still = |link: &Link| link.stat().is_ok_and(|found| found.id == self.id);
        self.names().filter(still).find_map(|link| link.open().err())
    }

    /// The status by any of its names, or `None` when none of them leads to it any more.
    pub fn look(&self) -> std::io::Result<Option<sys::Found>> {
        for link in self.names() {
            match link.stat() {
                Ok(found) if found.id == self.id => return Ok(Some(found)),
                Ok(_) => {}
                Err(error) if is_gone(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

impl FileState {
    /// The staged file is about to change.
    pub fn changes(&mut self) {
        self.hash = None;
        self.version = self.version.wrapping_add(1);
    }

    /// Whether anything of the point in time is still to be read from the source.
    pub fn is_open(&self) -> bool {
        !self.map.is_clean() || !matches!(self.xattrs, Xattrs::Known(_))
    }
}

/// A file or a directory, found by its identity.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    File(Arc<File>),
    Dir(Arc<Dir>),
}

impl Node {
    /// Tells it from all others in memory, also from one that had the same identity.
    pub fn address(&self) -> usize {
        match self {
            Self::File(file) => Arc::as_ptr(file).addr(),
            Self::Dir(dir) => Arc::as_ptr(dir).addr(),
        }
    }

    pub fn flags(&self) -> &Flags {
        match self {
            Self::File(file) => &file.flags,
            Self::Dir(dir) => &dir.flags,
        }
    }
}

impl Borrow<FileId> for Node {
    fn borrow(&self) -> &FileId {
        match self {
            Self::File(file) => &file.id,
            Self::Dir(dir) => &dir.id,
        }
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let id: &FileId = self.borrow();
        id.hash(state);
    }
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        let (a, b): (&FileId, &FileId) = (self.borrow(), other.borrow());
        a == b
    }
}

impl Eq for Node {}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
