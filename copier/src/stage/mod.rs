//! The staging directory: where a backup grows until it is complete.
//!
//! It lies beside the destination, so that it can take the destination's name in one step, and nobody else can look
//! inside. While a backup runs it is locked; one that is left over from a process that was killed is not, and is removed by
//! the next backup to the same destination. Staged data is kept by file, not by name, so renames in the source cost nothing.
mod called;
mod check;
pub(crate) mod discard;
mod inherit;
mod inside;
mod kept;
mod name;
mod remove;

use crate::base::util::lock;
use crate::base::{io::Io, sys};
use crate::interface::spec::OWN_DIR;
use crate::space::need::{Need, leaves_holes_out};
use crate::space::watch::Watch;
use crate::tree::part_of;
use crate::{Error, Placing, Spec};
use check::{check_apart, check_changeable, check_empty, check_sources, split};
use hotbackup_event::FileId;
use hotbackup_event::change::{Change, ChangeError};
use hotbackup_event::look::is_gone;
pub(crate) use inherit::LISTS as ACCESS_LISTS;
use kept::{Kept, most_open, syncs_as_a_whole};
pub(crate) use remove::entry as remove_entry;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Directory of the staged data, below [`OWN_DIR`].
const DATA_DIR: &str = "data";

/// A staging directory. Removed when dropped, unless it was published.
pub(crate) struct Stage {
    pub io: Arc<dyn Io>,
    /// The destination without links on its way.
    pub dest: PathBuf,
    pub parent: OwnedFd,
    pub root: OwnedFd,
    pub own: OwnedFd,
    data: OwnedFd,
    name: OsString,
    /// Given back before anything is removed: by then there may be no other descriptor left.
    reserve: Vec<OwnedFd>,
    published: bool,
    /// It lies inside the destination, which becomes the backup: see `publish::place`.
    inside: bool,
    /// There is to be no manifest.
    pub bare: bool,
    /// The staging directories of further destinations, one for each further source.
    pub more: Vec<Stage>,
    kept: Mutex<Kept>,
    /// Whether the whole file system can be synced instead of each file.
    whole: bool,
    /// Something failed here: there may be more errors of it that nobody was told yet.
    troubled: AtomicBool,
    /// Some directory could not be synced on its own, see [`Self::sync_dir`].
    unsynced: AtomicBool,
    /// Bytes written.
    pub written: AtomicU64,
    /// What is left free for others.
    pub space: Watch,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").field("dest", &self.dest).field("name", &self.name).finish_non_exhaustive()
    }
}

