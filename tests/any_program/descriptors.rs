//! Many threads, and descriptors that never stay what they were.

use crate::bench::{assert_names, back_up, refused};
use crate::common::backup::alone;
use crate::common::guest::{Guest, Linked};

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
fn threads_that_may_write_unseen_by_descriptors_of_their_own_are_refused() {
    let _alone = alone();
    let said = refused(&mut changing("4", "2", "1"), "blind");
    assert_names(&said, &["8 bytes", "descriptors of its own"]);
}

#[test]
fn a_program_with_1000_threads_is_backed_up() {
    let _alone = alone();
    back_up(&mut Guest::start("rings", Linked::Dynamically, &["1000", "2", "100000"]), 1000);
}
