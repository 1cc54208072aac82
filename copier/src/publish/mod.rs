//! Publishing: everything is put in its place, made durable, and described, before the backup gets its name.
//!
//! The target is not involved any more. Nothing here looks at the sources: names, sizes and metadata are those of the
//! frozen model, and the content is staged.
mod describe;
pub(crate) mod manifest;
pub(crate) mod verify;

use crate::base::digest::{Digest, Hasher, Way};
use crate::base::sys::{self, Attributes, Kind, Stat};
use crate::context::Context;
use crate::marks::node::{File, Name, StagedHash, Xattrs};
use crate::tree::{DirNode, Entry, Other, Shown, Tree, relative};
use crate::{Error, Report};
use hotbackup_event::{FileId, failpoint};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Read at once when staged data is read again.
const CHUNK: usize = 1 << 20;

/// A symbolic link, fifo or the like, and the text of a link: where two names of one link would need different texts to
/// lead to the same place, they are two links.
type OtherKey = (FileId, OsString);

pub(crate) struct Publisher<'a, P: Send + 'static> {
    context: &'a Context<'a, P>,
    tree: &'a Tree,
    /// Where files with several names were put first.
    placed: HashMap<u64, PathBuf>,
    /// The same for what has no content.
    others: HashMap<OtherKey, PathBuf>,
    /// Several links lead to one directory: even files with one name are placed more than once.
    twice: bool,
    /// Whether each file and directory is synced on its own.
    sync_each: bool,
    /// Whom staged files belong to.
    owner: (u32, u32),
    /// What could not be done for some entries: how many, and the first.
    lacking: BTreeMap<String, (u64, PathBuf)>,
    report: (u64, u64, u64),
}

