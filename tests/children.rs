//! What a target hands on and throws away: children that carry its filter, through exec and beyond its own end, and its own
//! copy of the listener.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod common {
    pub mod backup;
    pub mod cgroup;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, alone, number_from};
use common::cgroup::Cgroup;
use common::guest::{Guest, Linked};
use common::process::{
    assert_keepers_end, assert_right, assert_right_or_failed, back_up, keepers, pair, path, status, wait_until,
};

#[test]
fn children_of_a_tracked_target_fork_write_and_exec_without_one_failed_call() {
    let _alone = alone();
    for linked in [Linked::Dynamically, Linked::Statically] {
        let mut guest = Guest::start("children", linked, &[]);
        for round in 0..number_from("HOTBACKUP_ROUNDS", 4) {
            let point = ["end", "start"][round as usize % 2];
            let dest = guest.beside(&format!("backup{round}"));
            let source = ["--source", path(&guest.dir), "--throttle", "4MiB", "--point", point];
            let outcome = backup::take(guest.pid(), &dest, &source);
            assert_right(&outcome, 4);
            guest.assert_goes_on();
        }
        // Between backups, too.
        guest.assert_goes_on();
        guest.kill();
        assert_keepers_end(guest.pid());
    }
}

/// A daemon that the guest started: its own process, which nobody waits for.
struct Daemon {
    pid: i32,
    dir: std::path::PathBuf,
}

impl Daemon {
    /// Has the guest start it.
    fn of(guest: &Guest) -> Self {
        Self::told(guest, "")
    }

    /// The same; told anything, it closes nothing.
    fn told(guest: &Guest, what: &str) -> Self {
        let (new, trigger) = (guest.beside("trigger.new"), guest.beside("trigger"));
        fs::write(&new, what).and_then(|()| fs::rename(&new, &trigger)).expect("written");
        wait_until("the daemon", || guest.beside("pid").exists());
        let pid = fs::read_to_string(guest.beside("pid")).expect("readable").parse().expect("a number");
        Self { pid, dir: guest.dir.join("1") }
    }

    fn assert_goes_on(&self) {
        let newest = |name: &Path| fs::metadata(name).map_or((0, 0), |data| (data.mtime(), data.mtime_nsec()));
        for file in 0..3 {
            let name = self.dir.join(format!("ring-{file}"));
            let before = newest(&name);
            wait_until("the daemon to write", || {
                assert!(status(self.pid, "State").is_some(), "the daemon is dead: a call of its failed");
                newest(&name) != before
            });
        }
    }

    fn end(&self) {
        kill(Pid::from_raw(self.pid), Signal::SIGKILL).expect("the daemon lives");
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
    }
}

fn daemon_guest() -> Guest {
    let scratch = backup::scratch();
    let (trigger, end) = (scratch.path().join("trigger"), scratch.path().join("end"));
    let (trigger, end) = (path(&trigger).to_owned(), path(&end).to_owned());
    Guest::start_in(scratch, "daemon", Linked::Dynamically, &[&trigger, &end])
}

#[test]
fn a_daemon_that_closed_everything_outlives_its_parent_and_is_answered_to_its_end() {
    let _alone = alone();
    let mut guest = daemon_guest();
    back_up(&mut guest, 1, "first");
    let before = pair(guest.pid());
    let daemon = Daemon::of(&guest);
    daemon.assert_goes_on();
    // The daemon writes into the source as well: what a backup of its parent says then is right.
    back_up(&mut guest, 2, "both");
    daemon.assert_goes_on();
    fs::write(guest.beside("end"), "").expect("written");
    let parent = guest.pid();
    guest.assert_ends_well();
    for _ in 0..20 {
        daemon.assert_goes_on();
    }
    assert_eq!(pair(parent), before, "a keeper was replaced");
    let outcome = backup::take(parent, &guest.beside("late"), &["--source", path(&guest.dir)]);
    outcome.failure("no_such_process");
    // It carries a filter whose listener is out of reach: no backup of its own.
    let outcome = backup::take(daemon.pid, &guest.beside("own"), &["--source", path(&guest.dir)]);
    outcome.failure("cannot_follow");
    daemon.assert_goes_on();
    daemon.end();
    assert_keepers_end(parent);
}

#[test]
fn a_daemon_that_outlives_a_target_which_ends_in_a_backup_is_answered() {
    let _alone = alone();
    for point in ["end", "start"] {
        let mut guest = daemon_guest();
        let dest = guest.beside("backup");
        let source = ["--source", path(&guest.dir), "--throttle", "512KiB", "--point", point];
        let mut running = backup::start(guest.pid(), &dest, &source);
        running.wait_for_copying();
        let daemon = Daemon::of(&guest);
        daemon.assert_goes_on();
        fs::write(guest.beside("end"), "").expect("written");
        let parent = guest.pid();
        guest.assert_ends_well();
        let outcome = running.finish();
        // After T the source holds all that is needed.
        let succeeded = assert_right_or_failed(&outcome, 1, &["target_exited"]);
        assert!(!succeeded || point == "start", "the backup ended well, though its point lay after the target's end");
        daemon.assert_goes_on();
        assert!(!keepers(parent).is_empty(), "nobody answers the daemon");
        daemon.end();
        assert_keepers_end(parent);
    }
}

