//! Whoever is born has copies of the target's descriptors, and closes them. Where a file system has them wait in that, nothing is born, and
//! nobody keeps what the program may want to be rid of.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::born::{apart, assert_born, side};
use crate::cgroup::Group;
use crate::common::backup::{Outcome, Running, alone, scratch, start_command};
use crate::common::guest::{Guest, Linked, compile};
use crate::common::process::{assert_right, path, processes, state, status, wait_until};
use crate::common::stuck_disk::Disk;
use crate::holders::{keepers, left};
use crate::runtime::unique;

/// A target in cgroups of its own, which has a file there open under a low number, and others after it.
struct Bench {
    // The first to go: whoever ends closes what it has open there.
    disk: Disk,
    guest: Guest,
    side: Group,
    _home: Group,
}

impl Bench {
    fn new() -> Self {
        let scratch = scratch();
        let disk = Disk::mount(scratch.path().join("remote"), scratch.path().to_path_buf());
        let dir = scratch.path().join("data");
        fs::create_dir(&dir).expect("a directory");
        let mut command = Command::new("sh");
        command.args(["-c", "exec 3<\"$0\"; exec \"$@\"", path(&disk.at.join("ballast"))]);
        command.arg(compile("rings", Linked::Dynamically)).arg(&dir).args(["4", "32", "200"]);
        let guest = Guest::spawn(scratch, dir, command);
        let home = Group::around(&unique("home"), guest.pid());
        Self { disk, guest, side: side(), _home: home }
    }

    fn pid(&self) -> i32 {
        self.guest.pid()
    }

    fn switch(&self, name: &str) {
        fs::write(self.guest.beside(name), "").expect("written");
    }

    fn start(&self, command: Command, name: &str) -> Running {
        start_command(command, self.pid(), &self.guest.beside(name), &["--source", path(&self.guest.dir)])
    }

    fn take(&self, name: &str) -> Outcome {
        self.start(apart(&self.side), name).finish()
    }

    /// Those other than the target that have a file of its data open, and those that have the one there.
    fn who_has(&self, below: &Path) -> Vec<i32> {
        let has = |pid: &i32| {
            let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            open.filter_map(|entry| fs::read_link(entry.path()).ok()).any(|file| file.starts_with(below))
        };
        let others =
            processes().into_iter().filter(|&pid| pid != self.pid() && pid != std::process::id().cast_signed());
        others.filter(has).collect()
    }

    fn assert_untouched(&mut self, before: &(Vec<String>, usize)) {
        assert_eq!(left(self.pid()), *before, "something is left in the target");
        assert!(!self.guest.is_filtered(), "a refused attach left a filter");
        self.guest.assert_goes_on();
    }

    /// With its server back, all that waited has ended, and keepers are born.
    fn assert_born_once_it_answers(&mut self) {
        self.switch("free");
        wait_until("the end of all that waited", || {
            self.who_has(&self.disk.at).is_empty() && self.who_has(&self.guest.dir).is_empty()
        });
        assert_right(&self.take("right"), 4);
        assert_born(self.pid());
        for keeper in keepers(self.pid()) {
            assert!(!self.who_has(&self.disk.at).contains(&keeper), "keeper {keeper} has a descriptor of the target's");
        }
        self.guest.assert_goes_on();
    }
}

#[test]
fn where_a_close_would_wait_nothing_is_born_and_the_file_is_named() {
    let _alone = alone();
    let mut bench = Bench::new();
    let before = left(bench.pid());
    bench.switch("deaf");
    let said = bench.take("refused").failure("cannot_outlive");
    assert!(said.contains("descriptor 3") && said.contains("remote/ballast (fuse)"), "{said}");
    bench.assert_untouched(&before);
    assert_eq!(bench.who_has(&bench.guest.dir), [0; 0], "somebody has copies of the target's descriptors");
    bench.assert_born_once_it_answers();
}

/// It was tried, and then it happens all the same.
#[test]
fn who_waits_in_a_close_on_the_way_to_his_birth_is_told_and_ended() {
    let _alone = alone();
    let mut bench = Bench::new();
    let (before, struck) = (left(bench.pid()), bench.guest.beside("struck"));
    let mut command = apart(&bench.side);
    command.env("HOTBACKUP_FAILPOINT", format!("birth.program-written:stop@{}", path(&struck)));
    let mut running = bench.start(command, "refused");
    wait_until("the step before the birth", || {
        assert!(running.is_running(), "it ended before");
        struck.exists()
    });
    wait_until("a stop", || state(running.pid()) == Some('T'));
    bench.switch("deaf");
    running.signal(nix::sys::signal::Signal::SIGCONT);
    let outcome = running.finish();
    // Whoever looks at its descriptors waits with it, so it is told by its name: it has been killed, and ends as soon as it can.
    let is_one = |pid: &i32| {
        let read = |name: &str| fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        read("comm").trim() == "hotbackup-reap"
            && read("cgroup") == fs::read_to_string(format!("/proc/{}/cgroup", bench.pid())).expect("it lives")
    };
    let waits: Vec<i32> = processes().into_iter().filter(is_one).collect();
    let pending = waits.first().and_then(|&pid| u64::from_str_radix(&status(pid, "ShdPnd")?, 16).ok());
    bench.switch("free");
    assert_eq!(waits.len(), 1, "nobody waited, so that nothing was tried: {waits:?}");
    assert_eq!(pending.map(|set| set & 1 << 8), Some(1 << 8), "no SIGKILL waits for it");
    let said = outcome.failure("cannot_outlive");
    assert!(said.contains("closing what it has open"), "{said}");
    bench.assert_untouched(&before);
    bench.assert_born_once_it_answers();
}
