//! What our small processes have in common, the keeper and the ptracer: hotbackup executed again, out of the
//! supervisor's session, in the target's cgroups, deaf to the signals that end a service.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use hotbackup_event::failpoint;
use nix::sys::signal::Signal;

use crate::process::Process;
use crate::sys::mapping::Mapping;
use crate::sys::pidfd;
use crate::sys::process as low;

/// How long a killed process may take to end.
const END_LIMIT: Duration = Duration::from_secs(2);

/// Which process it is.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What `ps` shows (15 bytes at most).
    pub name: &'static CStr,
    /// The hidden subcommand that the executable is called with.
    pub subcommand: &'static str,
}

/// Runs the process that `arguments` (without the program's own name) ask for, if they ask for one of ours; returns its
/// exit code.
pub fn main(arguments: &[String]) -> Option<i32> {
    let (verb, rest) = arguments.split_first()?;
    if verb == crate::keeper::KIND.subcommand {
        Some(crate::keeper::start::main(rest))
    } else if verb == crate::ptracer::KIND.subcommand {
        Some(crate::ptracer::serve::main(rest))
    } else {
        None
    }
}

/// The command that starts one for `target`: `program SUBCOMMAND PID START`, with the shared memory as standard input.
pub(crate) fn command(target: &Process, program: &Path, kind: Kind, memory: OwnedFd) -> Command {
    let mut command = Command::new(program);
    command.arg(kind.subcommand).args([target.pid().to_string(), target.start().to_string()]);
    command.env_clear().stdin(Stdio::from(memory));
    if let Ok(armed) = std::env::var(failpoint::VARIABLE) {
        command.env(failpoint::VARIABLE, armed);
    }
    command
}

/// Puts this process where it belongs: into the target's cgroup of every hierarchy, because stopping or freezing the
/// supervisor's must not concern it, and it counts where the target counts; and out of the OOM killer's sight. What
/// cannot be written stays as it is. Before anything is forked, which inherits both.
fn place(target: i32) {
    // -1000: never chosen. Needs CAP_SYS_RESOURCE.
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let Ok(groups) = fs::read_to_string(format!("/proc/{target}/cgroup")) else { return };
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return };
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if let Some(mount) = cgroup_mount(&mounts, controllers) {
            // 0: whoever writes it (cgroups(7)).
            let _ = fs::write(mount.join(path.trim_start_matches('/')).join("cgroup.procs"), "0");
        }
    }
}

/// What an operator should know of a keeper that stands in another cgroup than its target, since it may not be moved.
pub(crate) fn warn_of_cgroup(target: &Process, keeper: i32) -> Option<String> {
    let groups = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).ok();
    let (pid, of_target, of_keeper) = (target.pid(), groups(target.pid())?, groups(keeper)?);
    (of_target != of_keeper).then(|| {
        format!(
            "the keeper, process {keeper}, could not be moved to the cgroup of process {pid}: whatever ends hotbackup's cgroup \
             as a whole ends it, too, and then process {pid} waits until `hotbackup rescue`; run as root to prevent that"
        )
    })
}

/// Where a hierarchy is mounted: version 2 has no controllers in /proc/PID/cgroup (cgroups(7)).
fn cgroup_mount(mounts: &str, controllers: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, place, kind, options, ..] = fields[..] else { return None };
        let found = match controllers {
            "" => kind == "cgroup2",
            names => kind == "cgroup" && names.split(',').all(|name| options.split(',').any(|option| option == name)),
        };
        found.then(|| PathBuf::from(place))
    })
}

/// The first moments of such a process: returns the target and the shared memory.
pub(crate) fn begin(kind: Kind, arguments: &[String]) -> Result<(Process, Mapping), String> {
    let [pid, start] = arguments else { return Err("it is started by hotbackup alone".into()) };
    let pid: i32 = pid.parse().map_err(|_| "bad pid")?;
    let _ = nix::unistd::setsid();
    low::set_name(kind.name);
    // Stopping a service signals its whole cgroup, and mongod still writes while it shuts down.
    use Signal::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
    for ignored in [SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT, SIGTSTP, SIGUSR1, SIGUSR2] {
        low::ignore_signal(ignored);
    }
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let memory = Mapping::open(input).map_err(|errno| format!("no shared memory on its standard input: {errno}"))?;
    let target = Process::open(pid).map_err(|error| error.to_string())?;
    if target.start().to_string() != *start {
        return Err(format!("process {pid} is another one now"));
    }
    let _ = std::env::set_current_dir("/");
    place(pid);
    Ok((target, memory))
}

/// Whether process `pid` is one of `kind`, for whatever target.
pub(crate) fn is_any(pid: i32, kind: Kind) -> bool {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    read("comm").trim_ascii_end() == kind.name.to_bytes()
        && read("cmdline").split(|&byte| byte == 0).nth(1) == Some(kind.subcommand.as_bytes())
}

/// Ends all processes of `kind` for `target`, and waits for their ends.
pub(crate) fn end_all(kind: Kind, target: &Process) {
    for pid in crate::process::list_numbers(target.proc(), ".") {
        if is(pid, kind, target)
            && let Ok(process) = pidfd::open(pid)
            && is(pid, kind, target)
        {
            let _ = pidfd::kill(process.as_fd());
            pidfd::ends_within(process.as_fd(), END_LIMIT);
        }
    }
}

/// Whether process `pid` is one of `kind` for `target`, by name, arguments and owner: only ours, root's, and those of the
/// target's own user are trusted, who may do with it as they like.
pub(crate) fn is(pid: i32, kind: Kind, target: &Process) -> bool {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    if read("comm").trim_ascii_end() != kind.name.to_bytes() {
        return false;
    }
    let arguments = read("cmdline");
    let words: Vec<&[u8]> = arguments.split(|&byte| byte == 0).collect();
    let (wanted, start) = (target.pid().to_string(), target.start().to_string());
    if words.get(1..4) != Some(&[kind.subcommand.as_bytes(), wanted.as_bytes(), start.as_bytes()]) {
        return false;
    }
    let owner = fs::metadata(format!("/proc/{pid}")).map(|metadata| metadata.uid());
    let of_target = || target.status_field(target.pid(), "Uid")?.split_whitespace().next()?.parse().ok();
    owner.is_ok_and(|owner| owner == 0 || owner == nix::unistd::geteuid().as_raw() || of_target() == Some(owner))
}

/// Whether a process is stopped by a signal (proc_pid_stat(5)).
pub(crate) fn is_stopped(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_of_cgroups_are_found_by_their_mounts() {
        let mounts = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\ncgroup /cg/cpu cgroup rw,cpu,cpuacct 0 0\n";
        assert_eq!(cgroup_mount(mounts, ""), Some("/sys/fs/cgroup".into()));
        assert_eq!(cgroup_mount(mounts, "cpu,cpuacct"), Some("/cg/cpu".into()));
        assert_eq!(cgroup_mount(mounts, "memory"), None);
    }
}
