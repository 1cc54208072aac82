//! The target's control groups, as far as their file systems can be seen from here (cgroups(7)), and whether one of them is
//! frozen.
//!
//! A frozen process runs nothing, so it can neither be attached to nor be waited for; and whoever joins a frozen group is
//! frozen with it. So this is looked at before anything else. What is frozen right after the look is found by the
//! limits that all waiting has, and by looking again there.

use std::fs;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::{Process, read_below};
use crate::error::Error;
use crate::sys::pidfd;

/// How long a killed process may take to end until it is taken to be frozen.
const THAWED_LIMIT: Duration = Duration::from_millis(200);
/// How long it may take then.
const END_LIMIT: Duration = Duration::from_secs(1);

/// The group of one hierarchy that a process is in.
#[derive(Debug, PartialEq, Eq)]
pub struct Group {
    /// `pids` and the like with version 1, nothing with version 2.
    controllers: String,
    /// The highest directory of it that can be seen.
    top: PathBuf,
    /// Its own.
    dir: PathBuf,
}

impl Group {
    /// Whether limits of this controller are in it: version 2 has all of them in one.
    pub fn has(&self, controller: &str) -> bool {
        self.is_unified() || self.controllers.split(',').any(|name| name == controller)
    }

    /// Whether it is of version 2.
    pub fn is_unified(&self) -> bool {
        self.controllers.is_empty()
    }

    /// The file by which a process joins it.
    pub fn procs(&self) -> PathBuf {
        self.dir.join("cgroup.procs")
    }

    /// The group itself and all above it that can be seen.
    pub fn levels(&self) -> impl Iterator<Item = &Path> {
        self.dir.ancestors().take_while(|level| level.starts_with(&self.top))
    }
}

/// The groups of process `pid`, of each hierarchy that is mounted here.
pub fn of(proc: BorrowedFd<'_>, pid: i32) -> Vec<Group> {
    let groups = read_below(proc, &format!("{pid}/cgroup")).unwrap_or_default();
    let mounts = read_below(proc, "self/mountinfo").unwrap_or_default();
    find(&groups, &mounts)
}

fn find(groups: &str, mounts: &str) -> Vec<Group> {
    groups.lines().filter_map(|line| group(line, mounts)).collect()
}

/// The group that a line of /proc/PID/cgroup names, where /proc/self/mountinfo shows its hierarchy.
pub fn group(line: &str, mounts: &str) -> Option<Group> {
    let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
    let (top, dir) = mounts.lines().find_map(|mount| place(mount, controllers, Path::new(path)))?;
    Some(Group { controllers: controllers.to_owned(), top, dir })
}

/// Where a line of mountinfo (proc_pid_mountinfo(5)) shows the group `path` of the hierarchy with these controllers: the
/// mount's directory, and the group's. A container has only a part of the hierarchy mounted.
fn place(mount: &str, controllers: &str, path: &Path) -> Option<(PathBuf, PathBuf)> {
    let (place, kind) = mount.split_once(" - ")?;
    let kind: Vec<&str> = kind.split(' ').collect();
    let place: Vec<&str> = place.split(' ').collect();
    let ([_, _, _, root, directory, ..], [kind, _, options]) = (&place[..], &kind[..]) else { return None };
    let is_it = match controllers {
        "" => *kind == "cgroup2",
        names => *kind == "cgroup" && names.split(',').all(|name| options.split(',').any(|option| option == name)),
    };
    let below = path.strip_prefix(unescape(root)).ok().filter(|_| is_it)?;
    // Outside of our own part of the hierarchy (cgroup_namespaces(7)).
    if below.components().any(|part| part == std::path::Component::ParentDir) {
        return None;
    }
    let top = PathBuf::from(unescape(directory));
    let dir = if below.as_os_str().is_empty() { top.clone() } else { top.join(below) };
    Some((top, dir))
}

/// Blanks and backslashes are octal in mountinfo.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (escaped, plain)| path.replace(escaped, plain))
}

/// A file of a group; `None` where it is not there: the highest group of a hierarchy has no limits.
pub(super) fn read(level: &Path, file: &str) -> Option<String> {
    fs::read_to_string(level.join(file)).ok().map(|text| text.trim().to_owned())
}

