//! Keepers that are born from the target, because whoever attaches may not put processes into its cgroups: they outlive him, whatever
//! happens to him and whenever, and are keepers like all others.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{assert_unharmed, begin, right_or_refused};
use crate::cgroup::Group;
use crate::common::backup::{self, HOTBACKUP, alone, number_from, scratch};
use crate::common::guest::{Guest, Linked, compile};
use crate::common::process::{assert_right, path, state, status, wait_until};
use crate::faults::target::Target;
use crate::holders::{holders, keepers, kill_keepers, left};
use crate::rescue::assert_rescues;
use crate::runtime::unique;
use crate::target::Boxed;

/// What a shell does to become hotbackup in cgroups of its own, which sees none of the others. Its first arguments are the files by
/// which it joins them, up to `--`.
const APART: &str = "
while [ \"$1\" != -- ]; do echo $$ > \"$1\" || exit 98; shift; done; shift
mount -t tmpfs none /sys/fs/cgroup || exit 99
exec \"$@\"";

/// hotbackup in this cgroup, where it cannot reach any other.
pub fn apart(group: &Group) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", APART, "sh"]).args(group.doors()).args(["--", HOTBACKUP]);
    command
}

pub fn side() -> Group {
    let group = Group::named(&unique("side"));
    group.make();
    group
}

fn groups(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives")
}

/// Fails unless a target's keepers were born from it.
pub fn assert_born(target: i32) {
    for keeper in keepers(target) {
        assert_eq!(groups(keeper), groups(target), "keeper {keeper} is in other cgroups than its target");
        let words = fs::read_to_string(format!("/proc/{keeper}/cmdline")).expect("it lives");
        assert!(words.trim_end_matches('\0').ends_with("born"), "{words:?}");
    }
}

/// Kills one of a target's keepers; another takes its place.
fn kill_one(target: i32, which: usize) {
    let killed = keepers(target)[which];
    kill(Pid::from_raw(killed), Signal::SIGKILL).expect("the keeper lives");
    wait_until("another keeper", || holders(target).len() == 2 && !holders(target).contains(&killed));
}

#[test]
fn keepers_born_for_a_sidecar_outlive_it_and_are_kept_by_host_and_sidecar_in_turn() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    begin(&mut target);
    let sidecar = target.idle_sidecar();
    let take = |target: &Boxed, name: &str| {
        backup::start_command(sidecar.exec(HOTBACKUP), 1, &target.beside(name), &target.what()).finish()
    };
    assert!(right_or_refused(&take(&target, "first"), "first"), "the sidecar was refused");
    assert_born(target.pid());
    let first = keepers(target.pid());
    assert!(right_or_refused(&take(&target, "second"), "second"), "the sidecar was refused");
    assert_eq!(keepers(target.pid()), first, "a keeper was replaced");
    // Each in turn, the one that acts and its twin.
    for round in 0..4 {
        kill_one(target.pid(), round % 2);
        assert_unharmed(&mut target, "a keeper was killed");
    }
    let dest = target.beside("host");
    assert!(right_or_refused(&backup::take(target.pid(), &dest, &target.what()), "host"), "the host was refused");
    assert!(right_or_refused(&take(&target, "third"), "third"), "the sidecar was refused");
    sidecar.group.kill();
    assert_unharmed(&mut target, "the sidecar was killed");
    drop(sidecar);
    assert_unharmed(&mut target, "the sidecar is gone");
    assert_born(target.pid());
    let dest = target.beside("last");
    assert!(right_or_refused(&backup::take(target.pid(), &dest, &target.what()), "last"), "the host was refused");
    assert_unharmed(&mut target, "at last");
}

/// Steps at which whoever attaches is killed, with all that is in his cgroups, before it is sure that there will be a filter.
const BEFORE: [&str; 9] = [
    "attach.memory-made",
    "birth.gifts-made",
    "birth.program-written",
    "birth.born",
    "birth.ready",
    "attach.keeper-ready",
    "attach.page-written",
    "inject.code-written:3",
    "inject.redirected:4",
];
/// The same from then on.
const AFTER: [&str; 4] = ["attach.installed", "attach.listener-taken", "attach.supervised", "attach.receiving"];

