//! Targets that are close to a limit of their own: what the attach would take, they may need.

use std::fs;

use crate::bench::{assert_names, back_up, refused, run};
use crate::common::backup::{alone, scratch};
use crate::common::guest::{Guest, Linked};
use crate::common::process::{path, status, wait_until};

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

/// It is made to make an empty file, to which hotbackup gives its length: had it to do so itself, the kernel would end it.
#[test]
fn a_program_that_may_make_no_large_files_is_backed_up_and_lives() {
    let _alone = alone();
    let mut guest = rings();
    limit(&guest, "--fsize=262144:262144");
    back_up(&mut guest, 4);
}

#[test]
fn a_program_that_may_start_no_thread_is_backed_up() {
    let _alone = alone();
    let mut guest = rings();
    limit(&guest, "--nproc=1:1");
    back_up(&mut guest, 4);
}

/// What a process has open of ours, by number.
fn ours(guest: &Guest) -> Vec<u64> {
    let number = |entry: fs::DirEntry| {
        let link = fs::read_link(entry.path()).ok()?;
        let is_ours = ["seccomp notify", "hotbackup-session", "[eventfd]"]
            .iter()
            .any(|what| link.to_str().is_some_and(|link| link.contains(what)));
        is_ours.then(|| entry.file_name().to_str()?.parse().ok()).flatten()
    };
    let open = fs::read_dir(format!("/proc/{}/fd", guest.pid())).expect("it lives");
    open.flatten().filter_map(number).collect()
}

#[test]
fn the_lowest_free_descriptor_is_always_the_programs_and_ours_may_be_closed() {
    let _alone = alone();
    for linked in [Linked::Dynamically, Linked::Statically] {
        let scratch = scratch();
        let trigger = scratch.path().join("trigger");
        let arguments = [path(&trigger).to_owned()];
        let mut guest = Guest::start_in(scratch, "lowest_descriptor", linked, &[arguments[0].as_str()]);
        for _ in 0..2 {
            back_up(&mut guest, 1);
            let ours = ours(&guest);
            assert_eq!(ours.len(), 3, "listener, memory and eventfd");
            assert!(ours.iter().all(|&fd| fd >= 1000), "ours stand at {ours:?}");
        }
        // It lowers its limit below them, and closes them.
        fs::write(&trigger, "").expect("written");
        wait_until("the guest to close everything", || {
            guest.assert_alive();
            !trigger.exists()
        });
        assert!(ours(&guest).is_empty(), "{:?} are left", ours(&guest));
        guest.assert_goes_on();
        back_up(&mut guest, 1);
        guest.assert_goes_on();
    }
}
