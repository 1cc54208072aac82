//! The model of the source trees: which names lead to which files and directories.
//!
//! Owned and changed by the thread that runs the backup; what others need of a file or directory is in its [`Node`].
//! Frozen at the point in time. Files and directories are known by identity, so a rename moves an entry and nothing
//! else. What lost its last name is kept for one more sync: a rename may have been seen in two halves.
mod chosen;
mod entries;
mod exclude;
mod find;
mod folding;
mod folds;
mod ghosts;
mod left_out;
mod links;
mod look;
mod loops;
mod resolve;
mod still;
mod walk;
mod ways;

use crate::base::sys::{self, Kind, Stat};
use crate::interface::spec::OWN_DIR;
use crate::marks::ledger::Ledger;
use crate::marks::node::{Dir, DirState, File, Name, Node};
use crate::{Error, Placing, Spec};
use hotbackup_event::FileId;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use chosen::Chosen;
pub(crate) use chosen::part_of;
pub(crate) use exclude::Exclude;
pub(crate) use folds::may_be_same;
pub(crate) use links::relative;
pub(crate) use look::Look;

#[derive(Debug)]
pub(crate) struct Tree {
    ledger: Arc<Ledger>,
    pub roots: Vec<Root>,
    dirs: HashMap<FileId, DirNode>,
    /// Symbolic links that may lead somewhere else without having been touched: looked at in every sync. Those that are left out for
    /// what they lead to are among them.
    volatile: HashSet<(FileId, Name)>,
    /// Of those that become what they lead to, who the link itself is. May hold more.
    followed: HashMap<(FileId, Name), FileId>,
    /// Where symbolic links, fifos and the like are: several places if they have several names, or are seen in the midst of
    /// a rename.
    others: HashMap<FileId, Vec<(FileId, Name)>>,
    /// Nodes without a name, and the sync in which they lost it.
    orphans: Vec<(Node, u64)>,
    /// Directories whose entries have not all been looked at.
    unread: Vec<FileId>,
    /// Known nodes that an entry looked at has to do with: their status may have changed.
    moved: Vec<Node>,
    /// Numbers of files that were forgotten: their staged data can go.
    pub dropped: Vec<u64>,
    /// Links that were found to lead to a directory they are in, in the last sync.
    loops: HashSet<(FileId, Name)>,
    pub exclude: Arc<Exclude>,
    /// What a pattern leaves out, by directory, and which.
    excluded: HashMap<FileId, BTreeMap<Name, usize>>,
    /// What is listed and was not found, by directory, and in which round each was met first.
    ghosts: HashMap<FileId, HashMap<OsString, u64>>,
    chosen: Chosen,
    /// Each source has a destination of its own: files are numbered by source, see [`part_of`].
    apart: bool,
    /// A directory got a name since loops were looked for.
    adopted: bool,
    /// Directories that may have more than one name.
    shared: HashSet<FileId>,
    /// What lies on the ways of links.
    ways: ways::Ways,
    /// Devices on which directories are known.
    devices: HashSet<u64>,
    /// The target's root directory, or our own.
    target_root: OwnedFd,
    staging: FileId,
    next_number: u64,
    round: u64,
    pub entries: u64,
    dest: PathBuf,
    pid: i32,
}

#[derive(Debug)]
pub(crate) struct Root {
    pub id: FileId,
    pub path: PathBuf,
    pub name: Option<OsString>,
}

#[derive(Debug)]
pub(crate) struct DirNode {
    pub dir: Arc<Dir>,
    pub entries: BTreeMap<Name, Entry>,
    parents: Vec<(FileId, Name)>,
    is_root: bool,
    /// How many directories it is in, when it became known.
    depth: u32,
    /// Whether it folds names.
    folds: folds::Folds,
}

/// What a name leads to.
#[derive(Debug)]
pub(crate) enum Entry {
    File(Arc<File>),
    Dir(FileId),
    Other(Box<Other>),
}

/// What has no content of its own to copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Other {
    pub id: FileId,
    pub stat: Stat,
    /// A symbolic link's target, and what to make of it.
    pub link: Option<(OsString, Shown)>,
    pub xattrs: sys::Attributes,
}

