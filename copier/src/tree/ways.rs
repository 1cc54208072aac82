//! On whose way a name lies: which links to look at again in a hold.
//!
//! In a hold there is no time to look at every link that leads out of its directory, and no need. Every link was looked at in
//! the last sync, after the marks that it took; what a link leads to has changed since then only by a call that names
//! something on its way (marked by name, whatever directory that is in), or that mounts. What lies on the way of a link
//! are the names of the directories that it is in, from the root of the mounts on; those in its own text; and those in the
//! text of each link that is met. So a mark that has none of these names changes nothing about the link.
//!
//! Unless one of the directories on the way folds names ([`super::folding`]), or may: there a call may say another name than the way
//! has. So these directories are noted by identity, and any mark in one of them is one on the way.
//!
//! What another process than the target does outside of the sources is not shown to us, and is as it was at the last sync.
use super::folds::{Folds, keeps_forms_apart};
use crate::base::sys;
use crate::marks::node::Name;
use hotbackup_event::FileId;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

pub(super) type Place = (FileId, Name);

/// Filled in each sync, used in the hold that follows.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Names in the text of links, and in that of links on their ways.
    pub by_name: HashMap<OsString, HashSet<Place>>,
    /// Names of the directories that any link is in.
    pub above: HashSet<OsString>,
    /// Links whose way could not be told.
    pub always: HashSet<Place>,
    /// Mounts that had been seen by then.
    pub mounts: u64,
    /// Directories on ways that fold names, or may, and the links whose ways these are.
    pub folding: HashMap<FileId, HashSet<Place>>,
    /// The same of those that lead to the directories that links are in.
    pub folding_above: HashSet<FileId>,
    /// Of the directories on ways, by path: whether they fold names, whether normal forms are apart, and who they are.
    known: HashMap<PathBuf, Option<(Folds, bool, FileId)>>,
    /// Directories that links are in, all that is above which has been noted.
    noted: HashSet<PathBuf>,
}

/// A name that is looked up, and the directory, from the root of the mounts that the target sees.
type Step = (PathBuf, OsString);

/// As many links on the way as the kernel follows (path_resolution(7)).
const MOST_LINKS: u32 = 40;

impl Ways {
    /// A sync begins, in which all these links are looked at. Those that it does not come to are looked at in a hold.
    pub fn begin(&mut self, mounts: u64, links: &HashSet<Place>) {
        *self = Self { mounts, always: links.clone(), ..Self::default() };
    }

    /// A link with this text, in a directory whose path from the root of the mounts is `here`.
    pub fn add(&mut self, place: Place, root: &OwnedFd, here: &Path, text: &Path) {
        let steps = if here.is_absolute() { steps_of(root, here, text) } else { None };
        let Some(steps) = steps else {
            self.always.insert(place);
            return;
        };
        self.always.remove(&place);
        self.add_above(root, here);
        for (dir, name) in steps {
            if let Some(id) = self.folds(root, &dir, &name) {
                self.folding.entry(id).or_default().insert(place.clone());
            }
            self.by_name.entry(name).or_default().insert(place.clone());
        }
    }

    /// The names that lead to a directory which links are in.
    fn add_above(&mut self, root: &OwnedFd, here: &Path) {
        if !self.noted.insert(here.to_owned()) {
            return;
        }
        let mut at = PathBuf::new();
        for component in inside(root, here).unwrap_or_else(|| here.to_owned()).components() {
            if let Component::Normal(name) = component {
                let folding = self.folds(root, &at, name);
                self.folding_above.extend(folding);
                at.push(name);
            }
        }
        // From our own root on, too: what is above the target's own may be moved as well.
        self.above.extend(here.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        }));
    }

    /// The directory, if this name may be another one's in it.
    fn folds(&mut self, root: &OwnedFd, dir: &Path, name: &OsStr) -> Option<FileId> {
        if !self.known.contains_key(dir) {
            let path = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
            let (flags, how) = (OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, ResolveFlags::NO_SYMLINKS);
            let opened = openat2(root.as_fd(), path, flags, Mode::empty(), how | ResolveFlags::IN_ROOT);
            let told = opened.ok().and_then(|fd| {
                let id = sys::stat_fd(&fd).ok()?.id;
                let folds = sys::names(&fd).map_or(Folds::Unknown, |names| Folds::of(&fd, &names));
                Some((folds, keeps_forms_apart(&fd), id))
            });
            self.known.insert(dir.to_owned(), told);
        }
        let (folds, forms_apart, id) = (*self.known.get(dir)?)?;
        (folds != Folds::No || (!forms_apart && !name.is_ascii())).then_some(id)
    }
}

