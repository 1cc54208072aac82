//! Putting entries into the model and taking them out, and forgetting what has no name left.
use super::find::New;
use super::{Entry, Look, Tree};
use crate::Error;
use crate::marks::node::{Dir, File, Link, Name, Node};
use hotbackup_event::FileId;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::sync::Arc;

impl Tree {
    /// Takes an entry out of the model.
    pub(super) fn unlink(&mut self, dir: FileId, name: &OsStr) {
        let Some(old) = self.dirs.get_mut(&dir).and_then(|node| node.entries.remove(name)) else { return };
        self.entries -= 1;
        self.volatile.remove(&(dir, Arc::from(name)));
        match old {
            Entry::File(file) => {
                let mut state = file.state();
                state.links.retain(|link| link.dir.id != dir || *link.name != *name);
                let orphan = state.links.is_empty();
                drop(state);
                let node = Node::File(file);
                self.moved.push(node.clone());
                if orphan {
                    self.orphans.push((node, self.round));
                }
            }
            Entry::Dir(id) => {
                if let Some(child) = self.dirs.get_mut(&id) {
                    child.parents.retain(|(d, n)| *d != dir || **n != *name);
                    let node = Node::Dir(Arc::clone(&child.dir));
                    self.moved.push(node.clone());
                    let nameless = child.parents.is_empty() && !child.is_root;
                    if nameless {
                        self.orphans.push((node, self.round));
                    } else if !self.exclude.is_empty() {
                        // What was left out of it under this name may not be under another.
                        self.unread_below(id);
                    }
                }
            }
            Entry::Other(other) => {
                if let Some(places) = self.others.get_mut(&other.id) {
                    places.retain(|(d, n)| *d != dir || **n != *name);
                    if places.is_empty() {
                        self.others.remove(&other.id);
                    }
                }
            }
        }
    }

    /// Puts an entry into the model; what it names becomes known if it is not.
    pub(super) fn link(&mut self, dir: FileId, owner: &Arc<Dir>, name: &OsStr, new: New) -> Result<(), Error> {
        let name: Name = Arc::from(name);
        let entry = match new {
            New::File { found, via } => {
                if via.is_some() {
                    self.volatile.insert((dir, Arc::clone(&name)));
                }
                let link = Link { dir: Arc::clone(owner), name: Arc::clone(&name), via };
                let file = match self.ledger.file(&found.id) {
                    Some(file) => {
                        file.state().links.push(link);
                        self.seen_again(&file);
                        file
                    }
                    None => {
                        let file = Arc::new(File::new(found.id, self.number(dir), found.stat));
                        {
                            let mut state = file.state();
                            state.links.push(link);
                            state.allocated = found.allocated;
                        }
                        self.ledger.register(Node::File(Arc::clone(&file)));
                        file
                    }
                };
                Entry::File(file)
            }
            New::Dir { id, followed, open } => {
                if followed {
                    self.volatile.insert((dir, Arc::clone(&name)));
                }
                if let Some((found, fd)) = open {
                    self.add_dir(found, fd, Some(&dir))?;
                }
                self.adopt(dir, &name, id);
                Entry::Dir(id)
            }
            New::Excluded { .. } => return Ok(()),
            New::Other(other) => {
                if other.link.as_ref().is_some_and(|(_, shown)| shown.is_volatile()) {
                    self.volatile.insert((dir, Arc::clone(&name)));
                }
                self.others.entry(other.id).or_default().push((dir, Arc::clone(&name)));
                Entry::Other(Box::new(other))
            }
        };
        if let Some(node) = self.dirs.get_mut(&dir) {
            node.entries.insert(name, entry);
            self.entries += 1;
        }
        Ok(())
    }

    /// A known directory has a name (more).
    fn adopt(&mut self, dir: FileId, name: &Name, child: FileId) {
        let Some(node) = self.dirs.get_mut(&child) else { return };
        node.parents.push((dir, Arc::clone(name)));
        self.moved.push(Node::Dir(Arc::clone(&node.dir)));
        self.gets_name(child);
        if !self.exclude.is_empty() || self.chosen.is_any() {
            // Patterns match paths, and those of everything below are others now.
            self.unread_below(child);
        }
    }

    fn unread_below(&mut self, top: FileId) {
        let (mut seen, mut next) = (HashSet::new(), vec![top]);
        while let Some(id) = next.pop() {
            if let Some(node) = self.dirs.get(&id).filter(|_| seen.insert(id)) {
                next.extend(node.entries.values().filter_map(|entry| match entry {
                    Entry::Dir(id) => Some(*id),
                    _ => None,
                }));
                self.unread.push(id);
            }
        }
    }

    /// Forgets what has had no name for a whole sync, or, when nothing moves, what has none now.
    pub(super) fn drop_orphans(&mut self, look: Look<'_>) {
        loop {
            let orphans = std::mem::take(&mut self.orphans);
            let (round, exact) = (self.round, look.was_exact());
            let (old, young): (Vec<_>, Vec<_>) = orphans.into_iter().partition(|(_, at)| exact || *at < round);
            self.orphans = young;
            if old.is_empty() {
                return;
            }
            for (node, _) in old {
                self.drop_orphan(node);
            }
        }
    }

    fn drop_orphan(&mut self, node: Node) {
        match node {
            Node::File(file) => {
                if file.state().links.is_empty() {
                    self.ledger.forget(&Node::File(Arc::clone(&file)));
                    self.dropped.push(file.number);
                }
            }
            Node::Dir(dir) => {
                let gone = self.dirs.get(&dir.id).is_some_and(|node| node.parents.is_empty() && !node.is_root);
                if gone {
                    let names = self.dirs.get(&dir.id).map(|node| node.entries.keys().cloned().collect::<Vec<_>>());
                    for name in names.unwrap_or_default() {
                        self.unlink(dir.id, &name);
                    }
                    self.dirs.remove(&dir.id);
                    for name in self.excluded.remove(&dir.id).into_iter().flat_map(|names| names.into_keys()) {
                        self.volatile.remove(&(dir.id, name));
                    }
                    self.ledger.forget(&Node::Dir(dir));
                }
            }
        }
    }
}
