//! The marks: what calls of the target may have changed since it was last looked at.
//!
//! # Why no change is missed
//!
//! A call is received, looked up here, marked, and let go; only then does it run. A sync *takes* marks, then waits for a
//! *grace*, then looks at the source. Grace waits for every call that was let go, and also for every call that was
//! received, before it began. So for any call and any take:
//!
//! - It was marked before the take: it was let go or at least received before the grace, so it has finished when the
//!   source is looked at.
//! - It was marked after the take: the mark is still here, for the next sync.
//!
//! A file that is not known has no marks. It becomes known with everything due, *before* a grace, and is first copied
//! after that grace. A call that looked it up before it was known had been received before that grace and so has
//! finished; one that looks it up later finds it. Names are marked for every directory, known or not, and when marks
//! are taken those of unknown directories are dropped: a directory that becomes known later is read in full, after
//! this grace.
//!
//! The dirty flag of a file or directory is cleared when the dirty list is taken, before the grace. A mark made between
//! the two finds the flag set and is not listed again; its call had been received before the grace, so the look that
//! follows sees what it did.
//!
//! # Appends
//!
//! An append changes the file from its end on, and its end is known only as it was when the call was received. An
//! earlier call that cuts the file may still be under way then. So an append also marks from the lowest length that a
//! cut gave until that cut has certainly been seen: one grace must begin after the cut was marked (the next may have
//! begun before it) and end, so that it has run; another must end after that, so that no append received before is
//! still to be marked. Counting completed graces, a cut marked at count g is forgotten at g + 3.
use crate::Error;
use crate::base::sys::now_ns;
use crate::base::util::{lock, read, write};
use crate::marks::blockmap::BLOCK;
use crate::marks::node::{Dir, File, LowWater, Node};
use hotbackup_event::{Effect, FileId};
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

/// How many graces must complete until a cut is certainly seen by every append.
const CUT_GRACES: u64 = 3;
/// Names remembered in the drain at most: beyond, any entry may have been changed by a call.
const MOST_LATER: usize = 100_000;
/// A power of two. More than the threads that look up at the same time.
const SHARDS: usize = 32;

/// The name of an entry and the directory it is in.
pub(crate) type EntryMark = (FileId, OsString);

/// Everything known by identity, and the marks on it. Shared by all threads; no lock of it is held across I/O.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    nodes: [RwLock<HashSet<Node>>; SHARDS],
    devices: RwLock<HashSet<u64>>,
    entries: Mutex<HashSet<EntryMark>>,
    entry_count: AtomicUsize,
    /// Named by calls that came after the point in time. `None`: too many to be remembered.
    later: Mutex<Option<HashSet<EntryMark>>>,
    dirty: Mutex<Vec<Node>>,
    /// Subjects of metadata effects that are neither file nor directory, or not known: symbolic links, for one.
    others: Mutex<HashSet<FileId>>,
    untraceable: Mutex<HashMap<FileId, Untraceable>>,
    /// How often that was said.
    unseen: AtomicU64,
    /// Files that are, or have been, mapped for writing.
    mapped: Mutex<HashSet<FileId>>,
    graces: AtomicU64,
    /// Blocks of all known files that the backup does not hold as they are.
    lacking: AtomicI64,
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
}

/// What can change unseen.
#[derive(Debug)]
struct Untraceable {
    /// How.
    cause: &'static str,
    /// When that was said.
    at_ns: u64,
    /// Where it was then, if it was known: it may be nowhere soon.
    place: Option<PathBuf>,
}

/// What a sync looks at.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub entries: HashSet<EntryMark>,
    /// Each with whether its attributes may have changed.
    pub dirty: Vec<(Node, bool)>,
    pub others: HashSet<FileId>,
    /// Mounts that had been seen, see [`Ledger::mounts_seen`].
    pub mounts: u64,
}

