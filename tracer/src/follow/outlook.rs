//! What a backup would meet, told from outside: nothing of the target is touched, no keeper is woken, nothing is injected.
//!
//! Whatever makes an attach fail for a reason that can be known beforehand is found here, by the same checks that an attach
//! makes, and by a look at what it would find out later.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hotbackup_event::FileId;

use super::{ancestors, blind_spots, outsiders, rescue, unseen_calls};
use crate::attach::preflight;
use crate::error::Error;
use crate::helper::place;
use crate::helper::process::{self as helper, KEEPER};
use crate::hot;
use crate::keeper::find;
use crate::ptracer::site;
use crate::shared::memory::Memory;
use crate::shared::roles::Part;
use crate::sys::procfs;
use crate::target::cgroups;
use crate::target::kernel_writers;
use crate::target::listener::{LISTENER, has_listener};
use crate::target::maps::mapped_for_writing;
use crate::target::process::Process;

/// How long a thread that can be used is looked for: an attach takes as long.
const PATIENCE: Duration = Duration::from_secs(3);

/// One thing that was looked at.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What.
    pub name: &'static str,
    /// How it is, or why a backup would be refused.
    pub found: Result<String, String>,
}

/// Looks at the target as an attach would.
pub fn look(process: &Process) -> Vec<Finding> {
    let mut all = Vec::new();
    let mut add = |name, found: Result<String, String>| all.push(Finding { name, found });
    let told = |done: Result<(), Error>, fine: &str| done.map(|()| fine.to_owned()).map_err(|error| error.to_string());
    add("permission to trace", told(preflight::check_right(process), "granted"));
    add("no other tracer", told(untraced(process), "no thread is traced"));
    add("not paused", told(cgroups::check_thawed(process), "none of its cgroups is frozen").and_then(running(process)));
    add("room", told(preflight::check_room(process), "enough below its limits, those of its cgroups, and ours"));
    add(
        "filters",
        told(preflight::check_filters(process), "none of its own that cannot be read").and_then(alike(process)),
    );
    add("its paths", preflight::check_root(process).map(|()| "can be followed".into()).map_err(str::to_owned));
    add("not at work", not_at_work(process));
    add("keepers", keepers(process));
    if !has_listener(process) {
        add("a thread to attach by", thread(process).map(|()| "there is one, and room for what it is to run".into()));
    }
    add("calls alone change its files", no_rings(process));
    all
}

/// Whether the filter of a target that has one shows all calls. `accepted`: as in [`Options::accept_unseen`](super::options::Options).
pub fn all_calls_are_seen(process: &Process, accepted: bool) -> Result<String, String> {
    let memory = find::session_memory(process).ok().flatten().filter(|_| has_listener(process));
    let is_unknown = memory.as_ref().is_some_and(unseen_calls::is_unknown);
    match memory.and_then(|memory| unseen_calls::outlook(process, &memory)) {
        None if is_unknown => Ok("its filter is of a release that this one does not know: --probe reads it".into()),
        None => Ok("those that can change files".into()),
        Some(Error::UnseenCalls { what, .. }) if accepted => {
            Ok(format!("not all, which is accepted: the filter {what}"))
        }
        Some(error) => Err(error.to_string()),
    }
}

/// The files that the target, or a child that carries its filter, has mapped for writing; those cannot be followed.
///
/// # Errors
/// Which mapping could not be looked at.
pub fn mapped(process: &Process) -> Result<Vec<FileId>, String> {
    let mut files = mapped_for_writing(process, process.pid())?;
    for child in outsiders::followed_children(process) {
        match mapped_for_writing(process, child) {
            Ok(more) => files.extend(more),
            Err(_) if process.has_ended(child) => {}
            Err(cause) => return Err(cause),
        }
    }
    Ok(files)
}

/// The files that processes which would not be followed can write to.
pub fn written_elsewhere(process: &Process) -> Vec<FileId> {
    outsiders::written_elsewhere(process)
}

/// The files that the kernel writes to for somebody, and how.
pub fn written_by_kernel(process: &Process) -> Vec<(FileId, &'static str)> {
    kernel_writers::written_by_kernel(process)
}

/// What there is to say of seccomp listeners; see [`listeners`].
#[derive(Debug, Clone)]
pub enum Listeners {
    /// None is in the way, and nobody is likely to miss one.
    Fine(String),
    /// A backup may be refused, or something will miss one.
    Warning(String),
    /// The target has one that is not ours: a backup is refused.
    Foreign(String),
}

/// Whose seccomp listeners there are. The kernel allows one to a process and all below it: once hotbackup has attached, the
/// children of the target can have no other (`EBUSY`), as container runtimes and sandboxes give to what they start.
pub fn listeners(process: &Process) -> Listeners {
    let pid = process.pid();
    if find::session_memory(process).is_ok_and(|memory| memory.is_some()) {
        return Listeners::Fine("hotbackup's own is there; no other can be installed below the process (EBUSY)".into());
    }
    if has_listener(process) && !process.list(".").into_iter().any(|other| helper::is(other, KEEPER, process)) {
        return Listeners::Foreign(Error::ForeignListener(pid).to_string());
    }
    let listens = |other: &i32| process.descriptors_of(*other).iter().any(|(_, link)| link == LISTENER);
    if let Some(child) = outsiders::children(process).into_iter().find(listens) {
        return Listeners::Warning(format!(
            "process {child} has one, to answer calls of what it starts: from the first backup on the kernel refuses another one to \
             all below process {pid} (EBUSY), until that has ended"
        ));
    }
    // Whose calls it answers, nobody tells.
    let is_filtered = process.status_field(pid, "Seccomp").is_some_and(|mode| mode == "2");
    match is_filtered.then(|| outsiders::others_listeners(process)).flatten() {
        Some(other) => Listeners::Warning(format!(
            "process {other} has one; if it answers calls of process {pid}, which has a filter, a backup is refused"
        )),
        None => Listeners::Fine(
            "it has none, and no child; from the first backup on, none can be installed below it (EBUSY)".into(),
        ),
    }
}

