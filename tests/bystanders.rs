//! Others at the same target: gdb and strace, before, between and during backups; and a second hotbackup.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod common {
    pub mod backup;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, HOTBACKUP, alone, number_from};
use common::guest::{Guest, Linked};
use common::process::{assert_right, assert_right_or_failed, back_up, keepers, pair, path, tracers, wait_until};

const RINGS: usize = 4;
/// A backup that another tracer disturbs may fail for this alone: it cannot be known whether threads that the tracer keeps
/// stopped have finished their calls.
const DISTURBED: [&str; 1] = ["quiesce"];

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "32", "100"])
}

/// A tracer at work on a guest.
struct Tracer {
    child: Child,
    /// What it prints.
    output: PathBuf,
    /// gdb goes on when this file is there; strace wants SIGINT, which gdb would hand to the target.
    go_on: Option<PathBuf>,
}

impl Tracer {
    /// `strace -f`, which sees every call of every thread.
    fn strace(guest: &Guest, name: &str) -> Self {
        let mut command = Command::new("strace");
        let output = guest.beside(name);
        command.args(["-f", "-qq", "-p", &guest.pid().to_string(), "-o", path(&output)]);
        Self::start(guest, command, output, None)
    }

    /// gdb, which stops every thread, does what is asked, waits for [`Self::end`] and detaches.
    fn gdb(guest: &Guest, name: &str, commands: &[&str]) -> Self {
        let (output, go_on) = (guest.beside(name), guest.beside(&format!("{name}.go-on")));
        let mut command = Command::new("gdb");
        command.args(["-nx", "-batch", "-iex", "set debuginfod enabled off", "-p", &guest.pid().to_string()]);
        for asked in commands {
            command.args(["-ex", asked]);
        }
        let wait = format!("shell while [ ! -e '{}' ]; do sleep 0.01; done", path(&go_on));
        command.args(["-ex", "echo all done\\n", "-ex", &wait, "-ex", "detach"]);
        command.stdout(fs::File::create(&output).expect("a file for gdb"));
        Self::start(guest, command, output, Some(go_on))
    }

    fn start(guest: &Guest, mut command: Command, output: PathBuf, go_on: Option<PathBuf>) -> Self {
        let child = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("gdb and strace are installed: apt-get install gdb strace");
        let tracer = Self { child, output, go_on };
        let pid = tracer.child.id().to_string();
        wait_until("a tracer on every thread", || tracers(guest.pid()).iter().all(|tracer| *tracer == pid));
        tracer
    }

    fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output).unwrap_or_default()).into_owned()
    }

    /// Has gdb or strace detach, and returns what it printed.
    fn end(&mut self) -> String {
        match &self.go_on {
            Some(file) => fs::write(file, "").expect("the scratch directory takes a file"),
            None => drop(kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGINT)),
        }
        wait_until("the tracer's end", || self.child.try_wait().expect("our child").is_some());
        self.output()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn refused_under(trace: impl Fn(&Guest) -> Tracer) {
    let _alone = alone();
    let mut guest = rings();
    let mut tracer = trace(&guest);
    let dest = guest.beside("refused");
    let outcome = backup::take(guest.pid(), &dest, &["--source", path(&guest.dir)]);
    let said = outcome.failure("already_traced");
    assert_eq!(outcome.status.code(), Some(5));
    let number = format!("process {}", tracer.child.id());
    assert!(said.contains(&number), "the message does not name {number}: {said}");
    assert!(!guest.is_filtered(), "a refused backup left its filter");
    assert!(keepers(guest.pid()).is_empty(), "a refused backup left keepers");
    tracer.end();
    guest.assert_goes_on();
    back_up(&mut guest, RINGS, "afterwards");
}

#[test]
fn a_target_under_strace_is_refused_and_unharmed() {
    refused_under(|guest| Tracer::strace(guest, "strace"));
}

#[test]
fn a_target_under_gdb_is_refused_and_unharmed() {
    refused_under(|guest| Tracer::gdb(guest, "gdb", &[]));
}

/// Looks at the guest by gdb or strace between two backups, three times: the keepers stay, and the second stops nothing.
fn between_backups(look: impl Fn(&Guest, usize)) {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, RINGS, "first");
    let before = pair(guest.pid());
    for round in 0..3 {
        look(&guest, round);
        guest.assert_goes_on();
    }
    assert_eq!(pair(guest.pid()), before, "a keeper was replaced");
    assert_eq!(back_up(&mut guest, RINGS, "next").stop_us(), None);
}

#[test]
fn gdb_can_look_stop_and_detach_between_backups() {
    between_backups(|guest, round| {
        let asked = ["thread apply all backtrace", "break pwrite", "continue", "backtrace", "delete"];
        let mut gdb = Tracer::gdb(guest, &format!("gdb{round}"), &asked);
        wait_until("gdb to be done", || gdb.output().contains("all done"));
        let said = gdb.end();
        assert!(said.matches("#0 ").count() > RINGS, "gdb saw no stacks: {said}");
        assert!(said.contains("hit Breakpoint 1"), "gdb saw no breakpoint: {said}");
    });
}

