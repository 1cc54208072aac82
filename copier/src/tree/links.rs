//! Symbolic links: which lead out of the sources, and what becomes of those that do not.
//!
//! A database started on the backup must never reach the live files. A link out of every source becomes, in the backup,
//! the directory or file that it leads to. One that stays inside remains a link, rewritten where its text would lead
//! from the backup to the source. A relative link without `..` needs no look at all: it leads below its own directory,
//! or through other links, and those are dealt with themselves.
//!
//! What any other link leads to can change without a call that names the link, when something on its way is renamed.
//! They are looked at again in every sync; in the hold, those on whose way a call has named something (`ways`).
use super::folds::may_be_same;
use super::ways::Place;
use super::{DirNode, Entry, Shown, Tree};
use crate::base::sys::{self, Found, Kind};
use crate::marks::ledger::EntryMark;
use crate::marks::node::Name;
use hotbackup_event::FileId;
use hotbackup_event::look::LookError;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// With its end; what is longer cannot be asked for in one call (path_resolution(7)).
const PATH_MAX: usize = 4096;

/// Where a symbolic link leads.
pub(super) enum Leads {
    /// It stays a link.
    Stays(Shown),
    /// Out of the sources, to a directory (held by `O_PATH`).
    Dir(OwnedFd, Found),
    /// Out of the sources, to a regular file (held by `O_PATH`).
    File(OwnedFd, Found),
}

impl Tree {
    /// Finds out where a symbolic link in a known directory leads.
    pub(super) fn leads(&self, id: FileId, dir: &OwnedFd, target: &OsStr) -> io::Result<Leads> {
        let target = Path::new(target);
        let plain = |component| matches!(component, Component::Normal(_) | Component::CurDir);
        if target.components().all(plain) {
            return Ok(Leads::Stays(Shown::Plain));
        }
        // The path is put together from the model: the kernel tells none that is longer than a page.
        let top = match self.top(id) {
            Some((top, below)) => Some((sys::path_of(&top.fd)?, below)),
            None => None,
        };
        // Without a name: it is looked at again when it has one.
        let here = top.as_ref().map_or_else(|| sys::fd_path(dir), |(top, below)| top.join(below));
        let (open, real) = match self.follow(dir, &here, target)? {
            Some(fd) => match sys::path_of(&fd) {
                Ok(real) => (Some(fd), real),
                // Deeper than any path: inside, unless it says otherwise.
                Err(Errno::NAMETOOLONG) if top.is_some_and(|(_, below)| stays_below(target, &below)) => {
                    return Ok(Leads::Stays(Shown::AsIs));
                }
                Err(error) => return Err(error.into()),
            },
            // It leads nowhere now. If it is ever to lead somewhere, then not into a source.
            None if target.is_absolute() => (None, self.seen_from_outside(target)?),
            None => {
                let inside = top.is_none_or(|(_, below)| stays_below(target, &below));
                return Ok(Leads::Stays(if inside { Shown::AsIs } else { Shown::Outside }));
            }
        };
        if let Some((top, below)) = top
            && real.starts_with(top)
        {
            let keep = stays_below(target, &below);
            return Ok(Leads::Stays(if keep { Shown::AsIs } else { Shown::As(relative(&here, &real)) }));
        }
        for (index, root) in self.roots.iter().enumerate() {
            let Some(node) = self.dirs.get(&root.id) else { continue };
            if let Ok(rest) = real.strip_prefix(sys::path_of(&node.dir.fd)?) {
                return Ok(Leads::Stays(Shown::InSource(index, rest.to_owned())));
            }
        }
        let Some(fd) = open else { return Ok(Leads::Stays(Shown::Outside)) };
        let found = sys::stat_fd(&fd)?;
        Ok(match found.stat.kind() {
            Kind::Dir => Leads::Dir(fd, found),
            Kind::File => Leads::File(fd, found),
            _ => Leads::Stays(Shown::Outside),
        })
    }

