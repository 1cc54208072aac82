//! What somebody who is asked leaves out, and the source that a file is found in.
//!
//! The one who is asked may be the target itself, so nobody is asked while its calls are held: what is not known by then is taken
//! in, and asked for when the backup is put into place. By then the target is free again.
use super::chosen::SERIAL_BITS;
use super::{Look, Tree};
use crate::base::sys;
use crate::marks::node::Dir;
use hotbackup_event::FileId;
use std::ffi::OsStr;
use std::path::PathBuf;

impl Tree {
    /// Whether somebody leaves an entry out of the backup. Only what is there is asked for.
    pub(super) fn is_left_out(&self, owner: &Dir, dir: FileId, name: &OsStr, look: Look<'_>) -> bool {
        if !self.chosen.is_any() {
            return false;
        }
        let Some(path) = self.path_in_source(&dir, name) else { return false };
        match self.chosen.known(&path) {
            Some(known) => known,
            None if look.hold.is_some() || sys::stat_at(&owner.fd, name).is_err() => false,
            None => self.chosen.ask(path),
        }
    }

    /// Whether an entry that was taken in is left out after all. Not while calls of the target are held.
    pub fn is_left_out_now(&self, dir: &FileId, name: &OsStr) -> bool {
        self.chosen.is_any() && self.path_in_source(dir, name).is_some_and(|path| self.chosen.ask(path))
    }

    /// Whether it is known already that an entry is left out.
    pub fn is_known_left_out(&self, dir: &FileId, name: &OsStr) -> bool {
        let known = |path: PathBuf| self.chosen.known(&path);
        self.chosen.is_any() && self.path_in_source(dir, name).and_then(known) == Some(true)
    }

    /// The same, asked if need be: it may take as long as whoever is asked likes.
    pub fn is_chosen_to_be_left_out(&self, dir: &FileId, name: &OsStr) -> bool {
        self.chosen.is_any() && self.path_in_source(dir, name).is_some_and(|path| self.chosen.ask(path))
    }

    /// What the target calls an entry.
    fn path_in_source(&self, dir: &FileId, name: &OsStr) -> Option<PathBuf> {
        let (index, below) = self.place(dir)?;
        Some(self.roots.get(index)?.path.join(below).join(name))
    }

    /// The number of a file that was found in a directory.
    pub(super) fn number(&mut self, dir: FileId) -> u64 {
        let serial = self.next_number;
        self.next_number += 1;
        let part = if self.apart { self.place(&dir).map_or(0, |(index, _)| index) } else { 0 };
        serial | (part as u64) << SERIAL_BITS
    }
}
