//! Limits that the processes beside the target count against: those of its cgroups and all above, and of the user that
//! hotbackup runs as. Too little room is a refusal that names the limit, before anything is touched; just enough is
//! enough, and the target never meets its limit because of us.
#![forbid(unsafe_code)]

use std::fs;

mod common {
    pub mod backup;
    pub mod cgroup;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, alone};
use common::cgroup::Cgroup;
use common::guest::{Guest, Linked};
use common::process::{back_up, keepers, path};

const RINGS: usize = 4;
const MIB: u64 = 1 << 20;

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "64", "200"])
}

/// A backup that must be refused for want of room, by the name of `file`, with nothing touched.
fn refused(guest: &mut Guest, group: &Cgroup, file: &str) -> String {
    let dest = guest.beside("refused");
    let said = backup::take(guest.pid(), &dest, &["--source", path(&guest.dir)]).failure("no_room");
    println!("{said}");
    for words in [file, path(&group.path().join(file)), "raise that limit"] {
        assert!(said.contains(words), "{words:?} is missing in: {said}");
    }
    assert!(!dest.exists(), "a refused backup left {dest:?}");
    assert!(!guest.is_filtered() && keepers(guest.pid()).is_empty(), "a refused attach left something");
    guest.assert_goes_on();
    said
}

/// How many must be free, by what a refusal says.
fn needed(said: &str) -> u64 {
    let words = said.split(" must be free").next().expect("some text");
    words.rsplit(' ').next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("no number in: {said}"))
}

#[test]
fn a_group_with_too_few_free_tasks_is_refused_and_one_with_just_enough_never_meets_its_limit() {
    let _alone = alone();
    let group = Cgroup::with("pids");
    let mut guest = rings();
    group.take_in(guest.pid());
    let used = group.number("pids.current");
    group.set("pids.max", &(used + 1).to_string());
    let need = needed(&refused(&mut guest, &group, "pids.max"));
    group.set("pids.max", &(used + need - 1).to_string());
    refused(&mut guest, &group, "pids.max");
    group.set("pids.max", &(used + need).to_string());
    for round in 0..3 {
        back_up(&mut guest, RINGS, &format!("backup{round}"));
    }
    assert_eq!(group.get("pids.events"), "max 0", "the limit was met");
    guest.kill();
}

#[test]
fn a_limit_of_tasks_above_the_programs_own_group_is_found() {
    let _alone = alone();
    let above = Cgroup::with("pids");
    let group = above.child();
    let mut guest = rings();
    group.take_in(guest.pid());
    above.set("pids.max", &(above.number("pids.current") + 1).to_string());
    refused(&mut guest, &above, "pids.max");
    above.set("pids.max", "max");
    back_up(&mut guest, RINGS, "backup");
    guest.kill();
}

/// The limit's file, and the one that says how much is used.
fn memory_files(group: &Cgroup) -> (&'static str, &'static str) {
    match group.is_unified() {
        true => ("memory.max", "memory.current"),
        false => ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    }
}

#[test]
fn a_group_with_too_little_free_memory_is_refused_and_one_with_just_enough_loses_nobody() {
    let _alone = alone();
    let group = Cgroup::with("memory");
    let (limit, usage) = memory_files(&group);
    // Born in it, so that its memory is charged there.
    let scratch = backup::scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    let program = common::guest::compile("rings", Linked::Dynamically);
    let line = format!("echo $$ > '{}' && exec \"$@\"", path(&group.path().join("cgroup.procs")));
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &line, "sh"]).arg(program).arg(&dir).args(["4", "64", "200"]);
    let mut guest = Guest::spawn(scratch, dir, command);
    group.set(limit, &(group.number(usage) + MIB).to_string());
    let need = needed(&refused(&mut guest, &group, limit));
    assert!(need < 16 * MIB, "{need} bytes for three small processes");
    // The page cache that the guest's files take gives way, and counts for nothing.
    group.set(limit, &(group.number(usage) + need + MIB).to_string());
    for round in 0..3 {
        back_up(&mut guest, RINGS, &format!("backup{round}"));
    }
    let killed = group.get(if group.is_unified() { "memory.events" } else { "memory.oom_control" });
    assert!(killed.lines().any(|line| line == "oom_kill 0"), "somebody was killed: {killed}");
    guest.kill();
}

#[test]
fn page_cache_is_not_taken_for_memory_that_is_used() {
    let _alone = alone();
    let group = Cgroup::with("memory");
    let (limit, usage) = memory_files(&group);
    let mut guest = rings();
    group.take_in(guest.pid());
    group.set(limit, &(48 * MIB).to_string());
    // A writer in the same group fills it up to its limit.
    let line = format!(
        "echo $$ > '{}' && dd if=/dev/zero of='{}' bs=1M count=64 conv=fsync",
        path(&group.path().join("cgroup.procs")),
        path(&guest.beside("large"))
    );
    let filled = std::process::Command::new("sh").args(["-c", &line]).status().expect("a shell");
    assert!(filled.success());
    let used = group.number(usage);
    assert!(used > 40 * MIB, "the group is not full, which shows nothing: {used}");
    back_up(&mut guest, RINGS, "backup");
    guest.kill();
}
