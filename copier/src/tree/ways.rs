//! On whose way a name lies: which links to look at again in a hold.
//!
//! In a hold there is no time to look at every link that leads out of its directory, and no need. Every link was looked at in
//! the last sync, after the marks that it took; what a link leads to has changed since then only by a call that names
//! something on its way (marked by name, whatever directory that is in), or that mounts. What lies on the way of a link
//! are the names of the directories that it is in, from the root of the mounts on; those in its own text; and those in the
//! text of each link that is met. So a mark that has none of these names changes nothing about the link.
//!
//! What another process than the target does outside of the sources is not shown to us, and is as it was at the last sync.
use crate::base::sys;
use crate::marks::node::Name;
use hotbackup_event::FileId;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
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
}

/// As many links on the way as the kernel follows (path_resolution(7)).
const MOST_LINKS: u32 = 40;

impl Ways {
    /// A sync begins, in which all these links are looked at. Those that it does not come to are looked at in a hold.
    pub fn begin(&mut self, mounts: u64, links: &HashSet<Place>) {
        *self = Self { mounts, always: links.clone(), ..Self::default() };
    }

    /// A link with this text, in a directory whose path from the root of the mounts is `here`.
    pub fn add(&mut self, place: Place, root: &OwnedFd, here: &Path, text: &Path) {
        let mut names = HashSet::new();
        if !here.is_absolute() || !names_on_way(root, here, text, &mut names) {
            self.always.insert(place);
            return;
        }
        self.always.remove(&place);
        for component in here.components() {
            if let Component::Normal(name) = component
                && !self.above.contains(name)
            {
                self.above.insert(name.to_owned());
            }
        }
        for name in names {
            self.by_name.entry(name).or_default().insert(place.clone());
        }
    }
}

/// Collects the names that are looked up on the way of a link. `false`: they cannot be told.
fn names_on_way(root: &OwnedFd, here: &Path, text: &Path, names: &mut HashSet<OsString>) -> bool {
    let add = |path: &Path, names: &mut HashSet<OsString>| {
        names.extend(path.components().filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        }));
    };
    add(text, names);
    let Ok(root_path) = sys::path_of(root) else { return false };
    let inside = here.strip_prefix(&root_path).map_or_else(|_| here.to_owned(), Path::to_owned);
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let open = |path: &Path, how| openat2(root.as_fd(), path, flags, Mode::empty(), how | ResolveFlags::IN_ROOT);
    // Nearly always no link is on the way, nor at its end.
    let whole = inside.join(text);
    if open(&whole, ResolveFlags::NO_SYMLINKS).is_ok() {
        return true;
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
                    at.push(name);
                    match open(&at, ResolveFlags::NO_SYMLINKS) {
                        Ok(_) => continue,
                        // It leads nowhere, from this name on.
                        Err(Errno::NOENT | Errno::NOTDIR) => return true,
                        Err(_) => {}
                    }
                    let Some(next) = read_link(root, &at).map(PathBuf::from) else { return false };
                    links += 1;
                    if links > MOST_LINKS {
                        return false;
                    }
                    add(&next, names);
                    at.pop();
                    left.push(components.as_path().to_owned());
                    left.push(next);
                    break;
                }
                _ => {}
            }
        }
    }
    true
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
            let mut names = HashSet::new();
            assert!(names_on_way(&root, &at("app"), Path::new(text), &mut names), "{text}");
            names
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
        assert!(!names_on_way(&root, &at("app"), Path::new("../round/x"), &mut HashSet::new()));
    }
}
