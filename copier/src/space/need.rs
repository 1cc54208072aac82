//! How much is to be copied.
use crate::base::sys;
use crate::marks::ledger::Ledger;
use crate::tree::{Entry, Tree, part_of};
use hotbackup_event::FileId;
use std::collections::HashMap;

/// Up to this size a file takes its length, whatever is allocated for it: some file systems hold small ones with their inodes.
const SMALL: u64 = 64 << 10;
/// For an entry's name, its inode where none are there beforehand, and its line in the manifest.
const ENTRY: u64 = 1 << 10;
/// The least that a directory takes.
const DIRECTORY: u64 = 4 << 10;

/// What is known of a tree before anything of it is copied.
#[derive(Debug, Default)]
pub(crate) struct Need {
    /// Of each file: its size, and what is allocated for it.
    files: Vec<(u64, u64)>,
    /// Directories and all other entries; those of a directory that has several names once for each.
    directories: u64,
    entries: u64,
    inodes: u64,
}

impl Need {
    /// Of these sources, each of which has a destination of its own, or of all.
    pub fn of(tree: &Tree, ledger: &Ledger, sources: Option<&[usize]>) -> Self {
        let files: Vec<(u64, u64)> = ledger
            .files()
            .iter()
            .filter(|file| sources.is_none_or(|some| some.contains(&part_of(file.number))))
            .map(|file| {
                let state = file.state();
                (state.stat.size, state.allocated)
            })
            .collect();
        let (mut directories, mut entries) = (0_u64, 0_u64);
        let times = times(tree);
        for node in tree.dirs_of(sources) {
            let times = times.get(&node.dir.id).copied().unwrap_or(1);
            let count = node.entries.values().filter(|entry| !matches!(entry, Entry::Dir(_))).count() as u64;
            directories = directories.saturating_add(times);
            entries = entries.saturating_add(times.saturating_mul(count));
        }
        let others = entries.saturating_sub(files.len() as u64);
        let inodes = (files.len() as u64)
            .saturating_add(directories)
            .saturating_add(others.min(entries_of_others(tree, sources)));
        // The backup's own directory and its manifest.
        Self { files, directories: directories.saturating_add(2), entries, inodes: inodes.saturating_add(4) }
    }

    /// Bytes, where space is given out in units of so many. `holes`: the destination can leave them out.
    pub fn bytes(&self, unit: u64, holes: bool) -> u64 {
        let whole = |bytes: u64| bytes.checked_next_multiple_of(unit).unwrap_or(u64::MAX);
        let of = |(size, allocated): &(u64, u64)| {
            let taken = if holes && *size > SMALL { (*allocated).min(*size) } else { *size };
            whole(taken)
        };
        let files = self.files.iter().fold(0_u64, |sum, file| sum.saturating_add(of(file)));
        let names = self.entries.saturating_mul(ENTRY);
        files.saturating_add(self.directories.saturating_mul(whole(DIRECTORY))).saturating_add(names)
    }

    pub fn inodes(&self) -> u64 {
        self.inodes
    }
}

/// Links, fifos and the like.
fn entries_of_others(tree: &Tree, sources: Option<&[usize]>) -> u64 {
    let others = |node: &crate::tree::DirNode| {
        node.entries.values().filter(|entry| matches!(entry, Entry::Other(_))).count() as u64
    };
    tree.dirs_of(sources).map(others).sum()
}

/// How often each directory is in the backup, where that is more than once: a few links or mounts that lead to directories
/// with such in turn make more of them than there is room for anywhere.
fn times(tree: &Tree) -> HashMap<FileId, u64> {
    let mut times = HashMap::new();
    if tree.dirs().all(crate::tree::DirNode::has_one_name) {
        return times;
    }
    // From the roots down, each when all that lead to it have been counted: there are no loops, or it has failed before.
    let mut left: HashMap<FileId, usize> = tree.dirs().map(|node| (node.dir.id, node.names())).collect();
    let mut next: Vec<FileId> = tree.roots.iter().map(|root| root.id).collect();
    times.extend(next.iter().map(|id| (*id, 1)));
    while let Some(id) = next.pop() {
        let here = times.get(&id).copied().unwrap_or(1);
        let Some(node) = tree.dir(&id) else { continue };
        for entry in node.entries.values() {
            let Entry::Dir(child) = entry else { continue };
            let sum = times.entry(*child).or_insert(0);
            *sum = sum.saturating_add(here);
            if let Some(names) = left.get_mut(child) {
                *names = names.saturating_sub(1);
                if *names == 0 {
                    next.push(*child);
                }
            }
        }
    }
    times
}

/// Whether a file system can leave holes out, found out in a directory of ours.
pub(crate) fn leaves_holes_out(dir: &std::os::fd::OwnedFd) -> bool {
    use rustix::fs::{AtFlags, Mode, OFlags};
    const NAME: &str = "hole";
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::openat(dir, NAME, flags, Mode::RUSR | Mode::WUSR) else { return true };
    let made = rustix::fs::ftruncate(&fd, 1 << 20).is_ok();
    let found = sys::stat_fd(&fd);
    let _ = rustix::fs::unlinkat(dir, NAME, AtFlags::empty());
    !made || found.is_ok_and(|found| found.holes() > 0)
}
