//! Taking over names: each marked entry is looked at, and the model is made to agree with what is there.
use super::{Entry, Look, Other, Shown, Tree, links::Leads};
use crate::Error;
use crate::base::sys::{self, Found, Kind};
use crate::marks::ledger::{EntryMark, Taken};
use crate::marks::node::{File, Link, Name, Node};
use hotbackup_event::FileId;
use hotbackup_event::look::LookError;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// How often an entry that changes while it is looked at is looked at again before it is left to the next sync.
const TRIES: u32 = 4;

/// What is found under a name.
enum New {
    File {
        found: Found,
        via: Option<Arc<OwnedFd>>,
    },
    /// With an fd if it is not known yet. `followed`: the name is a symbolic link out of the sources.
    Dir {
        id: FileId,
        followed: bool,
        open: Option<(Found, OwnedFd)>,
    },
    Other(Other),
    /// Left out by the pattern with this number.
    Excluded(usize),
}

/// What is neither file nor directory.
fn other(dir: &OwnedFd, name: &OsStr, found: Found, link: Option<(OsString, Shown)>) -> std::io::Result<New> {
    let xattrs = sys::xattrs_at(dir, name)?;
    Ok(New::Other(Other { id: found.id, stat: found.stat, link, xattrs }))
}

impl Tree {
    /// Makes the model agree with what was marked. Must follow a grace after the marks were taken. Returns `false`
    /// when the time was over before all was done; what is left is marked again.
    pub fn resolve(&mut self, taken: Taken, look: Look<'_>) -> Result<bool, Error> {
        self.round += 1;
        let volatile = if look.hold.is_some() {
            self.links_to_look_at(taken.entries.iter())
        } else {
            self.ways.begin(self.ledger.mounts_seen(), &self.volatile);
            self.volatile.iter().cloned().collect()
        };
        let volatile = volatile.into_iter().map(|(dir, name)| ((dir, name.to_os_string()), false));
        let mut marks: Vec<(EntryMark, bool)> = volatile.collect();
        marks.extend(taken.entries.into_iter().map(|mark| (mark, true)));
        let mut complete = true;
        let mut marks = marks.into_iter();
        for ((dir, name), marked) in marks.by_ref() {
            self.resolve_entry(dir, &name, marked, look)?;
            if look.is_over() {
                complete = false;
                break;
            }
        }
        for (mark, _) in marks {
            self.ledger.put_back_entry(mark);
        }
        complete = complete && self.read_dirs(look)?;
        if complete {
            self.drop_orphans(look);
            self.check_loops(look)?;
        }
        for id in taken.others {
            self.look_at_other(id, complete, look)?;
        }
        let mut nodes: Vec<(Node, bool)> = std::mem::take(&mut self.moved).into_iter().map(|n| (n, false)).collect();
        // One with many names needs one look.
        let mut seen = HashSet::new();
        nodes.retain(|(node, _)| seen.insert(node.address()));
        nodes.extend(taken.dirty);
        if look.hold.is_some() {
            // Everything listed since has not run, or was listed by us: it is exact now, whatever comes later. If the hold
            // was cut and it has run after all, the look is over, and all of this is put back.
            nodes.extend(self.ledger.take_dirty());
        }
        for (node, meta) in nodes {
            if look.is_over() || !complete {
                complete = false;
                self.ledger.put_back_dirty(&node, meta);
            } else {
                self.look_at(&node, meta, look)?;
            }
        }
        Ok(complete)
    }

    /// Reads the directories that became known, and those that they hold in turn.
    fn read_dirs(&mut self, look: Look<'_>) -> Result<bool, Error> {
        while let Some(id) = self.unread.pop() {
            let Some(node) = self.dirs.get(&id) else { continue };
            let dir = Arc::clone(&node.dir);
            let mut names = sys::names(&dir.fd).map_err(|source| Error::unreadable(dir.path(), source))?;
            if !node.entries.is_empty() {
                let there: HashSet<&OsStr> = names.iter().map(OsString::as_os_str).collect();
                let gone = node.entries.keys().filter(|name| !there.contains(&***name));
                let gone: Vec<OsString> = gone.map(|name| name.to_os_string()).collect();
                names.extend(gone);
            }
            for (count, name) in names.iter().enumerate() {
                if count % 64 == 63 && look.is_over() {
                    self.unread.push(id);
                    return Ok(false);
                }
                self.resolve_entry(id, name, false, look)?;
            }
        }
        Ok(true)
    }

