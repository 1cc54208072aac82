//! Directories in which one thing answers to several names: where upper and lower case are the same, or normal forms of letters are.
//!
//! A call says the name that it used, which there need not be the one that is listed: after `rename("FOO", "bar")` it is `foo` that
//! is gone, and to open `Foo` makes no second name. So in such a directory a mark says that something was changed whose name may be this
//! one: it is listed as a whole, and looked at is what is new or may have been meant; what is listed is there, not what is found by asking. Whom a call after the point in time may
//! mean is everything that the name may be the name of.
//!
//! No file system is asked for its kind: one has it by directory (ext4, f2fs, tmpfs), another as a whole (XFS, exFAT, NTFS, what a
//! server or FUSE has). A name that is listed is asked for in the other case, and what comes of that is known of the directory.
//! As long as nothing in it has a letter, it may be either.
use super::folds::{Folds, Said, may_be_same, may_fold};
use super::{Entry, Look, Tree};
use crate::Error;
use crate::base::sys;
use crate::marks::node::Name;
use hotbackup_event::FileId;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};

/// So many entries are dealt with between two looks at the time.
pub(super) const BETWEEN_LOOKS: usize = 64;

impl Tree {
    /// Whether a call that says this name in a known directory may mean what is listed there by another.
    pub fn may_fold(&self, dir: &FileId, name: &OsStr) -> bool {
        self.dirs.get(dir).is_some_and(|node| may_fold(&node.dir.fd, node.folds, name))
    }

    /// What a name may mean in a directory where names are folded.
    pub fn alike<'a>(&'a self, dir: &FileId, name: &'a OsStr) -> impl Iterator<Item = &'a Entry> {
        let entries = self.dirs.get(dir).into_iter().flat_map(|node| &node.entries);
        entries.filter(move |(other, _)| may_be_same(other, name)).map(|(_, entry)| entry)
    }

    /// What is listed in a known directory.
    pub(super) fn list(&mut self, dir: FileId) -> Result<Vec<OsString>, Error> {
        let Some(node) = self.dirs.get_mut(&dir) else { return Ok(Vec::new()) };
        let names = sys::names(&node.dir.fd).map_err(|source| Error::unreadable(node.dir.path(), source))?;
        if node.folds == Folds::Unknown {
            node.folds = Folds::of(&node.dir.fd, &names);
        }
        Ok(names)
    }

    /// Takes over a directory as a whole, in which calls said these names. Returns `false` when the time was over before that: then
    /// they are marked again.
    pub(super) fn resolve_whole(
        &mut self,
        dir: FileId,
        said: HashSet<OsString>,
        look: Look<'_>,
    ) -> Result<bool, Error> {
        let complete = self.take_whole(dir, &said, look)?;
        if !complete {
            said.into_iter().for_each(|name| self.ledger.put_back_entry((dir, name)));
        }
        Ok(complete)
    }

    /// What no call can have meant, and is listed as it is known, is not looked at: in a hold there is no time for all entries of a
    /// large directory.
    fn take_whole(&mut self, dir: FileId, said: &HashSet<OsString>, look: Look<'_>) -> Result<bool, Error> {
        let names = self.list(dir)?;
        let Some(node) = self.dirs.get(&dir) else { return Ok(true) };
        let is_over = |count: usize| count % BETWEEN_LOOKS == BETWEEN_LOOKS - 1 && look.is_over();
        // What is there under these names by now may have another status.
        let mut meant: HashSet<FileId> = HashSet::new();
        for (count, name) in said.iter().enumerate() {
            if is_over(count) {
                return Ok(false);
            }
            meant.extend(sys::stat_at(&node.dir.fd, name).ok().map(|found| found.id));
        }
        let (said, excluded) = (Said::of(said), self.excluded.get(&dir));
        let mut due: Vec<(&OsStr, bool)> = Vec::new();
        for (count, name) in names.iter().enumerate() {
            if is_over(count) {
                return Ok(false);
            }
            let entry = node.entries.get(&**name);
            let is_meant = said.may_mean(name) || entry.is_some_and(|entry| meant.contains(&entry.id()));
            let is_known = entry.is_some() || excluded.is_some_and(|names| names.contains_key(&**name));
            if is_meant || !is_known {
                due.push((name, is_meant));
            }
        }
        let listed: HashSet<&OsStr> = names.iter().map(OsString::as_os_str).collect();
        self.remove_unlisted(dir, &listed);
        for (count, (name, is_meant)) in due.into_iter().enumerate() {
            if is_over(count) {
                return Ok(false);
            }
            self.resolve_entry(dir, name, is_meant, look)?;
            self.note_listed(dir, name);
        }
        Ok(true)
    }

    /// Takes out of the model what is not listed (any more).
    pub(super) fn remove_unlisted(&mut self, dir: FileId, listed: &HashSet<&OsStr>) {
        let entries = self.dirs.get(&dir).into_iter().flat_map(|node| node.entries.keys());
        let excluded = self.excluded.get(&dir).into_iter().flat_map(|names| names.keys());
        let gone: Vec<Name> = entries.chain(excluded).filter(|name| !listed.contains(&***name)).cloned().collect();
        for name in gone {
            self.leave_out(dir, &name, Some(None));
            self.unlink(dir, &name);
        }
    }
}
