//! `check` looks from outside: it touches nothing, says "ok" to what can be backed up, and never says so before a refusal
//! for a reason that could be known. (Permissions: `any_program/capabilities.rs`; a paused process: `paused.rs`.)
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod common {
    pub mod backup;
    pub mod cgroup;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, HOTBACKUP, alone};
use common::cgroup::Cgroup;
use common::guest::{Guest, Linked};
use common::process::{back_up, keepers, path, state, tracers, wait_until};

const RINGS: usize = 4;

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "64", "200"])
}

/// What `check --json` says: its exit code, and each item by name with whether it is fine, and why.
struct Checked {
    code: Option<i32>,
    report: serde_json::Value,
}

fn check(guest: &Guest, more: &[&str]) -> Checked {
    check_process(guest.pid(), &guest.dir, more)
}

fn check_process(pid: i32, source: &Path, more: &[&str]) -> Checked {
    let mut command = Command::new(HOTBACKUP);
    command.args(["check", "--json", "--pid", &pid.to_string(), "--source"]).arg(source).args(more);
    let output = command.output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report = serde_json::from_str(text.lines().next().expect("a result")).expect("JSON");
    Checked { code: output.status.code(), report }
}

impl Checked {
    fn assert_fine(&self) {
        assert_eq!(self.code, Some(0), "{:#}", self.report);
    }

    fn item(&self, name: &str) -> &serde_json::Value {
        let items = self.report["items"].as_array().expect("items");
        items.iter().find(|item| item["name"] == name).unwrap_or_else(|| panic!("{:#}", self.report))
    }

    /// Just this one item is not fine, for a reason with these words.
    fn assert_finds(&self, name: &str, words: &[&str]) {
        assert_eq!(self.code, Some(53), "{:#}", self.report);
        let item = self.item(name);
        assert_eq!(item["ok"], false, "{:#}", self.report);
        for word in words {
            assert!(item["detail"].as_str().is_some_and(|detail| detail.contains(word)), "{word:?}: {item}");
        }
    }
}

/// A scratch directory with the file that has a guest do at once what it does.
fn triggered() -> (tempfile::TempDir, PathBuf) {
    let scratch = backup::scratch();
    let trigger = scratch.path().join("trigger");
    fs::write(&trigger, "").expect("written");
    (scratch, trigger)
}

/// A backup is refused for this cause.
fn refused(guest: &Guest, cause: &str) {
    let dest = guest.beside("refused");
    backup::take(guest.pid(), &dest, &["--source", path(&guest.dir)]).failure(cause);
}

/// All that an attach, or any injected call, would leave: filters, descriptors, written pages of code, keepers.
fn traces(guest: &Guest) -> (String, usize, usize, Vec<i32>) {
    let read = |file: &str| fs::read_to_string(format!("/proc/{}/{file}", guest.pid())).expect("it lives");
    let open = fs::read_dir(format!("/proc/{}/fd", guest.pid())).expect("it lives").count();
    let (mut is_code, mut written) = (false, 0);
    for line in read("smaps").lines() {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            [range, permissions, ..] if range.contains('-') => is_code = permissions.contains('x'),
            ["Private_Dirty:", size, "kB"] if is_code && size != "0" => written += 1,
            _ => {}
        }
    }
    let filters = read("status").lines().find(|line| line.starts_with("Seccomp_filters")).expect("5.9").to_owned();
    (filters, open, written, keepers(guest.pid()))
}

#[test]
fn without_a_probe_nothing_of_the_program_is_touched_and_with_one_filter_and_keepers_stay() {
    let _alone = alone();
    let mut guest = rings();
    guest.assert_goes_on();
    let before = traces(&guest);
    let checked = check(&guest, &[]);
    checked.assert_fine();
    assert_eq!(checked.report["probed"], false);
    assert_eq!(traces(&guest), before, "check left something");
    assert!(tracers(guest.pid()).iter().all(|tracer| tracer == "0"));
    let checked = check(&guest, &["--probe"]);
    checked.assert_fine();
    assert_eq!(checked.report["probed"], true);
    assert!(guest.is_filtered() && keepers(guest.pid()).len() == 2, "a probe is an attach");
    assert!(traces(&guest).2 > before.2, "an injected call is not seen: the look above shows nothing");
    guest.assert_goes_on();
    // Also of one that is kept.
    check(&guest, &[]).assert_fine();
    back_up(&mut guest, RINGS, "backup");
}

#[test]
fn a_probe_is_not_made_where_a_backup_would_be_refused() {
    let _alone = alone();
    let (scratch, trigger) = triggered();
    let mut guest = Guest::start_in(scratch, "io_uring", Linked::Dynamically, &[path(&trigger)]);
    let checked = check(&guest, &["--probe"]);
    checked.assert_finds("calls alone change its files", &["io_uring"]);
    assert_eq!(checked.report["probed"], false);
    assert!(!guest.is_filtered(), "a filter was installed");
    refused(&guest, "blind");
    guest.assert_alive();
}

