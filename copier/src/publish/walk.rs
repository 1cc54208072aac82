//! The walk that puts a tree into its place, however deep it is.
use super::Publisher;
use super::metadata::{Key, Spot};
use crate::Error;
use crate::base::sys;
use crate::marks::node::Name;
use crate::tree::{DirNode, Entry};
use crate::trial::Loss;
use hotbackup_event::FileId;
use hotbackup_event::change::Change;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

impl<'a, P: Send + 'static> Publisher<'a, P> {
    pub(super) fn make_dir(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, Error> {
        let stage = self.stage();
        stage.space.before(0, 1)?;
        let made = stage.io.changes(Change::MakeDir).and_then(|()| sys::make_dir(parent, name));
        made.map_err(|error| Error::changing(Change::MakeDir, path.to_owned(), error))
    }

    /// Puts all that a directory holds into its place `out`, however deep that is: a list of what is still to be done, and
    /// one directory open at a time, which is left by `..`. Without a name it is the backup itself, which gets its own
    /// metadata last of all.
    pub(super) fn place_tree(&mut self, top: &'a DirNode, mut out: OwnedFd, name: Option<&OsStr>) -> Result<(), Error> {
        let tree = self.tree;
        let mut path = name.map(PathBuf::from).unwrap_or_default();
        let mut levels = vec![self.level(top, &out, &path)?];
        while let Some(level) = levels.last_mut() {
            let Some((name, entry)) = level.left.next() else {
                let (node, first) = (level.node, levels.len() == 1);
                levels.pop();
                // Before the directory gets its mode, which may not let us through.
                let up = levels.last().map(|above| Self::up(&out, above, &path)).transpose()?;
                if !first || name.is_some() {
                    let state = node.dir.state().clone();
                    let lost = self.keep(Spot::Dir(&out), &state.stat, &state.xattrs, &path)?;
                    self.note_lost(Key::Dir(node.dir.id), lost);
                    if self.sync_each {
                        let synced = self.context.stage.sync_dir(&out);
                        synced.map_err(|error| Error::changing(Change::SyncDir, path.clone(), error))?;
                    }
                }
                let Some(up) = up else { break };
                out = up;
                path.pop();
                continue;
            };
            if tree.is_left_out_now(&level.node.dir.id, name) {
                continue;
            }
            match entry {
                Entry::File(file) => self.place_file(file, &out, name, path.join(&**name))?,
                Entry::Other(other) => self.place_other(other, &out, name, &path.join(&**name))?,
                Entry::Dir(id) => {
                    let Some(child) = tree.dir(id) else { continue };
                    path.push(&**name);
                    if !child.has_one_name() {
                        self.lack(Loss::HardLink, "a directory that several links lead to is copied for each", &path);
                    }
                    out = self.make_dir(&out, name, &path)?;
                    levels.push(self.level(child, &out, &path)?);
                }
            }
        }
        Ok(())
    }

    /// A directory whose entries are to be put into place.
    fn level(&mut self, node: &'a DirNode, out: &OwnedFd, path: &Path) -> Result<Level<'a>, Error> {
        self.report.1 += 1;
        self.context.check()?;
        let found = sys::stat_fd(out).map_err(|error| Error::at_dest("look at", path.to_owned(), error))?;
        Ok(Level { node, left: node.entries.iter(), id: found.id })
    }

    /// The directory above one, and nothing else.
    fn up(out: &OwnedFd, above: &Level<'_>, path: &Path) -> Result<OwnedFd, Error> {
        let failed = |error: io::Error| Error::at_dest("look above", path.to_owned(), error);
        let up = sys::open_dir(out, OsStr::new("..")).map_err(failed)?;
        match sys::stat_fd(&up).map_err(failed)?.id == above.id {
            true => Ok(up),
            false => Err(failed(io::Error::other("somebody moved it"))),
        }
    }
}

/// A directory that is being put into place.
struct Level<'a> {
    node: &'a DirNode,
    left: std::collections::btree_map::Iter<'a, Name, Entry>,
    /// Its own, in the backup.
    id: FileId,
}
