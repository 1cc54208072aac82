//! The manifest of what was put into place.
use super::metadata::{Key, owner};
use super::{CHUNK, OtherKey, Publisher};
use crate::interface::spec::OWN_DIR;
use crate::publish::manifest::{self, Entries, ExcludeRecord, Header, Record, SourceRecord, Text};
use crate::stage::Stage;
use crate::tree::{DirNode, Entry, Root};
use crate::trial::Loss;
use crate::{Error, Report};
use hotbackup_event::FileId;
use hotbackup_event::change::Change;
use std::cell::RefCell;
use std::collections::{HashMap, hash_map};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

impl<P: Send + 'static> Publisher<'_, P> {
    /// One manifest, or one for each destination.
    pub(super) fn write_manifests(&mut self, report: &Report) -> Result<(), Error> {
        let roots = &self.tree.roots;
        if !self.context.stage.is_inside() {
            return self.write_manifest(report, roots, None);
        }
        for (index, root) in roots.iter().enumerate() {
            self.turn_to(index);
            self.write_manifest(report, std::slice::from_ref(root), Some(index))?;
        }
        Ok(())
    }

    fn write_manifest(&self, report: &Report, roots: &[Root], of: Option<usize>) -> Result<(), Error> {
        let stage = self.stage();
        let path = stage.path().join(OWN_DIR).join(manifest::FILE);
        let failed = |error: io::Error| Error::changing(Change::Write, path.clone(), error);
        let fd = stage.io.create(stage.own.as_fd(), OsStr::new(manifest::FILE)).map_err(failed)?;
        let text = |path: &Path| Text::from(path.as_os_str());
        let source = |root: &Root| SourceRecord { path: text(&root.path), name: root.name.as_deref().map(Text::from) };
        let (exclude, excluded) = self.left_out(of);
        let sources = roots.iter().map(source).collect();
        let header = Header { exclude, excluded, ..Header::new(report, self.context.pid, sources) };
        let refused = RefCell::default();
        let writer = StagedWriter { stage, fd: &fd, at: 0, refused: &refused };
        // What was refused before it was written is no error of the destination.
        let failed = |error: io::Error| refused.take().unwrap_or_else(|| failed(error));
        let mut out = io::BufWriter::with_capacity(CHUNK, writer);
        header.write_to(&mut out).map_err(failed)?;
        let mut entries = Entries::new(out);
        let mut first = First::default();
        for root in roots {
            let path = root.name.as_ref().map(PathBuf::from).unwrap_or_default();
            self.describe(&root.id, path, &mut entries, &mut first).map_err(failed)?;
        }
        drop(entries.finish().map_err(failed)?);
        // Whoever owns the data may also throw the manifest away.
        if let Some(node) = roots.first().and_then(|root| self.tree.dir(&root.id)) {
            let (uid, gid) = owner(&node.dir.state().stat);
            let _ = rustix::fs::fchown(&fd, Some(uid), Some(gid));
            let _ = rustix::fs::fchown(&stage.own, Some(uid), Some(gid));
        }
        stage.io.sync(fd.as_fd()).map_err(failed)?;
        stage.sync_dir(&stage.own).map_err(failed)
    }

    fn record_of(&self, node: &DirNode, path: &Path) -> Record {
        let mut record = Record::new(path, &node.dir.state().stat);
        record.not_kept = self.names_lost(Key::Dir(node.dir.id), path);
        record
    }

    /// What was not kept of an entry.
    fn names_lost(&self, key: Key, path: &Path) -> Vec<String> {
        let lost = self.lost.get(&(self.part, key)).copied().unwrap_or_default();
        let is_copied = !self.copied.is_empty() && self.copied.contains(&(self.part, path.to_owned()));
        let copied = is_copied.then_some(Loss::HardLink.name());
        lost.names().chain(copied).map(str::to_owned).collect()
    }

