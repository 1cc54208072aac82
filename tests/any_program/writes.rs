//! Writes of 8 bytes in a program with eventfds: refused when in doubt, and never in doubt when the first backup asks for it.

use std::path::Path;

use crate::bench::{assert_names, refused};
use crate::common::backup::{self, Outcome, alone, verify};
use crate::common::guest::{Guest, Linked, check_numbers};
use crate::common::process::{assert_right, path};

/// Numbers, 8 bytes each, in two files in turn.
fn numbers() -> Guest {
    Guest::start("eight_byte_writes", Linked::Dynamically, &["1"])
}

fn take(guest: &mut Guest, round: usize, more: &[&str]) -> Outcome {
    let (dest, source) = (guest.beside(&format!("backup{round}")), guest.dir.clone());
    let outcome = backup::take(guest.pid(), &dest, &[&["--source", path(&source)], more].concat());
    guest.assert_goes_on();
    outcome
}

/// Fails unless a backup holds the numbers up to some number, without a gap.
fn assert_numbers(dest: &Path) {
    verify(dest);
    check_numbers(dest).unwrap_or_else(|wrong| panic!("{wrong}"));
}

#[test]
fn with_all_writes_shown_no_write_of_8_bytes_is_in_doubt() {
    let _alone = alone();
    let mut guest = numbers();
    for (round, point) in ["start", "end", "start", "start", "start"].into_iter().enumerate() {
        let first = if round == 0 { &["--show-all-writes"][..] } else { &[] };
        let outcome = take(&mut guest, round, &[&["--point", point, "--throttle", "16MiB"], first].concat());
        outcome.report();
        assert_numbers(&outcome.dest);
    }
}

#[test]
fn a_write_of_8_bytes_in_doubt_is_refused_with_the_remedy() {
    let _alone = alone();
    let mut guest = numbers();
    // Everything is due from the start and copied slowly: the files come late, and are written to before.
    let mut said = String::new();
    for round in 0..20 {
        let outcome = take(&mut guest, round, &["--point", "start", "--throttle", "8MiB"]);
        if outcome.status.success() {
            assert_numbers(&outcome.dest);
        } else {
            println!("refused in round {round}");
            said = outcome.failure("blind");
            break;
        }
    }
    assert_names(&said, &["8 bytes", "--show-all-writes"]);
}

#[test]
fn a_filter_that_is_there_stays_as_it_is_and_that_is_said() {
    let _alone = alone();
    let mut guest = numbers();
    let _ = take(&mut guest, 0, &[]);
    let outcome = take(&mut guest, 1, &["--show-all-writes"]);
    let warned =
        |event: &serde_json::Value| event["message"].as_str().is_some_and(|words| words.contains("started anew"));
    assert!(outcome.events.iter().any(warned), "{:?}", outcome.events);
}

#[test]
fn threads_with_descriptors_of_their_own_are_backed_up_when_all_writes_are_shown() {
    let _alone = alone();
    let start = || Guest::start("changes_descriptors", Linked::Dynamically, &["4", "2", "1"]);
    let said = refused(&mut start(), "blind");
    assert_names(&said, &["8 bytes", "descriptors of its own", "--show-all-writes"]);
    let mut guest = start();
    for round in 0..2 {
        assert_right(&take(&mut guest, round, &["--show-all-writes"]), 4);
    }
}