/// Whether calls could be captured at their sites (`hot/`), in words: no backup is refused for it.
pub fn call_sites(process: &Process) -> String {
    let memory = find::session_memory(process).ok().flatten();
    let known = memory.is_some();
    match hot::obstacle(process, memory.as_ref()) {
        Some(why) => format!("with --capture auto all calls stay notified: {why}"),
        None if known => "calls can be captured at those sites that have the usual form (--capture auto)".into(),
        None => "calls could be captured at those sites that have the usual form (--capture auto), unless memory may not be made \
                 executable in it, which a backup finds out"
            .into(),
    }
}

fn untraced(process: &Process) -> Result<(), Error> {
    let pid = process.pid();
    match process.threads().into_iter().find_map(|tid| process.tracer(tid)) {
        Some(tracer) => Err(Error::AlreadyTraced { pid, tracer }),
        None => Ok(()),
    }
}

/// A thread that a signal has stopped runs nothing, as long as its user leaves it so.
fn running(process: &Process) -> impl FnOnce(String) -> Result<String, String> {
    let state = process.status(process.pid()).and_then(|status| status.state());
    let is_kept = has_listener(process);
    move |fine| match state {
        Some('T') if !is_kept => Err("it is stopped by a signal: continue it (kill -CONT)".into()),
        _ => Ok(fine),
    }
}

/// One filter for all threads is possible only where all have the same until then.
fn alike(process: &Process) -> impl FnOnce(String) -> Result<String, String> {
    let count = |tid: i32| process.status_field(tid, "Seccomp_filters");
    let first = count(process.pid());
    let other = process.threads().into_iter().find(|&tid| count(tid).is_some_and(|count| Some(count) != first));
    let other = other.filter(|_| !has_listener(process));
    move |fine| match other {
        Some(tid) => Err(format!("thread {tid} has other seccomp filters than the first thread")),
        None => Ok(fine),
    }
}

/// Whether a hotbackup has its lock on the target: what flock(2) has locked is told by /proc/locks.
fn not_at_work(process: &Process) -> Result<String, String> {
    let locks = crate::target::process::read_below(process.proc(), "locks").unwrap_or_default();
    // By its pidfd or, before Linux 6.9, its directory; by the session, where that is in another namespace.
    let is_held = |memory: Memory| memory.lives(Part::Supervisor);
    let directory = std::fs::metadata(format!("/proc/{}", process.pid())).map(|found| found.ino()).ok();
    let pidfd = nix::sys::stat::fstat(process.pidfd()).map(|found| found.st_ino).ok();
    let is_it = |line: &str| {
        let file = line.split_whitespace().find(|word| word.matches(':').count() == 2)?;
        let inode = file.rsplit(':').next()?.parse::<u64>().ok()?;
        Some(line.contains("FLOCK") && [directory, pidfd].contains(&Some(inode)))
    };
    let in_session = find::session_memory(process).ok().flatten().is_some_and(is_held);
    if in_session || locks.lines().any(|line| is_it(line) == Some(true)) {
        return Err(Error::Busy(process.pid()).to_string());
    }
    Ok("no other hotbackup is at work on it".into())
}

fn keepers(process: &Process) -> Result<String, String> {
    let memory = find::session_memory(process).map_err(|error| error.to_string())?;
    match memory {
        Some(memory) if memory.lives(Part::Keeper) || memory.lives(Part::Twin) => {
            Ok(format!("process {} and its twin", memory.keeper.load(Ordering::SeqCst)))
        }
        _ if !ancestors::find_all(process).is_empty() => {
            Ok("an earlier release's: the next backup puts its own in their place".into())
        }
        _ if !place::may_join(process) => born_keepers(process),
        _ if has_listener(process) => {
            Ok("gone: the next backup, or `hotbackup rescue`, starts others and answers what waits".into())
        }
        _ => Ok("none yet: the first backup starts them".into()),
    }
}

/// Keepers that cannot be put into the target's cgroups must be born from it.
fn born_keepers(process: &Process) -> Result<String, String> {
    let refused = |why: &str| Err(Error::CannotOutlive { pid: process.pid(), why: why.into() }.to_string());
    if has_listener(process) {
        return refused(rescue::NOT_BORN_AGAIN);
    }
    // Of the namespace of processes that this process is in; 2 refuses all.
    let is_forbidden = procfs::read("sys/vm/memfd_noexec").is_ok_and(|text| text.trim() == "2");
    if is_forbidden {
        return refused("this machine executes nothing from memory: set the sysctl vm.memfd_noexec to 1 or 0");
    }
    Ok("none yet: the first backup has the process itself start them, as they cannot be put into its cgroups from here; whether \
        it may is found out then"
        .into())
}

fn thread(process: &Process) -> Result<(), String> {
    let limit = Instant::now() + PATIENCE;
    loop {
        match site::look(process) {
            Err(_) if Instant::now() < limit && process.is_alive() => std::thread::sleep(Duration::from_millis(1)),
            found => return found,
        }
    }
}

fn no_rings(process: &Process) -> Result<String, String> {
    let children = outsiders::followed_children(process);
    match std::iter::once(process.pid()).chain(children).flat_map(|pid| blind_spots::rings(process, pid)).next() {
        Some(cause) => Err(cause.into()),
        None => Ok("no io_uring and no io_submit".into()),
    }
}
