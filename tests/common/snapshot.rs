//! What a directory tree looks like, as far as a backup must keep it: names, types, links, owners, modes, times, extended
//! attributes, and every byte.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;
use nix::unistd::{Whence, lseek64};

const BLOCK: usize = 4096;

/// A tree at one moment.
#[derive(Clone, PartialEq, Eq)]
pub struct Snapshot {
    entries: BTreeMap<PathBuf, Entry>,
}

/// One name in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    kind: Kind,
    /// The first of its names, if it has several here and is no directory.
    first: Option<PathBuf>,
    mode: u32,
    owner: (u32, u32),
    /// Nanoseconds. The access time of a regular file alone: looking at a directory or a link moves theirs.
    modified: i128,
    accessed: Option<i128>,
    attributes: BTreeMap<OsString, Vec<u8>>,
}

#[derive(Clone, PartialEq, Eq)]
enum Kind {
    Dir,
    /// Its size, and its blocks that are not all zeros.
    File {
        size: u64,
        blocks: BTreeMap<u64, Vec<u8>>,
    },
    Link(PathBuf),
    Fifo,
}

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir => write!(f, "directory"),
            Self::File { size, blocks } => {
                write!(f, "file of {size} bytes")?;
                for (at, block) in blocks.iter().take(4) {
                    let start: String =
                        block.iter().take(24).flat_map(|b| std::ascii::escape_default(*b)).map(char::from).collect();
                    write!(f, ", at {at} \"{start}\"")?;
                }
                Ok(())
            }
            Self::Link(target) => write!(f, "link to {target:?}"),
            Self::Fifo => write!(f, "fifo"),
        }
    }
}

impl Snapshot {
    /// Looks at a tree. A backup's own `.hotbackup`, sockets and devices do not count.
    pub fn of(root: &Path) -> Self {
        let mut snapshot = Self { entries: BTreeMap::new() };
        snapshot.add(root, Path::new(""), &mut HashMap::new());
        snapshot
    }

    fn add(&mut self, path: &Path, name: &Path, links: &mut HashMap<(u64, u64), PathBuf>) {
        let data = fs::symlink_metadata(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let mut accessed = None;
        let kind = if data.is_dir() {
            Kind::Dir
        } else if data.is_file() {
            accessed = Some(i128::from(data.atime()) * 1_000_000_000 + i128::from(data.atime_nsec()));
            Kind::File { size: data.len(), blocks: content(path, &data) }
        } else if data.is_symlink() {
            Kind::Link(fs::read_link(path).expect("a link"))
        } else if data.file_type().is_fifo() {
            Kind::Fifo
        } else {
            return;
        };
        let first = (data.nlink() > 1 && !data.is_dir())
            .then(|| links.entry((data.dev(), data.ino())).or_insert_with(|| name.to_owned()).clone());
        let entry = Entry {
            kind,
            first,
            mode: data.mode() & 0o7777,
            owner: (data.uid(), data.gid()),
            modified: i128::from(data.mtime()) * 1_000_000_000 + i128::from(data.mtime_nsec()),
            accessed,
            attributes: attributes(path),
        };
        self.entries.insert(name.to_owned(), entry);
        if data.is_dir() {
            let mut names: Vec<OsString> =
                fs::read_dir(path).expect("readable").map(|entry| entry.expect("readable").file_name()).collect();
            names.sort();
            // By a descriptor: trees may be deeper than a path can be long.
            let dir = File::open(path).expect("readable");
            let here = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            for child in names {
                let below = name.join(&child);
                if below != Path::new(".hotbackup") {
                    self.add(&here.join(&child), &below, links);
                }
            }
        }
        // A file with one name in the tree and others outside is not a group of links here.
        if name == Path::new("") {
            self.forget_lone_links();
        }
    }

    fn forget_lone_links(&mut self) {
        let mut counts: HashMap<PathBuf, u32> = HashMap::new();
        for entry in self.entries.values() {
            if let Some(first) = &entry.first {
                *counts.entry(first.clone()).or_default() += 1;
            }
        }
        for entry in self.entries.values_mut() {
            if entry.first.as_ref().is_some_and(|first| counts[first] == 1) {
                entry.first = None;
            }
        }
    }

    /// Where the other differs, in words; nothing when it does not.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (name, here) in &self.entries {
            match other.entries.get(name) {
                None => found.push(format!("{name:?} is missing: {here:?}")),
                Some(there) if there != here => {
                    found.push(format!("{name:?} is {there:?},\n    not {here:?}"));
                    if let (Kind::File { blocks: a, .. }, Kind::File { blocks: b, .. }) = (&here.kind, &there.kind) {
                        let at = a.keys().chain(b.keys()).filter(|at| a.get(at) != b.get(at)).min();
                        found.extend(at.map(|at| format!("    content differs from {at} on")));
                    }
                }
                Some(_) => {}
            }
        }
        found.extend(
            other
                .entries
                .iter()
                .filter(|(name, _)| !self.entries.contains_key(*name))
                .map(|(name, there)| format!("{name:?} should not be there: {there:?}")),
        );
        found
    }

    /// Without what a second run of the same calls would not make the same: times at which something was written, as
    /// opposed to those that were set to long ago. Only names that are wanted are kept.
    pub fn of_calls(mut self, wanted: impl Fn(&Path) -> bool) -> Self {
        const LONG_AGO: i128 = 1_500_000_000_000_000_000;
        self.entries.retain(|name, _| wanted(name));
        for entry in self.entries.values_mut() {
            entry.accessed = None;
            entry.modified = entry.modified.min(LONG_AGO);
        }
        self.forget_lone_links();
        self
    }

    /// How many names it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }
}

/// The blocks that are not all zeros. Read without a trace in the access time.
fn content(path: &Path, data: &Metadata) -> BTreeMap<u64, Vec<u8>> {
    let file = File::options().read(true).custom_flags(libc::O_NOATIME).open(path).expect("readable");
    let mut blocks = BTreeMap::new();
    let mut at = 0;
    while at < data.len() {
        let Ok(start) = lseek64(&file, at as i64, Whence::SeekData) else { break };
        let end = lseek64(&file, start, Whence::SeekHole).expect("data ends") as u64;
        at = start as u64 / BLOCK as u64 * BLOCK as u64;
        while at < end {
            let mut block = vec![0; BLOCK.min((data.len() - at) as usize)];
            file.read_exact_at(&mut block, at).expect("readable");
            if block.iter().any(|byte| *byte != 0) {
                blocks.insert(at, block);
            }
            at += BLOCK as u64;
        }
    }
    blocks
}

/// The extended attributes of what a path names, itself.
fn attributes(path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut buffer = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(path, &mut buffer) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        length => length.expect("the attributes can be listed"),
    };
    let names: Vec<Vec<u8>> = buffer[..length].split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
    let mut all = BTreeMap::new();
    for name in names.iter().filter(|name| !name.is_empty()) {
        let name = OsStr::from_bytes(name);
        let length = rustix::fs::lgetxattr(path, name, &mut buffer).expect("the attribute can be read");
        all.insert(name.to_owned(), buffer[..length].to_vec());
    }
    all
}
