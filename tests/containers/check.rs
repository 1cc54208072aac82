//! `check` tells what a backup would meet, and touches nothing.

use std::process::Command;

use crate::bench::{assert_unharmed, begin};
use crate::common::backup::{HOTBACKUP, alone};
use crate::common::process::{status, wait_until};
use crate::faults::target::Target;
use crate::holders::memories;
use crate::target::Boxed;

fn assert_untouched(target: &Boxed) {
    let of = |field| status(target.pid(), field).expect("the target lives");
    // The filter of the container's own profile is there.
    let filters = of("Seccomp_filters");
    assert!(["0", "1"].contains(&filters.as_str()), "the target has {filters} filters");
    assert_eq!(memories(target.pid()), Vec::<u64>::new(), "something was left among the target's descriptors");
}

#[test]
fn check_from_a_sidecar_that_ends_leaves_a_target_that_runs_on() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    begin(&mut target);
    let words = [&[HOTBACKUP, "check", "--json", "--pid", "1"], &target.what()[..2]].concat();
    let mut sidecar = target.sidecar(&words);
    sidecar.wait();
    drop(sidecar);
    assert_unharmed(&mut target, "the sidecar has ended");
}

#[test]
fn check_from_a_sidecar_touches_nothing() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    begin(&mut target);
    let sidecar = target.idle_sidecar();
    let mut command = sidecar.exec(HOTBACKUP);
    let output = command.args(["check", "--json", "--pid", "1"]).args(&target.what()[..2]).output().expect("runc runs");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    assert_untouched(&target);
    assert_unharmed(&mut target, "after check");
}

#[test]
fn check_from_the_host_touches_nothing() {
    let _alone = alone();
    let mut target = Boxed::in_namespaces();
    begin(&mut target);
    let pid = target.pid().to_string();
    let mut command = Command::new(HOTBACKUP);
    let output =
        command.args(["check", "--json", "--pid", &pid]).args(&target.what()[..2]).output().expect("it starts");
    println!("{}", String::from_utf8_lossy(&output.stdout));
    wait_until("the end of whatever check started", || crate::holders::holders(target.pid()).is_empty());
    assert_untouched(&target);
    assert_eq!(status(target.pid(), "Seccomp").as_deref(), Some("0"), "a filter was left");
    assert_unharmed(&mut target, "after check");
}