#[test]
fn a_writable_mapping_is_found_by_its_files_name_and_is_fine_with_mapped() {
    let _alone = alone();
    let (scratch, trigger) = triggered();
    let guest = Guest::start_in(scratch, "writable_mapping", Linked::Dynamically, &[path(&trigger), "mmap"]);
    let checked = check(&guest, &[]);
    checked.assert_finds("nothing mapped for writing", &["data/mapped", "--mapped"]);
    check(&guest, &["--mapped", "64MiB"]).assert_fine();
    refused(&guest, "untraceable");
}

/// Ended when dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sleeper(file: &Path) -> Ended {
    let open = File::options().append(true).open(file).expect("there");
    Ended(Command::new("sleep").arg("600").stdout(Stdio::from(open)).spawn().expect("it starts"))
}

#[test]
fn another_process_that_may_write_is_found_by_the_name_of_its_file() {
    let _alone = alone();
    let mut guest = rings();
    let deep = guest.dir.join("foreign");
    fs::write(&deep, "content").expect("written");
    let other = sleeper(&deep);
    check(&guest, &[]).assert_finds("nobody else writes", &["foreign", "another process"]);
    refused(&guest, "untraceable");
    drop(other);
    check(&guest, &[]).assert_fine();
    guest.assert_goes_on();
}

#[test]
fn another_tracer_and_a_stopped_program_are_found() {
    let _alone = alone();
    let mut guest = rings();
    kill(Pid::from_raw(guest.pid()), Signal::SIGSTOP).expect("ours");
    wait_until("it to be stopped", || state(guest.pid()) == Some('T'));
    check(&guest, &[]).assert_finds("not paused", &["stopped by a signal", "kill -CONT"]);
    kill(Pid::from_raw(guest.pid()), Signal::SIGCONT).expect("ours");
    guest.assert_goes_on();
    let strace = Command::new("strace").args(["-f", "-o", "/dev/null", "-p", &guest.pid().to_string()]).spawn();
    let mut strace = Ended(strace.expect("strace is installed"));
    wait_until("a tracer", || tracers(guest.pid()).iter().all(|tracer| *tracer == strace.0.id().to_string()));
    check(&guest, &[]).assert_finds("no other tracer", &["is being traced"]);
    refused(&guest, "already_traced");
    kill(Pid::from_raw(strace.0.id().cast_signed()), Signal::SIGINT).expect("ours");
    let _ = strace.0.wait();
    guest.assert_goes_on();
}

#[test]
fn a_limit_without_room_is_found() {
    let _alone = alone();
    let group = Cgroup::with("pids");
    let mut guest = rings();
    group.take_in(guest.pid());
    group.set("pids.max", &(group.number("pids.current") + 1).to_string());
    check(&guest, &[]).assert_finds("room", &["pids.max", path(group.path())]);
    group.set("pids.max", "max");
    check(&guest, &[]).assert_fine();
    guest.kill();
}

#[test]
fn a_backup_under_way_is_found_and_not_disturbed() {
    let _alone = alone();
    let mut guest = rings();
    let dest = guest.beside("backup");
    let source = guest.dir.clone();
    // Paused, so that it lasts as long as it is let.
    let mut running = backup::start(guest.pid(), &dest, &["--source", path(&source), "--throttle", "0"]);
    running.wait_for_phase("track");
    check(&guest, &[]).assert_finds("not at work", &["another hotbackup is at work"]);
    assert!(running.is_running(), "the backup is over");
    guest.assert_goes_on();
    running.signal(Signal::SIGTERM);
    // Not revoked: nobody had taken anything from it.
    running.finish().failure("cancelled");
    back_up(&mut guest, RINGS, "afterwards");
    check(&guest, &[]).assert_fine();
    guest.assert_goes_on();
}

/// Writes two files in turn; for each file `ask-N` that comes, starts a child that installs a seccomp listener, says in `answer-N` how that
/// went, and stays until the file is gone.
const STARTS_SANDBOXES: &str = "
import ctypes, os, struct, sys
directory, beside = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
SECCOMP, SET_MODE_FILTER, NEW_LISTENER, NO_NEW_PRIVS = 317, 1, 8, 38
def sandbox(number):
    allow = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
    program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 1, ctypes.addressof(allow)))
    libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0)
    listener = libc.syscall(SECCOMP, SET_MODE_FILTER, NEW_LISTENER, program)
    answer = 'listens' if listener >= 0 else os.strerror(ctypes.get_errno())
    with open(f'{beside}/answer', 'w') as file:
        file.write(answer)
    os.rename(f'{beside}/answer', f'{beside}/answer-{number}')
    while os.path.exists(f'{beside}/ask-{number}'):
        os.sched_yield()
    os._exit(0)
