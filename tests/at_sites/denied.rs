//! Processes in which nothing can be captured at its site: they are followed by notifications, and backed up right.
use std::fs;
use std::process::Command;

use crate::common::backup::{self, HOTBACKUP, alone};
use crate::common::guest::{Guest, Linked};
use crate::common::process::{assert_right, path};
use crate::harness::{follow, wait_until_all_were_looked_at};

const RINGS: usize = 4;

/// What `check` says of call sites; nothing else may be wrong.
fn said_by_check(guest: &Guest) -> String {
    let mut command = Command::new(HOTBACKUP);
    command.args(["check", "--json", "--pid", &guest.pid().to_string(), "--source"]).arg(&guest.dir);
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}");
    let report: serde_json::Value = serde_json::from_str(text.lines().next().expect("a result")).expect("JSON");
    let items = report["items"].as_array().expect("items");
    let item = items.iter().find(|item| item["name"] == "call sites").unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(item["ok"], true, "{item}");
    item["detail"].as_str().expect("words").to_owned()
}

fn back_up(guest: &mut Guest, name: &str) {
    let source = guest.dir.clone();
    let outcome = backup::take(guest.pid(), &guest.beside(name), &["--source", path(&source), "--capture", "auto"]);
    assert_right(&outcome, RINGS);
    guest.assert_goes_on();
    fs::remove_dir_all(guest.beside(name)).expect("the backup can be removed");
}

fn mappings(guest: &Guest) -> usize {
    fs::read_to_string(format!("/proc/{}/maps", guest.pid())).expect("it runs").lines().count()
}

#[test]
fn where_memory_may_not_be_made_executable_calls_stay_notified_and_check_says_so() {
    let _alone = alone();
    let mut guest = Guest::start("denies_execution", Linked::Dynamically, &["4", "64", "200"]);
    let said = said_by_check(&guest);
    assert!(said.contains("unless memory may not be made executable"), "{said}");
    back_up(&mut guest, "first");
    let before = mappings(&guest);
    let said = said_by_check(&guest);
    assert!(said.contains("stay notified: memory may not be made executable"), "{said}");
    let tracer = follow(&guest);
    wait_until_all_were_looked_at(&tracer);
    assert_eq!(tracer.sites(), Some(0));
    drop(tracer);
    back_up(&mut guest, "second");
    assert!(mappings(&guest) <= before, "each backup leaves something: {before}, then {}", mappings(&guest));
}

#[test]
fn check_says_whether_calls_could_be_captured_at_their_sites() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "64", "200"]);
    let said = said_by_check(&guest);
    assert!(said.contains("could be captured"), "{said}");
    back_up(&mut guest, "first");
    let said = said_by_check(&guest);
    assert!(said.contains("can be captured"), "{said}");
    // One whose first backup was taken without.
    let mut other = Guest::start("rings", Linked::Dynamically, &["4", "64", "200"]);
    let source = other.dir.clone();
    backup::take(other.pid(), &other.beside("first"), &["--source", path(&source)]).report();
    let said = said_by_check(&other);
    assert!(said.contains("there is no place for it since its first backup"), "{said}");
    other.assert_goes_on();
    for linked in [Linked::Dynamically, Linked::Statically] {
        let go = guest.beside("never");
        let cancels = Guest::start("is_cancelled", linked, &[path(&go)]);
        let said = said_by_check(&cancels);
        assert!(said.contains("pthread_cancel"), "{linked:?}: {said}");
    }
}
