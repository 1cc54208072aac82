//! Where such a process belongs: in the target's cgroups.

use std::fs;
use std::path::PathBuf;

use crate::target::process::{Process, read_below};

/// Puts this process where it belongs: into the target's cgroup of every hierarchy, because stopping or freezing the
/// supervisor's must not concern it, and it counts where the target counts; and out of the OOM killer's sight. What
/// cannot be written stays as it is. Before anything is forked, which inherits both.
pub(super) fn place(target: i32) {
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

/// Whether process `pid` of ours stands where the target stands. One that does not ends with what it was started from, a
/// container for one; and if that is a keeper, the target waits for ever.
pub(crate) fn is_with(target: &Process, pid: i32) -> bool {
    let groups = |pid: i32| read_below(target.proc(), &format!("{pid}/cgroup")).ok();
    groups(target.pid()) == groups(pid)
}

/// Whether our helpers may be put there, as far as that can be told without trying.
pub(crate) fn may_join(target: &Process) -> bool {
    let read = |pid: &str| read_below(target.proc(), &format!("{pid}/cgroup")).unwrap_or_default();
    let (theirs, ours) = (read(&target.pid().to_string()), read("self"));
    let Ok(mounts) = fs::read_to_string("/proc/self/mounts") else { return theirs == ours };
    theirs.lines().filter(|line| !ours.lines().any(|our| our == *line)).all(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { return false };
        cgroup_mount(&mounts, controllers).is_some_and(|mount| {
            let procs = mount.join(path.trim_start_matches('/')).join("cgroup.procs");
            nix::unistd::access(&procs, nix::unistd::AccessFlags::W_OK).is_ok()
        })
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