/// Comes to `step`, and is killed there as a whole.
fn killed_at(step: &str, mut target: Boxed) -> Boxed {
    begin(&mut target);
    let (group, struck) = (side(), target.beside("struck"));
    let (name, count) = step.split_once(':').unwrap_or((step, "1"));
    let mut command = apart(&group);
    command.env("HOTBACKUP_FAILPOINT", format!("{name}:stop:{count}@{}", path(&struck)));
    let mut running = backup::start_command(command, target.pid(), &target.beside("killed"), &target.what());
    wait_until(step, || {
        assert!(running.is_running(), "it ended before {step}");
        struck.exists()
    });
    group.kill();
    running.kill();
    assert_unharmed(&mut target, step);
    target
}

/// A target in cgroups of its own, whose keepers may do what it may.
fn in_namespaces() -> Boxed {
    let mut target = Boxed::in_namespaces();
    target.hold(Group::around(&unique("home"), target.pid()));
    target
}

fn is_filtered(target: &Boxed) -> bool {
    status(target.pid(), "Seccomp").as_deref() == Some("2")
}

/// The host backs the target up, whatever was left.
fn next_is_right(target: &mut Boxed, step: &str) {
    let dest = target.beside("next");
    assert!(right_or_refused(&backup::take(target.pid(), &dest, &target.what()), step), "{step}: the host was refused");
    assert_unharmed(target, step);
}

#[test]
fn whoever_is_killed_as_a_whole_at_a_birth_leaves_nobody_and_a_target_that_runs_on() {
    let _alone = alone();
    for step in BEFORE {
        let mut target = killed_at(step, in_namespaces());
        assert!(!is_filtered(&target), "{step}: a filter is there");
        wait_until("the end of all that was born", || holders(target.pid()).is_empty());
        wait_until("the end of its parent", || target.helpers().is_empty());
        next_is_right(&mut target, step);
        let (open, _) = left(target.pid());
        let of_a_birth = |link: &&String| link.contains("hotbackup-keeper") || link.contains("socket:[");
        assert_eq!(
            open.iter().find(of_a_birth),
            None,
            "{step}: the birth has left something, also after the next attach"
        );
    }
}

#[test]
fn whoever_is_killed_as_a_whole_with_the_filter_on_its_way_leaves_keepers_that_answer() {
    let _alone = alone();
    for step in AFTER {
        // Under the usual profile: its keepers may take no descriptor from anybody, and have the listener from the target alone.
        let mut target = killed_at(step, Boxed::in_container());
        let filters = || status(target.pid(), "Seccomp_filters");
        wait_until("the filter", || filters().as_deref() == Some("2"));
        assert_unharmed(&mut target, step);
        assert_born(target.pid());
        next_is_right(&mut target, step);
    }
}

/// What is born is killed, before it is ready: that is told, and nothing is left.
#[test]
fn a_birth_that_comes_to_nothing_leaves_nothing_and_is_refused() {
    let _alone = alone();
    for step in ["birth.gifts-taken", "keeper.started"] {
        let mut target = in_namespaces();
        begin(&mut target);
        let (group, before) = (side(), left(target.pid()));
        let mut command = apart(&group);
        command.env("HOTBACKUP_FAILPOINT", format!("{step}:kill"));
        let outcome = backup::start_command(command, target.pid(), &target.beside("refused"), &target.what()).finish();
        outcome.failure("cannot_outlive");
        assert_eq!(left(target.pid()), before, "{step}: something is left in the target");
        wait_until("the end of all helpers", || target.helpers().is_empty());
        assert!(!is_filtered(&target));
        assert_unharmed(&mut target, step);
        next_is_right(&mut target, step);
    }
}

/// A guest in cgroups of its own is backed up from where they cannot be reached, and then as ever.
fn born_from(guest: &mut Guest, pid: i32, source: &Path, rings: usize) {
    let _home = Group::around(&unique("home"), pid);
    let group = side();
    for round in 0..number_from("HOTBACKUP_ROUNDS", 2) {
        let dest = guest.beside(&format!("apart{round}"));
        let outcome = backup::start_command(apart(&group), pid, &dest, &["--source", path(source)]).finish();
        assert_right(&outcome, rings);
        group.kill();
        guest.assert_goes_on();
        assert_born(pid);
        kill_one(pid, round as usize % 2);
        guest.assert_goes_on();
    }
    let dest = guest.beside("host");
    assert_right(&backup::take(pid, &dest, &["--source", path(source)]), rings);
    guest.assert_goes_on();
    let found = keepers(pid);
    guest.kill();
    wait_until("the keepers' end", || found.iter().all(|&keeper| matches!(state(keeper), None | Some('Z'))));
}

