//! The source directories, opened as the target sees them.

use std::collections::HashSet;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use hotbackup_copier::Source;
use hotbackup_tracer::Process;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::Error;

/// Opens the sources below the target's root; without any, mongod's dbpath.
pub(super) fn open(process: &Process, paths: &[PathBuf]) -> Result<Vec<Source>, Error> {
    let found;
    let paths = if paths.is_empty() {
        found = vec![crate::discover::dbpath(process.pid())?];
        &found
    } else {
        paths
    };
    let root = open_root(process)?;
    let mut names = HashSet::new();
    let mut sources = Vec::with_capacity(paths.len());
    for path in paths {
        let name = if paths.len() == 1 { None } else { path.file_name().map(ToOwned::to_owned) };
        if let Some(name) = &name
            && !names.insert(name.clone())
        {
            let first = paths.iter().find(|other| other.file_name() == Some(name)).unwrap_or(path).clone();
            return Err(hotbackup_copier::Error::SourcesOverlap { first, second: path.clone() }.into());
        }
        sources.push(Source { root: open_one(&root, path)?, path: path.clone(), name });
    }
    Ok(sources)
}

/// Where the sources are, as links in /proc show what is below them.
pub(super) fn places(sources: &[Source]) -> Vec<PathBuf> {
    let place = |source: &Source| std::fs::read_link(format!("/proc/self/fd/{}", source.root.as_raw_fd())).ok();
    sources.iter().filter_map(place).collect()
}

/// What is to be said where a core file of the target would fall into a source: while a backup is taken, that fails it.
pub(super) fn cores_into(process: &Process, sources: &[Source]) -> Option<String> {
    let dir = hotbackup_tracer::core_directory(process)?;
    let is_inside = places(sources).iter().any(|place| dir.starts_with(place));
    is_inside.then(|| {
        format!(
            "a core file would fall into {}, in the source: a backup that is taken then fails (core(5), core_pattern)",
            dir.display()
        )
    })
}

fn open_one(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Error> {
    use hotbackup_copier::Error as Copier;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    // Relative to where the operator stands, as every command understands it.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    openat2(root, &absolute, how).map_err(|errno| {
        let path = path.to_path_buf();
        Error::Copier(match errno {
            Errno::ENOENT => Copier::SourceNotFound { path },
            Errno::ENOTDIR => Copier::SourceNotDirectory { path },
            errno => Copier::SourceUnreadable { path, source: errno.into() },
        })
    })
}

fn open_root(process: &Process) -> Result<OwnedFd, Error> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    process.open_file("root", flags).map_err(|errno| {
        let pid = process.pid();
        hotbackup_tracer::Error::Os { pid, operation: "opening the root directory of", errno }.into()
    })
}

/// The target's root, when it is not ours.
pub(super) fn root_if_other(process: &Process) -> Result<Option<OwnedFd>, Error> {
    let same = ["root", "ns/mnt"].iter().all(|name| {
        use std::os::unix::fs::MetadataExt;
        let of =
            |who: &str| std::fs::metadata(format!("/proc/{who}/{name}")).map(|found| (found.dev(), found.ino())).ok();
        of("self") == of(&process.pid().to_string())
    });
    if same { Ok(None) } else { open_root(process).map(Some) }
}
