//! A paused process, as by `docker pause`: one whose cgroup is frozen. It is refused at once, whoever is in its cgroups, and also
//! when it is frozen in the middle of an attach; nothing of ours stays behind in the frozen group, and the process goes on
//! when it is thawed.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;

mod common {
    pub mod backup;
    pub mod cgroup;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, HOTBACKUP, Outcome, alone};
use common::cgroup::Cgroup;
use common::guest::{Guest, Linked};
use common::process::{assert_keepers_end, assert_not_stopped, back_up, keepers, pair, path, state, wait_until};

const RINGS: usize = 4;

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "64", "200"])
}

/// A guest in a group that can be frozen, of each version.
fn each_version(test: impl Fn(Guest, &Cgroup)) {
    let _alone = alone();
    for group in Cgroup::freezers() {
        println!("in {}", group.path().display());
        let guest = rings();
        group.take_in(guest.pid());
        test(guest, &group);
    }
}

fn start(guest: &Guest, name: &str, failpoints: &str) -> (backup::Running, PathBuf) {
    let dest = guest.beside(name);
    (backup::start_failing(guest.pid(), &dest, &["--source", path(&guest.dir)], failpoints), dest)
}

/// A backup that must be refused because the guest is paused; with a sentence that says what is frozen and how it is thawed.
fn assert_refused(outcome: &Outcome, group: &Cgroup, dest: &std::path::Path) {
    let said = outcome.failure("frozen");
    println!("{said}");
    for words in ["is paused", path(group.path()), "echo", "docker unpause"] {
        assert!(said.contains(words), "{words:?} is missing in: {said}");
    }
    assert!(!dest.exists(), "a refused backup left {dest:?}");
}

fn refused(guest: &Guest, group: &Cgroup, name: &str) {
    let began = Instant::now();
    let (running, dest) = start(guest, name, "");
    assert_refused(&running.finish(), group, &dest);
    println!("refused after {:?}", began.elapsed());
}

#[test]
fn a_paused_programs_first_backup_is_refused_and_the_next_one_is_right() {
    each_version(|mut guest, group| {
        group.freeze();
        refused(&guest, group, "first");
        assert_eq!(group.processes(), [guest.pid()], "something of ours is in the frozen group");
        assert!(!guest.is_filtered(), "a refused attach left a filter");
        group.thaw();
        guest.assert_goes_on();
        back_up(&mut guest, RINGS, "second");
    });
}

#[test]
fn a_later_backup_of_a_paused_program_is_refused_and_its_keepers_go_on_with_it() {
    each_version(|mut guest, group| {
        back_up(&mut guest, RINGS, "first");
        let before = pair(guest.pid());
        group.freeze();
        refused(&guest, group, "second");
        assert_eq!(pair(guest.pid()), before, "a keeper was replaced");
        group.thaw();
        guest.assert_goes_on();
        back_up(&mut guest, RINGS, "third");
        assert_eq!(pair(guest.pid()), before, "a keeper was replaced");
    });
}

#[test]
fn a_program_that_is_paused_by_a_group_above_its_own_is_refused_by_that_ones_name() {
    each_version(|mut guest, above| {
        let group = above.child();
        group.take_in(guest.pid());
        above.freeze();
        let dest = guest.beside("refused");
        let said = backup::take(guest.pid(), &dest, &["--source", path(&guest.dir)]).failure("frozen");
        assert!(said.contains(&format!("cgroup {} is frozen", above.path().display())), "{said}");
        above.thaw();
        guest.assert_goes_on();
        back_up(&mut guest, RINGS, "next");
    });
}

#[test]
fn check_says_that_a_program_is_paused() {
    each_version(|mut guest, group| {
        group.freeze();
        let mut check = Command::new(HOTBACKUP);
        check.args(["check", "--pid", &guest.pid().to_string(), "--source"]).arg(&guest.dir);
        let output = check.output().expect("it starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert_eq!(output.status.code(), Some(53), "{said}");
        assert!(said.lines().any(|line| line.starts_with("FAIL") && line.contains("is paused")), "{said}");
        group.thaw();
        guest.assert_goes_on();
    });
}

/// The steps of a first attach after the look, at each of which the target is frozen.
const STEPS: [&str; 4] = ["attach.memory-made", "attach.keeper-ready", "attach.page-mapped", "attach.page-written"];

#[test]
fn a_program_that_is_paused_in_the_middle_of_an_attach_is_refused_and_nothing_stays_behind() {
    each_version(|mut guest, group| {
        for step in STEPS {
            println!("at {step}");
            let (running, dest) = start(&guest, step, &format!("{step}:stop"));
            wait_until("the backup to stand still", || state(running.pid()) == Some('T'));
            group.freeze();
            let began = Instant::now();
            running.signal(Signal::SIGCONT);
            assert_refused(&running.finish(), group, &dest);
            println!("refused after {:?}", began.elapsed());
            // With nobody who could install a filter any more, no keeper is needed.
            wait_until("the group to be the guest's alone", || group.processes() == [guest.pid()]);
            assert!(keepers(guest.pid()).is_empty(), "keepers were left");
            group.thaw();
            guest.assert_goes_on();
            assert_not_stopped(guest.pid());
            assert!(!guest.is_filtered(), "a refused attach left a filter");
        }
        back_up(&mut guest, RINGS, "next");
    });
}

#[test]
fn a_backup_whose_program_is_paused_is_cancelled_at_once_and_the_next_one_is_right() {
    each_version(|mut guest, group| {
        backup::add_ballast(&guest.dir);
        for point in ["end", "start"] {
            let dest = guest.beside(point);
            let source = guest.dir.clone();
            let more = ["--source", path(&source), "--throttle", "256KiB", "--point", point];
            let mut running = backup::start(guest.pid(), &dest, &more);
            running.wait_for_copying();
            group.freeze();
            let began = Instant::now();
            running.signal(Signal::SIGTERM);
            let outcome = running.finish();
            println!("cancelled after {:?}", began.elapsed());
            outcome.failure("cancelled");
            assert!(!dest.exists(), "a cancelled backup left {dest:?}");
            group.thaw();
            guest.assert_goes_on();
            assert_not_stopped(guest.pid());
            back_up(&mut guest, RINGS, &format!("after-{point}"));
        }
        guest.kill();
        assert_keepers_end(guest.pid());
    });
}
