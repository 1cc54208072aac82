//! Whether there is room for the processes that stand beside the target: its keepers, which are in its cgroups, and a ptracer
//! while a backup runs. What they take there, the target cannot have; so some is left for its own forks. A limit of the
//! target's that is too close is a refusal before anything is touched, instead of a fork of the target's that fails.

use std::path::Path;

use super::cgroups::{self, read};
use super::process::Process;
use crate::error::Error;

/// Two keepers, and the one that is made while a dead one is not reaped yet.
const KEEPERS: u64 = 3;
/// The ptracer, its thread that holds others, and one that has not quite ended.
const PTRACER: u64 = 3;
/// What the target itself may start next.
const FORKS: u64 = 8;
/// Threads of this process in a backup: to receive, decode, watch, copy, tell, and handle signals.
const THREADS: u64 = 16;
/// Two keepers with what the kernel keeps for each of them (stack, page tables), and the memory that they share.
const KEEPERS_BYTES: u64 = 6 << 20;
/// The same for the ptracer.
const PTRACER_BYTES: u64 = 4 << 20;
/// What the target itself may need for its next fork.
const FORKS_BYTES: u64 = 2 << 20;

/// What a target takes that has no keepers yet, and one that has.
#[derive(Debug, Clone, Copy)]
struct Need {
    tasks: u64,
    bytes: u64,
}

/// Checks every limit that our own processes beside the target count against. `is_kept`: it has its keepers already.
///
/// # Errors
/// [`Error::NoRoom`], with the limit and what would raise it.
pub fn check(process: &Process, is_kept: bool) -> Result<(), Error> {
    let pid = process.pid();
    let no_room = |what| Error::NoRoom { pid, what };
    let (tasks, bytes) = if is_kept { (0, 0) } else { (KEEPERS, KEEPERS_BYTES) };
    let need = Need { tasks: tasks + PTRACER, bytes: bytes + PTRACER_BYTES };
    check_groups(process, Need { tasks: need.tasks + FORKS, bytes: need.bytes + FORKS_BYTES }).map_err(no_room)?;
    // They are born beside us, and counted there until they have moved; and we have threads.
    check_own_groups(process, need.tasks + THREADS).map_err(no_room)?;
    check_user(process, need.tasks + THREADS).map_err(no_room)
}

fn check_groups(process: &Process, need: Need) -> Result<(), String> {
    for group in cgroups::of(process.proc(), process.pid()) {
        for level in group.levels() {
            if group.has("pids") {
                check_tasks(level, need.tasks, "its")?;
            }
            if group.has("memory") {
                check_memory(level, group.is_unified(), need.bytes)?;
            }
        }
    }
    Ok(())
}

fn check_own_groups(process: &Process, tasks: u64) -> Result<(), String> {
    let groups = cgroups::of(process.proc(), std::process::id() as i32);
    let levels = groups.iter().filter(|group| group.has("pids")).flat_map(cgroups::Group::levels);
    levels.into_iter().try_for_each(|level| check_tasks(level, tasks, "hotbackup's own"))
}

fn check_tasks(level: &Path, need: u64, whose: &str) -> Result<(), String> {
    let number = |file| read(level, file).and_then(|text| text.parse::<u64>().ok());
    let (Some(most), Some(used)) = (number("pids.max"), number("pids.current")) else { return Ok(()) };
    if used + need <= most {
        return Ok(());
    }
    let file = level.join("pids.max");
    Err(format!(
        "{whose} cgroup has {used} tasks of {most} (pids.max), and {need} must be free: raise that limit (echo {} > {})",
        used + 2 * need,
        file.display()
    ))
}

fn check_memory(level: &Path, is_unified: bool, need: u64) -> Result<(), String> {
    let names = if is_unified {
        ["memory.max", "memory.current", "active_file", "inactive_file"]
    } else {
        ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_active_file", "total_inactive_file"]
    };
    let number = |file| read(level, file).and_then(|text| text.parse::<u64>().ok());
    // "max" is no number; in version 1 no limit is a very large one.
    let (Some(most), Some(used)) = (number(names[0]), number(names[1])) else { return Ok(()) };
    // A database uses all that its limit leaves as page cache, which gives way.
    let cached = cached(&read(level, "memory.stat").unwrap_or_default(), [names[2], names[3]]);
    let used = used.saturating_sub(cached);
    if used.saturating_add(need) <= most {
        return Ok(());
    }
    let file = level.join(names[0]);
    Err(format!(
        "its cgroup uses {used} bytes of {most} ({}) beside its page cache, and {need} must be free: raise that limit (echo {} > \
         {})",
        names[0],
        used + 2 * need,
        file.display()
    ))
}