#[test]
fn strace_can_follow_every_call_between_backups() {
    between_backups(|guest, round| {
        let mut strace = Tracer::strace(guest, &format!("strace{round}"));
        wait_until("strace to see calls", || strace.output().matches("pwrite64(").count() > 500);
        let said = strace.end();
        let failed: Vec<_> = said.lines().filter(|line| line.contains("pwrite64") && line.contains("= -1")).collect();
        assert!(failed.is_empty(), "calls failed under strace: {failed:?}");
    });
}

/// Tracers that come and go while a backup runs, to either point in time.
fn disturb(attach: impl Fn(&Guest, &str) -> Tracer) {
    let mut guest = rings();
    for round in 0..number_from("HOTBACKUP_ROUNDS", 4) {
        let point = ["end", "start"][round as usize % 2];
        let dest = guest.beside(&format!("backup{round}"));
        let source = ["--source", path(&guest.dir), "--throttle", "512KiB", "--point", point];
        let mut running = backup::start(guest.pid(), &dest, &source);
        running.wait_for_copying();
        let mut tracer = attach(&guest, &format!("tracer{round}"));
        if round % 4 < 2 {
            tracer.end();
        }
        let outcome = running.finish();
        tracer.end();
        let succeeded = assert_right_or_failed(&outcome, RINGS, &DISTURBED);
        println!("round {round}, to the {point}: {}", if succeeded { "right" } else { outcome.stderr.trim() });
        guest.assert_goes_on();
    }
    back_up(&mut guest, RINGS, "undisturbed");
}

#[test]
fn strace_during_a_backup_harms_neither_the_target_nor_the_truth() {
    let _alone = alone();
    disturb(Tracer::strace);
}

#[test]
fn gdb_during_a_backup_harms_neither_the_target_nor_the_truth() {
    let _alone = alone();
    disturb(|guest, name| Tracer::gdb(guest, name, &["thread apply all backtrace"]));
}

fn hotbackup(verb: &str, guest: &Guest, more: &[&str]) -> Output {
    Command::new(HOTBACKUP).args([verb, "--pid", &guest.pid().to_string()]).args(more).output().expect("it starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_second_backup_of_a_target_is_refused_and_the_first_is_right() {
    let _alone = alone();
    let mut guest = rings();
    for round in ["fresh", "kept"] {
        let dest = guest.beside(round);
        let mut first = backup::start(guest.pid(), &dest, &["--source", path(&guest.dir), "--throttle", "512KiB"]);
        first.wait_for_copying();
        let second = guest.beside("second");
        let outcome = backup::take(guest.pid(), &second, &["--source", path(&guest.dir)]);
        let message = outcome.failure("busy");
        assert_eq!(outcome.status.code(), Some(8));
        assert!(message.contains(&guest.pid().to_string()), "{message}");
        assert!(first.is_running(), "the first backup was over already: {round}");
        assert_right(&first.finish(), RINGS);
        guest.assert_goes_on();
    }
}

#[test]
fn check_and_rescue_leave_a_running_backup_alone() {
    let _alone = alone();
    let mut guest = rings();
    for point in ["end", "start"] {
        let dest = guest.beside(point);
        let source = ["--source", path(&guest.dir), "--throttle", "512KiB", "--point", point];
        let mut first = backup::start(guest.pid(), &dest, &source);
        first.wait_for_copying();
        let check = hotbackup("check", &guest, &["--source", path(&guest.dir)]);
        assert!(said(&check).contains("another hotbackup is at work"), "check says: {}", said(&check));
        assert!(!check.status.success(), "check found a target free that is not");
        let rescue = hotbackup("rescue", &guest, &[]);
        assert!(said(&rescue).contains("keeper"), "rescue says: {}", said(&rescue));
        assert!(first.is_running(), "the backup was over already");
        assert_right(&first.finish(), RINGS);
        guest.assert_goes_on();
    }
    pair(guest.pid());
}

/// Three backups in the same instant; exactly one is taken, and it is right.
fn race(guest: &mut Guest, round: u64) {
    let source = guest.dir.clone();
    let begin = |number| {
        let dest = guest.beside(&format!("race{round}-{number}"));
        backup::start(guest.pid(), &dest, &["--source", path(&source), "--throttle", "1MiB"])
    };
    let running: Vec<_> = (0..3).map(begin).collect();
    let outcomes: Vec<_> = running.into_iter().map(backup::Running::finish).collect();
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.iter().partition(|outcome| outcome.status.success());
    for loser in lost {
        loser.failure("busy");
    }
    assert_eq!(won.len(), 1, "not one of three: {outcomes:#?}");
    assert_right(won[0], RINGS);
    guest.assert_goes_on();
}

#[test]
fn of_backups_started_in_one_instant_on_a_fresh_target_one_is_taken() {
    let _alone = alone();
    for round in 0..2 * number_from("HOTBACKUP_ROUNDS", 4) {
        race(&mut rings(), round);
    }
}

#[test]
fn of_backups_started_in_one_instant_on_a_kept_target_one_is_taken() {
    let _alone = alone();
    let mut guest = rings();
    back_up(&mut guest, RINGS, "first");
    let before = pair(guest.pid());
    for round in 0..2 * number_from("HOTBACKUP_ROUNDS", 4) {
        race(&mut guest, round);
    }
    assert_eq!(pair(guest.pid()), before, "a keeper was replaced");
}
