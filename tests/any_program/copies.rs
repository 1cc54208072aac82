//! Calls that copy within the kernel, and come back with less done when their thread is asked to stop.

use crate::bench::POINTS;
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