/// A ring is looked for in all that are followed: so a daemon, which is nobody's child, is one of them.
#[test]
fn a_daemon_that_made_an_io_uring_between_backups_fails_the_next_one_of_its_starter() {
    let _alone = alone();
    let mut guest = daemon_guest();
    back_up(&mut guest, 1, "first");
    let daemon = Daemon::told(&guest, "uring");
    daemon.assert_goes_on();
    assert_ne!(status(daemon.pid, "PPid"), Some(guest.pid().to_string()), "it is the guest's child");
    let outcome = backup::take(guest.pid(), &guest.beside("second"), &["--source", path(&guest.dir)]);
    let said = outcome.failure("blind");
    assert!(said.contains("io_uring"), "{said}");
    daemon.end();
    wait_until("the daemon's end", || matches!(common::process::state(daemon.pid), None | Some('Z')));
    // The daemon's ring stands still now.
    assert_right(&backup::take(guest.pid(), &guest.beside("third"), &["--source", path(&guest.dir)]), 2);
}

/// Nothing shows that it is one of the guest's, but that its calls come.
#[test]
fn a_daemon_that_was_moved_to_another_cgroup_fails_the_next_backup_of_its_starter() {
    let _alone = alone();
    let (home, elsewhere) = (Cgroup::with("pids"), Cgroup::with("pids"));
    let mut guest = daemon_guest();
    home.take_in(guest.pid());
    back_up(&mut guest, 1, "first");
    let daemon = Daemon::of(&guest);
    daemon.assert_goes_on();
    elsewhere.take_in(daemon.pid);
    // As long as it takes the daemon to make a call, and longer.
    let more = ["--source", path(&guest.dir), "--throttle", "512KiB"];
    let said = backup::take(guest.pid(), &guest.beside("second"), &more).failure("blind");
    assert!(said.contains(&daemon.pid.to_string()) && said.contains("cgroup"), "{said}");
    daemon.assert_goes_on();
    daemon.end();
}

#[test]
fn a_target_that_closes_its_copy_of_the_listener_is_still_answered_and_backed_up() {
    let _alone = alone();
    let scratch = backup::scratch();
    let trigger = scratch.path().join("trigger");
    let arguments = [path(&trigger).to_owned()];
    let mut guest =
        Guest::start_in(scratch, "closes_what_it_does_not_know", Linked::Dynamically, &[arguments[0].as_str()]);
    let close_all = |guest: &mut Guest| {
        fs::write(&trigger, "").expect("written");
        wait_until("the guest to close everything", || {
            guest.assert_alive();
            !trigger.exists()
        });
        guest.assert_goes_on();
    };
    back_up(&mut guest, 2, "first");
    let before = pair(guest.pid());
    close_all(&mut guest);
    assert_eq!(back_up(&mut guest, 2, "second").stop_us(), None);
    // While a backup runs.
    let dest = guest.beside("third");
    let mut running = backup::start(guest.pid(), &dest, &["--source", path(&guest.dir), "--throttle", "512KiB"]);
    running.wait_for_copying();
    close_all(&mut guest);
    assert_right(&running.finish(), 2);
    guest.assert_goes_on();
    assert_eq!(back_up(&mut guest, 2, "fourth").stop_us(), None);
    assert_eq!(pair(guest.pid()), before, "a keeper was replaced");
}

#[test]
fn a_child_that_shares_its_parents_listener_is_refused_and_its_parent_is_still_backed_up_right() {
    let _alone = alone();
    let mut guest = daemon_guest();
    back_up(&mut guest, 1, "first");
    let before = pair(guest.pid());
    let daemon = Daemon::told(&guest, "keep everything");
    daemon.assert_goes_on();
    let outcome = backup::take(daemon.pid, &guest.beside("own"), &["--source", path(&guest.dir)]);
    let said = outcome.failure("cannot_follow");
    assert!(said.contains(&guest.pid().to_string()), "{said}");
    let rescue = std::process::Command::new(backup::HOTBACKUP)
        .args(["rescue", "--pid", &daemon.pid.to_string()])
        .output()
        .expect("it starts");
    assert!(!rescue.status.success(), "a second pair on one listener");
    for round in 0..4 {
        back_up(&mut guest, 2, &format!("parent{round}"));
        daemon.assert_goes_on();
    }
    assert_eq!(pair(guest.pid()), before, "a keeper was replaced");
    assert!(keepers(daemon.pid).is_empty());
}
