//! The final name: how a staging directory gets it, durably, and loses it again when that fails.
use super::Stage;
use crate::Error;
use crate::base::sys;
use hotbackup_event::failpoint;
use hotbackup_event::look::is_gone;
use rustix::fs::{AtFlags, CWD, Mode, RenameFlags};
use rustix::io::Errno;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

impl Stage {
    /// Gives the staging directory the destination's name, durably, where the destination's path leads. If any of that
    /// fails, it has its old name again, and an error means that nothing was published.
    pub fn publish(&mut self) -> Result<(), Error> {
        use rustix::fs::{renameat, renameat_with};
        self.check_parent()?;
        let last = self.dest.file_name().unwrap_or_default().to_owned();
        let failed = |error: Errno| match error {
            Errno::NOTEMPTY | Errno::EXIST => Error::DestNotEmpty { path: self.dest.clone() },
            Errno::NOTDIR => Error::DestNotDirectory { path: self.dest.clone() },
            Errno::BUSY => Error::DestMountPoint { path: self.dest.clone() },
            error => Error::at_dest("rename the staging directory to", self.dest.clone(), error),
        };
        let mut replaced = None;
        let renamed = match renameat_with(&self.parent, &*self.name, &self.parent, &*last, RenameFlags::NOREPLACE) {
            // There is a directory, or the file system knows no such flag. Only an empty directory is replaced.
            Err(Errno::EXIST | Errno::INVAL) => {
                replaced = match sys::stat_at(&self.parent, &last) {
                    Ok(found) => Some(found.stat),
                    Err(error) if is_gone(&error) => None,
                    Err(error) => return Err(Error::at_dest("look at", self.dest.clone(), error)),
                };
                renameat(&self.parent, &*self.name, &self.parent, &*last)
            }
            other => other,
        };
        // A network file system may report that a rename failed which it has done.
        let is_done = || {
            let (there, ours) = (sys::stat_at(&self.parent, &last), sys::stat_fd(&self.root));
            there.is_ok_and(|there| ours.is_ok_and(|ours| ours.id == there.id))
        };
        if let Err(error) = renamed
            && !is_done()
        {
            return Err(failed(error));
        }
        failpoint::hit("publish.renamed");
        let durable = self.sync_dir(&self.parent);
        let settled = durable.map_err(|error| Error::at_dest("sync", self.dest.clone(), error));
        if let Err(error) = settled.and_then(|()| self.check_visible()) {
            return Err(self.take_back(&last, replaced, error));
        }
        self.published = true;
        Ok(())
    }

    /// Gives the staging directory its old name again, so that it is removed, after `error`.
    fn take_back(&mut self, last: &OsStr, replaced: Option<sys::Stat>, error: Error) -> Error {
        let flags = RenameFlags::NOREPLACE;
        let back = match rustix::fs::renameat_with(&self.parent, last, &self.parent, &*self.name, flags) {
            Err(Errno::INVAL) => rustix::fs::renameat(&self.parent, last, &self.parent, &*self.name),
            other => other,
        };
        if let Err(undo) = back {
            // Removing it where it stands could be cut short, and leave half of it there.
            self.published = true;
            let words =
                format!("{error}; and it cannot be taken back ({undo}): it stands there, complete, but may not last");
            return Error::DestIo { op: "publish", path: self.dest.clone(), source: io::Error::other(words) };
        }
        if let Some(stat) = replaced {
            // The empty directory that was there.
            let mode = Mode::from_raw_mode(stat.permissions());
            if rustix::fs::mkdirat(&self.parent, last, mode).is_ok() {
                let (uid, gid) = (rustix::fs::Uid::from_raw(stat.uid), rustix::fs::Gid::from_raw(stat.gid));
                let _ = rustix::fs::chownat(&self.parent, last, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
            }
        }
        // Where that works, no power failure shows the name on what is being removed.
        let _ = self.io.sync(self.parent.as_fd());
        error
    }

    /// Whether the path of the destination's directory still leads to where the staging directory is. It does not after a
    /// lazy unmount, or when a directory further up was renamed: nobody would find a backup published there.
    pub fn check_parent(&self) -> Result<(), Error> {
        let path = if self.inside { &self.dest } else { self.dest.parent().unwrap_or(Path::new("/")) };
        self.check_leads_to(path, &self.parent)
    }

    fn check_visible(&self) -> Result<(), Error> {
        self.check_leads_to(&self.dest, &self.root)
    }

    fn check_leads_to(&self, path: &Path, fd: &OwnedFd) -> Result<(), Error> {
        let held = sys::stat_fd(fd).map_err(|error| Error::at_dest("look at", path.to_owned(), error))?;
        match sys::stat_at(CWD, path.as_os_str()) {
            Ok(found) if found.id == held.id => return Ok(()),
            Err(error) if !is_gone(&error) => return Err(Error::at_dest("look at", path.to_owned(), error)),
            _ => {}
        }
        let gone = "what was there when the backup began was unmounted, moved or replaced; mount it again";
        Err(Error::DestIo { op: "find", path: path.to_owned(), source: io::Error::other(gone) })
    }
}
