//! Starting a keeper, before the target is touched.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use super::state::{Control, Role};
use crate::error::Error;
use crate::process::Process;
use crate::sys::mapping::Mapping;

/// A keeper that was started and is ready.
pub struct Spawned {
    /// Its process id.
    pub pid: i32,
    /// The memory shared with it.
    pub memory: Mapping,
}

/// New shared memory for `target`, as it is before attach.
///
/// # Errors
/// The kernel's.
pub fn new_memory(target: &Process) -> Result<Mapping, Error> {
    let memory = Mapping::create().map_err(Error::os(target.pid(), "making shared memory"))?;
    memory.target.store(target.pid(), Ordering::SeqCst);
    memory.target_listener.store(-1, Ordering::SeqCst);
    memory.keeper_listener.store(-1, Ordering::SeqCst);
    Control { role: Role::Attaching, generation: 1 }.store(&memory.control);
    Ok(memory)
}

/// Starts a keeper for `target`: `program keeper PID START`, in a session of its own, in the target's cgroups,
/// spared by the OOM killer.
///
/// # Errors
/// [`Error::Keeper`] when it does not start.
pub fn spawn(target: &Process, program: &Path, memory: Mapping) -> Result<Spawned, Error> {
    let pid = target.pid();
    let problem = |problem: String| Error::Keeper { pid, problem };
    memory.supervisor.store(std::process::id() as i32, Ordering::SeqCst);
    let shared = memory.fd().try_clone().map_err(|error| problem(format!("cannot be started: {error}")))?;
    let mut child = Command::new(program)
        .arg(super::SUBCOMMAND)
        .args([pid.to_string(), target.start().to_string()])
        .env_clear()
        .stdin(Stdio::from(shared))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| problem(format!("cannot be started: {error}")))?;
    let keeper = child.id() as i32;
    move_to_cgroups_of(pid, keeper);
    // -1000: never chosen. Without CAP_SYS_RESOURCE it stays as it is.
    let _ = fs::write(format!("/proc/{keeper}/oom_score_adj"), "-1000");
    let mut ready = [0u8];
    let output = child.stdout.take().map(|mut pipe| pipe.read_exact(&mut ready));
    if !matches!(output, Some(Ok(()))) {
        let _ = child.kill();
        let mut words = String::new();
        let _ = child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut words));
        let _ = child.wait();
        return Err(problem(format!("did not start: {}", words.trim())));
    }
    // It outlives us; while we live, somebody must reap it when it ends before us.
    std::thread::Builder::new()
        .name("reaper".into())
        .spawn(move || drop(child.wait()))
        .map_err(|error| problem(format!("cannot be waited for: {error}")))?;
    Ok(Spawned { pid: keeper, memory })
}

/// Moves the keeper into the target's cgroup of every hierarchy: stopping the supervisor's service must not end it,
/// and it counts where the target counts. What cannot be written stays as it is.
fn move_to_cgroups_of(target: i32, keeper: i32) {
    let Ok(groups) = fs::read_to_string(format!("/proc/{target}/cgroup")) else { return };
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return };
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if let Some(mount) = cgroup_mount(&mounts, controllers) {
            let _ = fs::write(mount.join(path.trim_start_matches('/')).join("cgroup.procs"), keeper.to_string());
        }
    }
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
