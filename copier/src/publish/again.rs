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
        let stage = self.context.stage;
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
        self.copied.insert(path.to_owned());
        Ok(false)
    }

    /// Makes another file with the content of the one that is in its place as `first`.
    pub(super) fn copy_again(
        &mut self,
        (first, number): (&Path, u64),
        (out, name): (&OwnedFd, &OsStr),
        (stat, attributes): (&Stat, &Attributes),
        path: PathBuf,
    ) -> Result<(), Error> {
        let stage = self.context.stage;
        let failed = |change| {
            let path = path.clone();
            move |error: io::Error| Error::changing(change, path, error)
        };
        if sys::stat_at(out, name).is_ok() {
            return Err(is_taken(path));
        }
        let from = sys::open_file(&stage.root, first.as_os_str());
        let from = from.map_err(|error| Error::at_dest("open", first.to_owned(), error))?;
        let to = stage.io.create(out.as_fd(), name).map_err(failed(Change::Create))?;
        let (mut buffer, mut at) = (vec![0; CHUNK.min(stat.size as usize)], 0);
        while at < stat.size {
            self.context.check()?;
            let unread = |error| Error::at_dest("read", first.to_owned(), error);
            let data = stage.io.data_after(from.as_fd(), at).map_err(unread)?.unwrap_or(stat.size..stat.size);
            at = data.start.min(stat.size);
            while at < data.end.min(stat.size) {
                let n = (data.end.min(stat.size) - at).min(buffer.len() as u64) as usize;
                let n = stage.io.read_at(from.as_fd(), &mut buffer[..n], at).map_err(unread)?;
                if n == 0 {
                    return Err(unread(io::ErrorKind::UnexpectedEof.into()));
                }
                stage.io.write_at(to.as_fd(), &buffer[..n], at).map_err(failed(Change::Write))?;
                at += n as u64;
            }
        }
        stage.io.set_len(to.as_fd(), stat.size).map_err(failed(Change::SetLen))?;
        let lost = self.keep(Spot::Entry(out, name), stat, attributes, &path)?;
        self.note_lost(Key::File(number), lost);
        if self.sync_each {
            stage.io.sync(to.as_fd()).map_err(failed(Change::Sync))?;
        }
        Ok(())
    }
}