/// Fails when a group of the target is frozen, or about to be.
///
/// # Errors
/// [`Error::Frozen`], with the group that is frozen and how it is thawed.
pub fn check_thawed(process: &Process) -> Result<(), Error> {
    match frozen_by(process) {
        None => Ok(()),
        Some(what) => Err(Error::Frozen { pid: process.pid(), what }),
    }
}

/// What freezes the target.
fn frozen_by(process: &Process) -> Option<String> {
    let groups = of(process.proc(), process.pid());
    groups.iter().find_map(frozen_group).or_else(|| {
        // Where its groups cannot be seen, as from another container: where its first thread sleeps.
        let place = process.read_file("wchan").ok()?;
        let is_frozen = ["__refrigerator", "do_freezer_trap"].contains(&place.trim());
        is_frozen.then(|| "its cgroup, which cannot be seen from here, is frozen".into())
    })
}

fn frozen_group(group: &Group) -> Option<String> {
    let with = |file: &str, word: &str| group.levels().find(|level| read(level, file).as_deref() == Some(word));
    if group.is_unified() {
        let told = with("cgroup.freeze", "1");
        let events = || read(&group.dir, "cgroup.events").is_some_and(|text| text.lines().any(|it| it == "frozen 1"));
        let level = told.or_else(|| events().then_some(&*group.dir))?;
        let file = level.join("cgroup.freeze");
        return Some(format!("its cgroup {} is frozen (echo 0 > {})", level.display(), file.display()));
    }
    if !group.has("freezer") || read(&group.dir, "freezer.state").is_none_or(|state| state == "THAWED") {
        return None;
    }
    // The state is that of all above it, too.
    let level = with("freezer.self_freezing", "1").unwrap_or(&group.dir);
    let file = level.join("freezer.state");
    Some(format!("its cgroup {} is frozen (echo THAWED > {})", level.display(), file.display()))
}

/// Ends one of our own processes that may have been frozen, as a group that it joined was frozen right then; whether it has
/// ended in time. With version 2 a frozen process dies when it is killed. With version 1 it does so when it is thawed, and
/// that is what moving it to a group that is not frozen does: ours.
pub(crate) fn end(proc: BorrowedFd<'_>, pid: i32, process: BorrowedFd<'_>) -> bool {
    let _ = pidfd::kill(process);
    if pidfd::ends_within(process, THAWED_LIMIT) {
        return true;
    }
    for group in of(proc, std::process::id() as i32).iter().filter(|group| !group.is_unified() && group.has("freezer"))
    {
        let _ = fs::write(group.procs(), pid.to_string());
    }
    pidfd::ends_within(process, END_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "30 25 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                          31 25 0:27 / /sys/fs/cgroup/cpu\\040time rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
                          32 25 0:28 /docker/a /sys/fs/cgroup/pids ro - cgroup cgroup rw,pids\n";

    fn levels(groups: &str) -> Vec<Vec<PathBuf>> {
        find(groups, MOUNTS).iter().map(|group| group.levels().map(Path::to_owned).collect()).collect()
    }

    #[test]
    fn the_groups_of_both_versions_are_found_with_all_above_them() {
        let paths = |all: &[&str]| all.iter().map(PathBuf::from).collect::<Vec<_>>();
        let unified = paths(&["/sys/fs/cgroup/unified/a/b", "/sys/fs/cgroup/unified/a", "/sys/fs/cgroup/unified"]);
        assert_eq!(levels("0::/a/b\n"), [unified]);
        let cpu = paths(&["/sys/fs/cgroup/cpu time/x:y", "/sys/fs/cgroup/cpu time"]);
        assert_eq!(levels("7:cpu,cpuacct:/x:y\n"), [cpu]);
    }

    #[test]
    fn a_part_of_a_hierarchy_shows_what_is_below_it_and_nothing_else() {
        assert_eq!(levels("8:pids:/docker/a\n"), [[PathBuf::from("/sys/fs/cgroup/pids")]]);
        assert_eq!(levels("8:pids:/docker/a/b\n")[0][0], PathBuf::from("/sys/fs/cgroup/pids/b"));
        assert!(levels("8:pids:/docker/other\n").is_empty());
        assert!(levels("0::/../other\n8:memory:/\n").is_empty());
        let joined = group("8:pids:/docker/a/b", MOUNTS).map(|group| group.procs());
        assert_eq!(joined, Some("/sys/fs/cgroup/pids/b/cgroup.procs".into()));
    }
}
