//! Publishing: everything is put in its place, made durable, and described, before the backup gets its name.
//!
//! The target is not involved any more. Nothing here looks at the sources: names, sizes and metadata are those of the
//! frozen model, and the content is staged.
mod again;
mod describe;
mod keep;
pub(crate) mod manifest;
mod metadata;
pub(crate) mod place;
pub(crate) mod summary;
pub(crate) mod verify;
mod walk;

use crate::base::digest::{Digest, Hasher, Way};
use crate::base::sys::{self, Kind};
use crate::base::util::and_more;
use crate::context::Context;
use crate::marks::node::{File, Name, StagedHash, Xattrs};
use crate::stage::Stage;
use crate::tree::{Other, Root, Shown, Tree, relative};
use crate::trial::{Loss, Trial};
use crate::{Error, NotKept, Report, Special};
use hotbackup_event::change::Change;
use hotbackup_event::look::is_gone;
use hotbackup_event::{FileId, failpoint};
use metadata::{Key, Lost, Spot};
use rustix::fs::{Mode, RenameFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
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
    /// Where files with several names were put first, in each destination.
    placed: HashMap<u64, Vec<(usize, PathBuf)>>,
    /// The same for what has no content, in the destination that is dealt with.
    others: HashMap<OtherKey, PathBuf>,
    /// Which destination that is.
    part: usize,
    /// Several links lead to one directory: even files with one name are placed more than once.
    twice: bool,
    /// Whether each file and directory is synced on its own.
    sync_each: bool,
    /// Whom staged files belong to, in the destination that is dealt with.
    owner: (u32, u32),
    /// What the trial found.
    trial: &'a Trial,
    /// What could not be kept of some entries, in words: how many, and the first.
    lacking: BTreeMap<String, (Loss, u64, PathBuf)>,
    /// What was not kept of each of them.
    lost: HashMap<(usize, Key), Lost>,
    /// Names that are copies where they should be hard links, in which destination.
    copied: HashSet<(usize, PathBuf)>,
    report: (u64, u64, u64),
    special: Special,
}