impl<'a, P: Send + 'static> Publisher<'a, P> {
    pub fn new(context: &'a Context<'a, P>, tree: &'a Tree) -> Self {
        let (placed, others, lacking) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        let twice = tree.dirs().any(|node| !node.has_one_name());
        Self { context, tree, placed, others, twice, sync_each: true, owner: (0, 0), lacking, report: (0, 0, 0) }
    }

    /// Makes the staging directory a complete backup in all but its name.
    pub fn publish(mut self, mut report: Report) -> Result<Report, Error> {
        let stage = self.context.stage;
        let failed = |op, path: PathBuf| move |error: io::Error| Error::at_dest(op, path, error);
        let files = self.context.ledger.files();
        self.sync_each = stage.syncs_each(files.len(), self.context.tuning.sync_each_below);
        stage.check_parent()?;
        let data = sys::stat_fd(stage.data()).map_err(failed("look at", stage.path()))?.stat;
        self.owner = (data.uid, data.gid);
        for file in &files {
            self.context.check()?;
            self.finish(file)?;
            self.context.tell(false);
        }
        for root in &self.tree.roots {
            let Some(node) = self.tree.dir(&root.id) else { continue };
            match &root.name {
                None => self.place_tree(node, sys::reopen(&stage.root).map_err(failed("open", stage.path()))?, None)?,
                Some(name) => {
                    let out = self.make_dir(&stage.root, name, Path::new(name))?;
                    self.place_tree(node, out, Some(name))?;
                }
            }
        }
        stage.clear_data()?;
        failpoint::hit("publish.placed");
        if !self.sync_each {
            stage.io.sync_all(stage.root.as_fd()).map_err(failed("sync", stage.path()))?;
        }
        let (files, directories, bytes) = self.report;
        (report.files, report.directories, report.bytes_total) = (files, directories, bytes);
        report.phases = self.context.phases();
        self.write_manifest(&report)?;
        failpoint::hit("publish.described");
        // The root's own metadata comes last: until then nobody else can look inside.
        if let [root] = &*self.tree.roots
            && root.name.is_none()
            && let Some(node) = self.tree.dir(&root.id)
        {
            self.apply_to_dir(node, &stage.root, Path::new(""))?;
        }
        stage.io.sync(stage.root.as_fd()).map_err(failed("sync", stage.path()))?;
        failpoint::hit("publish.synced");
        for (what, (count, first)) in &self.lacking {
            let more = if *count > 1 { format!(" and {} more", count - 1) } else { String::new() };
            self.context.monitor.warning(&format!("{what}: {}{more}", first.display()));
        }
        Ok(report)
    }

    /// Gives a staged file its length, and makes sure that its hash is known.
    fn finish(&mut self, file: &Arc<File>) -> Result<(), Error> {
        let stage = self.context.stage;
        let (size, staged, hashed) = {
            let state = file.state();
            (state.stat.size, state.staged, state.hash.as_ref().is_some_and(|hash| hash.size == state.stat.size))
        };
        self.report.0 += 1;
        self.report.2 = self.report.2.saturating_add(size);
        if hashed && staged == size {
            return Ok(());
        }
        let fd = stage.open(file.number)?;
        if staged != size {
            stage.set_len(file.number, &fd, size)?;
        }
        if !hashed {
            let hash = self.hash(&fd, size).map_err(|error| Error::at_dest("read", stage.path(), error))?;
            file.state().hash = Some(Box::new(StagedHash { hash, size }));
        }
        Ok(())
    }

    fn hash(&self, fd: &OwnedFd, size: u64) -> io::Result<Digest> {
        let io = &*self.context.stage.io;
        let found = sys::stat_fd(fd)?;
        let mut hasher = Hasher::new(Way::of(found.holes()));
        let mut buffer = vec![0; CHUNK.min(usize::try_from(size).unwrap_or(CHUNK))];
        let mut at = 0;
        while at < size {
            let data = io.data_after(fd.as_fd(), at)?.unwrap_or(size..size);
            hasher.zeros(data.start.min(size) - at);
            at = data.start.min(size);
            while at < data.end.min(size) {
                let n = (data.end.min(size) - at).min(buffer.len() as u64) as usize;
                if io.read_at(fd.as_fd(), &mut buffer[..n], at)? < n {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                hasher.update(&buffer[..n]);
                at += n as u64;
            }
        }
        Ok(hasher.finalize())
    }

    fn make_dir(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, Error> {
        let failed = |op| move |error: io::Error| Error::at_dest(op, path.to_owned(), error);
        self.context.stage.space.before(0, 1)?;
        rustix::fs::mkdirat(parent, name, Mode::RWXU).map_err(|error| failed("create")(error.into()))?;
        sys::open_dir(parent, name).map_err(failed("open"))
    }

    /// Puts all that a directory holds into its place `out`, however deep that is: a list of what is still to be done, and
    /// one directory open at a time, which is left by `..`. Without a name it is the backup itself, which gets its own
    /// metadata last of all.
    fn place_tree(&mut self, top: &'a DirNode, mut out: OwnedFd, name: Option<&OsStr>) -> Result<(), Error> {
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
                    self.apply_to_dir(node, &out, &path)?;
                    if self.sync_each {
                        let synced = self.context.stage.io.sync(out.as_fd());
                        synced.map_err(|error| Error::at_dest("sync", path.clone(), error))?;
                    }
                }
                let Some(up) = up else { break };
                out = up;
                path.pop();
                continue;
            };
            match entry {
                Entry::File(file) => self.place_file(file, &out, name, path.join(&**name))?,
                Entry::Other(other) => self.place_other(other, &out, name, &path.join(&**name))?,
                Entry::Dir(id) => {
                    let Some(child) = tree.dir(id) else { continue };
                    path.push(&**name);
                    if !child.has_one_name() {
                        self.lack("a directory that several links lead to is copied for each", &path);
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

    fn place_file(&mut self, file: &Arc<File>, out: &OwnedFd, name: &Name, path: PathBuf) -> Result<(), Error> {
        let stage = self.context.stage;
        if let Some(first) = self.placed.get(&file.number) {
            return self.place_again(first, out, name, path);
        }
        stage.space.look()?;
        let number = file.number.to_string();
        rustix::fs::renameat(stage.data(), number, out, &**name)
            .map_err(|error| Error::at_dest("put into place", path.clone(), error))?;
        let (stat, several, xattrs) = {
            let state = file.state();
            let xattrs = match &state.xattrs {
                Xattrs::Known(Some(all)) => (**all).clone(),
                _ => Vec::new(),
            };
            (state.stat, state.links.len() > 1 || self.twice, xattrs)
        };
        self.apply(out, name, &stat, &path)?;
        if !xattrs.is_empty() {
            let open = rustix::fs::openat(out, &**name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            let fd = open.map_err(|error| Error::at_dest("open", path.clone(), error))?;
            self.apply_xattrs(&fd, &xattrs, &path)?;
            rustix::fs::futimens(&fd, &times(&stat))
                .map_err(|error| Error::at_dest("set the times of", path.clone(), error))?;
        }
        if self.sync_each {
            stage.sync_file(file.number, out, name).map_err(|error| Error::at_dest("sync", path.clone(), error))?;
        }
        if several {
            self.placed.insert(file.number, path);
        }
        self.context.tell(false);
        Ok(())
    }

    /// One more name of what was put into place as `first`.
    fn place_again(&self, first: &Path, out: &OwnedFd, name: &Name, path: PathBuf) -> Result<(), Error> {
        let linked = rustix::fs::linkat(&self.context.stage.root, first, out, &**name, AtFlags::empty());
        linked.map_err(|error| Error::at_dest("link", path, error))
    }

    fn place_other(&mut self, other: &Other, out: &OwnedFd, name: &Name, path: &Path) -> Result<(), Error> {
        let failed = |error: rustix::io::Errno| Error::at_dest("create", path.to_owned(), error);
        let text = self.link_text(other, path);
        let key = (other.id, text.clone());
        if let Some(first) = self.others.get(&key) {
            return self.place_again(first, out, name, path.to_owned());
        }
        self.context.stage.space.before(0, 1)?;
        match other.kind() {
            Kind::Symlink => rustix::fs::symlinkat(&*text, out, &**name).map_err(failed)?,
            Kind::Fifo => rustix::fs::mkfifoat(out, &**name, Mode::RUSR | Mode::WUSR).map_err(failed)?,
            // A socket belongs to whoever listens on it, and a device is not data.
            _ => return Ok(()),
        }
        self.apply(out, name, &other.stat, path)?;
        for (attribute, value) in &other.xattrs {
            let done = rustix::fs::lsetxattr(sys::path_at(out, name), attribute, value, XattrFlags::empty());
            self.attribute_set(attribute, path, done)?;
        }
        if self.is_placed_again(other) {
            self.others.insert(key, path.to_owned());
        }
        Ok(())
    }

    /// Whether what has no content may have more than one place in the backup.
    fn is_placed_again(&self, other: &Other) -> bool {
        self.twice || self.tree.has_several_names(&other.id)
    }

    /// What a symbolic link at `path` in the backup says.
    fn link_text(&self, other: &Other, path: &Path) -> OsString {
        match &other.link {
            Some((_, Shown::As(text))) => text.clone(),
            Some((_, Shown::InSource(index, rest))) => {
                let name = self.tree.roots.get(*index).and_then(|root| root.name.clone()).unwrap_or_default();
                relative(path.parent().unwrap_or(Path::new("")), &Path::new(&name).join(rest))
            }
            Some((text, _)) => text.clone(),
            None => OsString::new(),
        }
    }

    /// Owner, mode and times of what is not a directory.
    fn apply(&mut self, out: &OwnedFd, name: &OsStr, stat: &Stat, path: &Path) -> Result<(), Error> {
        let failed = |op| move |error: rustix::io::Errno| Error::at_dest(op, path.to_owned(), error);
        let mut mode = stat.permissions();
        if (stat.uid, stat.gid) != self.owner {
            let (uid, gid) = owner(stat);
            let done = rustix::fs::chownat(out, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
            if !self.tolerate("the owner could not be set", path, done).map_err(failed("set the owner of"))? {
                mode &= !0o6000;
            }
        }
        if stat.kind() != Kind::Symlink {
            rustix::fs::chmodat(out, name, Mode::from_raw_mode(mode), AtFlags::empty())
                .map_err(failed("set the mode of"))?;
        }
        rustix::fs::utimensat(out, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set the times of"))
    }

    /// Owner, mode, attributes and times of a directory: once all its entries are in place.
    fn apply_to_dir(&mut self, node: &DirNode, out: &OwnedFd, path: &Path) -> Result<(), Error> {
        let failed = |op| move |error: rustix::io::Errno| Error::at_dest(op, path.to_owned(), error);
        let state = node.dir.state().clone();
        let mut mode = state.stat.permissions();
        let (uid, gid) = owner(&state.stat);
        let done = rustix::fs::fchown(out, Some(uid), Some(gid));
        if !self.tolerate("the owner could not be set", path, done).map_err(failed("set the owner of"))? {
            mode &= !0o6000;
        }
        rustix::fs::fchmod(out, Mode::from_raw_mode(mode)).map_err(failed("set the mode of"))?;
        self.apply_xattrs(out, &state.xattrs, path)?;
        rustix::fs::futimens(out, &times(&state.stat)).map_err(failed("set the times of"))
    }

    fn apply_xattrs(&mut self, fd: &OwnedFd, all: &Attributes, path: &Path) -> Result<(), Error> {
        for (name, value) in all {
            let done = rustix::fs::fsetxattr(fd, name.as_c_str(), value, XattrFlags::empty());
            self.attribute_set(name, path, done)?;
        }
        Ok(())
    }

    fn attribute_set(&mut self, name: &CStr, path: &Path, done: rustix::io::Result<()>) -> Result<(), Error> {
        let what = format!("the extended attribute {} could not be set", name.to_string_lossy());
        let done = self.tolerate(&what, path, done);
        done.map(drop).map_err(|error| Error::at_dest("set an extended attribute of", path.to_owned(), error))
    }

    /// What the destination, or our privileges, cannot do is told and not fatal. Returns whether it was done.
    fn tolerate(&mut self, what: &str, path: &Path, done: rustix::io::Result<()>) -> rustix::io::Result<bool> {
        use rustix::io::Errno;
        match done {
            Ok(()) => Ok(true),
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL | Errno::ACCESS) => {
                self.lack(what, path);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn lack(&mut self, what: &str, path: &Path) {
        // The destination itself has no name within it.
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        self.lacking.entry(what.into()).or_insert_with(|| (0, path.to_owned())).0 += 1;
    }
}

/// A directory that is being put into place.
struct Level<'a> {
    node: &'a DirNode,
    left: std::collections::btree_map::Iter<'a, Name, Entry>,
    /// Its own, in the backup.
    id: FileId,
}

fn owner(stat: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(stat.uid), Gid::from_raw(stat.gid))
}

fn times(stat: &Stat) -> Timestamps {
    let time = |ns: i64| Timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) };
    Timestamps { last_access: time(stat.atime), last_modification: time(stat.mtime) }
}