/// A path, from the target's root on.
fn inside(root: &OwnedFd, path: &Path) -> Option<PathBuf> {
    let root = sys::path_of(root).ok()?;
    Some(path.strip_prefix(&root).map_or_else(|_| path.to_owned(), Path::to_owned))
}

/// The names that are looked up on the way of a link, and where. `None`: they cannot be told.
fn steps_of(root: &OwnedFd, here: &Path, text: &Path) -> Option<Vec<Step>> {
    let mut steps = Vec::new();
    let inside = inside(root, here)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = |path: &Path, how| openat2(root.as_fd(), path, flags, Mode::empty(), how | ResolveFlags::IN_ROOT);
    // Nearly always no link is on the way, nor at its end.
    if open(&inside.join(text), ResolveFlags::NO_SYMLINKS).is_ok() {
        walk(&mut if text.is_absolute() { PathBuf::new() } else { inside }, text, &mut steps);
        return Some(steps);
    }
    // Name by name. `at` is what has been walked, and holds no links.
    let (mut at, mut left) = (if text.is_absolute() { PathBuf::new() } else { inside }, vec![text.to_owned()]);
    let mut links = 0;
    while let Some(path) = left.pop() {
        let mut components = path.components();
        while let Some(component) = components.next() {
            match component {
                Component::RootDir => at = PathBuf::new(),
                Component::ParentDir => drop(at.pop()),
                Component::Normal(name) => {
                    steps.push((at.clone(), name.to_owned()));
                    at.push(name);
                    match open(&at, ResolveFlags::NO_SYMLINKS) {
                        Ok(_) => continue,
                        // It leads nowhere, from this name on. What comes after may be there one day.
                        Err(Errno::NOENT | Errno::NOTDIR) => {
                            walk(&mut at, components.as_path(), &mut steps);
                            left.iter().rev().for_each(|rest| walk(&mut at, rest, &mut steps));
                            return Some(steps);
                        }
                        Err(_) => {}
                    }
                    let next = read_link(root, &at).map(PathBuf::from)?;
                    links += 1;
                    if links > MOST_LINKS {
                        return None;
                    }
                    at.pop();
                    left.push(components.as_path().to_owned());
                    left.push(next);
                    break;
                }
                _ => {}
            }
        }
    }
    Some(steps)
}

/// The names of a path that has no links on it, from `at` on.
fn walk(at: &mut PathBuf, path: &Path, steps: &mut Vec<Step>) {
    for component in path.components() {
        match component {
            Component::RootDir => *at = PathBuf::new(),
            Component::ParentDir => drop(at.pop()),
            Component::Normal(name) => {
                steps.push((at.clone(), name.to_owned()));
                at.push(name);
            }
            _ => {}
        }
    }
}

/// The text of a link that is known to have none on its way.
fn read_link(root: &OwnedFd, path: &Path) -> Option<OsString> {
    let (parent, name) = (path.parent()?, path.file_name()?);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    let dir = openat2(root.as_fd(), parent, flags, Mode::empty(), how).ok()?;
    sys::read_link(&dir, name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;
    use std::ffi::OsStr;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_names_on_the_way_of_a_link_are_told() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        std::fs::create_dir_all(at("releases/5/bin")).unwrap();
        std::fs::create_dir(at("app")).unwrap();
        std::fs::write(at("releases/5/bin/run"), "").unwrap();
        symlink("releases/5", at("current")).unwrap();
        symlink(at("current"), at("absolute")).unwrap();
        let root = sys::open_dir(CWD, OsStr::new("/")).unwrap();
        let names = |text: &str| {
            let steps = steps_of(&root, &at("app"), Path::new(text)).unwrap();
            steps.into_iter().map(|(_, name)| name).collect::<HashSet<_>>()
        };
        let has = |text: &str, all: &[&str]| {
            let found = names(text);
            assert!(all.iter().all(|name| found.contains(OsStr::new(name))), "{text}: {found:?}");
        };
        has("../releases/5", &["releases", "5"]);
        has("../current/bin/run", &["current", "bin", "run", "releases", "5"]);
        has("../absolute/bin", &["absolute", "bin", "current", "releases", "5"]);
        has("../nowhere/at/all", &["nowhere", "at", "all"]);
        has("../current/nowhere", &["current", "nowhere", "releases", "5"]);
        symlink("round", at("round")).unwrap();
        assert_eq!(steps_of(&root, &at("app"), Path::new("../round/x")), None);
    }
}
