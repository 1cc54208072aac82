//! Between backups the keepers answer the target: through the signals that end a service, through the death of one of
//! them; and when all are killed at once the target waits, and fails no call, until it is rescued.
#![forbid(unsafe_code)]

use std::os::unix::fs::FileExt;
use std::process::Command;

use nix::sys::signal::Signal;

mod common {
    pub mod backup;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, HOTBACKUP, Outcome, alone, verify};
use common::guest::{Guest, Linked, check_rings};
use common::process::{
    assert_keepers_end, keepers, kill_all, kill_one, pair, path, signal_all, state, status, wait_until,
};

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "32", "100"])
}

/// A whole backup, which must be right.
fn back_up(guest: &mut Guest, name: &str) -> Outcome {
    let dest = guest.beside(name);
    let outcome = backup::take(guest.pid(), &dest, &["--source", path(&guest.dir)]);
    outcome.report();
    verify(&dest);
    check_rings(&dest, 4).unwrap_or_else(|wrong| panic!("{wrong}\n{}", outcome.report()));
    guest.assert_goes_on();
    outcome
}

fn rescue(guest: &Guest) {
    let output =
        Command::new(HOTBACKUP).args(["rescue", "--pid", &guest.pid().to_string()]).output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&said));
}

#[test]
fn keepers_go_on_through_what_ends_a_service() {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, "first");
    let before = pair(guest.pid());
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        signal_all(&before, signal);
    }
    guest.assert_goes_on();
    assert_eq!(back_up(&mut guest, "next").stop_us(), None);
    assert_eq!(pair(guest.pid()), before, "a keeper was replaced");
}

#[test]
fn a_keeper_killed_between_backups_is_replaced() {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, "first");
    for round in 0..20 {
        // In turn the older and the younger: the one that acts, and its twin.
        kill_one(pair(guest.pid())[round % 2]);
        guest.assert_goes_on();
    }
    assert_eq!(back_up(&mut guest, "next").stop_us(), None, "a keeper was there");
}

#[test]
fn a_keeper_killed_during_a_backup_harms_neither_target_nor_backup() {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, "first");
    for (round, point) in ["end", "start", "end", "start"].into_iter().enumerate() {
        let dest = guest.beside(&format!("backup{round}"));
        let source = ["--source", path(&guest.dir), "--throttle", "1MiB", "--point", point];
        let mut running = backup::start(guest.pid(), &dest, &source);
        running.wait_for_copying();
        kill_one(pair(guest.pid())[round % 2]);
        let outcome = running.finish();
        outcome.report();
        verify(&dest);
        check_rings(&dest, 4).unwrap_or_else(|wrong| panic!("{wrong}\n{}", outcome.report()));
        guest.assert_goes_on();
    }
}

#[test]
fn a_target_whose_keepers_were_all_killed_waits_and_is_rescued() {
    let _alone = alone();
    let mut guest = rings();
    for round in 0..3 {
        back_up(&mut guest, &format!("backup{round}"));
        kill_all(guest.pid());
        // Every thread of the guest soon waits in a write, and none must see it fail.
        guest.wait_for_standstill();
        guest.assert_alive();
        rescue(&guest);
        guest.assert_goes_on();
    }
    assert_eq!(back_up(&mut guest, "next").stop_us(), None, "the rescue left a keeper");
}

#[test]
fn a_backup_of_a_target_whose_keepers_were_all_killed_rescues_it() {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, "first");
    kill_all(guest.pid());
    guest.wait_for_standstill();
    back_up(&mut guest, "next");
    pair(guest.pid());
}

#[test]
fn keepers_end_when_their_target_does() {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, "first");
    pair(guest.pid());
    guest.kill();
    assert_keepers_end(guest.pid());
}

/// One of them may have had a call in its hand, which nobody answers as long as a sign of life is waited for.
#[test]
fn keepers_that_are_killed_as_they_are_taken_over_are_replaced_at_once() {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, "first");
    let dest = guest.beside("next");
    let source = path(&guest.dir).to_owned();
    let mut command = Command::new(HOTBACKUP);
    command.env("HOTBACKUP_FAILPOINT", "takeover.claimed:stop").env("HOTBACKUP_LOG", "warn");
    let next = backup::start_command(command, guest.pid(), &dest, &["--source", &source]);
    wait_until("the stop", || state(next.pid()) == Some('T'));
    kill_all(guest.pid());
    // As if they had not come to look at their new supervisor.
    forget_whom_they_watched(guest.pid());
    next.signal(Signal::SIGCONT);
    let outcome = next.finish();
    outcome.report();
    assert!(outcome.stderr.contains("was killed as it was taken over"), "{}", outcome.stderr);
    check_rings(&dest, 4).unwrap_or_else(|wrong| panic!("{wrong}"));
    guest.assert_goes_on();
}

/// Sets the word of the session's memory (docs/protocol.md) that says which supervisor the keepers watch.
fn forget_whom_they_watched(target: i32) {
    const WATCHED: u64 = 76;
    session(target).write_all_at(&0_u32.to_le_bytes(), WATCHED).expect("it is memory");
}

/// The session's memory.
fn session(target: i32) -> std::fs::File {
    let descriptors = std::fs::read_dir(format!("/proc/{target}/fd")).expect("the target lives");
    let is_memory = |place: &std::path::PathBuf| {
        std::fs::read_link(place).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:hotbackup-session"))
    };
    let memory = descriptors.map(|entry| entry.expect("readable").path()).find(is_memory).expect("it has a session");
    std::fs::File::options().read(true).write(true).open(memory).expect("these tests need root")
}

/// After a rescue the twin was made while its keeper began to answer; it goes on from there when it comes to act, which may be
/// much later, beside a supervisor that holds calls.
#[test]
fn a_twin_that_comes_to_act_beside_a_supervisor_answers_nothing_that_it_holds() {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, "first");
    kill_all(guest.pid());
    rescue(&guest);
    guest.assert_goes_on();
    let dest = guest.beside("next");
    let source = path(&guest.dir).to_owned();
    let more = ["--source", &source, "--lease", "1min"];
    let next = backup::start_failing(guest.pid(), &dest, &more, "receive.before-answer:stop:20");
    wait_until("the stop", || state(next.pid()) == Some('T'));
    let before = pair(guest.pid());
    let is_parent = |keeper: &i32| status(before[0] + before[1] - *keeper, "PPid") == Some(keeper.to_string());
    let acting = before.iter().copied().find(is_parent).expect("one is the other's parent");
    let answered = answered_by_keepers(guest.pid());
    kill_one(acting);
    wait_until("another pair", || keepers(guest.pid()).len() == 2 && !keepers(guest.pid()).contains(&acting));
    assert_eq!(answered_by_keepers(guest.pid()), answered, "calls were answered that the supervisor held");
    next.signal(Signal::SIGCONT);
    next.finish().report();
    check_rings(&dest, 4).unwrap_or_else(|wrong| panic!("{wrong}"));
    guest.assert_goes_on();
}

/// The word of the session's memory that counts what keepers have answered.
fn answered_by_keepers(target: i32) -> u64 {
    const ANSWERED: u64 = 112;
    let mut word = [0; 8];
    session(target).read_exact_at(&mut word, ANSWERED).expect("it is memory");
    u64::from_le_bytes(word)
}
