//! A frozen target cannot be attached to: that is told soon, and nothing is left.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::bench::{Noise, assert_unharmed, right_or_refused};
use crate::cgroup::{Freezer, Group};
use crate::common::backup::{self, Outcome, Running, alone, seed};
use crate::common::guest::{Guest, Linked};
use crate::common::process::{back_up, path};
use crate::faults::target::Target;
use crate::holders::{holders, keepers};
use crate::runtime::unique;
use crate::target::Boxed;

/// Two seconds, and one for a busy machine.
const LIMIT: Duration = Duration::from_secs(3);

/// Waits for a backup to end. One that does not is killed, after `thaw`, and the test fails.
fn finish_soon(mut running: Running, what: &str, thaw: impl FnOnce()) -> Outcome {
    let began = Instant::now();
    while running.is_running() {
        if began.elapsed() > LIMIT {
            thaw();
            running.kill();
            panic!("{what}: the backup of a frozen target has not ended within {LIMIT:?}");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    running.finish()
}

fn assert_refused_as_frozen(outcome: &Outcome) {
    let said = outcome.failure("frozen");
    outcome.assert_nothing_left();
    assert!(said.contains("frozen") || said.contains("paused"), "not told why: {said}");
}

fn rings() -> Guest {
    Guest::start("rings", Linked::Statically, &["4", "64", "200"])
}

fn start(guest: &Guest, name: &str) -> Running {
    backup::start(guest.pid(), &guest.beside(name), &["--source", path(&guest.dir)])
}

/// The first backup of a target in this freezer.
fn first_backup(freezer: Freezer) {
    let mut guest = rings();
    let group = Group::around(&unique("frozen"), guest.pid());
    group.freeze(freezer);
    let outcome = finish_soon(start(&guest, "frozen"), &format!("{freezer:?}"), || group.thaw(freezer));
    assert_refused_as_frozen(&outcome);
    assert_eq!(group.processes(), [guest.pid()], "{freezer:?}: something is left in the target's cgroup");
    group.thaw(freezer);
    guest.assert_goes_on();
    assert!(!guest.is_filtered(), "{freezer:?}: a refused attach left a filter");
    back_up(&mut guest, 4, "thawed");
    guest.kill();
}

/// A later one, whose keepers are frozen with the target.
fn later_backup(freezer: Freezer) {
    let mut guest = rings();
    let group = Group::around(&unique("frozen"), guest.pid());
    back_up(&mut guest, 4, "first");
    let before = keepers(guest.pid());
    group.freeze(freezer);
    let outcome = finish_soon(start(&guest, "frozen"), &format!("{freezer:?}"), || group.thaw(freezer));
    assert_refused_as_frozen(&outcome);
    group.thaw(freezer);
    guest.assert_goes_on();
    assert_eq!(keepers(guest.pid()), before, "{freezer:?}: other keepers");
    back_up(&mut guest, 4, "thawed");
    guest.kill();
}

/// SIGTERM at whatever instant of the first backup.
fn sigterm(freezer: Freezer, noise: &mut Noise) {
    let mut guest = rings();
    let group = Group::around(&unique("frozen"), guest.pid());
    group.freeze(freezer);
    let running = start(&guest, "frozen");
    std::thread::sleep(Duration::from_micros(noise.next() % 300_000));
    running.signal(Signal::SIGTERM);
    let outcome = finish_soon(running, &format!("{freezer:?}, SIGTERM"), || group.thaw(freezer));
    assert!(!outcome.status.success(), "{freezer:?}: a backup of a frozen target succeeded");
    outcome.assert_nothing_left();
    assert_eq!(group.processes(), [guest.pid()], "{freezer:?}: something is left in the target's cgroup");
    group.thaw(freezer);
    guest.assert_goes_on();
    assert_eq!(holders(guest.pid()), Vec::<i32>::new(), "{freezer:?}: a keeper is left");
    back_up(&mut guest, 4, "thawed");
    guest.kill();
}

#[test]
fn the_first_backup_of_a_frozen_target_is_refused_and_leaves_nothing() {
    let _alone = alone();
    Freezer::all().into_iter().for_each(first_backup);
}

#[test]
fn a_later_backup_of_a_frozen_target_is_refused_and_leaves_its_keepers() {
    let _alone = alone();
    Freezer::all().into_iter().for_each(later_backup);
}

#[test]
fn sigterm_ends_the_backup_of_a_frozen_target_and_leaves_nothing() {
    let _alone = alone();
    let mut noise = Noise::new(seed());
    for _ in 0..3 {
        Freezer::all().into_iter().for_each(|freezer| sigterm(freezer, &mut noise));
    }
}

#[test]
fn backups_of_a_paused_container_are_refused_and_those_after_it_are_right() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    for round in 0..2 {
        target.container().pause();
        let dest = target.beside(&format!("paused{round}"));
        let running = backup::start(target.pid(), &dest, &target.what());
        let outcome = finish_soon(running, &format!("pause {round}"), || target.container().resume());
        assert_refused_as_frozen(&outcome);
        target.container().resume();
        target.assert_goes_on();
        target.begin();
        let dest = target.beside(&format!("resumed{round}"));
        let outcome = backup::take(target.pid(), &dest, &target.what());
        assert!(right_or_refused(&outcome, "resumed"), "refused though it runs");
        assert_unharmed(&mut target, "resumed");
    }
}
