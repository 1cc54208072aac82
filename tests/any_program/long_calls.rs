//! Calls that take long: copies within the kernel, which come back with less done when their thread is asked to stop, and
//! those that never end.

use crate::bench::{POINTS, back_up};
use crate::common::backup::{self, alone, verify};
use crate::common::guest::{Guest, Linked};
use crate::common::process::path;

#[test]
fn long_copies_never_fall_short() {
    let _alone = alone();
    let mut guest = Guest::start("long_copies", Linked::Dynamically, &[]);
    for round in 0..6 {
        let dest = guest.beside(&format!("backup{round}"));
        // Such a call is waited for, also in the hold.
        let more = ["--point", POINTS[round % 2], "--hold", "2s", "--lease", "10s", "--max-wait", "5s"];
        let outcome = backup::take(guest.pid(), &dest, &[&["--source", path(&guest.dir)], &more[..]].concat());
        guest.assert_alive();
        outcome.report();
        verify(&dest);
    }
}

/// Such calls would make or cut a file, if it were not a FIFO; they must not be waited for.
#[test]
fn threads_that_wait_at_a_fifo_for_ever_are_not_waited_for() {
    let _alone = alone();
    back_up(&mut Guest::start("waits_at_fifos", Linked::Dynamically, &[]), 2);
}