/// What a symbolic link looks like in the backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// As it is, for whatever becomes of its surroundings.
    Plain,
    /// As it is, for now.
    AsIs,
    /// The same; it leads out of the sources, to nothing or to something without content.
    Outside,
    /// With another text.
    As(OsString),
    /// Leading to this path in that source.
    InSource(usize, PathBuf),
}

impl Shown {
    pub fn is_volatile(&self) -> bool {
        *self != Self::Plain
    }
}

impl Tree {
    pub fn new(ledger: Arc<Ledger>, spec: Spec, staging: FileId) -> Result<Self, Error> {
        let target_root = match spec.root {
            Some(root) => root,
            None => sys::open_dir(rustix::fs::CWD, OsStr::new("/")).map_err(|e| Error::unreadable("/".into(), e))?,
        };
        let mut tree = Self {
            ledger,
            roots: Vec::new(),
            dirs: HashMap::new(),
            volatile: HashSet::new(),
            followed: HashMap::new(),
            others: HashMap::new(),
            orphans: Vec::new(),
            unread: Vec::new(),
            moved: Vec::new(),
            dropped: Vec::new(),
            loops: HashSet::new(),
            exclude: Arc::new(Exclude::new(&spec.exclude)?),
            excluded: HashMap::new(),
            ghosts: HashMap::new(),
            chosen: Chosen::default(),
            apart: false,
            adopted: false,
            shared: HashSet::new(),
            ways: ways::Ways::default(),
            devices: HashSet::new(),
            target_root,
            staging,
            next_number: 0,
            round: 0,
            entries: 0,
            dest: spec.dest,
            pid: spec.pid,
        };
        for source in spec.sources {
            let unreadable = |source_error| Error::SourceUnreadable { path: source.path.clone(), source: source_error };
            let found = sys::stat_fd(&source.root).map_err(unreadable)?;
            let root = Root { id: found.id, path: source.path.clone(), name: source.name };
            tree.add_dir(found, source.root, None)?;
            tree.roots.push(root);
        }
        Ok(tree)
    }

    /// The same, placed in another way, and with somebody to be asked what is left out.
    pub fn placed(mut self, placing: &Placing) -> Self {
        self.chosen = Chosen::by(placing.chooser.clone());
        self.apart = placing.into.len() > 1;
        self
    }

    /// The entry of a known directory. `None`: the directory is not known; `Some((_, None))`: it has no such entry.
    pub fn entry(&self, dir: &FileId, name: &OsStr) -> Option<(&Arc<Dir>, Option<&Entry>)> {
        let node = self.dirs.get(dir)?;
        Some((&node.dir, node.entries.get(name)))
    }

    /// A known directory.
    pub fn dir(&self, id: &FileId) -> Option<&DirNode> {
        self.dirs.get(id)
    }

    /// Whether a symbolic link, fifo or the like has more than one name here.
    pub fn has_several_names(&self, other: &FileId) -> bool {
        self.others.get(other).is_some_and(|places| places.len() > 1)
    }

    /// All known directories.
    pub fn dirs(&self) -> impl Iterator<Item = &DirNode> {
        self.dirs.values()
    }

    /// Those of some sources, or of all. `None`: of all.
    pub fn dirs_of<'a>(&'a self, sources: Option<&'a [usize]>) -> impl Iterator<Item = &'a DirNode> {
        let is_of = move |node: &&DirNode| {
            sources.is_none_or(|some| self.place(&node.dir.id).is_some_and(|(source, _)| some.contains(&source)))
        };
        self.dirs().filter(is_of)
    }

    /// Makes a directory known that was found in another one, or is a source; its entries are read later.
    fn add_dir(&mut self, found: sys::Found, fd: OwnedFd, within: Option<&FileId>) -> Result<(), Error> {
        let depth = within.map_or(Ok(0), |above| self.depth_below(above))?;
        self.check_kind(found.id.dev, &fd)?;
        let xattrs = sys::xattrs(&fd).map_err(|source| Error::unreadable(sys::fd_path(&fd), source))?;
        let dir = Arc::new(Dir::new(found.id, fd, DirState { stat: found.stat, xattrs }));
        self.ledger.register(Node::Dir(Arc::clone(&dir)));
        let folds = folds::Folds::default();
        let (entries, parents, is_root) = (BTreeMap::new(), Vec::new(), within.is_none());
        self.dirs.insert(found.id, DirNode { dir, entries, parents, is_root, depth, folds });
        self.unread.push(found.id);
        Ok(())
    }