/// It has no /proc of its own, and neither have they.
#[test]
fn keepers_are_born_from_a_target_whose_root_has_no_proc() {
    let _alone = alone();
    let scratch = scratch();
    let root = scratch.path().join("root");
    let dir = root.join("data");
    fs::create_dir_all(&dir).expect("a directory");
    fs::copy(compile("rings", Linked::Statically), root.join("rings")).expect("copied");
    let mut command = Command::new("chroot");
    command.arg(&root).args(["/rings", "/data", "4", "32", "200"]);
    let mut guest = Guest::spawn(scratch, dir, command);
    let pid = guest.pid();
    born_from(&mut guest, pid, Path::new("/data"), 4);
}

#[test]
fn keepers_are_born_from_a_target_in_a_user_namespace_of_its_own() {
    let _alone = alone();
    let scratch = scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a directory");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(compile("rings", Linked::Statically)).arg(&dir).args(["4", "32", "200"]);
    let mut guest = Guest::spawn(scratch, dir.clone(), command);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", guest.pid())).expect("it lives");
    born_from(&mut guest, children.trim().parse().expect("one child"), &dir, 4);
}

/// They have what every keeper has: nothing of the target's.
#[test]
fn those_who_are_born_inherit_no_descriptor_no_blocked_and_no_ignored_signal() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "32", "200"]);
    let pid = guest.pid();
    let _home = Group::around(&unique("home"), pid);
    let group = side();
    let dest = guest.beside("apart");
    let outcome = backup::start_command(apart(&group), pid, &dest, &["--source", path(&guest.dir)]).finish();
    assert_right(&outcome, 4);
    let pair = keepers(pid);
    let parent = |keeper: i32| status(keeper, "PPid").and_then(|parent| parent.parse::<i32>().ok()).expect("it lives");
    let reaper = pair.iter().map(|&keeper| parent(keeper)).find(|parent| !pair.contains(parent)).expect("a parent");
    assert_ne!(parent(reaper), pid, "it is the target's child");
    for born in [&pair[..], &[reaper]].concat() {
        let entries = fs::read_dir(format!("/proc/{born}/fd")).expect("it lives");
        for file in entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()) {
            let file = file.display().to_string();
            let known = ["/", "/proc", "/memfd:hotbackup-session (deleted)"].contains(&&*file)
                || ["anon_inode:", "socket:["].iter().any(|start| file.starts_with(start));
            assert!(known, "{born} has {file} open");
        }
        assert_eq!(status(born, "SigBlk").as_deref(), Some("0000000000000000"), "blocked signals");
        assert_eq!(status(born, "SigCgt").as_deref(), Some("0000000000000000"), "handled signals");
        assert_ne!(status(born, "NSsid"), status(pid, "NSsid"), "it is in the target's session");
        assert_eq!(status(born, "Seccomp").as_deref(), Some("0"), "it carries a filter");
    }
    guest.assert_goes_on();
}

/// What the target starts now would wait for an answer itself. From another container a backup is refused before anything is touched, and a
/// rescue answers for as long as that lives; from the host both are as ever.
#[test]
fn born_keepers_that_were_all_killed_are_not_born_again_and_that_is_said() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    begin(&mut target);
    let sidecar = target.idle_sidecar();
    let take = |target: &Boxed, name: &str| {
        backup::start_command(sidecar.exec(HOTBACKUP), 1, &target.beside(name), &target.what()).finish()
    };
    assert!(right_or_refused(&take(&target, "first"), "first"), "the sidecar was refused");
    assert_born(target.pid());
    kill_keepers(target.pid());
    let before = left(target.pid());
    let said = take(&target, "refused").failure("cannot_outlive");
    assert!(said.contains("its keepers were killed") && said.contains("hotbackup rescue"), "{said}");
    assert_eq!((left(target.pid()), holders(target.pid())), (before, Vec::new()), "something was touched");
    let checked =
        sidecar.exec(HOTBACKUP).args(["check", "--pid", "1"]).args(&target.what()[..2]).output().expect("it starts");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("its keepers were killed"), "{checked:?}");
    assert_rescues(&mut target, &mut sidecar.exec(HOTBACKUP), 1);
    sidecar.group.kill();
    wait_until("the end of the sidecar's keepers", || holders(target.pid()).is_empty());
    let pid = target.pid();
    assert_rescues(&mut target, &mut Command::new(HOTBACKUP), pid);
    let dest = target.beside("last");
    assert!(right_or_refused(&backup::take(pid, &dest, &target.what()), "last"), "the host was refused");
}
