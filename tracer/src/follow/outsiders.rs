//! Processes that can change the sources, and whose calls nobody shows.
//!
//! The filter reaches the threads of one process, and all that is forked from it afterwards. A child that was there
//! before has none, nor has any process that is not related. What such a child has open is looked at before anything is
//! touched, and once more when the filter is there: by then every new child carries it. What other processes have open is
//! looked at when the filter is there, and when everything is saved.
//!
//! - A child that was there before is taken for a part of the program, as in servers of several processes (PostgreSQL).
//!   It is not enough that it writes nothing just now: an idle one has only its working directory in the source. So
//!   one that holds any directory there, or a file for writing, fails the backup before it has begun.
//! - Of any other process, a file of the source that it holds open for writing, or has mapped writable, is untraceable.
//!   Its working directory says nothing: it may be an operator's shell.
//!
//! Not found: a process that has a file of the source open for writing only between these two looks (if the target does not
//! write to the same file, its change time tells), one that this user may not look at, and a process that has at least as
//! many filters as the target, all of them its own.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use hotbackup_event::FileId;
use nix::fcntl::{OFlag, readlinkat};

use super::reused;
use crate::error::Error;
use crate::helper::process::{self as helper, KEEPER};
use crate::keeper::find;
use crate::shared::memory::MEMORY_NAME;
use crate::sys::stat;
use crate::target::listener::{LISTENER, target_listener};
use crate::target::maps::{Mapping, mapped_for_writing, parse_mapping};
use crate::target::process::{Process, open_below, read_below, start_of};

/// The cause that is named for a file.
pub(crate) const OPEN_ELSEWHERE: &str = "another process, which has it open for writing and is not followed";

/// What /proc/PID/status says of a process.
struct Standing {
    parent: i32,
    /// Seccomp filters of its main thread.
    filters: u32,
    is_dead: bool,
}

/// Fails when a child of the target that carries no filter can change anything below `sources`, which are directories
/// as links in /proc show them.
///
/// # Errors
/// [`Error::SeveralProcesses`]
pub fn check_children(process: &Process, sources: &[PathBuf]) -> Result<(), Error> {
    let all = processes(process);
    let children = descendants(&all, process.pid());
    let followed = Followed::by(process, &all);
    let reaching = |pid: i32| Some((pid, reach(process, pid, sources)?));
    // We may be one ourselves, started by a program that has itself backed up.
    let is_unseen = |pid: &i32| !followed.contains(&all[pid]) && *pid != std::process::id() as i32;
    let unseen = children.into_iter().filter(is_unseen);
    let mut found: Vec<(i32, String)> = unseen.filter_map(reaching).collect();
    found.sort_unstable();
    let count = found.len();
    match found.into_iter().next() {
        None => Ok(()),
        Some((child, how)) => {
            let name = read_below(process.proc(), &format!("{child}/comm")).unwrap_or_default();
            Err(Error::SeveralProcesses { pid: process.pid(), count, child, name: name.trim().into(), how })
        }
    }
}

/// Children of the target, and theirs, that carry its filter; also those that are nobody's children any more.
pub(crate) fn followed_children(process: &Process) -> Vec<i32> {
    let all = processes(process);
    let followed = Followed::by(process, &all);
    let mut found = descendants(&all, process.pid());
    for daemon in daemons(process, &all, &followed) {
        found.push(daemon);
        found.extend(descendants(&all, daemon));
    }
    found.sort_unstable();
    found.dedup();
    found.into_iter().filter(|pid| *pid != process.pid() && followed.contains(&all[pid])).collect()
}

/// Processes whose parent, started by the target, has ended: they were given to process 1, or to a parent's parent that
/// takes orphans. What such a one still has of the target: at least its filters, which nobody can take off; its namespace of processes;
/// and its cgroup, or one below. It is younger than the target, and has no session of its own.
fn daemons(process: &Process, all: &HashMap<i32, Standing>, followed: &Followed) -> Vec<i32> {
    let mut takes_orphans = vec![1];
    let mut above = all.get(&process.pid()).map_or(0, |status| status.parent);
    while above > 1 && !takes_orphans.contains(&above) {
        takes_orphans.push(above);
        above = all.get(&above).map_or(0, |status| status.parent);
    }
    let of = |pid: i32, name: &str| readlinkat(process.proc(), format!("{pid}/ns/{name}").as_str()).ok();
    let (own, groups) = (process.pid(), groups(process, process.pid()));
    let is_one = |pid: i32, status: &Standing| {
        pid != own
            && !status.is_dead
            && takes_orphans.contains(&status.parent)
            && !takes_orphans.contains(&pid)
            && followed.contains(status)
            && start_of(process.proc(), pid).is_some_and(|start| start >= process.start())
            && of(pid, "pid") == of(own, "pid")
            && is_within(&self::groups(process, pid), &groups)
            && !has_session(pid)
    };
    all.iter().filter(|(pid, status)| is_one(**pid, status)).map(|(pid, _)| *pid).collect()
}