files = [os.open(f'{directory}/{name}', os.O_RDWR | os.O_CREAT) for name in 'ab']
asked, round = 0, 0
sys.stdout.write('ready\\n')
sys.stdout.flush()
while True:
    round += 1
    for file in files:
        os.pwrite(file, struct.pack('Q', round), 0)
    if os.path.exists(f'{beside}/ask-{asked}'):
        if os.fork() == 0:
            for file in files:
                os.close(file)
            sandbox(asked)
        asked += 1
";

#[test]
fn a_program_that_starts_sandboxes_is_told_what_it_will_lose() {
    let _alone = alone();
    let scratch = backup::scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    let mut command = Command::new("python3");
    command.args(["-c", STARTS_SANDBOXES]).arg(&dir).arg(scratch.path());
    let mut guest = Guest::spawn(scratch, dir, command);
    let listeners = |guest: &Guest| {
        let checked = check(guest, &[]);
        checked.assert_fine();
        checked.item("seccomp listeners").clone()
    };
    let ask = |guest: &Guest, number: u32| {
        fs::write(guest.beside(&format!("ask-{number}")), "").expect("written");
        let answer = guest.beside(&format!("answer-{number}"));
        wait_until("an answer", || answer.exists());
        fs::read_to_string(answer).expect("text")
    };
    let before = listeners(&guest);
    assert!(
        before.get("warning").is_none() && before["detail"].as_str().is_some_and(|d| d.contains("EBUSY")),
        "{before}"
    );
    assert_eq!(ask(&guest, 0), "listens");
    let now = listeners(&guest);
    assert_eq!((&now["ok"], &now["warning"]), (&true.into(), &true.into()), "{now}");
    assert!(now["detail"].as_str().is_some_and(|detail| detail.contains("EBUSY")), "{now}");
    fs::remove_file(guest.beside("ask-0")).expect("there");
    let source = guest.dir.clone();
    let outcome = backup::take(guest.pid(), &guest.beside("backup"), &["--source", path(&source)]);
    outcome.report();
    // Also when nothing is at work any more.
    assert_eq!(ask(&guest, 1), "Device or resource busy");
    fs::remove_file(guest.beside("ask-1")).expect("there");
    assert!(listeners(&guest).get("warning").is_none());
    guest.assert_goes_on();
}

/// Writes two files in turn, below a seccomp listener: its own, or its parent's.
const BELOW_A_LISTENER: &str = "
import ctypes, os, struct, sys
directory, whose = sys.argv[1:]
libc = ctypes.CDLL(None, use_errno=True)
allow = ctypes.create_string_buffer(struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 1, ctypes.addressof(allow)))
libc.prctl(38, 1, 0, 0, 0)
listener = libc.syscall(317, 1, 8, program)
assert listener >= 0
if whose == 'parents':
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        os._exit(0)
    os.close(listener)
    with open(f'{directory}/../writer', 'w') as file:
        file.write(str(os.getpid()))
files = [os.open(f'{directory}/{name}', os.O_RDWR | os.O_CREAT) for name in 'ab']
sys.stdout.write('ready\\n')
sys.stdout.flush()
parent, round = os.getppid(), 0
while os.getppid() == parent:
    round += 1
    for file in files:
        os.pwrite(file, struct.pack('Q', round), 0)
";

#[test]
fn a_listener_that_is_not_ours_is_found_or_warned_of() {
    let _alone = alone();
    for whose in ["own", "parents"] {
        let scratch = backup::scratch();
        let dir = scratch.path().join("data");
        fs::create_dir(&dir).expect("a data directory");
        let mut command = Command::new("python3");
        command.args(["-c", BELOW_A_LISTENER]).arg(&dir).arg(whose);
        let mut guest = Guest::spawn(scratch, dir, command);
        let writer =
            fs::read_to_string(guest.beside("writer")).map_or(guest.pid(), |pid| pid.parse().expect("a number"));
        let checked = check_process(writer, &guest.dir, &[]);
        if whose == "own" {
            checked.assert_finds("seccomp listeners", &["not hotbackup's"]);
        } else {
            checked.assert_fine();
            assert_eq!(checked.item("seccomp listeners")["warning"], true, "{:#}", checked.report);
        }
        let source = guest.dir.clone();
        let dest = guest.beside("refused");
        backup::take(writer, &dest, &["--source", path(&source)]).failure("cannot_follow");
        guest.assert_goes_on();
    }
}