    /// Whether this is known as a directory.
    fn is_known_dir(&self, id: &FileId) -> bool {
        self.dirs.contains_key(id)
    }

    fn foreign(&self, path: PathBuf) -> Error {
        Error::ForeignChange { path, pid: self.pid }
    }

    /// The path of a known directory in its source, and which source that is. `None` while it has no name.
    fn place(&self, dir: &FileId) -> Option<(usize, PathBuf)> {
        let mut names = Vec::new();
        let mut at = *dir;
        // Bounded: while names are being taken over, a directory may seem to be above itself.
        for _ in 0..=self.dirs.len() {
            let node = self.dirs.get(&at)?;
            if node.is_root {
                let index = self.roots.iter().position(|root| root.id == at)?;
                return Some((index, names.iter().rev().map(|name: &&Name| Path::new(&***name)).collect()));
            }
            let (parent, name) = node.parents.first()?;
            names.push(name);
            at = *parent;
        }
        None
    }

    /// The path of a known directory in the backup.
    pub fn place_in_backup(&self, dir: &FileId) -> PathBuf {
        let Some((source, path)) = self.place(dir) else { return PathBuf::new() };
        let name = self.roots.get(source).and_then(|root| root.name.as_ref());
        let name = name.map(Path::new).unwrap_or(Path::new(""));
        name.components().chain(path.components()).collect()
    }

    /// Whether an entry is left out of the backup; something is there under this name.
    pub fn is_excluded(&self, dir: &FileId, name: &OsStr) -> bool {
        if self.is_own(dir, name) {
            return true;
        }
        let Some(node) = self.dirs.get(dir).filter(|_| !self.exclude.is_empty()) else { return false };
        let path = self.path_below(dir, name);
        let Some(matching) = self.exclude.matching(&path) else { return false };
        // A link out of the sources may be a directory in the backup.
        let may_be_dir = || match sys::stat_at(&node.dir.fd, name) {
            Ok(found) => matches!(found.stat.kind(), Kind::Dir | Kind::Symlink),
            Err(_) => false,
        };
        matching.by_name().unwrap_or_else(|| matching.excludes(may_be_dir())).is_some()
    }

    /// The directory that backups keep for themselves.
    fn is_own(&self, dir: &FileId, name: &OsStr) -> bool {
        name == OWN_DIR && self.dirs.get(dir).is_some_and(|node| node.is_root)
    }

    /// The path of an entry in its source, as patterns match it.
    fn path_below(&self, dir: &FileId, name: &OsStr) -> PathBuf {
        self.place(dir).map(|(_, path)| path).unwrap_or_default().join(name)
    }

    /// What patterns leave out, without what is below it, by its path in the backup were it there; and which pattern. Of one
    /// source, or of all.
    pub fn left_out(&self, of: Option<usize>) -> Vec<(PathBuf, usize)> {
        let mut all = Vec::new();
        for (dir, names) in &self.excluded {
            let Some((source, below)) = self.place(dir) else { continue };
            if of.is_some_and(|of| of != source) {
                continue;
            }
            let top = self.roots[source].name.as_ref().map(PathBuf::from).unwrap_or_default().join(below);
            all.extend(names.iter().map(|(name, rule)| (top.join(&**name), *rule)));
        }
        all.sort();
        all
    }

    /// Bytes of all known files, and how many there are.
    pub fn totals(&self) -> (u64, u64) {
        let files = self.ledger.files();
        (files.iter().fold(0, |sum, file| file.state().map.size().saturating_add(sum)), files.len() as u64)
    }
}

impl DirNode {
    /// How many names lead to it.
    pub fn names(&self) -> usize {
        self.parents.len()
    }

    /// Whether no more than one name leads to it.
    pub fn has_one_name(&self) -> bool {
        self.parents.len() <= 1
    }
}

impl Entry {
    /// Who it is; of a link out of the sources, what it leads to.
    fn id(&self) -> FileId {
        match self {
            Self::File(file) => file.id,
            Self::Dir(id) => *id,
            Self::Other(other) => other.id,
        }
    }
}

impl Other {
    pub fn kind(&self) -> Kind {
        self.stat.kind()
    }
}

#[cfg(test)]
mod look_tests;
#[cfg(test)]
mod replay_tests;
