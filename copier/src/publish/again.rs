//! One more name of what is in its place already: a hard link, or where there are none, or no more of them, a copy.
use super::metadata::{Key, Spot};
use super::{CHUNK, Publisher, is_taken};
use crate::Error;
use crate::base::sys::{self, Attributes, Stat};
use crate::trial::Loss;
use hotbackup_event::change::{Change, ChangeError};
use rustix::fs::AtFlags;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

impl<P: Send + 'static> Publisher<'_, P> {
    /// Gives what is in its place as `first` the name `name`, too. Says no where that cannot be done with a hard link.
    pub(super) fn link_again(&mut self, first: &Path, out: &OwnedFd, name: &OsStr, path: &Path) -> Result<bool, Error> {
        let stage = self.stage();
        let link = || rustix::fs::linkat(&stage.root, first, out, name, AtFlags::empty());
        let done = if self.can().hard_links { stage.may(Change::Link, link).map_err(Some) } else { Err(None) };
        match done {
            Ok(()) => return Ok(true),
            Err(Some(error)) if ChangeError::of(Change::Link, error.raw_os_error()) != ChangeError::Links => {
                return Err(Error::changing(Change::Link, path.to_owned(), error));
            }
            Err(_) => {}
        }
        self.lack(Loss::HardLink, "a hard link could not be made, so it is a copy", path);
        self.copied.insert((self.part, path.to_owned()));
        Ok(false)
    }

    /// Makes another file with the content of the one that is in its place as `first`, there or in another destination.
    pub(super) fn copy_again(
        &mut self,
        ((part, first), number): (&(usize, PathBuf), u64),
        (out, name): (&OwnedFd, &OsStr),
        (stat, attributes): (&Stat, &Attributes),
        path: &Path,
    ) -> Result<(), Error> {
        let from = sys::open_file(&self.context.stage.part(*part).root, first.as_os_str());
        let from = from.map_err(|error| Error::at_dest("open", first.clone(), error))?;
        let to = self.copy((&from, first), (out, name), stat.size, path)?;
        let lost = self.keep(Spot::Entry(out, name), stat, attributes, path)?;
        self.note_lost(Key::File(number), lost);
        if self.sync_each {
            let synced = self.stage().io.sync(to.as_fd());
            synced.map_err(|error| Error::changing(Change::Sync, path.to_owned(), error))?;
        }
        Ok(())
    }

    /// Puts a copy of a staged file into its place, which lies on another file system.
    pub(super) fn place_copy(&self, number: u64, out: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Error> {
        let (stage, staged) = (self.context.stage, PathBuf::from(number.to_string()));
        let from = stage.open(number)?;
        let size = sys::stat_fd(&from).map_err(|error| Error::at_dest("look at", staged.clone(), error))?.stat.size;
        self.copy((&from, &staged), (out, name), size, path)?;
        // With the descriptor that is kept of it: what is to be synced is the copy.
        stage.remove(number);
        Ok(())
    }

    /// Copies content to a name that nothing may have.
    fn copy(
        &self,
        (from, first): (&OwnedFd, &Path),
        (out, name): (&OwnedFd, &OsStr),
        size: u64,
        path: &Path,
    ) -> Result<OwnedFd, Error> {
        let stage = self.stage();
        let failed = |change| move |error: io::Error| Error::changing(change, path.to_owned(), error);
        let unread = |error| Error::at_dest("read", first.to_owned(), error);
        if sys::stat_at(out, name).is_ok() {
            return Err(is_taken(path.to_owned()));
        }
        let to = stage.io.create(out.as_fd(), name).map_err(failed(Change::Create))?;
        let (mut buffer, mut at) = (vec![0; CHUNK.min(size as usize)], 0);
        while at < size {
            self.context.check()?;
            let data = stage.io.data_after(from.as_fd(), at).map_err(unread)?.unwrap_or(size..size);
            at = data.start.min(size);
            while at < data.end.min(size) {
                let n = (data.end.min(size) - at).min(buffer.len() as u64) as usize;
                let n = stage.io.read_at(from.as_fd(), &mut buffer[..n], at).map_err(unread)?;
                if n == 0 {
                    return Err(unread(io::ErrorKind::UnexpectedEof.into()));
                }
                stage.space.before(n as u64, 0)?;
                stage.io.write_at(to.as_fd(), &buffer[..n], at).map_err(failed(Change::Write))?;
                at += n as u64;
            }
        }
        stage.io.set_len(to.as_fd(), size).map_err(failed(Change::SetLen))?;
        Ok(to)
    }
}
