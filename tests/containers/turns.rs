//! Host and sidecar back one target up in turn, each with names and numbers of its own for it and its keepers.

use std::process::Command;

use crate::bench::{REFUSALS, assert_unharmed, begin, right_or_refused};
use crate::common::backup::{self, HOTBACKUP, alone, number_from, scratch};
use crate::common::guest::{Guest, Linked, compile};
use crate::common::process::{assert_right_or_failed, path};
use crate::faults::target::Target;
use crate::target::{Boxed, NEEDED};

/// In its own PID namespace a target is the first process.
const THERE: i32 = 1;
/// Slow enough for the writers to come round several times.
const THROTTLE: [&str; 2] = ["--throttle", "1MiB"];

/// Backups from the host and from `inside`, each right or refused; then one from the host, which nobody is in the way of.
fn take_turns(target: &mut Boxed, inside: &dyn Fn() -> Command) {
    begin(target);
    let (mut from_host, mut from_inside) = (0, 0);
    let rounds = number_from("HOTBACKUP_TURNS", 3);
    for round in 0..rounds {
        let dest = |from: &str| target.beside(&format!("{from}{round}"));
        let (host, side) = (dest("host"), dest("side"));
        // Only its attach is of interest: it may answer as it likes.
        if round % 2 == 1 {
            let check = inside().args(["check", "--json", "--pid", &THERE.to_string()]).output().expect("it starts");
            assert!(check.status.code().is_some(), "check from inside died: {check:?}");
        }
        let more = [&target.what()[..], if round % 3 == 2 { &[] } else { &THROTTLE }].concat();
        let outcome = backup::start_command(Command::new(HOTBACKUP), target.pid(), &host, &more).finish();
        from_host += u64::from(right_or_refused(&outcome, &format!("host, round {round}")));
        let outcome = backup::start_command(inside(), THERE, &side, &more).finish();
        from_inside += u64::from(right_or_refused(&outcome, &format!("inside, round {round}")));
        assert_unharmed(target, &format!("round {round}"));
        for done in [host, side].iter().filter(|dest| dest.exists()) {
            std::fs::remove_dir_all(done).expect("our own backup");
        }
    }
    println!("of {rounds} rounds, right and not refused: {from_host} from the host, {from_inside} from inside");
    assert!(from_host > 0, "the host, which may do anything, was always refused");
    let last = target.beside("last");
    assert!(right_or_refused(&backup::take(target.pid(), &last, &target.what()), "at last"), "the last was refused");
    assert_unharmed(target, "at last");
}

#[test]
fn host_and_sidecar_take_turns_and_every_backup_is_right_or_refused() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    let sidecar = target.idle_sidecar();
    take_turns(&mut target, &|| sidecar.exec(HOTBACKUP));
}

/// The sidecar comes first, in a cgroup of its own, where keepers would end with it: they are born from the target.
#[test]
fn sidecar_and_host_take_turns_and_every_backup_is_right_or_refused() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    let sidecar = target.idle_sidecar();
    let dest = target.beside("first");
    begin(&mut target);
    let outcome = backup::start_command(sidecar.exec(HOTBACKUP), THERE, &dest, &target.what()).finish();
    assert!(right_or_refused(&outcome, "first"), "the sidecar was refused");
    take_turns(&mut target, &|| sidecar.exec(HOTBACKUP));
}

#[test]
fn host_and_a_sidecar_under_a_profile_of_its_own_take_turns_and_every_backup_is_right_or_refused() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    let sidecar = target.idle_sidecar_allowed(&NEEDED, true);
    take_turns(&mut target, &|| sidecar.exec(HOTBACKUP));
}

#[test]
fn host_and_a_shell_in_the_targets_namespaces_take_turns_and_every_backup_is_right_or_refused() {
    let _alone = alone();
    let mut target = Boxed::in_namespaces();
    let target_pid = target.pid();
    take_turns(&mut target, &|| by_nsenter(target_pid));
}

/// hotbackup in a target's own namespaces.
fn by_nsenter(target: i32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &target.to_string(), "--pid", "--mount", "--", HOTBACKUP]);
    command
}

/// A target that only writes blocks: no change of a name or a file's time can tell that a call was missed.
#[test]
fn writes_of_blocks_are_not_missed_when_host_and_a_shell_inside_take_turns() {
    let _alone = alone();
    let scratch = scratch();
    let dir = scratch.path().join("data");
    std::fs::create_dir(&dir).expect("a data directory");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(compile("rings", Linked::Statically)).arg(&dir).args(["4", "64", "200"]);
    let mut guest = Guest::spawn(scratch, dir, command);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", guest.pid())).expect("it lives");
    let target: i32 = children.trim().parse().expect("one child");
    let source = guest.dir.clone();
    for round in 0..number_from("HOTBACKUP_TURNS", 3) {
        for (from, command, pid) in [("host", Command::new(HOTBACKUP), target), ("inside", by_nsenter(target), THERE)] {
            let dest = guest.beside(&format!("{from}{round}"));
            let more = ["--source", path(&source), THROTTLE[0], THROTTLE[1]];
            let outcome = backup::start_command(command, pid, &dest, &more).finish();
            assert_right_or_failed(&outcome, 4, &REFUSALS);
            guest.assert_goes_on();
        }
    }
}
