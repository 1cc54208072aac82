//! Where things are tried: a directory in the staging directory, which is gone before anything is copied.
use crate::Error;
use crate::base::sys;
use crate::interface::spec::OWN_DIR;
use crate::stage::Stage;
use hotbackup_event::change::{Change, ChangeError};
use hotbackup_event::look::Lack;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;

/// A directory to try things in.
pub(super) struct Ground<'a> {
    pub stage: &'a Stage,
    pub dir: OwnedFd,
}

const NAME: &str = "trial";

impl<'a> Ground<'a> {
    pub fn new(stage: &'a Stage) -> Result<Self, Error> {
        let made = stage.io.changes(Change::MakeDir).and_then(|()| sys::make_dir(&stage.own, OsStr::new(NAME)));
        // There is nothing about its name.
        let dir = made.map_err(|error| Error::at_dest("create", stage.path().join(OWN_DIR).join(NAME), error))?;
        Ok(Self { stage, dir })
    }

    pub fn clear(self) -> Result<(), Error> {
        self.stage.remove_below(&self.stage.own, OsStr::new(NAME), &self.dir)
    }

    /// Makes a file that is new; `None` if it cannot have that name.
    pub fn file(&self, dir: &OwnedFd, name: &OsStr) -> Result<Option<OwnedFd>, Error> {
        self.works(Change::Create, make_file(dir, name))
    }

    /// Makes a file that must be possible: there is nothing about its name.
    pub fn plain(&self, name: &str) -> Result<OwnedFd, Error> {
        let path = || self.stage.path().join(OWN_DIR).join(NAME).join(name);
        make_file(&self.dir, OsStr::new(name)).map_err(|error| Error::at_dest("create", path(), error))
    }

    pub fn failed(&self, change: Change, error: impl Into<io::Error>) -> Error {
        Error::changing(change, self.stage.path(), error)
    }

    /// The result of a trial: `None` if the file system cannot do it. What says nothing about that is an error: no room, no
    /// descriptors, a disk that fails.
    pub fn works<T>(&self, change: Change, result: rustix::io::Result<T>) -> Result<Option<T>, Error> {
        let error = match result {
            Ok(done) => return Ok(Some(done)),
            Err(error) => error,
        };
        // Some FUSE servers say it in this way of what they do not know, mknod(2) for one.
        let of_fuse = error == Errno::IO && !matches!(change, Change::Create | Change::Write | Change::SyncDir);
        match ChangeError::of(change, error.raw_os_error()) {
            ChangeError::Disk if of_fuse => Ok(None),
            ChangeError::Full | ChangeError::ReadOnly | ChangeError::Gone | ChangeError::Disk => {
                Err(self.failed(change, error))
            }
            ChangeError::Ours(Lack::Files | Lack::Memory) => Err(self.failed(change, error)),
            _ => Ok(None),
        }
    }

    /// The same, and what was found afterwards is what it should be.
    pub fn holds<T>(
        &self,
        change: Change,
        result: rustix::io::Result<T>,
        look: impl FnOnce(T) -> bool,
    ) -> Result<bool, Error> {
        Ok(self.works(change, result)?.is_some_and(look))
    }
}

fn make_file(dir: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR)
}
