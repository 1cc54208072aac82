//! How a sync looks, and looking at the status of what is known: sizes, modes, owners, times.
use super::{Entry, Tree};
use crate::Error;
use crate::base::sys;
use crate::marks::lease::Hold;
use crate::marks::node::{File, Node, Xattrs};
use hotbackup_event::look::is_gone;
use hotbackup_event::{Effect, FileId};
use std::sync::Arc;
use std::time::Instant;

/// How a sync looks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Look<'a> {
    /// In this hold. As long as it was not cut nothing moves, and what does not fit together was changed by somebody
    /// else. `None`: everything may move.
    pub hold: Option<&'a Hold>,
    /// When to stop; what is left stays marked.
    pub deadline: Option<Instant>,
}

impl Look<'_> {
    pub fn is_over(&self) -> bool {
        self.hold.is_some_and(Hold::is_cut) || self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Whether what was looked at until now stood still. To be asked after the look: see `gate::capture`.
    pub fn was_exact(&self) -> bool {
        self.hold.is_some_and(|hold| !hold.is_cut())
    }
}

impl Tree {
    /// Takes over the status of a file or directory. Must follow a grace after its dirty flag was cleared.
    pub(super) fn look_at(&mut self, node: &Node, meta: bool, look: Look<'_>) -> Result<(), Error> {
        match node {
            Node::File(file) => self.look_at_file(file, meta, look),
            Node::Dir(dir) => {
                let unreadable = |source| Error::unreadable(dir.path(), source);
                let found = sys::stat_fd(&dir.fd).map_err(unreadable)?;
                // On overlayfs it becomes another one when it is copied to the upper layer: calls on that went unmarked.
                // (A subvolume of btrfs that was destroyed has another identity as well, and no name.)
                if found.id != dir.id && sys::is_on_overlayfs(&dir.fd).map_err(unreadable)? {
                    return Err(self.foreign(dir.path()));
                }
                let xattrs = meta.then(|| sys::xattrs(&dir.fd)).transpose().map_err(unreadable)?;
                let mut state = dir.state();
                state.stat = found.stat;
                if let Some(xattrs) = xattrs {
                    state.xattrs = xattrs;
                }
                Ok(())
            }
        }
    }

    fn look_at_file(&mut self, file: &Arc<File>, meta: bool, look: Look<'_>) -> Result<(), Error> {
        if self.ledger.file(&file.id).is_none_or(|known| !Arc::ptr_eq(&known, file)) {
            return Ok(());
        }
        match file.look().map_err(|source| Error::unreadable(file.path(), source))? {
            Some(found) => {
                // The status may be older than marks made since: what those calls add lies beyond the map, where all is
                // due, and they made the file dirty again. What they write within it is marked in the map.
                let mut state = file.state();
                (state.stat, state.allocated) = (found.stat, found.allocated);
                let added = state.map.resize(found.stat.size);
                if meta {
                    state.xattrs = Xattrs::Due;
                }
                drop(state);
                self.ledger.add_lacking(added);
            }
            // Renamed or removed since; the mark of that call says where to look.
            None if !look.was_exact() => self.ledger.put_back_dirty(&Node::File(Arc::clone(file)), meta),
            None => return Err(self.foreign(file.path())),
        }
        Ok(())
    }

    /// Takes over the status of a symbolic link, a fifo or the like. `complete`: all names
    /// that were marked have been looked at before.
    pub(super) fn look_at_other(&mut self, id: FileId, complete: bool, look: Look<'_>) -> Result<(), Error> {
        let mut another = None;
        for (dir, name) in self.others.get(&id).into_iter().flatten() {
            let Some(node) = self.dirs.get_mut(dir) else { continue };
            let path = || node.dir.path().join(&**name);
            let found = match sys::stat_at(&node.dir.fd, name) {
                Ok(found) => found,
                // Removed meanwhile: the mark of that call says so.
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(Error::unreadable(path(), error)),
            };
            if found.id != id {
                another = Some(path());
                continue;
            }
            let xattrs = match sys::xattrs_at(&node.dir.fd, name) {
                Ok(xattrs) => Some(xattrs),
                Err(error) if is_gone(&error) => None,
                Err(error) => return Err(Error::unreadable(path(), error)),
            };
            if let Some(Entry::Other(other)) = node.entries.get_mut(name) {
                other.stat = found.stat;
                other.xattrs = xattrs.unwrap_or_else(|| std::mem::take(&mut other.xattrs));
            }
        }
        match another {
            // No call made it another: overlayfs did, when it copied it to the upper layer.
            Some(path) if complete && look.was_exact() => return Err(self.foreign(path)),
            // Or one did since; the next look will tell.
            Some(_) => self.ledger.mark(&Effect::Metadata { file: id }),
            None => {}
        }
        Ok(())
    }
}
