//! What fails is made small: runs with fewer threads and fewer kinds of calls, as long as they still fail. The calls follow
//! from the seed, but what of them falls to which side of the point in time is the machine's: so each is tried some times.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::settings::Settings;

/// How often a smaller run must succeed to be taken for right.
const TRIES: u32 = 3;
/// These stay: without a file to write to nothing can go wrong.
const BASE: [&str; 2] = ["create", "write"];

/// The smallest settings found within `limit` for which `fails` was true once.
pub fn shrink(
    settings: &Settings,
    kinds: &[String],
    limit: Duration,
    mut fails: impl FnMut(&Settings) -> bool,
) -> Settings {
    let began = Instant::now();
    let mut smallest = settings.clone();
    let mut try_out = |candidate: Settings, smallest: &mut Settings| {
        let failed = (0..TRIES).any(|_| began.elapsed() < limit && fails(&candidate));
        if failed {
            *smallest = candidate;
        }
        failed
    };
    for threads in 1..settings.threads {
        if try_out(Settings { threads, ..smallest.clone() }, &mut smallest) {
            break;
        }
    }
    if smallest.eventfd {
        try_out(Settings { eventfd: false, ..smallest.clone() }, &mut smallest);
    }
    // Half of the kinds at once, then a quarter, and so on, and one by one until each that is left is needed.
    let mut part = kinds.len().div_ceil(2);
    loop {
        let left: Vec<&String> =
            kinds.iter().filter(|kind| !BASE.contains(&kind.as_str()) && !smallest.without.contains(*kind)).collect();
        let mut shrunk = false;
        for some in left.chunks(part) {
            let without: BTreeSet<String> = smallest.without.iter().chain(some.iter().copied()).cloned().collect();
            shrunk |= try_out(Settings { without, ..smallest.clone() }, &mut smallest);
        }
        if part == 1 && !shrunk || began.elapsed() >= limit {
            return smallest;
        }
        part = part.div_ceil(2).max(1);
    }
}

#[test]
fn what_fails_is_shrunk_to_what_is_needed_for_it() {
    let kinds: Vec<String> = ["create", "write", "a", "b", "c", "d", "e", "f", "g"].map(String::from).into();
    let big = Settings { eventfd: true, ..Settings::new(1, crate::disks::Disk::Here, 4) };
    // It takes two kinds and two threads, and shows only every second time.
    let mut runs = 0;
    let found = shrink(&big, &kinds, Duration::MAX, |tried| {
        runs += 1;
        runs % 2 == 0 && tried.threads >= 2 && !tried.without.contains("b") && !tried.without.contains("f")
    });
    let without = BTreeSet::from(["a", "c", "d", "e", "far", "g"].map(String::from));
    assert_eq!(found, Settings { threads: 2, eventfd: false, without, ..big });
}
