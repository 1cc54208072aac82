//! pthread_cancel(3) of threads that wait in a write: their stacks are unwound, and locks of theirs let go, as without us.
use std::fs;
use std::process::Command;

use hotbackup_event::failpoint::VARIABLE;

use crate::common::backup::{alone, scratch};
use crate::common::guest::{Guest, Linked};
use crate::common::process::{path, wait_until};
use crate::harness::{follow, wait_for_sites, wait_until_all_were_looked_at};

/// That no site may be left alone for it.
const NOT_LOOKED_FOR: &str = "row.pthread_cancel:skip";

fn threads_are_cancelled(linked: Linked) {
    let is_looked_for = std::env::var(VARIABLE).unwrap_or_default() != NOT_LOOKED_FOR;
    for between_backups in [false, true] {
        let scratch = scratch();
        let go = scratch.path().join("go");
        let mut guest = Guest::start_in(scratch, "is_cancelled", linked, &[path(&go)]);
        let tracer = follow(&guest);
        if is_looked_for {
            wait_until_all_were_looked_at(&tracer);
            assert_eq!(tracer.sites(), Some(0), "{linked:?}: it can cancel threads that are in our code");
        } else {
            wait_for_sites(&tracer, 2);
        }
        let tracer = (!between_backups).then_some(tracer);
        fs::write(&go, "").expect("written");
        wait_until("its threads to be cancelled", || {
            guest.assert_alive();
            guest.beside("cancelled").exists()
        });
        guest.assert_goes_on();
        drop(tracer);
        guest.assert_goes_on();
    }
}

#[test]
fn threads_of_a_dynamic_program_are_cancelled_as_without_us() {
    let _alone = alone();
    threads_are_cancelled(Linked::Dynamically);
}

#[test]
fn threads_of_a_static_program_are_cancelled_as_without_us() {
    let _alone = alone();
    threads_are_cancelled(Linked::Statically);
}

/// Where nobody looks for it, a stream stays locked for good: why such sites are left alone.
#[test]
fn in_our_code_a_cancelled_thread_would_keep_its_locks() {
    let _alone = alone();
    for linked in ["dynamic", "static"] {
        let mut command = Command::new(std::env::current_exe().expect("a program"));
        let name = format!("cancelled::threads_of_a_{linked}_program_are_cancelled_as_without_us");
        command.args([&name, "--exact"]).env(VARIABLE, NOT_LOOKED_FOR).env_remove("RUST_BACKTRACE");
        let output = command.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success() && said.contains("ftrylockfile"), "{linked}: {said}");
    }
}
