//! What is missing is told by its name, before anything is touched, and `check` finds it beforehand.

use std::process::Command;

use serde_json::json;

use crate::bench::{assert_unharmed, begin};
use crate::common::backup::{self, HOTBACKUP, alone};
use crate::common::process::{status, wait_until};
use crate::faults::target::Target;
use crate::holders::{left, memories};
use crate::runtime::Container;
use crate::target::{Boxed, NEEDED};

/// What `check` says from a sidecar.
fn check(target: &Boxed, sidecar: &Container) -> (bool, String) {
    let mut command: Command = sidecar.exec(HOTBACKUP);
    command.args(["check", "--json", "--pid", "1"]).args(&target.what()[..2]);
    let output = command.output().expect("runc runs");
    (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

/// A first backup of a target under the usual profile, from a sidecar that has these capabilities, and perhaps the
/// profile itself, is refused with these words and not with those; and so is `check`.
fn refused(capabilities: &[&'static str], profile: bool, words: &[&str], not: &[&str]) {
    let _alone = alone();
    let mut target = Boxed::in_container();
    begin(&mut target);
    let sidecar = target.idle_sidecar_allowed(capabilities, profile);
    let (ok, checked) = check(&target, &sidecar);
    let outcome = backup::start_command(sidecar.exec(HOTBACKUP), 1, &target.beside("refused"), &target.what()).finish();
    let said = outcome.failure_of(&["not_permitted", "cannot_follow", "keeper"]);
    outcome.assert_nothing_left();
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
        assert!(checked.contains(word), "check does not say {word:?}: {checked}");
    }
    for word in not {
        assert!(!said.contains(word), "{word:?} is not the reason: {said}");
    }
    assert!(!ok, "check says that a backup is possible, which is refused: {checked}\n{said}");
    let filters = status(target.pid(), "Seccomp_filters");
    assert_eq!(filters.as_deref(), Some("1"), "another filter than the container's own");
    assert!(memories(target.pid()).is_empty(), "something is left among the target's descriptors");
    assert_unharmed(&mut target, "refused");
}

/// All that is needed but one.
fn without(missing: &str) -> Vec<&'static str> {
    NEEDED.into_iter().filter(|capability| *capability != missing).collect()
}

/// A capability that the target has and the sidecar has not: without CAP_SYS_PTRACE nobody may trace it then.
#[test]
fn a_sidecar_without_sys_ptrace_is_told_so_where_the_target_has_more_than_itself() {
    refused(&["CAP_SYS_ADMIN"], false, &["CAP_SYS_PTRACE"], &["another user's"]);
}

#[test]
fn a_sidecar_without_sys_admin_is_told_so_when_the_target_has_a_filter_of_its_own() {
    refused(&without("CAP_SYS_ADMIN"), false, &["CAP_SYS_ADMIN"], &["must run as root"]);
}

#[test]
fn a_sidecar_without_sys_chroot_is_told_so() {
    refused(&without("CAP_SYS_CHROOT"), false, &["CAP_SYS_CHROOT"], &["must run as root"]);
}

#[test]
fn a_sidecar_with_a_seccomp_filter_on_hotbackup_itself_is_told_so() {
    refused(
        &NEEDED,
        true,
        &["seccomp", "hotbackup itself"],
        &["must run as root", "not hotbackup's", "another user's"],
    );
}

#[test]
fn a_sidecar_beside_a_filter_of_the_hosts_is_told_of_its_own_seccomp_filter() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    begin(&mut target);
    backup::take(target.pid(), &target.beside("first"), &target.what()).report();
    let sidecar = target.idle_sidecar_allowed(&NEEDED, true);
    let outcome = backup::start_command(sidecar.exec(HOTBACKUP), 1, &target.beside("refused"), &target.what()).finish();
    if !outcome.status.success() {
        let said = outcome.failure_of(&["not_permitted", "cannot_follow", "keeper"]);
        assert!(said.contains("hotbackup itself"), "not told of the filter on hotbackup itself: {said}");
        assert!(!said.contains("not hotbackup's"), "the listener is hotbackup's: {said}");
    }
    assert_unharmed(&mut target, "beside the host's keepers");
}

/// A sidecar with a cgroup of its own: what it starts ends with it, so the target starts its keepers itself, unless its own
/// seccomp filter forbids that.
fn refused_by(call: &str, action: &str, arguments: serde_json::Value) {
    let _alone = alone();
    let rule = json!({"names": [call], "action": action, "args": arguments});
    let mut target = Boxed::in_container_with(vec![rule]);
    begin(&mut target);
    let before = left(target.pid());
    let sidecar = target.idle_sidecar();
    let (_, checked) = check(&target, &sidecar);
    assert!(checked.contains("cgroup"), "check does not say how: {checked}");
    let outcome = backup::start_command(sidecar.exec(HOTBACKUP), 1, &target.beside("first"), &target.what()).finish();
    let said = outcome.failure("cannot_outlive");
    outcome.assert_nothing_left();
    assert!(said.contains(call) && said.contains("docker exec"), "no cause or no remedy is told: {said}");
    assert_eq!(left(target.pid()), before, "something is left in the target");
    wait_until("the end of all helpers", || target.container().group.processes() == [target.pid()]);
    assert_unharmed(&mut target, "refused");
    let outcome = backup::take(target.pid(), &target.beside("second"), &target.what());
    outcome.report();
    assert_unharmed(&mut target, "after a sidecar that was refused");
}

fn with_flags(flags: u64) -> serde_json::Value {
    json!([{"index": 0, "value": flags, "op": "SCMP_CMP_EQ"}])
}

/// CLONE_VM and CLONE_VFORK, with no exit signal.
const BIRTH: u64 = 0x4100;

#[test]
fn a_target_whose_filter_fails_a_clone_is_refused_to_a_sidecar_by_name_and_the_host_is_not_in_its_way() {
    refused_by("clone", "SCMP_ACT_ERRNO", with_flags(BIRTH));
}

#[test]
fn a_target_whose_filter_kills_for_a_clone_is_refused_to_a_sidecar_by_name() {
    refused_by("clone", "SCMP_ACT_KILL_PROCESS", with_flags(BIRTH));
}

#[test]
fn a_target_whose_filter_fails_execveat_is_refused_to_a_sidecar_by_name() {
    refused_by("execveat", "SCMP_ACT_ERRNO", json!([]));
}

#[test]
fn a_target_whose_filter_kills_for_execveat_is_refused_to_a_sidecar_by_name() {
    refused_by("execveat", "SCMP_ACT_KILL_PROCESS", json!([]));
}

/// What the keeper will need is tried before there is a filter.
#[test]
fn a_target_whose_filter_forbids_what_its_keeper_needs_is_refused_to_a_sidecar_by_name() {
    refused_by("pidfd_send_signal", "SCMP_ACT_ERRNO", json!([]));
}
