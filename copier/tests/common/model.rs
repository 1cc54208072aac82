//! A tree in memory, the operations on it, and the same operations on a real tree.
use super::random::{Random, pick};
use super::{Target, pattern};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub enum Op {
    Write { path: String, offset: u64, len: usize, seed: u64 },
    Append { path: String, len: usize, seed: u64 },
    Truncate { path: String, len: u64 },
    Punch { path: String, start: u64, end: u64 },
    Create { path: String },
    Rename { from: String, to: String },
    Unlink { path: String },
    Link { from: String, to: String },
    Symlink { text: String, path: String },
    Mkdir { path: String },
    Rmdir { path: String },
    Chmod { path: String, mode: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
    Symlink(String),
}

/// What a subtree holds. Names are relative to it, without a leading slash.
#[derive(Debug, Clone, Default)]
pub struct Model {
    nodes: BTreeMap<String, Node>,
    files: HashMap<u64, (Vec<u8>, u32)>,
    next: u64,
}

fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

impl Model {
    fn named(&self, wanted: impl Fn(&Node) -> bool) -> Vec<String> {
        self.nodes.iter().filter(|(_, node)| wanted(node)).map(|(path, _)| path.clone()).collect()
    }

    fn files(&self) -> Vec<String> {
        self.named(|node| matches!(node, Node::File(_)))
    }

    fn dirs(&self) -> Vec<String> {
        self.named(|node| *node == Node::Dir)
    }

    fn file(&mut self, path: &str) -> &mut (Vec<u8>, u32) {
        match self.nodes[path] {
            Node::File(number) => self.files.get_mut(&number).unwrap(),
            _ => panic!("{path} is no file"),
        }
    }

    /// A name that nothing has, or (if wanted) that a file has.
    fn free_name(&self, random: &mut Random) -> String {
        let dirs = self.dirs();
        let name = format!("n{}", random.below(1000));
        let path = match pick(random, &dirs) {
            Some(dir) if random.below(3) > 0 && dir.matches('/').count() < 3 => format!("{dir}/{name}"),
            _ => name,
        };
        if self.nodes.contains_key(&path) { self.free_name(random) } else { path }
    }

    /// An operation that can be done now.
    pub fn plan(&self, random: &mut Random) -> Op {
        let files = self.files();
        let Some(path) = pick(random, &files).cloned() else {
            return Op::Create { path: self.free_name(random) };
        };
        let size = match self.nodes[&path] {
            Node::File(number) => self.files[&number].0.len() as u64,
            _ => 0,
        };
        let seed = random.next();
        let few = self.nodes.len() < 40;
        match random.below(100) {
            0..30 => {
                let offset = random.below(size + 70_000).min(600_000);
                Op::Write { path, offset, len: 1 + random.below(9_000) as usize, seed }
            }
            30..45 if size < 600_000 => Op::Append { path, len: 1 + random.below(50_000) as usize, seed },
            45..52 => Op::Truncate { path, len: random.below(size + 100_000).min(600_000) },
            52..57 if size > 0 => {
                let start = random.below(size);
                Op::Punch { path, start, end: start + 1 + random.below(200_000) }
            }
            57..67 if few => Op::Create { path: self.free_name(random) },
            67..69 => Op::Create { path },
            69..77 => Op::Rename { from: path, to: self.free_name(random) },
            77..80 => match pick(random, &files) {
                Some(to) if *to != path && self.nodes[to] != self.nodes[&path] => {
                    Op::Rename { from: path, to: to.clone() }
                }
                _ => Op::Unlink { path },
            },
            80..83 => match pick(random, &self.dirs()) {
                Some(dir) => {
                    let to = self.free_name(random);
                    if is_below(&to, dir) { Op::Unlink { path } } else { Op::Rename { from: dir.clone(), to } }
                }
                None => Op::Mkdir { path: self.free_name(random) },
            },
            83..88 => Op::Unlink { path },
            88..91 if few => Op::Link { from: path, to: self.free_name(random) },
            91..93 if few => Op::Symlink { text: format!("t{}", random.below(9)), path: self.free_name(random) },
            93..96 if few => Op::Mkdir { path: self.free_name(random) },
            96..98 => {
                let empty = |dir: &&String| !self.nodes.keys().any(|path| is_below(path, dir));
                match self.dirs().iter().find(empty) {
                    Some(dir) => Op::Rmdir { path: dir.clone() },
                    None => Op::Unlink { path },
                }
            }
            _ => Op::Chmod { path, mode: 0o600 | random.below(0o100) as u32 },
        }
    }

    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::Write { path, offset, len, seed } => {
                let (data, _) = self.file(path);
                let (start, end) = (*offset as usize, *offset as usize + len);
                data.resize(data.len().max(end), 0);
                data[start..end].copy_from_slice(&pattern(*seed, *len));
            }
            Op::Append { path, len, seed } => self.file(path).0.extend(pattern(*seed, *len)),
            Op::Truncate { path, len } => self.file(path).0.resize(*len as usize, 0),
            Op::Punch { path, start, end } => {
                let data = &mut self.file(path).0;
                let end = data.len().min(*end as usize);
                data[*start as usize..end].fill(0);
            }
            Op::Create { path } => {
                if self.nodes.contains_key(path) {
                    self.file(path).0.clear();
                } else {
                    self.next += 1;
                    self.nodes.insert(path.clone(), Node::File(self.next));
                    self.files.insert(self.next, (Vec::new(), 0o644));
                }
            }
            Op::Rename { from, to } => {
                let moved: Vec<String> =
                    self.nodes.keys().filter(|path| *path == from || is_below(path, from)).cloned().collect();
                for path in moved {
                    let node = self.nodes.remove(&path).unwrap();
                    self.nodes.insert(format!("{to}{}", &path[from.len()..]), node);
                }
            }
            Op::Unlink { path } | Op::Rmdir { path } => drop(self.nodes.remove(path)),
            Op::Link { from, to } => {
                let node = self.nodes[from].clone();
                self.nodes.insert(to.clone(), node);
            }
            Op::Symlink { text, path } => drop(self.nodes.insert(path.clone(), Node::Symlink(text.clone()))),
            Op::Mkdir { path } => drop(self.nodes.insert(path.clone(), Node::Dir)),
            Op::Chmod { path, mode } => self.file(path).1 = *mode,
        }
    }

    /// How a real tree differs from this one, if it does.
    pub fn difference(&self, root: &Path) -> Option<String> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let mut found = BTreeMap::new();
        let mut next = vec![PathBuf::new()];
        while let Some(dir) = next.pop() {
            for entry in std::fs::read_dir(root.join(&dir)).unwrap() {
                let entry = entry.unwrap();
                let path = dir.join(entry.file_name());
                if entry.file_type().unwrap().is_dir() {
                    next.push(path.clone());
                }
                found.insert(path.to_str().unwrap().to_owned(), entry.metadata().unwrap());
            }
        }
        let (here, there): (Vec<_>, Vec<_>) = (self.nodes.keys().collect(), found.keys().collect());
        if here != there {
            let missing: Vec<_> = here.iter().filter(|path| !there.contains(path)).collect();
            let extra: Vec<_> = there.iter().filter(|path| !here.contains(path)).collect();
            return Some(format!("missing {missing:?}, extra {extra:?}"));
        }
        let mut inodes = HashMap::new();
        for (path, node) in &self.nodes {
            let (meta, real) = (&found[path], root.join(path));
            let same = match node {
                Node::Dir => meta.is_dir(),
                Node::Symlink(text) => meta.is_symlink() && std::fs::read_link(&real).unwrap() == Path::new(text),
                Node::File(number) => {
                    let (data, mode) = &self.files[number];
                    if !meta.is_file() {
                        return Some(format!("{path} is no file"));
                    }
                    let inode = *inodes.entry(*number).or_insert(meta.ino());
                    if inode != meta.ino() {
                        return Some(format!("{path} is not linked"));
                    }
                    if *mode != meta.permissions().mode() & 0o7777 {
                        return Some(format!("{path} has mode {:o}, not {mode:o}", meta.permissions().mode()));
                    }
                    let real = std::fs::read(&real).unwrap();
                    if real != *data {
                        let at = real.iter().zip(data).position(|(a, b)| a != b);
                        return Some(format!("{path}: {} bytes, not {}, first at {at:?}", real.len(), data.len()));
                    }
                    true
                }
            };
            if !same {
                return Some(format!("{path} is something else than {node:?}"));
            }
        }
        None
    }
}

impl Op {
    /// Does it to a real tree, as a call of the target.
    pub fn run(&self, target: &Target, root: &Path) {
        match self {
            Self::Write { path, offset, len, seed } => target.pwrite(&root.join(path), *offset, &pattern(*seed, *len)),
            Self::Append { path, len, seed } => target.append(&root.join(path), &pattern(*seed, *len)),
            Self::Truncate { path, len } => target.truncate(&root.join(path), *len),
            Self::Punch { path, start, end } => target.punch(&root.join(path), *start, *end),
            Self::Create { path } => target.create(&root.join(path)),
            Self::Rename { from, to } => target.rename(&root.join(from), &root.join(to)),
            Self::Unlink { path } => target.unlink(&root.join(path)),
            Self::Link { from, to } => target.link(&root.join(from), &root.join(to)),
            Self::Symlink { text, path } => target.symlink(Path::new(text), &root.join(path)),
            Self::Mkdir { path } => target.mkdir(&root.join(path)),
            Self::Rmdir { path } => target.rmdir(&root.join(path)),
            Self::Chmod { path, mode } => target.chmod(&root.join(path), *mode),
        }
    }
}
