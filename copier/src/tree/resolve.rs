//! Taking over names: each marked entry is looked at, and the model is made to agree with what is there.
use super::find::New;
use super::folding::BETWEEN_LOOKS;
use super::folds::Folds;
use super::ghosts::refusal;
use super::{Entry, Look, Tree};
use crate::Error;
use crate::marks::ledger::{EntryMark, Taken};
use crate::marks::node::{File, Node};
use hotbackup_event::FileId;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::sync::Arc;

impl Tree {
    /// Makes the model agree with what was marked. Must follow a grace after the marks were taken. Returns `false`
    /// when the time was over before all was done; what is left is marked again.
    pub fn resolve(&mut self, taken: Taken, look: Look<'_>) -> Result<bool, Error> {
        self.round += 1;
        let volatile = if look.hold.is_some() {
            self.links_to_look_at(taken.entries.iter())
        } else {
            // Those that had been seen when the marks were taken, not by now: one that came since may be under way still, and is
            // not waited for by the grace that was before this look.
            self.ways.begin(taken.mounts, &self.volatile);
            self.volatile.iter().cloned().collect()
        };
        let volatile = volatile.into_iter().map(|(dir, name)| ((dir, name.to_os_string()), false));
        self.excuse_ghosts(&taken.entries);
        let mut marks: Vec<(EntryMark, bool)> = volatile.collect();
        let mut wholes: HashMap<FileId, HashSet<OsString>> = HashMap::new();
        for (dir, name) in taken.entries {
            if self.may_fold(&dir, &name) {
                wholes.entry(dir).or_default().insert(name);
            } else {
                marks.push(((dir, name), true));
            }
        }
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
        for (dir, said) in wholes {
            if complete {
                complete = self.resolve_whole(dir, said, look)? && !look.is_over();
            } else {
                said.into_iter().for_each(|name| self.ledger.put_back_entry((dir, name)));
            }
        }
        complete = complete && self.read_dirs(look)?;
        if complete {
            self.check_ghosts(look)?;
            // What was found late may be a directory, and in it there may be more of that kind.
            complete = self.read_dirs(look)? && (look.hold.is_none() || self.ghosts.is_empty());
        }
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
            // The first time it takes as long as it takes; who has cancelled does not wait for that.
            self.ledger.check()?;
            let Some(node) = self.dirs.get(&id) else { continue };
            let is_new = node.entries.is_empty();
            let mut names = self.list(id)?;
            let listed = names.len();
            let Some(node) = self.dirs.get(&id) else { continue };
            if node.folds != Folds::No {
                let all = names.iter().map(OsString::as_os_str).collect();
                self.remove_unlisted(id, &all);
            } else if !is_new {
                let there: HashSet<&OsStr> = names.iter().map(OsString::as_os_str).collect();
                let gone = node.entries.keys().filter(|name| !there.contains(&***name));
                let gone: Vec<OsString> = gone.map(|name| name.to_os_string()).collect();
                names.extend(gone);
            }
            for (count, name) in names.iter().enumerate() {
                if count % BETWEEN_LOOKS == BETWEEN_LOOKS - 1 {
                    self.ledger.check()?;
                    if look.is_over() {
                        self.unread.push(id);
                        return Ok(false);
                    }
                }
                self.resolve_entry(id, name, false, look)?;
                if count < listed {
                    self.note_listed(id, name);
                }
            }
        }
        Ok(true)
    }

    /// Looks at one entry. `marked`: a call may have changed it, so what it names may have another status now.
    pub(super) fn resolve_entry(
        &mut self,
        dir: FileId,
        name: &OsStr,
        marked: bool,
        look: Look<'_>,
    ) -> Result<(), Error> {
        let Some(node) = self.dirs.get(&dir) else { return Ok(()) };
        let owner = Arc::clone(&node.dir);
        // What a pattern leaves out is not asked for.
        let out = self.is_own(&dir, name)
            || (self.chosen.is_any() && !self.is_excluded(&dir, name) && self.is_left_out(&owner, dir, name, look));
        let new = if out { Some(None) } else { self.find(&owner.fd, dir, name, marked)? };
        let watched = matches!(new, Some(Some(New::Excluded { link: true, .. })));
        let Some(new) = self.leave_out(dir, name, new) else {
            if look.was_exact() {
                return Err(refusal(&owner, name).unwrap_or_else(|| self.foreign(owner.path().join(name))));
            }
            self.ledger.put_back_entry((dir, name.to_owned()));
            return Ok(());
        };
        let old = self.dirs.get(&dir).and_then(|node| node.entries.get(name));
        match (old, &new) {
            (None, None) => {
                self.watch(dir, name, watched);
                return Ok(());
            }
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
        self.watch(dir, name, watched);
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

    /// A link that is left out for what it leads to is looked at again as any other: it may come to lead to something else.
    fn watch(&mut self, dir: FileId, name: &OsStr, watched: bool) {
        if watched {
            self.volatile.insert((dir, Arc::from(name)));
        }
    }

    /// Notes what is left out, which is nothing to the rest.
    pub(super) fn leave_out(&mut self, dir: FileId, name: &OsStr, new: Option<Option<New>>) -> Option<Option<New>> {
        let rule = match &new {
            Some(Some(New::Excluded { rule, .. })) => Some(*rule),
            _ => None,
        };
        if let Some(rule) = rule {
            if self.excluded.entry(dir).or_default().insert(Arc::from(name), rule).is_some() {
                self.volatile.remove(&(dir, Arc::from(name)));
            }
            return Some(None);
        }
        if new.is_some()
            && let Some(names) = self.excluded.get_mut(&dir)
            && names.remove(name).is_some()
        {
            self.volatile.remove(&(dir, Arc::from(name)));
        }
        new
    }
}
