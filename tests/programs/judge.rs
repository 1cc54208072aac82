//! Backups under load, and whether each is the state of one moment.

use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;

use crate::common::acks::Acks;
use crate::common::backup::{self, Outcome, number_from, verify};
use crate::load::Load;
use crate::server::copy_of;

/// That a busy machine is slow is not the point here.
const PATIENT: &[&str] = &["--lease", "10s", "--max-wait", "5s", "--hold", "500ms"];

/// How many of each client's writes a database holds: at least and at most, where some leave no trace.
pub type Held = Vec<RangeInclusive<u64>>;

/// Backups under load, one after the other, to both points in time. In every second round they are throttled, so that much
/// happens on both sides of the point.
pub fn back_up(pid: i32, scratch: &Path, source: &Path, more: &[&str], throttle: &str, load: &Load) -> Vec<Outcome> {
    let mut outcomes = Vec::new();
    for round in 0..number_from("HOTBACKUP_ROUNDS", 2) {
        for point in ["end", "start"] {
            let dest = scratch.join(format!("backup-{point}-{round}"));
            let source = source.to_str().expect("test directories have plain names");
            let throttle: &[&str] = if round % 2 == 0 { &["--throttle", throttle] } else { &[] };
            let outcome =
                backup::take(pid, &dest, &[&["--source", source, "--point", point], PATIENT, throttle, more].concat());
            outcome.report();
            load.wait_for(10);
            outcomes.push(outcome);
        }
    }
    outcomes
}

/// Judges each backup by what `open` finds in a copy of it, and removes both.
pub fn judge(outcomes: &[Outcome], acks: &Acks, open: impl Fn(&Path) -> Held) {
    for outcome in outcomes {
        verify(&outcome.dest);
        let copy = copy_of(&outcome.dest);
        let held = open(&copy);
        println!("hold {} us: {held:?}", outcome.hold_us());
        compare(&held, acks, outcome.point())
            .unwrap_or_else(|wrong| panic!("{:?}: {wrong}\n{}", outcome.dest, outcome.report()));
        fs::remove_dir_all(&copy).expect("our own copy");
        fs::remove_dir_all(&outcome.dest).expect("our own backup");
    }
}

/// Whether what a database holds is the clients' writes at `point`: all that were acknowledged, none sent later.
fn compare(held: &Held, acks: &Acks, point: u64) -> Result<(), String> {
    if held.len() != acks.clients() {
        return Err(format!("{} clients wrote, {} are held", acks.clients(), held.len()));
    }
    for (client, done) in held.iter().enumerate() {
        let (acknowledged, sent) = acks.bounds(client, point);
        if *done.end() < acknowledged {
            return Err(format!("client {client}: {acknowledged} writes acknowledged before T, {done:?} held"));
        }
        if *done.start() > sent {
            return Err(format!("client {client}: {sent} writes sent before T, {done:?} held"));
        }
    }
    Ok(())
}

/// How many writes leave the numbers 0 to `inserted` - 1 and a counter, where the client inserts and counts in turn.
pub fn turns(client: usize, inserted: &[u64], counter: u64) -> RangeInclusive<u64> {
    for (expected, &found) in (0..).zip(inserted) {
        assert_eq!(found, expected, "client {client}: a number is missing, and later ones are there");
    }
    let inserted = inserted.len() as u64;
    assert!(
        inserted == counter || inserted == counter + 1,
        "client {client}: {inserted} inserts and a counter of {counter}: never so"
    );
    inserted + counter..=inserted + counter
}

#[test]
fn a_state_that_lacks_an_acknowledged_write_or_holds_a_later_one_is_refused() {
    use crate::common::acks::Ack;
    // Write k is sent at 10 k and acknowledged at 10 k + 5.
    let acks = Acks(vec![(0..10).map(|k| Ack { sent: 10 * k, acked: 10 * k + 5 }).collect()]);
    let held = |done: u64| vec![done..=done];
    // At 52 write 5 is under way.
    for (done, right) in [(4, false), (5, true), (6, true), (7, false)] {
        assert_eq!(compare(&held(done), &acks, 52).is_ok(), right, "{done} held");
    }
    assert!(compare(&Vec::new(), &acks, 52).is_err());
}
