//! Keepers of the layouts before, beside which today's have begun, and whose end did not come about as the supervisor was killed at it:
//! nobody waits for them, and whoever comes next ends them by himself. What they do does not count here, so they are a guest
//! that has their name; the release itself is in `before.rs`.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Output, Stdio};

use hotbackup_event::failpoint;
use nix::sys::signal::Signal;

use crate::common::backup::{HOTBACKUP, alone, start_command};
use crate::common::guest::{Guest, Linked, compile};
use crate::common::process::{assert_right, back_up, pair, path, signal_all, state, wait_until};

/// Where the session's memory says that they may be there (docs/protocol.md).
const BEFORE: u64 = 144;

fn memory(target: i32) -> File {
    let numbers = fs::read_dir(format!("/proc/{target}/fd")).expect("it lives");
    let is_it = |path: &std::path::PathBuf| {
        fs::read_link(path).is_ok_and(|link| link.as_os_str() == "/memfd:hotbackup-session (deleted)")
    };
    let found = numbers.filter_map(|entry| Some(entry.ok()?.path())).find(is_it).expect("a session");
    File::options().read(true).write(true).open(found).expect("it can be opened")
}

fn before(target: i32) -> u32 {
    let mut word = [0; 4];
    memory(target).read_exact_at(&mut word, BEFORE).expect("a word");
    u32::from_ne_bytes(word)
}

/// A target with today's keepers, and two of before beside them.
struct Bench {
    guest: Guest,
    of_before: Vec<Child>,
}

impl Bench {
    fn new() -> Self {
        let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "64", "200"]);
        assert_right(&back_up(&mut guest, 4, "first"), 4);
        pair(guest.pid());
        let mut bench = Self { guest, of_before: Vec::new() };
        bench.begin();
        bench
    }

    fn pid(&self) -> i32 {
        self.guest.pid()
    }

    fn begin(&mut self) {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it lives");
        let start = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).expect("a start");
        for _ in 0..2 {
            let mut command = Command::new(compile("keeper_of_before", Linked::Dynamically));
            let mut one = command
                .args(["keeper", &self.pid().to_string(), start])
                .stdout(Stdio::piped())
                .spawn()
                .expect("it starts");
            let mut line = String::new();
            BufReader::new(one.stdout.take().expect("piped")).read_line(&mut line).expect("text");
            assert_eq!(line, "ready\n");
            self.of_before.push(one);
        }
        let here = fs::metadata("/proc/self/ns/pid").expect("a namespace").ino() as u32;
        memory(self.pid()).write_all_at(&here.to_ne_bytes(), BEFORE).expect("written");
    }

    fn pids(&self) -> Vec<i32> {
        self.of_before.iter().map(|one| one.id().cast_signed()).collect()
    }

    fn states(&self) -> Vec<Option<char>> {
        self.pids().into_iter().map(state).collect()
    }

    /// As a supervisor leaves them that is killed in between, without its keepers to see to it.
    fn stop(&self) {
        signal_all(&self.pids(), Signal::SIGSTOP);
    }

    fn wait_until_they_go_on(&self) {
        wait_until("keepers of before that go on", || self.states().iter().all(|state| *state == Some('S')));
    }

    fn assert_settled(&mut self, what: &str) {
        assert_eq!(before(self.pid()), 0, "{what}: the memory says that they may be there");
        assert_eq!(self.states(), [Some('Z'); 2], "{what}: keepers of before are left");
        self.end();
        self.guest.assert_goes_on();
    }

    fn end(&mut self) {
        for mut one in self.of_before.drain(..) {
            let _ = one.kill();
            let _ = one.wait();
        }
    }

    fn run(&self, words: &[&str]) -> Output {
        let output = Command::new(HOTBACKUP).args(words).args(["--pid", &self.pid().to_string()]).output();
        output.expect("it starts")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.end();
    }
}

#[test]
fn what_a_killed_supervisor_has_left_stopped_todays_keeper_has_go_on() {
    let _alone = alone();
    let mut bench = Bench::new();
    bench.stop();
    bench.wait_until_they_go_on();
    assert_ne!(before(bench.pid()), 0, "only a supervisor ends them");
    bench.guest.assert_goes_on();
}

#[test]
fn a_supervisor_that_is_killed_between_stop_and_end_is_followed_by_one_that_ends_them() {
    let _alone = alone();
    let mut bench = Bench::new();
    let mut command = Command::new(HOTBACKUP);
    command.env(failpoint::VARIABLE, "ancestors.stopped:kill");
    let dest = bench.guest.beside("killed");
    let killed = start_command(command, bench.pid(), &dest, &["--source", path(&bench.guest.dir)]).finish();
    assert_eq!(killed.status.signal(), Some(9), "it did not come so far: {}", killed.stderr);
    bench.wait_until_they_go_on();
    assert_right(&back_up(&mut bench.guest, 4, "second"), 4);
    bench.assert_settled("a backup");
}

#[test]
fn a_probe_and_a_rescue_end_them_as_well() {
    let _alone = alone();
    let mut bench = Bench::new();
    bench.stop();
    let output = bench.run(&["check", "--probe", "--source", path(&bench.guest.dir)]);
    assert!(output.status.success(), "{output:?}");
    bench.assert_settled("a probe");
    bench.begin();
    bench.stop();
    let output = bench.run(&["rescue"]);
    assert!(output.status.success(), "{output:?}");
    bench.assert_settled("a rescue");
    assert_right(&back_up(&mut bench.guest, 4, "last"), 4);
}
