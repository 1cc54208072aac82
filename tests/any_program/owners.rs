//! Whose the target is, and what it may do.

use std::fs;

use crate::bench::back_up;
use crate::common::backup::{alone, scratch};
use crate::common::guest::{Guest, Linked};
use crate::common::process::{path, status, wait_until};

/// A guest that gives something up, before it is ready or once told by the file that is returned.
fn gives_up(what: &str, is_early: bool) -> (Guest, std::path::PathBuf) {
    let scratch = scratch();
    let trigger = scratch.path().join("trigger");
    if is_early {
        fs::write(&trigger, "").expect("written");
    }
    (Guest::start_in(scratch, "gives_up", Linked::Dynamically, &[what, path(&trigger)]), trigger)
}

#[test]
fn a_program_that_drops_its_privileges_between_backups_is_backed_up() {
    let _alone = alone();
    let (mut guest, trigger) = gives_up("user", false);
    back_up(&mut guest, 2);
    fs::write(&trigger, "").expect("written");
    wait_until("the guest to be nobody's", || status(guest.pid(), "Uid").is_some_and(|uid| uid.starts_with("65534")));
    back_up(&mut guest, 2);
}

#[test]
fn a_program_of_root_without_capabilities_is_backed_up() {
    let _alone = alone();
    let (mut guest, _) = gives_up("capabilities", true);
    assert_eq!(status(guest.pid(), "CapEff").as_deref(), Some("0000000000000000"));
    back_up(&mut guest, 2);
}

#[test]
fn a_program_that_is_not_dumpable_is_backed_up() {
    let _alone = alone();
    let (mut guest, _) = gives_up("dumpable", true);
    back_up(&mut guest, 2);
}

#[test]
fn a_program_that_stops_being_dumpable_between_backups_is_backed_up() {
    let _alone = alone();
    let (mut guest, trigger) = gives_up("dumpable", false);
    back_up(&mut guest, 2);
    fs::write(&trigger, "").expect("written");
    wait_until("the guest to have done it", || !trigger.exists());
    back_up(&mut guest, 2);
}

#[test]
fn a_program_with_a_harmless_filter_of_its_own_is_backed_up() {
    let _alone = alone();
    back_up(&mut Guest::start("harmless_filter", Linked::Dynamically, &[]), 2);
}
