//! How the tests of this directory judge a backup, a refusal and a target.

use std::time::Duration;

use crate::common::backup::{Outcome, verify};
use crate::common::names;
use crate::common::process::assert_not_stopped;
use crate::faults::disk;
use crate::faults::target::{Target, WORKERS, goes_on};
use crate::target::{Boxed, STANDSTILL};

/// The longest that any call may wait, whoever dies: the lease of one second, and looks.
const BOUND: Duration = Duration::from_millis(1500);

/// Forgets which waits were the longest, and watches the disk.
pub fn begin(target: &mut Boxed) {
    disk::watch();
    target.begin();
}

/// Fails unless the target goes on, and none of its calls since [`begin`] waited for longer than the lease.
pub fn assert_unharmed(target: &mut Boxed, what: &str) {
    if let Err(still) = goes_on(target, 5, STANDSTILL) {
        panic!("{what}: {still}");
    }
    let wait = target.longest(&[], None);
    assert!(wait.net <= BOUND, "{what}: a call waited {:?}, more than {BOUND:?}: {}", wait.net, wait.what);
    assert_not_stopped(target.pid());
}

/// Fails when a backup says that it succeeded and is wrong, or was not refused properly. Says whether it succeeded.
pub fn right_or_refused(outcome: &Outcome, what: &str) -> bool {
    if outcome.status.success() {
        let report = outcome.report();
        verify(&outcome.dest);
        names::check(&outcome.dest, WORKERS)
            .unwrap_or_else(|wrong| panic!("{what}: THE BACKUP IS WRONG: {wrong}\n{report}"));
        return true;
    }
    let error = outcome.events.iter().find(|event| event["event"] == "error");
    let kind = error.and_then(|error| error["kind"].as_str()).unwrap_or("none");
    assert!(REFUSALS.contains(&kind), "{what}: it failed with {}, {kind}: {}", outcome.status, outcome.stderr);
    outcome.failure(kind);
    println!("{what}: refused: {}", outcome.stderr.trim());
    false
}

/// By what a backup may be refused that is not alone with its target, or does not have all that it needs.
pub const REFUSALS: [&str; 5] = ["not_permitted", "busy", "cannot_follow", "keeper", "cannot_outlive"];

/// What is random in a test: xorshift64.
pub struct Noise(u64);

impl Noise {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Between zero and `most`, with every order of magnitude down to 100 us as likely as the next.
    pub fn below(&mut self, most: Duration) -> Duration {
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let least = 100e-6_f64;
        Duration::from_secs_f64(least * (most.as_secs_f64() / least).powf(share))
    }
}
