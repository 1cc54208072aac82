//! Room for processes: keepers count where the target counts, and must not take what it needs.

use std::fs;
use std::process::Command;

use crate::cgroup::Group;
use crate::common::backup::{self, HOTBACKUP, alone, scratch};
use crate::common::guest::{Guest, Linked};
use crate::common::process::{back_up, path, wait_until};
use crate::holders::holders;
use crate::runtime::unique;

/// The guest, and the thread or child that it has at times.
const TASKS: u64 = 2;

/// With just no room in `limited`, the guest around it is refused before anything is touched, and goes on forking; with
/// room it is backed up.
fn refused_until_there_is_room(guest: &mut Guest, limited: &Group) {
    limited.set_most_tasks(&TASKS.to_string());
    guest.assert_goes_on();
    let dest = guest.beside("refused");
    let source = guest.dir.clone();
    let outcome = backup::take(guest.pid(), &dest, &["--source", path(&source)]);
    // First of all: it could start whatever it started meanwhile, and can still fork.
    guest.assert_goes_on();
    fs::write(guest.beside("fork"), "").expect("a trigger");
    wait_until("the guest's own children", || {
        guest.assert_alive();
        guest.beside("forked").exists()
    });
    let said = outcome.failure("no_room");
    assert_eq!(outcome.status.code(), Some(14));
    assert!(said.contains("pids.max"), "the limit is not named: {said}");
    assert!(!guest.is_filtered(), "a refused attach left a filter");
    assert_eq!(holders(guest.pid()), Vec::<i32>::new(), "a refused attach left a keeper");
    assert!(limited.tasks() <= TASKS, "a refused attach left processes in the target's cgroup");
    limited.set_most_tasks("max");
    back_up(guest, 1, "with_room");
}

fn start() -> Guest {
    let scratch = scratch();
    let beside = |name| path(&scratch.path().join(name)).to_owned();
    let (trigger, done) = (beside("fork"), beside("forked"));
    Guest::start_in(scratch, "starts_tasks", Linked::Statically, &["64", "2000", &trigger, &done])
}

#[test]
fn a_target_whose_cgroup_has_just_no_room_for_keepers_is_refused_and_forks_on() {
    let _alone = alone();
    let mut guest = start();
    let group = Group::around(&unique("pids"), guest.pid());
    refused_until_there_is_room(&mut guest, &group);
    guest.kill();
}

#[test]
fn a_target_is_refused_when_a_cgroup_above_its_own_has_just_no_room_for_keepers() {
    let _alone = alone();
    let mut guest = start();
    let above = Group::named(&unique("pids"));
    above.make();
    let group = Group::around(&format!("{}/target", above.name()), guest.pid());
    refused_until_there_is_room(&mut guest, &above);
    guest.kill();
    drop(group);
}

#[test]
fn check_finds_that_there_is_no_room_for_keepers() {
    let _alone = alone();
    let mut guest = start();
    let group = Group::around(&unique("pids"), guest.pid());
    group.set_most_tasks(&TASKS.to_string());
    let pid = guest.pid().to_string();
    let mut command = Command::new(HOTBACKUP);
    command.args(["check", "--json", "--pid", &pid, "--source", path(&guest.dir)]);
    let output = command.output().expect("it starts");
    guest.assert_goes_on();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("pids.max"), "{}: {said}", output.status);
    guest.kill();
}