    /// Looks at one entry. `marked`: a call may have changed it, so what it names may have another status now.
    fn resolve_entry(&mut self, dir: FileId, name: &OsStr, marked: bool, look: Look<'_>) -> Result<(), Error> {
        let Some(node) = self.dirs.get(&dir) else { return Ok(()) };
        let owner = Arc::clone(&node.dir);
        // What a pattern leaves out is not asked for.
        let out = self.is_own(&dir, name)
            || (self.chosen.is_any() && !self.is_excluded(&dir, name) && self.is_left_out(&owner, dir, name, look));
        let new = if out { Some(None) } else { self.find(&owner.fd, dir, name, marked)? };
        let Some(new) = self.leave_out(dir, name, new) else {
            if look.was_exact() {
                return Err(self.foreign(owner.path().join(name)));
            }
            self.ledger.put_back_entry((dir, name.to_owned()));
            return Ok(());
        };
        let old = self.dirs.get(&dir).and_then(|node| node.entries.get(name));
        match (old, &new) {
            (None, None) => return Ok(()),
            (Some(Entry::File(file)), Some(New::File { found, via })) if file.id == found.id => {
                let file = Arc::clone(file);
                let same = file.state().links.iter().any(|l| l.is(&owner, name) && l.via.is_some() == via.is_some());
                if same {
                    if marked {
                        self.seen_again(&file);
                    }
                    return Ok(());
                }
            }
            (Some(Entry::Dir(old)), Some(New::Dir { id, followed, .. })) if old == id => {
                let same = self.volatile.contains(&(dir, Arc::from(name))) == *followed;
                if same {
                    if marked && let Some(child) = self.dirs.get(id) {
                        self.moved.push(Node::Dir(Arc::clone(&child.dir)));
                    }
                    return Ok(());
                }
            }
            (Some(Entry::Other(other)), Some(New::Other(new))) if **other == *new => return Ok(()),
            _ => {}
        }
        self.unlink(dir, name);
        if let Some(new) = new {
            self.link(dir, &owner, name, new)?;
        }
        Ok(())
    }

    /// An entry that was marked names a file that is known already.
    pub(super) fn seen_again(&mut self, file: &Arc<File>) {
        if file.id.btime_ns == 0 {
            // The file system keeps no birth times: this may be a new file under a number used again.
            self.ledger.mark_whole(file);
        }
        self.moved.push(Node::File(Arc::clone(file)));
    }

    /// Notes what is left out, which is nothing to the rest.
    fn leave_out(&mut self, dir: FileId, name: &OsStr, new: Option<Option<New>>) -> Option<Option<New>> {
        let rule = match &new {
            Some(Some(New::Excluded(rule))) => Some(*rule),
            _ => None,
        };
        if let Some(rule) = rule {
            self.excluded.entry(dir).or_default().insert(Arc::from(name), rule);
            return Some(None);
        }
        if new.is_some()
            && let Some(names) = self.excluded.get_mut(&dir)
        {
            names.remove(name);
        }
        new
    }