impl<'a, P: Send + 'static> Publisher<'a, P> {
    pub fn new(context: &'a Context<'a, P>, tree: &'a Tree) -> Self {
        let (placed, others, lacking) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        let (lost, copied, trial) = (HashMap::new(), HashSet::new(), context.trial.get_or_init(Trial::default));
        let twice = tree.dirs().any(|node| !node.has_one_name());
        let (sync_each, owner, report, special) = (true, (0, 0), (0, 0, 0), Special::default());
        Self {
            context,
            tree,
            placed,
            others,
            part: 0,
            twice,
            sync_each,
            owner,
            trial,
            lacking,
            lost,
            copied,
            report,
            special,
        }
    }

    /// Makes the staging directory a complete backup in all but its name.
    pub fn publish(mut self, mut report: Report) -> Result<Report, Error> {
        let stage = self.context.stage;
        let failed = |op, path: PathBuf| move |error: io::Error| Error::at_dest(op, path, error);
        let files = self.context.ledger.files();
        self.sync_each = stage.syncs_each(files.len(), self.context.tuning.sync_each_below);
        stage.check_parent()?;
        for file in &files {
            self.context.check()?;
            self.finish(file)?;
            self.context.tell(false);
        }
        for (index, root) in self.tree.roots.iter().enumerate() {
            let Some(node) = self.tree.dir(&root.id) else { continue };
            self.turn_to(index);
            let part = self.stage();
            let data = sys::stat_fd(part.data()).map_err(failed("look at", part.path()))?.stat;
            self.owner = (data.uid, data.gid);
            match &root.name {
                None => {
                    let out = sys::reopen(&part.root).map_err(failed("open", part.path()))?;
                    self.place_tree(node, out, None)?;
                }
                Some(name) => {
                    let out = self.make_dir(&part.root, name, Path::new(name))?;
                    self.place_tree(node, out, Some(name))?;
                }
            }
        }
        for part in stage.parts() {
            part.clear_data()?;
        }
        failpoint::hit("publish.placed");
        // Each file by itself, or all at once; and all at once, too, where descriptors were closed as that was to follow: the errors of
        // what was written through those are told in no other way.
        for part in stage.parts() {
            if !self.sync_each || part.has_closed_some() {
                stage.io.sync_all(part.root.as_fd()).map_err(failed("sync", part.path()))?;
            }
        }
        let (files, directories, bytes) = self.report;
        (report.files, report.directories, report.bytes_total) = (files, directories, bytes);
        report.phases = self.context.phases();
        report.excluded = self.tree.left_out(None).len() as u64;
        report.special = std::mem::take(&mut self.special);
        let roots: Vec<_> = self.tree.roots.iter().enumerate().filter(|(_, root)| root.name.is_none()).collect();
        let state = |root: &Root| self.tree.dir(&root.id).map(|node| (root.id, node.dir.state().clone()));
        let roots: Vec<_> = roots.into_iter().filter_map(|(index, root)| Some((index, state(root)?))).collect();
        for (index, (id, state)) in &roots {
            self.turn_to(*index);
            self.try_root(Key::Dir(*id), &state.stat, &state.xattrs)?;
        }
        report.not_kept = self.not_kept();
        if !stage.bare {
            self.write_manifests(&report)?;
        }
        failpoint::hit("publish.described");
        // The root's own metadata comes last: until then nobody else can look inside.
        let lacking = std::mem::take(&mut self.lacking);
        for (index, (_, state)) in &roots {
            self.turn_to(*index);
            self.keep(Spot::Dir(&stage.part(*index).root), &state.stat, &state.xattrs, Path::new(""))?;
        }
        for part in stage.parts() {
            stage.sync_dir(&part.root).map_err(failed("sync", part.path()))?;
        }
        failpoint::hit("publish.synced");
        for pattern in self.tree.exclude.unused() {
            self.context.monitor.warning(&format!(
                "--exclude {pattern:?} left nothing out: nothing matched it that is not left out anyway (patterns are those of \
                 .gitignore, and begin at the source)"
            ));
        }
        let new = lacking.iter().filter(|(_, (loss, ..))| !self.trial.told.contains_key(loss));
        for (what, (_, count, first)) in new {
            self.context.monitor.warning(&format!("{what}: {}", and_more(first, *count)));
        }
        if !stage.syncs_dirs() {
            let words = "the destination cannot sync directories: after a power failure, names may be missing";
            self.context.monitor.warning(words);
        }
        Ok(report)
    }

    /// The staging directory of what is put into place.
    fn stage(&self) -> &'a Stage {
        self.context.stage.part(self.part)
    }

    /// From here on, what is put into place belongs to this source.
    fn turn_to(&mut self, source: usize) {
        if self.context.stage.is_inside() {
            self.part = source;
            self.others.clear();
        }
    }

    /// What could not be kept, for the result and the manifest.
    fn not_kept(&self) -> Vec<NotKept> {
        let all = self.lacking.iter().map(|(words, (loss, count, first))| NotKept {
            what: loss.name().into(),
            words: words.clone(),
            count: *count,
            first: if first.as_os_str().is_empty() { ".".into() } else { first.clone() },
        });
        // Holes are seen where they are, not where they are put.
        all.chain(self.trial.told.get(&Loss::Holes).cloned()).collect()
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

    fn place_file(&mut self, file: &Arc<File>, out: &OwnedFd, name: &Name, path: PathBuf) -> Result<(), Error> {
        let (stage, number) = (self.stage(), file.number);
        stage.space.look()?;
        let (stat, several, xattrs) = {
            let state = file.state();
            let xattrs = match &state.xattrs {
                Xattrs::Known(Some(all)) => (**all).clone(),
                _ => Vec::new(),
            };
            (state.stat, state.links.len() > 1 || self.twice, xattrs)
        };
        let places = self.placed.get(&number).cloned().unwrap_or_default();
        if let Some(first) = places.iter().find(|(part, _)| *part == self.part) {
            if self.link_again(&first.1, out, name, &path)? {
                return Ok(());
            }
            return self.copy_again((first, number), (out, name), (&stat, &xattrs), &path);
        }
        match places.first() {
            // In another destination, so this is no second name of it.
            Some(first) => self.copy_again((first, number), (out, name), (&stat, &xattrs), &path)?,
            None => {
                self.place_staged(number, out, name, &path)?;
                let lost = self.keep(Spot::Entry(out, name), &stat, &xattrs, &path)?;
                self.note_lost(Key::File(number), lost);
                if self.sync_each {
                    let synced = self.context.stage.sync_file(number, out, name);
                    synced.map_err(|error| Error::changing(Change::Sync, path.clone(), error))?;
                }
            }
        }
        if several {
            self.placed.entry(number).or_default().push((self.part, path));
        }
        self.context.tell(false);
        Ok(())
    }

    /// Gives a staged file its name, which nothing may have.
    fn place_staged(&self, number: u64, out: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), Error> {
        let (stage, staged) = (self.context.stage.of(number), number.to_string());
        let rename = || rustix::fs::renameat_with(stage.data(), &*staged, out, name, RenameFlags::NOREPLACE);
        let done = match stage.may(Change::Place, rename) {
            // The file system knows no such flag, most of FUSE. Nobody but us is at work here.
            Err(Errno::INVAL | Errno::NOSYS) => match sys::stat_at(out, name) {
                Ok(_) => Err(Errno::EXIST),
                Err(error) if !is_gone(&error) => return Err(Error::changing(Change::Place, path.to_owned(), error)),
                Err(_) => rustix::fs::renameat(stage.data(), &*staged, out, name),
            },
            // It was found in another source first, and so staged for that one's destination.
            Err(Errno::XDEV) => return self.place_copy(number, out, name, path),
            done => done,
        };
        done.map_err(|error| Error::changing(Change::Place, path.to_owned(), error))
    }

    fn place_other(&mut self, other: &Other, out: &OwnedFd, name: &Name, path: &Path) -> Result<(), Error> {
        let failed = |change| move |error: Errno| Error::changing(change, path.to_owned(), error);
        self.count(other, path);
        let (stage, text) = (self.stage(), self.link_text(other, path));
        let key = (other.id, text.clone());
        if let Some(first) = self.others.get(&key).cloned()
            && self.link_again(&first, out, name, path)?
        {
            return Ok(());
        }
        stage.space.before(0, 1)?;
        match other.kind() {
            Kind::Symlink => stage
                .may(Change::Symlink, || rustix::fs::symlinkat(&*text, out, &**name))
                .map_err(failed(Change::Symlink))?,
            Kind::Fifo => stage
                .may(Change::Fifo, || rustix::fs::mkfifoat(out, &**name, Mode::RUSR | Mode::WUSR))
                .map_err(failed(Change::Fifo))?,
            // A socket belongs to whoever listens on it, and a device is not data.
            _ => return Ok(()),
        }
        let lost = self.keep(Spot::Entry(out, name), &other.stat, &other.xattrs, path)?;
        self.note_lost(Key::Other(other.id), lost);
        if self.is_placed_again(other) {
            // The first stays the one that others are told to be the same as.
            self.others.entry(key).or_insert_with(|| path.to_owned());
        }
        Ok(())
    }

    fn count(&mut self, other: &Other, path: &Path) {
        match other.kind() {
            Kind::Fifo => self.special.fifos += 1,
            Kind::Socket => self.special.sockets += 1,
            Kind::Device => self.special.devices += 1,
            _ if matches!(other.link, Some((_, Shown::Outside))) => self.special.outside_links.add(path),
            _ => {}
        }
    }

    /// Whether what has no content may have more than one place in the backup.
    fn is_placed_again(&self, other: &Other) -> bool {
        self.twice || self.tree.has_several_names(&other.id)
    }

    /// What a symbolic link at `path` in the backup says.
    fn link_text(&self, other: &Other, path: &Path) -> OsString {
        match &other.link {
            Some((_, Shown::As(text))) => text.clone(),
            Some((_, Shown::InSource(index, rest))) if self.context.stage.is_inside() => match *index == self.part {
                true => relative(path.parent().unwrap_or(Path::new("")), rest),
                // The other destination, wherever that is.
                false => self.context.stage.part(*index).dest.join(rest).into(),
            },
            Some((_, Shown::InSource(index, rest))) => {
                let name = self.tree.roots.get(*index).and_then(|root| root.name.clone()).unwrap_or_default();
                relative(path.parent().unwrap_or(Path::new("")), &Path::new(&name).join(rest))
            }
            Some((text, _)) => text.clone(),
            None => OsString::new(),
        }
    }
}

/// Something has a name that should be new.
fn is_taken(path: PathBuf) -> Error {
    Error::changing(Change::Place, path, Errno::EXIST)
}