    /// The patterns, with how many names each left out, and the first of all these names.
    fn left_out(&self, of: Option<usize>) -> (Vec<ExcludeRecord>, Vec<Text>) {
        let record = |pattern: &str| ExcludeRecord { pattern: pattern.into(), names: 0 };
        let mut patterns: Vec<ExcludeRecord> = self.tree.exclude.patterns().map(record).collect();
        let mut names = Vec::new();
        for (path, rule) in self.tree.left_out(of) {
            patterns[rule].names += 1;
            if names.len() < manifest::MOST_EXCLUDED {
                names.push(Text::from(path.as_os_str()));
            }
        }
        (patterns, names)
    }

    /// Writes a directory and all below it to the manifest, by a list of what is still to be written.
    fn describe<W: io::Write>(
        &self,
        top: &FileId,
        mut path: PathBuf,
        out: &mut Entries<W>,
        first: &mut First,
    ) -> io::Result<()> {
        let Some(node) = self.tree.dir(top) else { return Ok(()) };
        out.write(&self.record_of(node, &path))?;
        let (mut levels, mut dirs) = (vec![node.entries.iter()], vec![*top]);
        while let Some(left) = levels.last_mut() {
            let Some((name, entry)) = left.next() else {
                levels.pop();
                dirs.pop();
                path.pop();
                continue;
            };
            if let Some(dir) = dirs.last()
                && self.tree.is_left_out_now(dir, name)
            {
                continue;
            }
            path.push(&**name);
            match entry {
                Entry::Dir(id) => {
                    if let Some(node) = self.tree.dir(id) {
                        out.write(&self.record_of(node, &path))?;
                        levels.push(node.entries.iter());
                        dirs.push(*id);
                        continue;
                    }
                }
                Entry::Other(other) => {
                    let mut record = Record::new(&path, &other.stat);
                    let text = self.link_text(other, &path);
                    if other.link.is_some() {
                        record.target = Some(Text(text.clone()));
                    }
                    if self.is_placed_again(other) {
                        record.hardlink_of = first.others.of((other.id, text), &path);
                    }
                    record.not_kept = self.names_lost(Key::Other(other.id), &path);
                    out.write(&record)?;
                }
                Entry::File(file) => {
                    let state = file.state();
                    let mut record = Record::new(&path, &state.stat);
                    record.size = Some(state.stat.size);
                    if let Some(staged) = &state.hash {
                        record.set_digest(staged.hash);
                    }
                    if state.links.len() > 1 || self.twice {
                        record.hardlink_of = first.files.of(file.number, &path);
                    }
                    record.not_kept = self.names_lost(Key::File(file.number), &path);
                    out.write(&record)?;
                }
            }
            path.pop();
        }
        Ok(())
    }
}

/// The first names of what has several, in the order of the manifest.
#[derive(Default)]
struct First {
    files: Names<u64>,
    others: Names<OtherKey>,
}

struct Names<K>(HashMap<K, PathBuf>);

impl<K> Default for Names<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + std::hash::Hash> Names<K> {
    /// The first name, if `path` is not that.
    fn of(&mut self, key: K, path: &Path) -> Option<Text> {
        match self.0.entry(key) {
            hash_map::Entry::Occupied(first) => Some(Text::from(first.get().as_os_str())),
            hash_map::Entry::Vacant(none) => {
                none.insert(path.to_owned());
                None
            }
        }
    }
}

/// Writes to a staged file from its start to its end.
struct StagedWriter<'a> {
    stage: &'a Stage,
    fd: &'a OwnedFd,
    at: u64,
    refused: &'a RefCell<Option<Error>>,
}

impl io::Write for StagedWriter<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        if let Err(error) = self.stage.space.before(data.len() as u64, 0) {
            *self.refused.borrow_mut() = Some(error);
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.stage.io.write_at(self.fd.as_fd(), data, self.at)?;
        self.at += data.len() as u64;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
