//! What is below the sources, for `check`: whether certain files are, and whether all can be read.

use std::collections::HashSet;
use std::fs::{self, DirEntry};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use hotbackup_copier::Source;
use hotbackup_tracer::{FileId, Process};
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{major, minor};
use nix::unistd::{AccessFlags, faccessat};

/// What was found, by the path below the source.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The files that were asked for.
    pub files: Vec<(FileId, PathBuf)>,
    /// Something that cannot be read.
    pub unreadable: Option<PathBuf>,
}

/// Walks through all sources, as a backup will. A file's metadata is looked at only where its inode is one of those asked for;
/// whether it can be read only if `access` says so: to root everything is readable.
pub(super) fn walk(process: &Process, sources: &[Source], wanted: &[FileId], access: bool) -> Found {
    let inodes = wanted.iter().map(|file| file.ino).collect();
    let mut walk = Walk { pid: process.pid(), wanted, inodes, access, seen: HashSet::new(), found: Found::default() };
    for source in sources {
        walk.directory(&PathBuf::from(format!("/proc/self/fd/{}", source.root.as_raw_fd())), &source.path);
    }
    walk.found
}

struct Walk<'a> {
    pid: i32,
    wanted: &'a [FileId],
    inodes: HashSet<u64>,
    access: bool,
    /// Directories: a link may lead back.
    seen: HashSet<(u64, u64)>,
    found: Found,
}

impl Walk<'_> {
    fn directory(&mut self, place: &Path, name: &Path) {
        // Not recursive: a tree may be deeper than a stack.
        let mut todo = vec![(place.to_owned(), name.to_owned())];
        while let Some((place, name)) = todo.pop() {
            let Ok(metadata) = fs::metadata(&place) else { continue };
            if !metadata.is_dir() || !self.seen.insert((metadata.dev(), metadata.ino())) {
                continue;
            }
            let Ok(entries) = fs::read_dir(&place) else {
                self.found.unreadable.get_or_insert(name);
                continue;
            };
            for entry in entries.flatten() {
                let name = name.join(entry.file_name());
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => todo.push((entry.path(), name)),
                    Ok(kind) if kind.is_symlink() => todo.extend(self.follow(&entry).map(|place| (place, name))),
                    Ok(kind) if kind.is_file() => self.file(&entry, name),
                    _ => {}
                }
            }
        }
    }

    /// Where a link leads: a directory is copied as one.
    fn follow(&self, entry: &DirEntry) -> Option<PathBuf> {
        let text = fs::read_link(entry.path()).ok()?;
        match text.strip_prefix("/") {
            Ok(below) => Some(PathBuf::from(format!("/proc/{}/root", self.pid)).join(below)),
            Err(_) => Some(entry.path()),
        }
    }

    fn file(&mut self, entry: &DirEntry, name: PathBuf) {
        if self.inodes.contains(&entry.ino())
            && let Ok(metadata) = entry.metadata()
        {
            let found = identity(&metadata);
            // Some are known by device and inode alone.
            let is_it = |wanted: &&FileId| {
                (wanted.dev, wanted.ino) == (found.dev, found.ino)
                    && (wanted.btime_ns == 0 || wanted.btime_ns == found.btime_ns)
            };
            self.found.files.extend(self.wanted.iter().find(is_it).map(|&file| (file, name.clone())));
        }
        if self.access && self.found.unreadable.is_none() {
            let readable = faccessat(AT_FDCWD, &entry.path(), AccessFlags::R_OK, AtFlags::AT_EACCESS);
            self.found.unreadable = readable.is_err().then_some(name);
        }
    }
}

/// Device, inode and birth: the inode of a file that is gone may be this one's by now.
fn identity(metadata: &fs::Metadata) -> FileId {
    let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
    FileId {
        dev: major(metadata.dev()) << 32 | minor(metadata.dev()),
        ino: metadata.ino(),
        btime_ns: born.map_or(0, |born| born.as_nanos() as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;

    #[test]
    fn a_file_is_told_from_one_that_had_its_inode_before() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "content").unwrap();
        let file = identity(&fs::metadata(dir.path().join("file")).unwrap());
        let root = OwnedFd::from(fs::File::open(dir.path()).unwrap());
        let walk = |wanted: FileId| {
            let mut walk = Walk {
                pid: std::process::id() as i32,
                wanted: &[wanted],
                inodes: HashSet::from([wanted.ino]),
                access: false,
                seen: HashSet::new(),
                found: Found::default(),
            };
            walk.directory(&PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd())), Path::new("/"));
            walk.found.files
        };
        assert_eq!(walk(file), [(file, PathBuf::from("/file"))]);
        assert_eq!(walk(FileId { btime_ns: file.btime_ns.wrapping_sub(1), ..file }), []);
    }
}
