//! Owner, mode, attributes and times of what is in its place; and what became of them.
//!
//! The destination's word is not taken for it: after they were set, they are looked at. What is not as it was to be is told, and
//! noted for the manifest, so that a verification compares what can be compared.
//!
//! Where an owner, a group or an access list cannot be kept, the mode alone would give rights to others than the source does:
//! to whoever is in another group, or to those whom the list kept out. So it is narrowed.
use super::Publisher;
use super::metadata::{Key, Lost, Spot, owner, without_list};
use crate::Error;
use crate::base::sys::{self, Attributes, Kind, Stat};
use crate::trial::{Capabilities, Loss};
use hotbackup_event::change::{Change, ChangeError};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::path::{Path, PathBuf};

impl<P: Send + 'static> Publisher<'_, P> {
    /// Gives what was put into place all that the source's has, and says what of it was not kept. A directory must have all its
    /// entries by then.
    pub(super) fn keep(
        &mut self,
        spot: Spot<'_>,
        stat: &Stat,
        attributes: &Attributes,
        path: &Path,
    ) -> Result<Lost, Error> {
        if stat.kind() != Kind::Symlink || self.can().link_metadata {
            self.set_all(spot, stat, attributes, path)?;
        }
        let found = spot.look().map_err(|error| Error::at_dest("look at", path.to_owned(), error))?.stat;
        let lost = Lost {
            owner: (found.uid, found.gid) != (stat.uid, stat.gid),
            mode: stat.kind() != Kind::Symlink && found.permissions() != stat.permissions(),
            mtime: found.mtime != stat.mtime || self.can().shows_other_times,
        };
        if lost.owner {
            self.lack(Loss::Owner, "the owner could not be set", path);
        }
        if lost.mode {
            self.lack(Loss::Mode, "the mode could not be set, or would have given rights to others", path);
        }
        if lost.mtime {
            let loss = if self.can().time_range { Loss::Fraction } else { Loss::TimeRange };
            self.lack(loss, "the time of the last change could not be set", path);
        }
        Ok(lost)
    }

    fn set_all(&mut self, spot: Spot<'_>, stat: &Stat, attributes: &Attributes, path: &Path) -> Result<(), Error> {
        let mut mode = self.set_owner(spot, stat, path)?;
        for (name, value) in attributes {
            let is_set = self.set_attribute(spot, name, value, path)?;
            if !is_set && name.to_bytes() == b"system.posix_acl_access" {
                mode = without_list(mode, value);
            }
        }
        let stage = self.context.stage;
        if stat.kind() != Kind::Symlink
            && let Err(error) = stage.may(Change::Mode, || spot.chmod(mode))
            && (self.can().modes || cause(Change::Mode, error) != ChangeError::NotKept)
        {
            return Err(Error::changing(Change::Mode, path.to_owned(), error));
        }
        if let Err(error) = stage.may(Change::Times, || spot.set_times(stat))
            && (self.can().time_range || cause(Change::Times, error) != ChangeError::NotKept)
        {
            return Err(Error::changing(Change::Times, path.to_owned(), error));
        }
        Ok(())
    }

    /// Sets the owner, and returns the mode that goes with whom it belongs to then.
    fn set_owner(&mut self, spot: Spot<'_>, stat: &Stat, path: &Path) -> Result<u32, Error> {
        let mode = stat.permissions();
        if (stat.uid, stat.gid) == self.owner && matches!(spot, Spot::Entry(..)) {
            return Ok(mode);
        }
        let stage = self.context.stage;
        let (uid, gid) = owner(stat);
        let Err(error) = stage.may(Change::Owner, || spot.chown(Some(uid), Some(gid))) else {
            return Ok(mode);
        };
        if cause(Change::Owner, error) != ChangeError::NotKept {
            return Err(Error::changing(Change::Owner, path.to_owned(), error));
        }
        // A group that we are in is ours to give.
        let has_group = stage.may(Change::Owner, || spot.chown(None, Some(gid))).is_ok();
        let others = mode & 0o007;
        Ok(if has_group { mode & !0o6000 } else { mode & !0o6070 | (mode & (others << 3)) })
    }

    fn set_attribute(&mut self, spot: Spot<'_>, name: &CStr, value: &[u8], path: &Path) -> Result<bool, Error> {
        let set = self.context.stage.may(Change::Attribute, || spot.set_attribute(name, value));
        let Err(error) = set else { return Ok(true) };
        let name = name.to_string_lossy();
        let loss = if name.starts_with("system.posix_acl") { Loss::Acl } else { Loss::Attribute };
        match cause(Change::Attribute, error) {
            ChangeError::NoFit if !spot.is_full() => {
                let words = format!("the extended attribute {name} does not fit where the destination keeps them");
                self.lack(loss, &words, path);
                Ok(false)
            }
            ChangeError::NoFit => Err(Error::DestFull { path: path.to_owned() }),
            ChangeError::NotKept => {
                self.lack(loss, &format!("the extended attribute {name} could not be set"), path);
                Ok(false)
            }
            _ => Err(Error::changing(Change::Attribute, path.to_owned(), error)),
        }
    }

    /// What the destination can hold.
    pub(super) fn can(&self) -> &Capabilities {
        self.trial.capabilities(self.part)
    }

    /// Something is not kept of an entry.
    pub(super) fn lack(&mut self, loss: Loss, words: &str, path: &Path) {
        let new = || (loss, 0, path.to_owned());
        self.lacking.entry(words.into()).or_insert_with(new).1 += 1;
    }

    /// What is not kept of an entry, by name, for the manifest.
    pub(super) fn note_lost(&mut self, key: Key, lost: Lost) {
        if lost != Lost::default() {
            self.lost.insert((self.part, key), lost);
        }
    }

    /// The destination's own metadata come last, when the manifest is written. What will become of them is tried before.
    pub(super) fn try_root(&mut self, key: Key, stat: &Stat, attributes: &Attributes) -> Result<(), Error> {
        let (stage, name) = (self.stage(), OsStr::new("trial"));
        if !self.can().top {
            // It is not ours to describe: what it is like now it stays.
            let (top, _) = stage.place();
            let found = sys::stat_fd(top).map_err(|error| Error::at_dest("look at", stage.dest.clone(), error))?.stat;
            let owner = (found.uid, found.gid) != (stat.uid, stat.gid);
            let lost = Lost { owner, mode: found.permissions() != stat.permissions(), mtime: true };
            let words = "the destination belongs to another user: its own owner, mode and time stay as they are";
            self.lack(Loss::Top, words, Path::new(""));
            self.note_lost(key, lost);
            return Ok(());
        }
        let failed = |error| Error::changing(Change::MakeDir, PathBuf::from(name), error);
        let dir = sys::make_dir(&stage.own, name).map_err(failed)?;
        let lost = self.keep(Spot::Dir(&dir), stat, attributes, Path::new(""))?;
        self.note_lost(key, lost);
        stage.remove_below(&stage.own, name, &dir)
    }
}

fn cause(change: Change, error: Errno) -> ChangeError {
    ChangeError::of(change, error.raw_os_error())
}
