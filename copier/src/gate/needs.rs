//! The drain, as the target's calls see it: what a call needs before it may run.
//!
//! # How a call can meet the copy after the point in time
//!
//! A block of a file as it was at the point in time is *due* (only the source holds it), *claimed* (somebody is reading
//! it) or saved. Due becomes claimed, and claimed becomes saved, under the file's lock; reading happens in between,
//! outside of it. A call that would change blocks up to the size at the point in time:
//!
//! - all saved: it goes on at once. The lock orders this after the read that saved them.
//! - some claimed, none due: it waits until they are read.
//! - some due: one of the threads for before-images claims and reads them, waits for blocks that others have claimed, and
//!   then lets the call go. The buffers are written afterwards; the call does not wait for that, only for room in memory.
//!
//! So a block is read while every call that would change it waits, or it was read before. Bytes beyond the size at the
//! point in time do not belong to the backup.
//!
//! Names: the tree is frozen. A call that may remove or replace an entry waits, if that entry is a file that is not
//! wholly saved, until the file is opened; from then on its name does not matter. Directories have been open all along.
//! Extended attributes of a file are one more block: due, claimed or known.
use crate::marks::ledger::{Ledger, touch_dir};
use crate::marks::node::{File, Node, Xattrs};
use crate::tree::{Entry, Tree};
use crossbeam::channel::Sender;
use hotbackup_event::{Effect, FileId};
use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// The gate while the backup drains.
pub(crate) struct Drain<P> {
    ledger: Arc<Ledger>,
    tree: Arc<Tree>,
    jobs: Sender<Job<P>>,
}

/// What a call needs before it may run.
#[derive(Debug)]
pub(crate) enum Need {
    /// These blocks of the file read.
    Blocks(Arc<File>, Range<u64>),
    /// The file's extended attributes read.
    Xattrs(Arc<File>),
    /// The file open.
    Open(Arc<File>),
}

/// A call whose before-images are to be saved.
pub(crate) struct Job<P> {
    pub needs: Vec<Need>,
    pub permit: P,
    pub since: Instant,
}

impl<P> Drain<P> {
    pub fn new(ledger: Arc<Ledger>, tree: Arc<Tree>, jobs: Sender<Job<P>>) -> Self {
        Self { ledger, tree, jobs }
    }

    /// Whether a call needs nothing. What is to be noted of it is noted then, once for all.
    pub fn is_settled(&self, effect: &Effect) -> bool {
        let is_content = matches!(effect, Effect::Content { .. });
        is_content && need(&self.ledger, effect).is_none() && need_xattrs(&self.ledger, effect).is_none()
    }

    pub fn admit(&self, effects: &[Effect], permit: P) {
        // Every effect is looked at: each also explains a change of status. What is needed can only become less later.
        let mut needs = Vec::new();
        for effect in effects {
            if let Effect::Entry { dir, name } = effect {
                need_open(&self.ledger, &self.tree, (dir, name), &mut needs);
            }
            needs.extend(need(&self.ledger, effect));
            needs.extend(need_xattrs(&self.ledger, effect));
        }
        if needs.is_empty() {
            drop(permit);
        } else {
            // Cannot fail: the receivers live until this sender is gone. If it did, the permit would be dropped.
            let _ = self.jobs.send(Job { needs, permit, since: Instant::now() });
        }
    }
}

/// What must happen before a call with this effect may run, if anything. Also notes that a change of the subject's
/// status is explained; that is never taken back from here on.
fn need(ledger: &Ledger, effect: &Effect) -> Option<Need> {
    match effect {
        Effect::Entry { .. } => None,
        Effect::Metadata { file } => match ledger.get(file)? {
            Node::File(file) => {
                ledger.touch(&Node::File(Arc::clone(&file)));
                let known = matches!(file.state().xattrs, Xattrs::Known(_));
                (!known).then_some(Need::Xattrs(file))
            }
            node => {
                ledger.touch(&node);
                None
            }
        },
        Effect::Content { file, .. }
        | Effect::Append { file, .. }
        | Effect::Resize { file, .. }
        // From the call on the file may change unseen. What is saved before that does not care.
        | Effect::Mapped { file }
        | Effect::Untraceable { file, .. } => {
            let file = ledger.file(file)?;
            ledger.touch(&Node::File(Arc::clone(&file)));
            let blocks = {
                let mut state = file.state();
                let blocks = ledger.affected(&mut state, effect);
                // Before the call may run, for `drain::sample`.
                state.map.changes_later(blocks.clone());
                state.map.is_open(blocks.clone()).then_some(blocks)?
            };
            Some(Need::Blocks(file, blocks))
        }
    }
}

/// The same of a name. Where names are folded, a call may mean what is listed by another than it says.
fn need_open(ledger: &Ledger, tree: &Tree, (id, name): (&FileId, &OsStr), needs: &mut Vec<Need>) {
    let Some((dir, entry)) = tree.entry(id, name) else { return };
    touch_dir(ledger, dir);
    ledger.mark_later(dir.id, name);
    match entry {
        Some(entry) => needs.extend(need_entry(ledger, entry)),
        None if tree.may_fold(id, name) => {
            needs.extend(tree.alike(id, name).filter_map(|entry| need_entry(ledger, entry)));
        }
        None => {}
    }
}

fn need_entry(ledger: &Ledger, entry: &Entry) -> Option<Need> {
    match entry {
        Entry::File(file) => {
            ledger.touch(&Node::File(Arc::clone(file)));
            let state = file.state();
            let pinned = state.links.iter().any(|link| link.via.is_some());
            let needed = state.is_open() && state.open.is_none() && !pinned;
            needed.then(|| Need::Open(Arc::clone(file)))
        }
        Entry::Dir(child) => {
            if let Some(node) = ledger.get(child) {
                ledger.touch(&node);
            }
            None
        }
        Entry::Other(_) => None,
    }
}

/// A change of content may take attributes away (see [`Xattrs::may_be_stripped`]): those of the point in time come first.
fn need_xattrs(ledger: &Ledger, effect: &Effect) -> Option<Need> {
    match effect {
        Effect::Content { file, .. } | Effect::Append { file, .. } | Effect::Resize { file, .. } => {
            let file = ledger.file(file)?;
            let known = matches!(file.state().xattrs, Xattrs::Known(_));
            (!known).then_some(Need::Xattrs(file))
        }
        _ => None,
    }
}