    /// Opens what a link leads to, as the target would: below the target's root. `None`: it leads nowhere.
    fn follow(&self, dir: &OwnedFd, here: &Path, target: &Path) -> io::Result<Option<OwnedFd>> {
        let root = self.target_root.as_fd();
        let inside = here.strip_prefix(sys::path_of(root)?).map_or_else(|_| here.to_owned(), Path::to_owned);
        let (mut from, mut path) = (root, inside.join(target));
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let mut how = ResolveFlags::NO_MAGICLINKS | ResolveFlags::IN_ROOT;
        if path.as_os_str().len() >= PATH_MAX && !target.is_absolute() {
            // The link's own text is never too long. Its directory cannot be left without leaving the root that is asked for:
            // where that is our own, nobody need ask.
            if sys::stat_fd(root)?.id != sys::stat_at(rustix::fs::CWD, OsStr::new("/"))?.id {
                return Err(Errno::NAMETOOLONG.into());
            }
            (from, path, how) = (dir.as_fd(), target.to_owned(), ResolveFlags::NO_MAGICLINKS);
        }
        opened(|| openat2(from, &path, flags, Mode::empty(), how))
    }

    /// An absolute path of the target as paths of open files show it to us.
    fn seen_from_outside(&self, target: &Path) -> io::Result<PathBuf> {
        let mut path = sys::path_of(&self.target_root)?;
        for component in target.components() {
            match component {
                Component::Normal(name) => path.push(name),
                Component::ParentDir => drop(path.pop()),
                _ => {}
            }
        }
        Ok(path)
    }

    /// The directory at the top of what a directory belongs to, a source or what a link out of one leads to; and the path
    /// from there.
    pub(super) fn top(&self, dir: FileId) -> Option<(&Arc<crate::marks::node::Dir>, PathBuf)> {
        let (mut at, mut names) = (dir, Vec::new());
        // No longer than there are directories: while names are being taken over, one may seem to be above itself.
        for _ in 0..=self.dirs.len() {
            let node = self.dirs.get(&at)?;
            match node.parents.first() {
                Some((parent, name)) if !node.is_root && !self.volatile.contains(&(*parent, Arc::clone(name))) => {
                    names.push(name);
                    at = *parent;
                }
                _ => return Some((&node.dir, names.iter().rev().map(|name| Path::new(&***name)).collect())),
            }
        }
        None
    }
}

impl Tree {
    /// Finds out where a link leads, and takes note of its way where it may lead elsewhere without being touched.
    pub(super) fn leads_noted(&mut self, dir: FileId, fd: &OwnedFd, name: &OsStr, text: &OsStr) -> io::Result<Leads> {
        let leads = self.leads(dir, fd, text)?;
        if matches!(leads, Leads::Stays(Shown::Plain)) {
            return Ok(leads);
        }
        let here = match self.top(dir) {
            Some((top, below)) => sys::fd_path(&top.fd).join(below),
            None => sys::fd_path(fd),
        };
        self.ways.add((dir, Name::from(name)), &self.target_root, &here, Path::new(text));
        Ok(leads)
    }

    /// The links that a hold must look at again, in which these entries are marked.
    pub(super) fn links_to_look_at<'a>(&self, marks: impl Iterator<Item = &'a EntryMark>) -> Vec<Place> {
        let ways = &self.ways;
        if ways.mounts != self.ledger.mounts_seen() {
            return self.volatile.iter().cloned().collect();
        }
        let mut links = ways.always.clone();
        for (dir, name) in marks {
            let folds = self.may_fold(dir, name) || ways.folding_above.contains(dir);
            if ways.above.contains(name) || (folds && ways.above.iter().any(|above| may_be_same(above, name))) {
                // What is known not to be a directory has no link in it.
                let is_dir = |node: &DirNode| match folds {
                    true => self.alike(dir, name).any(|entry| matches!(entry, Entry::Dir(_))),
                    false => matches!(node.entries.get(&**name), Some(Entry::Dir(_))),
                };
                if self.dirs.get(dir).is_none_or(is_dir) {
                    return self.volatile.iter().cloned().collect();
                }
            }
            links.extend(ways.by_name.get(name).into_iter().flatten().cloned());
            links.extend(ways.folding.get(dir).into_iter().flatten().cloned());
        }
        links.retain(|link| self.volatile.contains(link));
        links.into_iter().collect()
    }
}

