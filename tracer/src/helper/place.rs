//! Where such a process belongs: in the target's cgroups.

use std::fs;

use nix::fcntl::OFlag;
use nix::unistd::{self, AccessFlags, access};

use crate::sys::procfs;
use crate::target::cgroups;
use crate::target::process::{Process, read_below};

/// Puts this process where it belongs: into the target's cgroup of every hierarchy, because stopping or freezing the
/// supervisor's must not concern it, and it counts where the target counts; and out of the OOM killer's sight. What
/// cannot be written stays as it is. Before anything is forked, which inherits both.
pub(super) fn place(target: &Process) {
    // -1000: never chosen. Needs CAP_SYS_RESOURCE. Without it, it is at least none of those who are chosen first, where who started the
    // backup is one (choom(1)). A lower score, a protected target's perhaps, is kept.
    const SCORE: &str = "self/oom_score_adj";
    let set = |score: &[u8]| unistd::write(procfs::open(SCORE, OFlag::O_WRONLY)?, score);
    let is_chosen_first =
        || procfs::read(SCORE).is_ok_and(|score| score.trim().parse().is_ok_and(|score: i32| score > 0));
    if set(b"-1000").is_err() && is_chosen_first() {
        let _ = set(b"0");
    }
    for group in cgroups::of(target.proc(), target.pid()) {
        // 0: whoever writes it (cgroups(7)).
        let _ = fs::write(group.procs(), "0");
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
    let mounts = read_below(target.proc(), "self/mountinfo").unwrap_or_default();
    theirs.lines().filter(|line| !ours.lines().any(|our| our == *line)).all(|line| {
        let group = cgroups::group(line, &mounts);
        group.is_some_and(|group| access(&group.procs(), AccessFlags::W_OK).is_ok())
    })
}