/// Bytes of these two kinds in memory.stat.
fn cached(stat: &str, kinds: [&str; 2]) -> u64 {
    let of_kind = |line: &str| {
        let (kind, bytes) = line.split_once(' ')?;
        kinds.contains(&kind).then(|| bytes.trim().parse::<u64>().ok()).flatten()
    };
    stat.lines().filter_map(of_kind).sum()
}

/// RLIMIT_NPROC counts all threads of the user we run as, wherever they are (getrlimit(2)). Those that this user may not see
/// are not found.
fn check_user(process: &Process, need: u64) -> Result<(), String> {
    let own = std::process::id() as i32;
    let Some(most) = own_limit(process) else { return Ok(()) };
    if is_exempt(process) {
        return Ok(());
    }
    let user = |pid: i32| {
        let status = process.status(pid)?;
        let user = status.field("Uid")?.split_whitespace().next()?.parse::<u32>().ok()?;
        Some((user, status.field("Threads")?.parse::<u64>().ok()?))
    };
    let Some((ours, _)) = user(own) else { return Ok(()) };
    let all = process.list(".").into_iter().filter_map(user);
    let used: u64 = all.filter(|&(owner, _)| owner == ours).map(|(_, threads)| threads).sum();
    if used + need <= most {
        return Ok(());
    }
    Err(format!(
        "user {ours}, as whom hotbackup runs, has {used} processes and threads of {most} (RLIMIT_NPROC), and {need} must be \
         free: raise that limit (prlimit --nproc={}, ulimit -u)",
        used + 2 * need
    ))
}

/// Our own RLIMIT_NPROC, if it is a number.
fn own_limit(process: &Process) -> Option<u64> {
    let text = super::process::read_below(process.proc(), "self/limits").ok()?;
    super::room::parse_limits(&text).get("Max processes").copied()
}

/// Whether the kernel asks us for no such limit: root of the whole machine, and these capabilities there.
fn is_exempt(process: &Process) -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    const SYS_RESOURCE: u64 = 1 << 24;
    let Some(status) = process.status(std::process::id() as i32) else { return false };
    let map = super::process::read_below(process.proc(), "self/uid_map").unwrap_or_default();
    let is_whole = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let is_root = status.field("Uid").is_some_and(|ids| ids.split_whitespace().next() == Some("0"));
    let set = status.field("CapEff").and_then(|set| u64::from_str_radix(set, 16).ok()).unwrap_or(0);
    is_whole && (is_root || set & (SYS_ADMIN | SYS_RESOURCE) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_cache_of_both_versions_is_told_from_other_memory() {
        let second = "anon 100\nfile 90\ninactive_file 20\nactive_file 30\nshmem 40\n";
        assert_eq!(cached(second, ["active_file", "inactive_file"]), 50);
        let first = "cache 9\nactive_file 1\ntotal_inactive_file 2\ntotal_active_file 3\n";
        assert_eq!(cached(first, ["total_active_file", "total_inactive_file"]), 5);
    }

    #[test]
    fn a_group_with_hardly_any_free_task_or_byte_has_no_room() {
        let level = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(level.path().join(file), text).unwrap();
        write("pids.max", "max\n");
        write("pids.current", "5\n");
        check_tasks(level.path(), 10, "its").unwrap();
        write("pids.max", "15\n");
        check_tasks(level.path(), 10, "its").unwrap();
        assert!(check_tasks(level.path(), 11, "its").unwrap_err().contains("pids.max"));
        write("memory.max", "1000\n");
        write("memory.current", "990\n");
        write("memory.stat", "active_file 200\ninactive_file 90\n");
        check_memory(level.path(), true, 300).unwrap();
        let words = check_memory(level.path(), true, 301).unwrap_err();
        assert!(words.contains("uses 700 bytes of 1000 (memory.max)"), "{words}");
    }

    #[test]
    fn this_process_leaves_room_beside_it() {
        check(&Process::open(std::process::id() as i32).unwrap(), false).unwrap();
    }
}