/// Opens what a path leads to, again while something on the way is being renamed. `None`: it leads nowhere. If that does
/// not end, or we may not look, nobody knows where it leads.
fn opened(open: impl Fn() -> rustix::io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    let mut tries = 16;
    loop {
        let error = match open() {
            Ok(fd) => return Ok(Some(fd)),
            Err(error) => error,
        };
        tries -= 1;
        match LookError::of(error.raw_os_error()) {
            LookError::Gone | LookError::Never => return Ok(None),
            LookError::Again if tries > 0 => {}
            _ => return Err(error.into()),
        }
    }
}

/// Whether a link's text stays below a directory, `below` which the link lies, whatever is renamed elsewhere.
fn stays_below(target: &Path, below: &Path) -> bool {
    let up = target.components().take_while(|c| matches!(c, Component::ParentDir | Component::CurDir));
    let up = up.filter(|c| *c == Component::ParentDir).count();
    let all = target.components().filter(|c| *c == Component::ParentDir).count();
    !target.is_absolute() && up == all && up <= below.components().count()
}

/// The relative path from a directory to something else.
pub(crate) fn relative(from: &Path, to: &Path) -> OsString {
    let common = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    let path: PathBuf = up.chain(to.components().skip(common)).collect();
    if path.as_os_str().is_empty() { ".".into() } else { path.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_leads_up_and_down_again() {
        let case = |from: &str, to: &str| relative(Path::new(from), Path::new(to)).into_string().unwrap();
        assert_eq!(case("/a/b", "/a/b/c/d"), "c/d");
        assert_eq!(case("/a/b/c", "/a/d"), "../../d");
        assert_eq!(case("/a", "/a"), ".");
        assert_eq!(case("x", "y/z"), "../y/z");
    }

    #[test]
    fn only_what_is_not_there_leads_nowhere() {
        let opening = |error: Errno| opened(|| Err(error));
        for nowhere in [Errno::NOENT, Errno::NOTDIR, Errno::LOOP, Errno::NAMETOOLONG, Errno::INVAL] {
            assert!(opening(nowhere).unwrap().is_none(), "{nowhere}");
        }
        for unknown in [Errno::ACCESS, Errno::PERM, Errno::IO, Errno::MFILE, Errno::NOMEM, Errno::AGAIN, Errno::INTR] {
            assert_eq!(opening(unknown).unwrap_err().raw_os_error(), Some(unknown.raw_os_error()));
        }
        // Whoever renames something on the way is done at some time.
        let tries = std::cell::Cell::new(0);
        let found = opened(|| {
            tries.set(tries.get() + 1);
            if tries.get() < 16 {
                Err(Errno::AGAIN)
            } else {
                sys::open_dir(rustix::fs::CWD, OsStr::new("/")).map_err(|_| Errno::IO)
            }
        });
        assert!(found.unwrap().is_some());
    }

    #[test]
    fn a_link_that_climbs_no_higher_than_its_tree_stays() {
        assert!(stays_below(Path::new("../x"), Path::new("d")));
        assert!(stays_below(Path::new("./../a/b"), Path::new("d")));
        assert!(!stays_below(Path::new("../x"), Path::new("")));
        assert!(!stays_below(Path::new("a/../x"), Path::new("d/d/d/d/d")));
        assert!(!stays_below(Path::new("/x"), Path::new("d/d/d/d/d")));
    }
}
