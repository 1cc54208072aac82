//! Names that are listed and under which nothing is found.
//!
//! Mostly such a name is gone by the time that it is looked at, and a call says so. But there are others that stay: the place of a mount
//! whose server has forgotten it (ESTALE), and what a file system lists and does not find, as its names are in another character set
//! than it was mounted with, its layers do not fit together, or it is damaged. Whatever is there would be missing in a backup that says
//! that it succeeded. So a name that was listed and not found is listed and looked for again: in the next sync, where no call has named
//! it since, or in a hold, in which nothing moves.
use super::{Look, Tree};
use crate::Error;
use crate::base::sys::{self, Kind};
use crate::marks::ledger::EntryMark;
use crate::marks::node::Dir;
use hotbackup_event::FileId;
use hotbackup_event::look::{LookError, is_gone};
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;

/// How often a name that was not found is looked for again before that counts.
const LOOKS: u32 = 3;

impl Tree {
    /// A name that was listed has been looked at.
    pub(super) fn note_listed(&mut self, dir: FileId, name: &OsStr) {
        let is_in = self.dirs.get(&dir).is_none_or(|node| node.entries.contains_key(name));
        let is_left_out = || {
            self.excluded.get(&dir).is_some_and(|names| names.contains_key(name))
                || self.is_own(&dir, name)
                || self.is_known_left_out(&dir, name)
                || self.would_be_excluded(&dir, name)
        };
        if !is_in && !is_left_out() {
            self.ghosts.entry(dir).or_default().entry(name.to_owned()).or_insert(self.round);
        }
    }

    /// Were it a directory, as a mount is. What cannot be looked at is left out by a pattern for those, too.
    fn would_be_excluded(&self, dir: &FileId, name: &OsStr) -> bool {
        if self.exclude.is_empty() {
            return false;
        }
        let path = self.path_below(dir, name);
        self.exclude.matching(&path).is_some_and(|all| all.excludes(true).is_some())
    }

    /// Calls have named these, and may explain it: it is asked again later, or in a hold. (One that failed explains nothing.)
    pub(super) fn excuse_ghosts(&mut self, named: &HashSet<EntryMark>) {
        if self.ghosts.is_empty() {
            return;
        }
        let round = self.round;
        for (dir, name) in named {
            let folds = self.may_fold(dir, name);
            let Some(names) = self.ghosts.get_mut(dir) else { continue };
            names.iter_mut().filter(|(ghost, _)| folds || *ghost == name).for_each(|(_, since)| *since = round);
        }
    }

    /// Fails if a name is still listed and still nothing is found there, and no call explains it. What is found by now is taken over.
    pub(super) fn check_ghosts(&mut self, look: Look<'_>) -> Result<(), Error> {
        let mut found = Vec::new();
        for (dir, names) in std::mem::take(&mut self.ghosts) {
            let Some(node) = self.dirs.get(&dir).filter(|_| !names.is_empty()) else { continue };
            let unreadable = |name: &OsStr, error| Error::unreadable(node.dir.path().join(name), error);
            let list = || match sys::names(&node.dir.fd) {
                Ok(listed) => Ok(listed.into_iter().collect::<HashSet<OsString>>()),
                // On a file system of a server it may have been removed.
                Err(error) if is_gone(&error) => Ok(HashSet::new()),
                Err(error) => Err(unreadable(OsStr::new(""), error)),
            };
            let listed = list()?;
            let mut left = HashMap::new();
            for (name, since) in names {
                if node.entries.contains_key(&*name) || !listed.contains(&name) {
                    continue;
                }
                match sys::stat_at(&node.dir.fd, &name) {
                    Ok(_) => found.push((dir, name)),
                    Err(error) if !LookError::from(&error).is_nothing() => return Err(unreadable(&name, error)),
                    // Who makes a name and removes it has marked it before: what is marked is looked at in the next round.
                    Err(error) if look.was_exact() || (since < self.round && !self.ledger.is_any_marked(&dir)) => {
                        // Another process, whose calls nobody sees, may make it and remove it over and over.
                        let mut looks = (0..LOOKS).map(|_| {
                            let is_gone_or_there =
                                !list()?.contains(&name) || sys::stat_at(&node.dir.fd, &name).is_ok();
                            Ok::<bool, Error>(is_gone_or_there)
                        });
                        if looks.any(|moves| !matches!(moves, Ok(false))) {
                            left.insert(name, since);
                            continue;
                        }
                        // That may take long, and is not for a hold.
                        if !look.was_exact() && self.is_chosen_to_be_left_out(&dir, &name) {
                            continue;
                        }
                        let words = format!(
                            "it is listed in its directory, but nothing is found under its name ({error}); mount again what is \
                             mounted there, have the file system looked at, or exclude it"
                        );
                        return Err(unreadable(&name, io::Error::other(words)));
                    }
                    Err(_) => drop(left.insert(name, since)),
                }
            }
            if !left.is_empty() {
                self.ghosts.insert(dir, left);
            }
        }
        found.iter().try_for_each(|(dir, name)| self.resolve_entry(*dir, name, true, look))
    }
}

/// Why what is there, and is not moved by anybody, cannot be taken in. `None`: it can by now.
pub(super) fn refusal(owner: &Dir, name: &OsStr) -> Option<Error> {
    let found = sys::stat_at(&owner.fd, name).ok()?;
    let error = match found.stat.kind() {
        Kind::Dir => sys::open_dir(&owner.fd, name).err(),
        Kind::Symlink => sys::read_link(&owner.fd, name).err(),
        _ => None,
    };
    Some(Error::unreadable(owner.path().join(name), error?))
}
