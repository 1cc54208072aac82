//! What the source has of what a file system may not hold, counted in the model of the tree. Nothing is looked at but where
//! it is named.
use super::capabilities::Capabilities;
use crate::base::sys::{Kind, Stat, Time};
use crate::tree::{DirNode, Entry, Tree};
use std::path::{Path, PathBuf};

/// How many, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub many: u64,
    pub first: PathBuf,
}

impl Count {
    pub fn add(&mut self, path: impl FnOnce() -> PathBuf) {
        if self.many == 0 {
            self.first = path();
        }
        self.many += 1;
    }
}

/// The largest of something, and where it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Most<T> {
    pub value: T,
    pub path: PathBuf,
}

/// What is needed to hold the source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needs {
    pub entries: u64,
    pub symlinks: Count,
    pub longest_text: Most<usize>,
    pub fifos: Count,
    /// Names that are not the first of their file.
    pub hard_links: Count,
    /// Counted only where holes cannot be held: each must be looked at.
    pub sparse: Count,
    pub largest: Most<u64>,
    /// What belongs to others than us.
    pub others: Count,
    pub set_ids: Count,
    pub any: Count,
    /// Of directories, links and fifos: those of files are not read yet.
    pub attributes: Count,
    pub acls: Count,
    pub fractions: Count,
    pub earliest: Option<Most<Time>>,
    pub latest: Option<Most<Time>>,
}

impl Needs {
    pub fn of(tree: &Tree, sources: Option<&[usize]>, capabilities: &Capabilities) -> Self {
        let mut needs = Self::default();
        let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        tree.walk(sources, |dir, node| needs.add_entries(dir, node, ours, capabilities));
        // Where something else will do, that is told of it.
        tree.walk(sources, |dir, node| {
            let state = node.dir.state().clone();
            needs.add(&state.stat, ours, capabilities, || dir.to_owned());
            needs.add_attributes(&state.xattrs, || dir.to_owned());
        });
        needs
    }

    fn add_entries(&mut self, dir: &Path, node: &DirNode, ours: (u32, u32), capabilities: &Capabilities) {
        for (name, entry) in &node.entries {
            let path = || dir.join(&**name);
            match entry {
                Entry::Dir(_) => {}
                Entry::Other(other) => {
                    self.add(&other.stat, ours, capabilities, path);
                    self.add_attributes(&other.xattrs, path);
                    match other.kind() {
                        Kind::Symlink => {
                            self.symlinks.add(path);
                            let len = other.link.as_ref().map_or(0, |(text, _)| text.len());
                            if len > self.longest_text.value {
                                self.longest_text = Most { value: len, path: path() };
                            }
                        }
                        Kind::Fifo => self.fifos.add(path),
                        _ => {}
                    }
                }
                Entry::File(file) => {
                    let state = file.state();
                    let (stat, size, links) = (state.stat, state.map.size(), state.links.len());
                    let is_first = state.links.first().is_some_and(|link| link.is(&node.dir, name));
                    drop(state);
                    if links > 1 && !is_first {
                        self.hard_links.add(path);
                        continue;
                    }
                    self.add(&stat, ours, capabilities, path);
                    if size > self.largest.value {
                        self.largest = Most { value: size, path: path() };
                    }
                    if !capabilities.holes && file.look().is_ok_and(|found| found.is_some_and(|f| f.holes() > 0)) {
                        self.sparse.add(path);
                    }
                }
            }
        }
    }

    fn add(&mut self, stat: &Stat, ours: (u32, u32), capabilities: &Capabilities, path: impl Fn() -> PathBuf) {
        self.entries += 1;
        self.any.add(&path);
        if (stat.uid, stat.gid) != ours {
            self.others.add(&path);
        }
        if stat.kind() != Kind::Symlink && stat.permissions() & 0o7000 != 0 {
            self.set_ids.add(&path);
        }
        if stat.mtime.nanos() % i128::from(capabilities.precision_ns) != 0 {
            self.fractions.add(&path);
        }
        let most = || Some(Most { value: stat.mtime, path: path() });
        if self.earliest.as_ref().is_none_or(|earliest| stat.mtime < earliest.value) {
            self.earliest = most();
        }
        if self.latest.as_ref().is_none_or(|latest| stat.mtime > latest.value) {
            self.latest = most();
        }
    }

    fn add_attributes(&mut self, all: &crate::base::sys::Attributes, path: impl Fn() -> PathBuf) {
        if all.iter().any(|(name, _)| name.to_bytes().starts_with(b"system.posix_acl")) {
            self.acls.add(&path);
        }
        if all.iter().any(|(name, _)| !name.to_bytes().starts_with(b"system.")) {
            self.attributes.add(&path);
        }
    }
}