impl Ledger {
    fn shard(&self, id: &FileId) -> &RwLock<HashSet<Node>> {
        // Inode numbers that are close together should not meet in one shard only because of their low bits.
        let mixed = (id.ino ^ id.dev.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.nodes[(mixed >> 32) as usize % SHARDS]
    }

    pub fn get(&self, id: &FileId) -> Option<Node> {
        read(self.shard(id)).get(id).cloned()
    }

    pub fn file(&self, id: &FileId) -> Option<Arc<File>> {
        match self.get(id) {
            Some(Node::File(file)) => Some(file),
            _ => None,
        }
    }

    /// The same where it may be known by device and inode alone, as they were at a time: what was born later has only got the
    /// number of something that is gone.
    pub fn find(&self, id: &FileId, at_ns: u64) -> Option<Node> {
        let number = |node: &Node| {
            let known: &FileId = std::borrow::Borrow::borrow(node);
            (known.dev, known.ino) == (id.dev, id.ino) && known.btime_ns <= at_ns
        };
        // What has the same number is in the same shard.
        let by_number = || read(self.shard(id)).iter().find(|node| number(node)).cloned();
        self.get(id).or_else(|| if id.btime_ns == 0 { by_number() } else { None })
    }

    /// Makes a file or directory known. It is dirty from the start, so it goes on the list.
    pub fn register(&self, node: Node) {
        let id: FileId = *std::borrow::Borrow::borrow(&node);
        if !read(&self.devices).contains(&id.dev) {
            write(&self.devices).insert(id.dev);
        }
        if let Node::File(file) = &node {
            self.add_lacking(file.state().map.due() as i64);
        }
        // Without birth times, the number may have belonged to something else.
        let replaced = write(self.shard(&id)).replace(node.clone());
        if let Some(Node::File(file)) = replaced {
            self.lacks_nothing(&file);
        }
        lock(&self.dirty).push(node);
    }

    /// Forgets a file or directory that has no name left.
    pub fn forget(&self, node: &Node) {
        let id: &FileId = std::borrow::Borrow::borrow(node);
        let mut shard = write(self.shard(id));
        let same = match (shard.get(id), node) {
            (Some(Node::File(known)), Node::File(file)) => Arc::ptr_eq(known, file),
            (Some(Node::Dir(known)), Node::Dir(dir)) => Arc::ptr_eq(known, dir),
            _ => false,
        };
        if same {
            shard.remove(id);
            drop(shard);
            if let Node::File(file) = node {
                self.lacks_nothing(file);
            }
        }
    }

    /// What is forgotten is not counted, nor is what somebody who is still at it does with it.
    fn lacks_nothing(&self, file: &File) {
        let change = file.state().map.resize(0);
        self.add_lacking(change);
    }

    /// All known files, in the order of their inodes: neighbours on disk are mostly neighbours there.
    pub fn files(&self) -> Vec<Arc<File>> {
        let mut files = Vec::new();
        for shard in &self.nodes {
            files.extend(read(shard).iter().filter_map(|node| match node {
                Node::File(file) => Some(Arc::clone(file)),
                Node::Dir(_) => None,
            }));
        }
        files.sort_unstable_by_key(|file| (file.id.dev, file.id.ino));
        files
    }

    /// How many devices known files and directories are on.
    pub fn device_count(&self) -> usize {
        read(&self.devices).len()
    }

    /// Whether any of the effects is on a device that something known is on.
    pub fn concerns(&self, effects: &[Effect]) -> bool {
        let devices = read(&self.devices);
        effects.iter().any(|effect| devices.contains(&effect.subject().dev))
    }

    /// Takes note of what a call may change, before it runs.
    pub fn mark(&self, effect: &Effect) {
        match effect {
            Effect::Content { file, .. } | Effect::Append { file, .. } | Effect::Resize { file, .. } => {
                if let Some(file) = self.file(file) {
                    let (added, strips) = {
                        let mut state = file.state();
                        let blocks = self.affected(&mut state, effect);
                        (state.map.mark(blocks), state.xattrs.may_be_stripped())
                    };
                    self.add_lacking(added as i64);
                    if strips {
                        file.flags.meta.store(true, Ordering::SeqCst);
                    }
                    self.touch(&Node::File(file));
                }
            }
            Effect::Entry { dir, name } => {
                if lock(&self.entries).insert((*dir, name.clone())) {
                    self.entry_count.fetch_add(1, Ordering::Relaxed);
                }
                if let Some(node) = self.get(dir) {
                    self.touch(&node);
                }
            }
            Effect::Metadata { file } => match self.get(file) {
                Some(node) => {
                    node.flags().meta.store(true, Ordering::SeqCst);
                    self.touch(&node);
                }
                None => {
                    if lock(&self.others).insert(*file) {
                        self.entry_count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            },
            Effect::Mapped { file } => self.mark_mapped(file),
            Effect::Untraceable { file, cause } => {
                let at_ns = now_ns();
                self.unseen.fetch_add(1, Ordering::SeqCst);
                let place = self.place(file, at_ns);
                lock(&self.untraceable).insert(*file, Untraceable { cause, at_ns, place });
            }
        }
    }

    /// The blocks that an effect on a file's content may change, as far as the map goes.
    pub fn affected(&self, state: &mut crate::marks::node::FileState, effect: &Effect) -> Range<u64> {
        let graces = self.graces.load(Ordering::SeqCst);
        let low = if graces < state.low.grace + CUT_GRACES { state.low.len } else { u64::MAX };
        match *effect {
            Effect::Content { start, end, .. } => state.map.touched(start, end),
            Effect::Append { size, .. } => state.map.touched(size.min(low), u64::MAX),
            Effect::Resize { len, .. } => {
                state.low = LowWater { len: len.min(low), grace: graces };
                state.map.touched(len, u64::MAX)
            }
            Effect::Mapped { .. } | Effect::Untraceable { .. } => state.map.touched(0, u64::MAX),
            Effect::Entry { .. } | Effect::Metadata { .. } => 0..0,
        }
    }

    /// All of a file is due.
    pub fn mark_whole(&self, file: &File) {
        let added = {
            let mut state = file.state();
            let all = state.map.touched(0, u64::MAX);
            state.map.mark(all)
        };
        self.add_lacking(added as i64);
    }

    /// A call may change the status of a known file or directory.
    pub fn touch(&self, node: &Node) {
        node.flags().named.store(true, Ordering::SeqCst);
        if !node.flags().dirty.swap(true, Ordering::SeqCst) {
            lock(&self.dirty).push(node.clone());
        }
    }

    /// Takes all marks that are not on blocks. What they say is to be looked at after a grace.
    pub fn take(&self) -> Taken {
        // Before anything else is: a mount that this counts was let go or received before the grace that follows, so it is there
        // when the source is looked at; whoever finds a higher count later knows of one that need not have been.
        let mounts = self.mounts_seen();
        let entries = {
            let mut entries = lock(&self.entries);
            self.entry_count.store(0, Ordering::Relaxed);
            std::mem::take(&mut *entries)
        };
        Taken { entries, dirty: self.take_dirty(), others: std::mem::take(&mut *lock(&self.others)), mounts }
    }

    /// Takes the dirty list. `dirty` is cleared before `meta` is taken, while a mark sets `meta` before `dirty`: what
    /// this misses is listed again.
    pub fn take_dirty(&self) -> Vec<(Node, bool)> {
        let dirty = std::mem::take(&mut *lock(&self.dirty));
        let take = |node: Node| {
            node.flags().dirty.store(false, Ordering::SeqCst);
            let meta = node.flags().meta.swap(false, Ordering::SeqCst);
            (node, meta)
        };
        dirty.into_iter().map(take).collect()
    }

    /// Marks all of this again: it could not be looked at.
    pub fn put_back(&self, taken: Taken) {
        for mark in taken.entries {
            self.put_back_entry(mark);
        }
        for (node, meta) in taken.dirty {
            self.put_back_dirty(&node, meta);
        }
        for file in taken.others {
            self.mark(&Effect::Metadata { file });
        }
    }

    /// Marks an entry again that could not be looked at yet.
    pub fn put_back_entry(&self, mark: EntryMark) {
        if lock(&self.entries).insert(mark) {
            self.entry_count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Marks a file or directory again that could not be looked at yet.
    pub fn put_back_dirty(&self, node: &Node, meta: bool) {
        if meta {
            node.flags().meta.store(true, Ordering::SeqCst);
        }
        self.touch(node);
    }

    /// Whether an entry of a directory is marked, and not taken yet.
    pub fn is_any_marked(&self, dir: &FileId) -> bool {
        lock(&self.entries).iter().any(|(at, _)| at == dir)
    }

    /// Names (and other things that are remembered because they are not known) marked and not taken yet.
    pub fn entry_count(&self) -> usize {
        self.entry_count.load(Ordering::Relaxed)
    }

    /// From the point in time on, names are remembered apart, for `drain::foreign`.
    pub fn begin_later(&self) {
        *lock(&self.later) = Some(HashSet::new());
    }

    /// A call that came after the point in time may change this entry.
    pub fn mark_later(&self, dir: FileId, name: &std::ffi::OsStr) {
        let mut later = lock(&self.later);
        if let Some(all) = &mut *later {
            all.insert((dir, name.to_owned()));
            if all.len() > MOST_LATER {
                *later = None;
            }
        }
    }

    /// Whether one may have.
    pub fn is_marked_later(&self, dir: FileId, name: &std::ffi::OsStr) -> bool {
        lock(&self.later).as_ref().is_none_or(|all| all.contains(&(dir, name.to_owned())))
    }

    /// The same, of any name in the directory that is like one.
    pub fn is_any_marked_later(&self, dir: FileId, is_like: impl Fn(&std::ffi::OsStr) -> bool) -> bool {
        lock(&self.later).as_ref().is_none_or(|all| all.iter().any(|(at, name)| *at == dir && is_like(name)))
    }

    /// A grace is over.
    pub fn grace_done(&self) {
        self.graces.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts blocks that the backup came to lack, or lacks no more.
    pub fn add_lacking(&self, blocks: i64) {
        self.lacking.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Bytes that the backup still lacks, as far as known; blocks counted in full.
    pub fn lacking_bytes(&self) -> u64 {
        // Whoever takes away may come before whoever adds.
        (self.lacking.load(Ordering::Relaxed).max(0) as u64).saturating_mul(BLOCK)
    }

    /// A file is, or is about to be, mapped for writing.
    pub fn mark_mapped(&self, file: &FileId) {
        lock(&self.mapped).insert(*file);
    }

    /// Whether a file is, or has been, mapped for writing: then it changes without a call.
    pub fn is_mapped(&self, file: &FileId) -> bool {
        lock(&self.mapped).contains(file)
    }

    /// Known files that are, or have been, mapped for writing.
    pub fn known_mapped(&self) -> Vec<Arc<File>> {
        let mapped: Vec<FileId> = lock(&self.mapped).iter().copied().collect();
        self.known_files(&mapped)
    }

    /// Of these, those that are known.
    pub fn known_files(&self, ids: &[FileId]) -> Vec<Arc<File>> {
        ids.iter().filter_map(|id| self.file(id)).collect()
    }

    /// The place of a known file or directory that can change unseen, if there is one.
    pub fn untraceable(&self) -> Option<(PathBuf, &'static str)> {
        let all = lock(&self.untraceable);
        all.iter().find_map(|(id, Untraceable { cause, at_ns, place })| {
            let now = self.place(id, *at_ns)?;
            Some((place.clone().unwrap_or(now), *cause))
        })
    }

    /// How often something was said to change unseen; that may have been a mount, of a directory that is not known too.
    pub fn mounts_seen(&self) -> u64 {
        self.unseen.load(Ordering::SeqCst)
    }

    /// Where a known file or directory is.
    fn place(&self, id: &FileId, at_ns: u64) -> Option<PathBuf> {
        match self.find(id, at_ns)? {
            Node::File(file) => Some(file.path()),
            Node::Dir(dir) => Some(dir.path()),
        }
    }

    /// The backup cannot succeed any more. The first failure is the one that counts.
    pub fn fail(&self, error: Error) {
        let mut failure = lock(&self.failure);
        if !self.failed.swap(true, Ordering::SeqCst) {
            *failure = Some(error);
        }
    }

    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Fails if the backup has failed, whoever found out. Which failure that was is for [`Ledger::failure`] to say.
    pub fn check(&self) -> Result<(), Error> {
        if self.has_failed() { Err(Error::LetGo) } else { Ok(()) }
    }

    /// The failure, once all is over.
    pub fn failure(&self) -> Option<Error> {
        lock(&self.failure).take()
    }
}

/// The directory that a link is in, and the file or directory it names, are known to change with it.
pub(crate) fn touch_dir(ledger: &Ledger, dir: &Arc<Dir>) {
    ledger.touch(&Node::Dir(Arc::clone(dir)));
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