impl Stage {
    /// Checks the destination, and makes the staging directory beside it.
    pub fn prepare(spec: &Spec, placing: &Placing, io: Arc<dyn Io>) -> Result<Self, Error> {
        check_sources(&spec.sources, !placing.into.is_empty())?;
        if !placing.into.is_empty() {
            return Self::prepare_inside(spec, placing, &io);
        }
        let (parent_path, last) = split(&spec.dest)?;
        let open = |path: &Path| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from)
        };
        let parent = open(&parent_path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::DestParentMissing { path: parent_path.clone() },
            io::ErrorKind::NotADirectory => Error::DestNotDirectory { path: parent_path.clone() },
            _ => Error::at_dest("open", parent_path.clone(), error),
        })?;
        let dest = parent_path.join(&last);
        for source in &spec.sources {
            check_apart(source, &parent, &dest)?;
        }
        check_changeable(&parent, &parent_path)?;
        check_empty(&parent, &last, &dest)?;
        let name = called::beginning(&last);
        remove::leftovers(&parent, &name);
        Self::begin(spec, io, (parent, dest), name)
    }

    /// Makes a staging directory in `parent`. `name` is the beginning of its name.
    fn begin(
        spec: &Spec,
        io: Arc<dyn Io>,
        (parent, dest): (OwnedFd, PathBuf),
        mut name: OsString,
    ) -> Result<Self, Error> {
        let parent_path = sys::fd_path(&parent);
        name.push(std::process::id().to_string());
        let root = make(&parent, &mut name).map_err(|error| match called::is_refused(&parent, &error) {
            true => Error::changing(Change::MakeDir, dest.clone(), error),
            false => Error::at_dest("create", parent_path.join(&name), error),
        })?;
        let path = parent_path.join(&name);
        let below = |dir: &OwnedFd, name: &str| -> Result<OwnedFd, Error> {
            sys::make_dir(dir, OsStr::new(name))
                .map_err(|error| Error::changing(Change::MakeDir, path.join(name), error))
        };
        let made =
            inherit::nothing(&root).map_err(|error| Error::at_dest("take inherited rights from", path.clone(), error));
        let made = made.and_then(|()| below(&root, OWN_DIR)).and_then(|own| Ok((below(&own, DATA_DIR)?, own)));
        let renamed = |error| Error::at_dest("rename", path.clone(), error);
        let made = made.and_then(|made| try_rename(&parent, &name, &root).map(|()| made).map_err(renamed));
        let reserve = |_| (0..remove::NEEDS).map(|_| root.try_clone()).collect::<io::Result<Vec<_>>>();
        let made = made.and_then(|made| Ok((made, reserve(()).map_err(|e| Error::at_dest("open", path.clone(), e))?)));
        let ((data, own), reserve) = made.inspect_err(|_| drop(remove::staging(&parent, &name, &root)))?;
        let whole = syncs_as_a_whole(&root);
        let kept =
            Mutex::new(Kept::new(if whole { spec.tuning.sync_each_below.min(most_open()) } else { most_open() }));
        let (published, written) = (false, AtomicU64::new(0));
        let (inside, bare, more) = (false, false, Vec::new());
        let (troubled, unsynced) = (AtomicBool::new(false), AtomicBool::new(false));
        let space = Watch::new(&root, &parent_path, &spec.sources, spec.tuning.reserve)
            .map_err(|error| Error::at_dest("look at", path.clone(), error))
            .inspect_err(|_| drop(remove::staging(&parent, &name, &root)))?;
        Ok(Self {
            io,
            dest,
            parent,
            root,
            own,
            data,
            name,
            reserve,
            published,
            inside,
            bare,
            more,
            kept,
            whole,
            troubled,
            unsynced,
            written,
            space,
        })
    }

    /// Whether the destinations themselves become the backup.
    pub fn is_inside(&self) -> bool {
        self.inside
    }

    /// The staging directory for one source; the same for all that have one destination.
    pub fn part(&self, source: usize) -> &Self {
        match source.checked_sub(1).and_then(|further| self.more.get(further)) {
            Some(further) if self.inside => further,
            _ => self,
        }
    }

    /// The staging directory that a file is staged in.
    pub fn of(&self, number: u64) -> &Self {
        self.part(part_of(number))
    }

    /// Every staging directory.
    pub fn parts(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(&self.more)
    }

    /// The destination's directory, where the staging directory lies inside of it; and its name there.
    pub fn place(&self) -> (&OwnedFd, &OsStr) {
        (&self.parent, &self.name)
    }

    /// The backup is in its place, and the staging directory is gone.
    pub fn settle(&mut self) {
        self.published = true;
    }

    /// The staging directory's identity: it must not turn up in a source.
    pub fn id(&self) -> Result<FileId, Error> {
        Ok(sys::stat_fd(&self.root).map_err(|error| Error::at_dest("look at", self.path(), error))?.id)
    }

    pub fn path(&self) -> PathBuf {
        if self.inside { self.dest.join(&self.name) } else { self.dest.with_file_name(&self.name) }
    }

    fn data_path(&self, number: u64) -> PathBuf {
        self.of(number).path().join(OWN_DIR).join(DATA_DIR).join(number.to_string())
    }

    pub fn data(&self) -> impl AsFd {
        self.data.as_fd()
    }

    /// Fails if all that is to be copied cannot be, before anything is. `need` says how much that is for these sources; `None`:
    /// for all. Destinations on one file system share its room.
    pub fn check_space(&self, need: impl Fn(Option<&[usize]>) -> Need) -> Result<(), Error> {
        if self.more.is_empty() {
            return self.check_own_space(&need(None));
        }
        let mut devices: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (source, part) in self.parts().enumerate() {
            devices.entry(part.id()?.dev).or_default().push(source);
        }
        devices.values().try_for_each(|sources| self.part(sources[0]).check_own_space(&need(Some(sources))))
    }

    fn check_own_space(&self, need: &Need) -> Result<(), Error> {
        let holes = leaves_holes_out(&self.data);
        self.space.check(|unit| need.bytes(unit, holes), need.inodes())
    }

    /// Fails if others than us have filled what is to be left to them.
    pub fn look_at_space(&self) -> Result<(), Error> {
        self.parts().try_for_each(|part| part.space.look())
    }

    /// Opens the staged data of a file; makes it if there is none.
    pub fn open(&self, number: u64) -> Result<OwnedFd, Error> {
        let part = self.of(number);
        let failed = |error| part.failed(Change::Create, self.data_path(number), error);
        let mut kept = lock(&part.kept);
        if let Some(fd) = kept.get(number).map_err(failed)? {
            return Ok(fd);
        }
        part.space.before(0, 1)?;
        let fd = self.io.create(part.data.as_fd(), OsStr::new(&number.to_string())).map_err(failed)?;
        kept.keep(number, &fd).map_err(failed)?;
        Ok(fd)
    }

    /// Whether each of `files` staged files must be synced by itself.
    pub fn syncs_each(&self, files: usize, at_most: usize) -> bool {
        self.parts().any(|part| !part.whole || (files <= at_most && !lock(&part.kept).overflowed))
    }

    /// Whether staged files were closed unsynced, as the whole file system was to be synced.
    pub fn has_closed_some(&self) -> bool {
        self.whole && lock(&self.kept).overflowed
    }

    /// Makes a staged file durable that was put into place as `name` in `dir`.
    pub fn sync_file(&self, number: u64, dir: &OwnedFd, name: &OsStr) -> io::Result<()> {
        let kept = lock(&self.of(number).kept).take(number);
        let fd = match kept {
            Some(fd) => fd,
            None => rustix::fs::openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?,
        };
        self.io.sync(fd.as_fd())
    }

    /// Makes a directory durable. Where a file system cannot do that for a directory, all of it is synced instead, and
    /// [`Self::syncs_dirs`] says so: what that makes durable is up to it.
    pub fn sync_dir(&self, dir: &OwnedFd) -> io::Result<()> {
        let is_unsynced = |error: &io::Error| {
            let cause = error.raw_os_error().map(|errno| ChangeError::of(Change::SyncDir, errno));
            cause == Some(ChangeError::Unsynced)
        };
        match self.io.sync(dir.as_fd()) {
            Err(error) if is_unsynced(&error) => {
                self.unsynced.store(true, Ordering::Relaxed);
                self.io.sync_all(dir.as_fd()).or_else(|error| if is_unsynced(&error) { Ok(()) } else { Err(error) })
            }
            other => other,
        }
    }

    /// Whether every directory could be synced on its own, as far as any was.
    pub fn syncs_dirs(&self) -> bool {
        self.parts().all(|part| !part.unsynced.load(Ordering::Relaxed))
    }

    /// Makes a change that is not one of [`Io`]'s own operations.
    pub fn may<T>(&self, change: Change, make: impl FnOnce() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
        self.io.changes(change).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        make()
    }

    /// Removes a directory of ours, which is open, with all that is in it.
    pub fn remove_below(&self, parent: &OwnedFd, name: &OsStr, dir: &OwnedFd) -> Result<(), Error> {
        let emptied = self.io.changes(Change::Remove).and_then(|()| remove::all_below(dir));
        let removed = emptied.and_then(|()| Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?));
        removed.map_err(|error| self.failed(Change::Remove, self.path().join(name), error))
    }

    /// The error for something that failed here.
    fn failed(&self, change: Change, path: PathBuf, source: io::Error) -> Error {
        self.troubled.store(true, Ordering::Relaxed);
        Error::changing(change, path, source)
    }

    pub fn write(&self, number: u64, fd: &OwnedFd, data: &[u8], offset: u64) -> Result<(), Error> {
        let part = self.of(number);
        part.space.before(data.len() as u64, 0)?;
        self.io
            .write_at(fd.as_fd(), data, offset)
            .map_err(|e| part.failed(Change::Write, self.data_path(number), e))?;
        self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    pub fn punch(&self, number: u64, fd: &OwnedFd, range: std::ops::Range<u64>) -> Result<(), Error> {
        self.io.punch(fd.as_fd(), range).map_err(|e| self.of(number).failed(Change::Punch, self.data_path(number), e))
    }

    pub fn set_len(&self, number: u64, fd: &OwnedFd, len: u64) -> Result<(), Error> {
        self.io.set_len(fd.as_fd(), len).map_err(|e| self.of(number).failed(Change::SetLen, self.data_path(number), e))
    }

    /// Frees the staged data of a file that is gone from the sources.
    pub fn remove(&self, number: u64) {
        let part = self.of(number);
        drop(lock(&part.kept).take(number));
        // There may be none, and what is left is removed at the end anyway.
        let _ = rustix::fs::unlinkat(&part.data, number.to_string(), AtFlags::empty());
    }

    /// Removes what was staged and not moved into place, and the directory it was in.
    pub fn clear_data(&self) -> Result<(), Error> {
        let failed = |error| Error::at_dest("clear", self.path().join(OWN_DIR).join(DATA_DIR), error);
        for name in sys::names(&self.data).map_err(failed)? {
            rustix::fs::unlinkat(&self.data, &*name, AtFlags::empty()).map_err(|e| failed(e.into()))?;
        }
        rustix::fs::unlinkat(&self.own, DATA_DIR, AtFlags::REMOVEDIR).map_err(|error| failed(error.into()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.published {
            return;
        }
        self.reserve.clear();
        // Open files keep their space.
        *lock(&self.kept) = Kept::new(0);
        let _ = remove::staging(&self.parent, &self.name, &self.root);
        if self.troubled.load(Ordering::Relaxed) {
            // The file system tells each error of writing back once. Nobody needs those of what is now removed, least of
            // all the next backup.
            let _ = self.io.sync_all(self.root.as_fd());
        }
    }
}

/// Renames a staging directory and back: in the end it must take another name, and there are file systems, and servers of files, on
/// which no directory can.
fn try_rename(parent: &OwnedFd, name: &OsStr, root: &OwnedFd) -> io::Result<()> {
    let mut other = name.to_owned();
    other.push("-");
    rustix::fs::renameat(parent, name, parent, &*other)?;
    rustix::fs::renameat(parent, &*other, parent, name).inspect_err(|_| drop(remove::staging(parent, &other, root)))?;
    match sys::stat_at(root, OsStr::new(OWN_DIR)) {
        // fusefat's, for one.
        Err(error) if is_gone(&error) => Err(io::Error::other("what it holds is not found any more after that")),
        other => other.map(drop),
    }
}

/// Makes and locks a staging directory. `name` grows if another backup of this process has it.
fn make(parent: &OwnedFd, name: &mut OsString) -> io::Result<OwnedFd> {
    loop {
        match rustix::fs::mkdirat(parent, &**name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                name.push("-");
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        // Until it is locked, another backup to the same place may take it for a leftover.
        let root = match sys::open_dir(parent, name) {
            Err(error) if is_gone(&error) => continue,
            other => other?,
        };
        // Where there are no locks, nothing is ever taken for a leftover either.
        let locked = rustix::fs::flock(&root, FlockOperation::NonBlockingLockExclusive);
        let id = sys::stat_fd(&root)?.id;
        let there = match sys::stat_at(parent, name) {
            Err(error) if is_gone(&error) => None,
            found => Some(found?.id),
        };
        if locked != Err(Errno::WOULDBLOCK) && there == Some(id) {
            return Ok(root);
        }
    }
}
