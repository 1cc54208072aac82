//! Directories that contain themselves: the backup would have no end.
//!
//! By a symbolic link out of the source that leads to a directory above it; or by a mount (`mount --bind d d/sub`, or the usual
//! layout of a server's chroot). What is known of names is a graph then, as a mount shows a directory that is known already, so the walk
//! ends; but nothing may be made of it. A server that shows itself what is above it, mounted below itself, has another identity at every
//! level: there a bound ends it.
use super::look::Look;
use super::{Entry, Tree};
use crate::Error;
use crate::base::sys;
use crate::marks::node::Name;
use hotbackup_event::FileId;
use std::collections::{HashMap, HashSet};
use std::os::fd::AsFd;

/// Deeper than this is no tree that somebody made, but one that has no end: a file system whose server shows itself what is above it,
/// mounted below itself, has another identity for every directory at every level.
const MOST_LEVELS: u32 = 16_384;

impl Tree {
    /// How deep what is in a known directory lies. Fails if there seems to be no end to it, and names what is mounted there.
    pub(super) fn depth_below(&self, above: &FileId) -> Result<u32, Error> {
        let Some(node) = self.dirs.get(above) else { return Ok(0) };
        if node.depth < MOST_LEVELS {
            return Ok(node.depth + 1);
        }
        let (mut top, mut left) = (node, MOST_LEVELS);
        while let Some(next) = top.parents.first().and_then(|(parent, _)| self.dirs.get(parent))
            && next.dir.id.dev == above.dev
            && left > 0
        {
            (top, left) = (next, left - 1);
        }
        let words = format!(
            "what it holds is more than {MOST_LEVELS} levels deep, and seems to have no end, as a directory that is mounted below \
             itself through a server; exclude it, or unmount it"
        );
        Err(Error::unreadable(top.dir.path(), std::io::Error::other(words)))
    }

    /// Fails if a name leads to a directory that it is in. While names change, what looks like it may be two halves of a rename,
    /// so it must be seen twice, or when nothing moves.
    pub(super) fn check_loops(&mut self, look: Look<'_>) -> Result<(), Error> {
        // A loop begins where a directory gets a name more.
        if !std::mem::take(&mut self.adopted) && self.loops.is_empty() {
            return Ok(());
        }
        let mut loops = HashSet::new();
        let dirs = &self.dirs;
        self.shared.retain(|id| dirs.get(id).is_some_and(|node| node.parents.len() + usize::from(node.is_root) > 1));
        let mounted = self.shared.iter().filter_map(|id| self.dirs.get(id)).flat_map(|node| &node.parents);
        for (dir, name) in self.volatile.iter().chain(mounted) {
            let node = self.dirs.get(dir);
            if let Some(Entry::Dir(child)) = node.and_then(|node| node.entries.get(name))
                && self.is_above(child, dir)
                && (self.volatile.contains(&(*dir, Name::clone(name))) || self.is_really_above(child, dir, name))
            {
                let link: (FileId, Name) = (*dir, name.clone());
                if look.was_exact() || self.loops.contains(&link) {
                    let path = node.map(|node| node.dir.path().join(&**name)).unwrap_or_default();
                    return Err(self.loop_at(&link, path));
                }
                loops.insert(link);
            }
        }
        self.loops = loops;
        Ok(())
    }

    /// Which kind it is: one in which a link has a part is the link's.
    fn loop_at(&self, link: &(FileId, Name), path: std::path::PathBuf) -> Error {
        if self.volatile.contains(link) {
            return Error::SymlinkLoop { path };
        }
        Error::SourceContainsItself { path }
    }

    /// Whether names lead from one directory down to another, or it is the same.
    fn is_above(&self, above: &FileId, dir: &FileId) -> bool {
        self.way_down(above, dir).is_some()
    }

    /// Names that lead from one directory down to another: each with the directory that it is in, and what it leads to.
    fn way_down(&self, above: &FileId, dir: &FileId) -> Option<Vec<(FileId, Name, FileId)>> {
        let (mut below, mut next) = (HashMap::from([(*dir, None)]), vec![*dir]);
        while let Some(id) = next.pop() {
            if id == *above {
                let step = |from: &FileId| below.get(from).cloned().flatten().map(|(name, to)| (*from, name, to));
                return Some(std::iter::successors(step(above), |(_, _, to)| step(to)).collect());
            }
            for (parent, name) in self.dirs.get(&id).into_iter().flat_map(|node| &node.parents) {
                below.entry(*parent).or_insert_with(|| {
                    next.push(*parent);
                    Some((Name::clone(name), id))
                });
            }
        }
        None
    }

    /// Whether a mount makes it so, asked of the file system itself, twice: names that are being moved do not. The
    /// way is the one that the walk went, from directory to directory.
    fn is_really_above(&self, above: &FileId, dir: &FileId, name: &Name) -> bool {
        let Some(mut way) = self.way_down(above, dir) else { return false };
        way.push((*dir, Name::clone(name), *above));
        let leads = |(from, name, to): &(FileId, Name, FileId)| {
            let node = self.dirs.get(from);
            node.is_some_and(|node| sys::stat_at(&node.dir.fd, name).is_ok_and(|found| found.id == *to))
        };
        way.iter().all(leads) && way.iter().all(leads)
    }

    /// Fails if a directory is on a file system that holds no data but shows what the kernel knows: its files have other
    /// lengths than they say, or no end, or change without a call, and its links lead everywhere.
    pub(super) fn check_kind(&mut self, dev: u64, dir: impl AsFd) -> Result<(), Error> {
        /// From `linux/magic.h`: type, and what it is called.
        const KERNELS: [(u64, &str); 18] = [
            (0x9fa0, "proc"),
            (0x6265_6572, "sysfs"),
            (0x6462_6720, "debugfs"),
            (0x7472_6163, "tracefs"),
            (0x0027_e0eb, "cgroup"),
            (0x6367_7270, "cgroup2"),
            (0xcafe_4a11, "bpf"),
            (0x7363_6673, "securityfs"),
            (0xde5e_81e4, "efivarfs"),
            (0x6165_676c, "pstore"),
            (0x6265_6570, "configfs"),
            (0x6573_5543, "fusectl"),
            (0x1cd1, "devpts"),
            (0x1980_0202, "mqueue"),
            (0x0187, "autofs"),
            (0x4249_4e4d, "binfmt_misc"),
            (0xf97c_ff8c, "selinuxfs"),
            (0x6e73_6673, "nsfs"),
        ];
        if !self.devices.insert(dev) {
            return Ok(());
        }
        // The kernel's own always say what they are; a FUSE file system may know no such call.
        let Ok(found) = rustix::fs::fstatfs(dir.as_fd()) else { return Ok(()) };
        let kind = found.f_type as u64 & 0xffff_ffff;
        match KERNELS.iter().find(|(magic, _)| *magic == kind) {
            Some((_, name)) => {
                let words = format!("it is a {name} file system, which holds no data; exclude it, or unmount it");
                let source = std::io::Error::other(words);
                Err(Error::SourceUnreadable { path: sys::fd_path(dir.as_fd()), source })
            }
            None => Ok(()),
        }
    }

    /// A directory that is known has a name (more).
    pub(super) fn gets_name(&mut self, id: FileId) {
        self.adopted = true;
        if self.dirs.get(&id).is_some_and(|node| node.parents.len() + usize::from(node.is_root) > 1) {
            self.shared.insert(id);
        }
    }
}
