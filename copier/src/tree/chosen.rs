//! What somebody who is asked leaves out, and which destination a file is staged for.
//!
//! The one who is asked may be the target itself, so nobody is asked while its calls are held: what is not known by then is taken
//! in, and asked for when the backup is put into place. By then the target is free again.
use super::{Look, Tree};
use crate::base::sys;
use crate::base::util::lock;
use crate::interface::placing::Choose;
use crate::marks::node::Dir;
use hotbackup_event::FileId;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Bits of a file's number that count files; those above say which source it was found in.
const SERIAL_BITS: u32 = 48;

/// The source that a staged file was found in first, where each has a destination of its own; else 0.
pub(crate) fn part_of(number: u64) -> usize {
    (number >> SERIAL_BITS) as usize
}

/// The answers so far, so that nothing is asked twice.
#[derive(Default)]
pub(super) struct Chosen {
    chooser: Option<Arc<dyn Choose>>,
    answers: Mutex<HashMap<PathBuf, bool>>,
}

impl Chosen {
    pub fn by(chooser: Option<Arc<dyn Choose>>) -> Self {
        Self { chooser, answers: Mutex::default() }
    }

    pub fn is_any(&self) -> bool {
        self.chooser.is_some()
    }

    fn known(&self, path: &Path) -> Option<bool> {
        lock(&self.answers).get(path).copied()
    }

    fn ask(&self, path: PathBuf) -> bool {
        if let Some(known) = self.known(&path) {
            return known;
        }
        let answer = self.chooser.as_ref().is_some_and(|chooser| chooser.leaves_out(&path));
        lock(&self.answers).insert(path, answer);
        answer
    }
}

impl std::fmt::Debug for Chosen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chosen").field("is_any", &self.is_any()).finish_non_exhaustive()
    }
}

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
