//! Targets that are close to a limit of their own: what the attach would take, they may need.

use std::fs;

use crate::bench::{assert_names, back_up, refused, run};
use crate::common::backup::alone;
use crate::common::guest::{Guest, Linked};
use crate::common::process::status;

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "64", "200"])
}

/// Sets a limit of the guest's.
fn limit(guest: &Guest, limit: &str) {
    run("prlimit", &["--pid", &guest.pid().to_string(), limit]);
}

/// A number of bytes from the guest's status.
fn bytes(guest: &Guest, field: &str) -> u64 {
    let text = status(guest.pid(), field).expect("the guest lives");
    1024 * text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).expect("a number of kB")
}

/// A limit that leaves no room is refused by its name, and with the limit raised all is well.
fn refused_until_raised(guest: &mut Guest, narrow: &str, names: &[&str], wide: &str) {
    limit(guest, narrow);
    let said = refused(guest, "no_room");
    assert_names(&said, names);
    assert_names(&said, &["prlimit --pid"]);
    assert!(!guest.is_filtered(), "a refused attach left a filter");
    limit(guest, wide);
    back_up(guest, 4);
}

/// A program with so many descriptors to spare.
fn refused_with_descriptors(spare: usize) {
    let _alone = alone();
    let mut guest = rings();
    let open = fs::read_dir(format!("/proc/{}/fd", guest.pid())).expect("it lives").count();
    let narrow = format!("--nofile={}:4096", open + spare);
    refused_until_raised(&mut guest, &narrow, &["file descriptors"], "--nofile=1024:4096");
}

#[test]
fn a_program_without_free_descriptors_is_refused() {
    refused_with_descriptors(0);
}

#[test]
fn a_program_with_hardly_any_free_descriptors_is_refused() {
    refused_with_descriptors(2);
}

#[test]
fn a_program_without_address_space_is_refused() {
    let _alone = alone();
    let mut guest = rings();
    let narrow = format!("--as={}:unlimited", bytes(&guest, "VmSize") + 4096);
    refused_until_raised(&mut guest, &narrow, &["RLIMIT_AS"], "--as=unlimited:unlimited");
}

#[test]
fn a_program_without_room_for_data_is_refused() {
    let _alone = alone();
    let mut guest = rings();
    let narrow = format!("--data={}:unlimited", bytes(&guest, "VmData"));
    refused_until_raised(&mut guest, &narrow, &["RLIMIT_DATA"], "--data=unlimited:unlimited");
}

#[test]
fn a_program_that_may_start_no_thread_is_backed_up() {
    let _alone = alone();
    let mut guest = rings();
    limit(&guest, "--nproc=1:1");
    back_up(&mut guest, 4);
}
