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
use common::guest::{Guest, Linked, check_rings, compile};
use common::process::{
    assert_keepers_end, keepers, kill_all, kill_one, pair, path, processes, signal_all, state, status, wait_until,
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

/// Processor time of a process, in ticks of 10 ms.
fn ticks(pid: i32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
    fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum()
}

/// They began with the /proc that their target's mount namespace had then.
#[test]
fn keepers_go_on_and_replace_one_another_where_proc_is_unmounted() {
    let _alone = alone();
    let scratch = backup::scratch();
    let dir = scratch.path().join("data");
    std::fs::create_dir(&dir).expect("a directory");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]);
    command.arg(compile("rings", Linked::Statically)).arg(&dir).args(["4", "32", "100"]);
    let mut guest = Guest::spawn(scratch, dir.clone(), command);
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", guest.pid())).expect("it lives");
    let target: i32 = children.trim().parse().expect("one child");
    let inside = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["--target", &target.to_string(), "--pid", "--mount", "--"]).args(words);
        command
    };
    let source = ["--source", path(&dir)];
    let dest = guest.beside("first");
    backup::start_command(inside(&[HOTBACKUP]), 1, &dest, &source).finish().report();
    let found = || -> Vec<i32> {
        let namespace = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let is_one =
            |pid: &i32| namespace(*pid) == namespace(target) && status(*pid, "Name").as_deref() == Some(KEEPER);
        processes().into_iter().filter(|pid| is_one(pid) && !matches!(state(*pid), None | Some('Z' | 'X'))).collect()
    };
    wait_until("two keepers", || found().len() == 2);
    // Below it lies the one of the namespace that this was made from.
    let mut unmount = inside(&["sh", "-c", "while umount --lazy /proc 2>&-; do :; done; test ! -e /proc/self"]);
    assert!(unmount.status().expect("it starts").success(), "/proc cannot be unmounted");
    for round in 0..6 {
        let killed = found()[round % 2];
        kill_one(killed);
        guest.assert_goes_on();
        wait_until("another keeper", || found().len() == 2);
    }
    let (pair, before) = (found(), found().into_iter().map(ticks).sum::<u64>());
    for _ in 0..20 {
        guest.assert_goes_on();
    }
    assert_eq!(found(), pair, "a keeper was replaced");
    let began = std::time::Instant::now();
    // Stopped, it gives them nothing to do.
    signal_all(&[target], Signal::SIGSTOP);
    let idle = pair.iter().map(|&pid| ticks(pid)).sum::<u64>();
    wait_until("a second", || began.elapsed().as_millis() >= 1000);
    let spent = pair.iter().map(|&pid| ticks(pid)).sum::<u64>() - idle;
    signal_all(&[target], Signal::SIGCONT);
    assert!(spent < 20, "they spin: {spent} ticks in a second with nothing to do, {before} before");
    let dest = guest.beside("host");
    let outcome = backup::take(target, &dest, &source);
    outcome.report();
    check_rings(&dest, 4).unwrap_or_else(|wrong| panic!("{wrong}"));
    guest.assert_goes_on();
}

/// What `ps` shows.
const KEEPER: &str = "hotbackup-keep";

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
    let twin = twin(guest.pid());
    let acting = pair(guest.pid()).into_iter().find(|&keeper| keeper != twin).expect("two keepers");
    let answered = answered_by_keepers(guest.pid());
    kill_one(acting);
    wait_until("another pair", || keepers(guest.pid()).len() == 2 && !keepers(guest.pid()).contains(&acting));
    assert_eq!(answered_by_keepers(guest.pid()), answered, "calls were answered that the supervisor held");
    next.signal(Signal::SIGCONT);
    next.finish().report();
    check_rings(&dest, 4).unwrap_or_else(|wrong| panic!("{wrong}"));
    guest.assert_goes_on();
}

/// Of a pair of which none was killed, the one that does not act: the other's child.
fn twin(target: i32) -> i32 {
    let both = pair(target);
    let is_child = |keeper: &i32| status(*keeper, "PPid") == Some((both[0] + both[1] - *keeper).to_string());
    both.iter().copied().find(is_child).expect("one is the other's parent")
}

/// The word of the session's memory that counts what keepers have answered.
fn answered_by_keepers(target: i32) -> u64 {
    const ANSWERED: u64 = 112;
    let mut word = [0; 8];
    session(target).read_exact_at(&mut word, ANSWERED).expect("it is memory");
    u64::from_le_bytes(word)
}

/// What a keeper leaves that clears a slot while the kernel is still writing a call there for a supervisor that was revoked: the
/// kernel then receives nothing into it.
#[test]
fn a_slot_that_was_not_cleared_to_its_end_keeps_no_call_waiting() {
    const SLOTS_AT: u64 = 4096;
    const SLOT: u64 = 128;
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, "first");
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", guest.pid())).expect("it runs");
    let is_memory = |fd: &std::path::PathBuf| {
        std::fs::read_link(fd).is_ok_and(|link| link.to_string_lossy().starts_with("/memfd:hotbackup-session"))
    };
    let memory = descriptors.map(|entry| entry.expect("read").path()).find(is_memory).expect("the session's memory");
    let memory = std::fs::File::options().read(true).write(true).open(memory).expect("opened");
    // The first ones of supervisors, which take the lowest, and those of keepers.
    for slot in (0..8).chain(4094..4096) {
        memory.write_all_at(&7u64.to_ne_bytes(), SLOTS_AT + SLOT * slot + 24).expect("written");
    }
    guest.assert_goes_on();
    back_up(&mut guest, "next");
}
