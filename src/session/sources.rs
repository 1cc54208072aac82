//! The source directories, opened as the target sees them.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use hotbackup_copier::Source;
use hotbackup_tracer::Process;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::Error;

/// Opens the sources below the target's root; without any, mongod's dbpath.
/// `named`: several go to one place, where each needs a name of its own.
pub(super) fn open(process: &Process, paths: &[PathBuf], named: bool) -> Result<Vec<Source>, Error> {
    let found;
    let paths = if paths.is_empty() {
        found = vec![crate::discover::dbpath(process.pid())?];
        &found
    } else {
        paths
    };
    let root = open_root(process)?;
    let roots = paths.iter().map(|path| open_one(&root, path)).collect::<Result<Vec<OwnedFd>, Error>>()?;
    let names = if named { names(paths, &roots) } else { vec![None; paths.len()] };
    let named = roots.into_iter().zip(paths).zip(names);
    Ok(named.map(|((root, path), name)| Source { root, path: path.clone(), name }).collect())
}

/// What the sources are called in the backup, each by another name; a single one has none.
fn names(paths: &[PathBuf], roots: &[OwnedFd]) -> Vec<Option<OsString>> {
    if paths.len() == 1 {
        return vec![None];
    }
    let base = |(path, root): (&PathBuf, &OwnedFd)| {
        let own = path.file_name().map(OsStr::to_owned);
        own.or_else(|| place(root)?.file_name().map(OsStr::to_owned)).unwrap_or_else(|| "root".into())
    };
    let bases: Vec<OsString> = paths.iter().zip(roots).map(base).collect();
    let mut taken = HashSet::from([OsString::from(hotbackup_copier::OWN_DIR)]);
    let mut names = Vec::new();
    for base in &bases {
        // Nobody gets the name that another source has of its own.
        let next = |number: u32| {
            let mut name = base.clone();
            name.push(format!("-{number}"));
            name
        };
        let mut others = (2..).map(next).filter(|name| !bases.contains(name));
        let mut name = base.clone();
        while !taken.insert(name.clone()) {
            name = others.next().unwrap_or_default();
        }
        names.push(Some(name));
    }
    names
}

fn place(root: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", root.as_raw_fd())).ok()
}

/// Where the sources are, as links in /proc show what is below them.
pub(super) fn places(sources: &[Source]) -> Vec<PathBuf> {
    sources.iter().filter_map(|source| place(&source.root)).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn named(paths: &[&str]) -> Vec<Option<OsString>> {
        let paths: Vec<PathBuf> = paths.iter().map(PathBuf::from).collect();
        let open = |_: &PathBuf| std::fs::File::open("/usr").expect("there").into();
        names(&paths, &paths.iter().map(open).collect::<Vec<OwnedFd>>())
    }

    fn some(names: &[&str]) -> Vec<Option<OsString>> {
        names.iter().map(|name| Some(name.into())).collect()
    }

    #[test]
    fn sources_of_one_name_get_names_that_differ() {
        assert_eq!(named(&["/a/data"]), [None]);
        assert_eq!(named(&["/a/data", "/b/log"]), some(&["data", "log"]));
        assert_eq!(named(&["/a/data", "/b/data", "/c/data/"]), some(&["data", "data-2", "data-3"]));
        // Whoever has such a name of his own keeps it.
        assert_eq!(named(&["/a/data", "/b/data", "/c/data-2"]), some(&["data", "data-3", "data-2"]));
        assert_eq!(
            named(&["/c/data-2", "/a/data", "/b/data", "/d/data-2"]),
            some(&["data-2", "data", "data-3", "data-2-2"])
        );
        // That name is the backup's own.
        assert_eq!(named(&["/a/.hotbackup", "/b"]), some(&[".hotbackup-2", "b"]));
        assert_eq!(named(&["/a/..", "/b"]), some(&["usr", "b"]));
    }
}