    /// What a name leads to. The outer `None`: it keeps changing. `marked`: it need not be there any more.
    fn find(&mut self, dir: &OwnedFd, id: FileId, name: &OsStr, marked: bool) -> Result<Option<Option<New>>, Error> {
        let unreadable = |source| Error::unreadable(sys::fd_path(dir).join(name), source);
        let path = if self.exclude.is_empty() { PathBuf::new() } else { self.path_below(&id, name) };
        let exclude = Arc::clone(&self.exclude);
        let matching = exclude.matching(&path);
        if let Some(matching) = &matching
            && matching.by_name().is_some_and(|rule| rule.is_some())
        {
            // What is left out for its name is not looked at: it may be a mount that answers nobody.
            if marked && sys::stat_at(dir, name).is_err_and(|error| LookError::from(&error) == LookError::Gone) {
                return Ok(Some(None));
            }
            return Ok(Some(matching.excludes(true).map(New::Excluded)));
        }
        for _ in 0..TRIES {
            let found = match sys::stat_at(dir, name) {
                Ok(found) => found,
                Err(error) => match LookError::from(&error) {
                    // The call that tried to use a name that nothing can have fails as well.
                    LookError::Gone | LookError::Never => return Ok(Some(None)),
                    LookError::Again => continue,
                    // Were it a directory it would be left out, and what cannot be looked at is a mount, mostly.
                    LookError::Ours(_) | LookError::Disk => {
                        match matching.as_ref().and_then(|all| all.excludes(true)) {
                            Some(rule) => return Ok(Some(Some(New::Excluded(rule)))),
                            None => return Err(unreadable(error)),
                        }
                    }
                },
            };
            let kind = found.stat.kind();
            let excluded = |is_dir: bool| matching.as_ref().and_then(|matching| matching.excludes(is_dir));
            if kind != Kind::Symlink
                && let Some(rule) = excluded(kind == Kind::Dir)
            {
                return Ok(Some(Some(New::Excluded(rule))));
            }
            let new = match kind {
                Kind::File => Ok(New::File { found, via: None }),
                Kind::Dir => self.find_dir(found, false, || sys::open_dir(dir, name)),
                Kind::Symlink => match sys::read_link(dir, name) {
                    Err(error) if error.raw_os_error().map(LookError::of_readlink) == Some(LookError::Gone) => continue,
                    Err(error) => Err(error),
                    Ok(target) => {
                        let leads = self.leads_noted(id, dir, name, &target);
                        if matches!(leads, Ok(Leads::File(..) | Leads::Dir(..))) {
                            self.followed.insert((id, Arc::from(name)), found.id);
                        }
                        match leads {
                            Ok(Leads::Stays(shown)) => other(dir, name, found, Some((target, shown))),
                            Ok(Leads::File(fd, found)) => Ok(New::File { found, via: Some(Arc::new(fd)) }),
                            Ok(Leads::Dir(fd, found)) => self.find_dir(found, true, || sys::reopen(&fd)),
                            Err(error) => Err(error),
                        }
                    }
                },
                Kind::Fifo | Kind::Socket | Kind::Device => other(dir, name, found, None),
            };
            match new {
                Ok(New::Dir { id, .. }) if id == self.staging => {
                    let source_path = self.roots.first().map(|root| root.path.clone()).unwrap_or_default();
                    return Err(Error::DestInsideSource { dest: self.dest.clone(), source_path });
                }
                Ok(new) if kind == Kind::Symlink => {
                    let rule = excluded(matches!(new, New::Dir { .. }));
                    return Ok(Some(Some(rule.map_or(new, New::Excluded))));
                }
                Ok(new) => return Ok(Some(Some(new))),
                // It is another kind of thing by now, or something on the way to what a link leads to has changed.
                Err(error) if matches!(LookError::from(&error), LookError::Gone | LookError::Again) => {}
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(None)
    }

    /// Opens a directory unless it is known. What was opened counts, not what the name was when it was looked up.
    fn find_dir(
        &self,
        found: Found,
        followed: bool,
        open: impl FnOnce() -> std::io::Result<OwnedFd>,
    ) -> std::io::Result<New> {
        if self.is_known_dir(&found.id) {
            return Ok(New::Dir { id: found.id, followed, open: None });
        }
        let fd = open()?;
        let found = sys::stat_fd(&fd)?;
        let open = if self.is_known_dir(&found.id) { None } else { Some((found, fd)) };
        Ok(New::Dir { id: found.id, followed, open })
    }

    /// Takes an entry out of the model.
    fn unlink(&mut self, dir: FileId, name: &OsStr) {
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
    fn link(&mut self, dir: FileId, owner: &Arc<crate::marks::node::Dir>, name: &OsStr, new: New) -> Result<(), Error> {
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
                    self.add_dir(found, fd, false)?;
                }
                self.adopt(dir, &name, id);
                Entry::Dir(id)
            }
            New::Excluded(_) => return Ok(()),
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
    fn drop_orphans(&mut self, look: Look<'_>) {
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
                    self.excluded.remove(&dir.id);
                    self.ledger.forget(&Node::Dir(dir));
                }
            }
        }
    }
}
