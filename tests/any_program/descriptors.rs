//! Many threads, and descriptors that never stay what they were.

use std::fs;

use crate::bench::{assert_names, assert_right, back_up, back_up_large, refused};
use crate::common::backup::{self, Outcome, alone, scratch};
use crate::common::guest::{Guest, Linked};
use crate::common::process::{path, state, wait_until};

fn changing(threads: &str, private: &str, eventfds: &str) -> Guest {
    Guest::start("changes_descriptors", Linked::Dynamically, &[threads, private, eventfds])
}

#[test]
fn a_program_that_changes_its_descriptors_all_the_time_is_backed_up() {
    let _alone = alone();
    back_up(&mut changing("8", "0", "0"), 8);
}

#[test]
fn a_program_with_eventfds_that_changes_its_descriptors_all_the_time_is_backed_up() {
    let _alone = alone();
    back_up(&mut changing("4", "0", "2"), 4);
}

#[test]
fn threads_with_descriptor_tables_of_their_own_are_backed_up() {
    let _alone = alone();
    back_up(&mut changing("8", "4", "0"), 8);
}

#[test]
fn a_program_of_whose_threads_only_the_first_has_the_common_descriptors_is_backed_up() {
    let _alone = alone();
    back_up(&mut changing("4", "4", "0"), 4);
}

#[test]
fn a_program_with_1000_threads_is_backed_up() {
    let _alone = alone();
    back_up_large(&mut Guest::start("rings", Linked::Dynamically, &["1000", "2", "400000"]), 1000);
}

/// Backs up a guest whose first thread ends while it is copied, and then again, which must be refused.
fn first_thread_ends(eventfds: &str) -> Outcome {
    let scratch = scratch();
    let trigger = scratch.path().join("trigger");
    let arguments = [path(&trigger), eventfds];
    let mut guest = Guest::start_in(scratch, "first_thread_ends", Linked::Dynamically, &arguments);
    let (dest, source) = (guest.beside("backup"), guest.dir.clone());
    let mut running = backup::start(guest.pid(), &dest, &["--source", path(&source), "--throttle", "2MiB"]);
    running.wait_for_copying();
    fs::write(&trigger, "").expect("written");
    wait_until("the end of the first thread", || state(guest.pid()) == Some('Z'));
    let outcome = running.finish();
    guest.assert_goes_on();
    if outcome.status.success() {
        assert_right(&outcome, 1);
    }
    assert_names(&refused(&mut guest, "cannot_follow"), &["first thread"]);
    outcome
}

#[test]
fn a_program_whose_first_thread_ends_is_backed_up_to_the_end_and_then_refused() {
    let _alone = alone();
    first_thread_ends("0").report();
}

#[test]
fn a_backup_that_needs_to_look_at_descriptors_fails_when_the_first_thread_ends() {
    let _alone = alone();
    let outcome = first_thread_ends("1");
    assert_names(&outcome.failure_of(&["blind"]), &["first thread"]);
}

#[test]
fn the_one_thread_with_the_common_descriptors_is_found_among_many() {
    let _alone = alone();
    back_up_large(&mut changing("40", "40", "0"), 40);
}