fn groups(process: &Process, pid: i32) -> Vec<String> {
    read_below(process.proc(), &format!("{pid}/cgroup")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Whether these cgroups, as in /proc/PID/cgroup, are those, or below them.
fn is_within(these: &[String], those: &[String]) -> bool {
    let below = |this: &str, that: &str| {
        this.strip_prefix(that).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || that.ends_with('/'))
    };
    those.iter().all(|that| these.iter().any(|this| below(this, that)))
}

/// Whether it is a target itself.
fn has_session(pid: i32) -> bool {
    let session = |process: Process| find::session_memory(&process);
    Process::open(pid).and_then(session).is_ok_and(|memory| memory.is_some())
}

/// All processes below the target.
pub(crate) fn children(process: &Process) -> Vec<i32> {
    descendants(&processes(process), process.pid())
}

/// A process that has a seccomp listener and no session of ours, so that it is neither followed nor a keeper.
pub(crate) fn others_listeners(process: &Process) -> Option<i32> {
    let ours = format!("/memfd:{MEMORY_NAME} (deleted)");
    processes(process).into_keys().find(|&pid| {
        let open = process.descriptors_of(pid);
        open.iter().any(|(_, link)| link == LISTENER) && !open.iter().any(|(_, link)| *link == *ours)
    })
}

/// The files that any process which is not followed can write to.
pub(crate) fn written_elsewhere(process: &Process) -> Vec<FileId> {
    reused::settled(|| open_elsewhere(process))
}

fn open_elsewhere(process: &Process) -> Vec<FileId> {
    let all = processes(process);
    let followed = Followed::by(process, &all);
    let mut found = Vec::new();
    for (&pid, status) in &all {
        if pid == process.pid() || status.is_dead || followed.contains(status) {
            continue;
        }
        for (fd, link) in process.descriptors_of(pid) {
            if link.as_bytes().starts_with(b"/")
                && may_write(process, pid, fd)
                && let Some(file) = file_of(process, pid, fd)
            {
                found.push(file);
            }
        }
        found.extend(mapped_for_writing(process, pid).unwrap_or_default());
    }
    found
}

/// Which processes carry the target's filter: it is handed on by fork, and nobody can take it off.
struct Followed {
    /// The target's filters; `None`: ours is not among them yet, so nobody has it.
    filters: Option<u32>,
}

impl Followed {
    fn by(target: &Process, all: &HashMap<i32, Standing>) -> Self {
        let is_there = target_listener(target).is_some() || all.keys().any(|&pid| helper::is(pid, KEEPER, target));
        // A main thread that has ended has none left.
        let of_thread = |tid: &i32| target.status_field(*tid, "Seccomp_filters")?.parse().ok();
        let filters = || target.threads().iter().filter_map(of_thread).max().unwrap_or(u32::MAX);
        Self { filters: is_there.then(filters) }
    }

    fn contains(&self, status: &Standing) -> bool {
        self.filters.is_some_and(|filters| status.filters >= filters)
    }
}

fn processes(process: &Process) -> HashMap<i32, Standing> {
    let status_of = |pid: i32| {
        let status = process.status(pid)?;
        let parent = status.field("PPid")?.parse().ok()?;
        let filters = status.field("Seccomp_filters").and_then(|count| count.parse().ok()).unwrap_or(0);
        Some((pid, Standing { parent, filters, is_dead: status.is_dead() }))
    };
    process.list(".").into_iter().filter_map(status_of).collect()
}

fn descendants(all: &HashMap<i32, Standing>, of: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut parents = vec![of];
    while let Some(parent) = parents.pop() {
        for (&pid, _) in all.iter().filter(|(_, status)| status.parent == parent) {
            found.push(pid);
            parents.push(pid);
        }
    }
    found
}

/// How a process can change what is below the sources, if it can.
fn reach(process: &Process, pid: i32, sources: &[PathBuf]) -> Option<String> {
    let below = |path: &[u8]| {
        let path = Path::new(OsStr::from_bytes(path));
        sources.iter().any(|source| path.starts_with(source)).then(|| path.display().to_string())
    };
    let dir = open_below(process.proc(), &pid.to_string(), OFlag::O_PATH | OFlag::O_DIRECTORY).ok()?;
    for (name, what) in [("cwd", "works in"), ("root", "has as its root")] {
        if let Some(path) = readlinkat(&dir, name).ok().and_then(|link| below(link.as_bytes())) {
            return Some(format!("{what} {path}"));
        }
    }
    for (fd, link) in process.descriptors_of(pid) {
        let Some(path) = below(link.as_bytes()) else { continue };
        if may_write(process, pid, fd) {
            return Some(format!("has {path} open for writing"));
        }
        if is_directory(process, pid, fd) {
            return Some(format!("has {path} open"));
        }
    }
    let maps = read_below(process.proc(), &format!("{pid}/maps")).unwrap_or_default();
    let shared = |mapping: &Mapping<'_>| mapping.is_shared() && mapping.is_writable();
    let mapped = maps.lines().filter_map(parse_mapping).filter(shared).find_map(|it| below(it.path.as_bytes()));
    mapped.map(|path| format!("has {path} mapped writable"))
}

/// Whether a descriptor is open for writing (`flags` in proc_pid_fdinfo(5), octal).
fn may_write(process: &Process, pid: i32, fd: i32) -> bool {
    let Ok(info) = read_below(process.proc(), &format!("{pid}/fdinfo/{fd}")) else { return false };
    let flags = info.lines().find_map(|line| i32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_none_or(|flags| flags & libc::O_ACCMODE != libc::O_RDONLY)
}

fn file_of(process: &Process, pid: i32, fd: i32) -> Option<FileId> {
    process.descriptor_identity(pid, fd).ok().filter(stat::Identity::is_file).map(|identity| identity.id)
}

fn is_directory(process: &Process, pid: i32, fd: i32) -> bool {
    process.descriptor_identity(pid, fd).is_ok_and(|identity| identity.is_dir())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::process::{Child, Command, Stdio};

    fn this_process() -> Process {
        Process::open(std::process::id() as i32).unwrap()
    }

    struct Ended(Child);

    impl Drop for Ended {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleeper(change: impl FnOnce(&mut Command)) -> Ended {
        let mut command = Command::new("sleep");
        command.arg("60");
        change(&mut command);
        Ended(command.spawn().unwrap())
    }

    fn refused(dir: &Path) -> Option<(usize, i32, String)> {
        match check_children(&this_process(), &[dir.to_owned()]) {
            Ok(()) => None,
            Err(Error::SeveralProcesses { count, child, how, .. }) => Some((count, child, how)),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_child_is_refused_for_what_it_holds_below_the_source_and_for_nothing_else() {
        let source = tempfile::tempdir().unwrap();
        let (outside, below) = (tempfile::tempdir().unwrap(), source.path().join("below"));
        std::fs::create_dir(&below).unwrap();
        let file = below.join("file");
        std::fs::write(&file, "content").unwrap();

        let reader = sleeper(|command| _ = command.stdin(Stdio::from(std::fs::File::open(&file).unwrap())));
        let elsewhere = sleeper(|command| _ = command.current_dir(outside.path()));
        assert_eq!(refused(source.path()), None);

        let worker = sleeper(|command| _ = command.current_dir(&below));
        let (count, child, how) = refused(source.path()).unwrap();
        assert_eq!((count, child), (1, worker.0.id() as i32));
        assert!(how.contains("works in") && how.contains("below"), "{how}");
        drop(worker);

        let open = || std::fs::File::options().append(true).open(&file).unwrap();
        let writer = sleeper(|command| _ = command.stdout(Stdio::from(open())));
        let (count, child, how) = refused(source.path()).unwrap();
        assert_eq!((count, child), (1, writer.0.id() as i32));
        assert!(how.contains("below/file open for writing"), "{how}");
        drop(writer);

        let holder = sleeper(|command| _ = command.stdin(Stdio::from(std::fs::File::open(&below).unwrap())));
        assert_eq!(refused(source.path()).unwrap().1, holder.0.id() as i32);
        drop((holder, reader, elsewhere));
        assert_eq!(refused(source.path()), None);
    }

    #[test]
    fn a_cgroup_is_within_itself_and_those_above_it() {
        let groups = |path: &str| vec![format!("0::{path}"), "7:pids:/".into()];
        assert!(is_within(&groups("/a/b"), &groups("/a/b")));
        assert!(is_within(&groups("/a/b/c"), &groups("/a/b")));
        assert!(is_within(&groups("/a"), &groups("/")));
        assert!(!is_within(&groups("/a/bc"), &groups("/a/b")));
        assert!(!is_within(&groups("/a"), &groups("/a/b")));
    }

    #[test]
    fn a_grandchild_is_found_and_so_are_the_files_that_it_can_write_to() {
        let source = tempfile::tempdir().unwrap();
        let file = source.path().join("file");
        // The shell waits for its child, which alone keeps the file.
        let script = format!("sleep 60 >'{}' & echo ready; wait", file.display());
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdout(Stdio::piped());
        let mut shell = Ended(command.spawn().unwrap());
        let mut line = String::new();
        let out = shell.0.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).unwrap();
        while !file.exists() {
            std::thread::yield_now();
        }
        let (_, child, _) = refused(source.path()).unwrap();
        let id = stat::identity(std::fs::File::open(source.path()).unwrap().as_fd(), c"file", false);
        assert!(written_elsewhere(&this_process()).contains(&id.unwrap().id));
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::Signal::SIGKILL).unwrap();
        let _ = shell.0.wait();
        assert_eq!(refused(source.path()), None);
    }
}
