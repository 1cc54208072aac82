//! A target that spoils the memory which it shares with its keepers: that may cost it its backup, and nothing else.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::common::backup::{self, HOTBACKUP, Outcome, alone, number_from, scratch, seed};
use crate::common::guest::{Guest, Linked, compile};
use crate::common::process::{path, state, wait_until};
use crate::faults::processes;

/// Signals of a process that goes wrong by itself.
const CRASHES: [i32; 6] = [4, 5, 6, 7, 8, 11];

/// Processes that nobody has a reason to touch; killed when dropped.
struct Bystanders(Vec<Child>);

impl Bystanders {
    fn start(command: &mut Command) -> Child {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("a bystander starts")
    }

    /// Two that do not look like anything.
    fn plain() -> Self {
        Self((0..2).map(|_| Self::start(Command::new("sleep").arg("1000"))).collect())
    }

    /// One that looks like a helper of the target.
    fn add_lookalike(&mut self, target: i32) {
        let stat = fs::read_to_string(format!("/proc/{target}/stat")).expect("it lives");
        let start = stat.rsplit_once(')').expect("a name").1.split_whitespace().nth(19).expect("a start").to_owned();
        let mut command = Command::new(compile("looks_like_a_helper", Linked::Statically));
        let mut child = Self::start(command.args(["ptracer", &target.to_string(), &start]));
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        assert_eq!(line, "ready\n");
        self.0.push(child);
    }

    fn numbers(&self) -> Vec<String> {
        self.0.iter().map(|child| child.id().to_string()).collect()
    }

    fn assert_unharmed(&mut self, what: &str) {
        for child in &mut self.0 {
            let ended = child.try_wait().expect("our child");
            assert!(ended.is_none(), "{what}: a bystander, process {}, ended: {ended:?}", child.id());
            let state = state(child.id().cast_signed());
            assert!(state == Some('S'), "{what}: a bystander, process {}, is in state {state:?}", child.id());
        }
    }
}

impl Drop for Bystanders {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Whoever lost his parent comes to this process while it lasts, so that it can see how helpers ended.
struct Orphans;

impl Orphans {
    fn take_in() -> Self {
        set_child_subreaper(true).expect("orphans can come to us");
        Self
    }
}

impl Drop for Orphans {
    fn drop(&mut self) {
        let _ = set_child_subreaper(false);
    }
}

/// Helpers that came to this process when whoever started them ended, and have ended: how.
fn ended_helpers(bystanders: &Bystanders) -> Vec<(i32, i32)> {
    let (ours, others) = (std::process::id().to_string(), bystanders.numbers());
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").expect("/proc is there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.parse::<i32>().ok().filter(|_| !others.contains(&name)) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        let fields: Vec<&str> = rest.split_whitespace().collect();
        // The state, the parent, and last the status that waitpid(2) would give (proc_pid_stat(5)).
        if name.contains("(hotbackup") && fields[0] == "Z" && fields[1] == ours {
            let status = fields.last().and_then(|status| status.parse().ok()).expect("a status");
            found.push((pid, status));
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
    found
}

fn assert_nobody_crashed(outcome: &Outcome, bystanders: &Bystanders, what: &str) {
    let said = format!("{}: {}", outcome.status, outcome.stderr.trim());
    assert!(outcome.status.signal().is_none(), "{what}: hotbackup died: {said}");
    // 101 is a panic's.
    assert!(outcome.status.code() != Some(101) && !said.contains("panicked"), "{what}: hotbackup panicked: {said}");
    assert_no_helper_crashed(bystanders, what);
}

fn assert_no_helper_crashed(bystanders: &Bystanders, what: &str) {
    for (pid, status) in ended_helpers(bystanders) {
        let (signal, code) = (status & 0x7f, status >> 8 & 0xff);
        assert!(!CRASHES.contains(&signal), "{what}: a helper, process {pid}, died of signal {signal}");
        assert!(code != 101, "{what}: a helper, process {pid}, panicked");
    }
}

fn spoiled(dir: &Path) -> u64 {
    let page = fs::read(dir.join("foreign")).expect("the guest's count");
    u64::from_ne_bytes(page[..8].try_into().expect("eight bytes"))
}

/// Backups of a target that spoils its session in this way, from before the first of them.
fn spoils(how: &str) {
    let _alone = alone();
    let _orphans = Orphans::take_in();
    let (rounds, seed) = (number_from("HOTBACKUP_SPOILED", 2), seed() % 1_000_000);
    let (mut ended, mut succeeded) = (0, 0);
    for round in 0..rounds {
        let mut bystanders = Bystanders::plain();
        let scratch = scratch();
        let dir = scratch.path().join("data");
        fs::create_dir(&dir).expect("a data directory");
        let mut command = Command::new(compile("spoils_its_session", Linked::Statically));
        let numbers = scratch.path().join("numbers");
        command.arg(&dir).arg(how).arg((seed + round).to_string()).arg(&numbers);
        let mut guest = Guest::spawn(scratch, dir, command);
        bystanders.add_lookalike(guest.pid());
        let next = guest.beside("next");
        fs::write(&next, bystanders.numbers().join("\n")).expect("a file of numbers");
        fs::rename(&next, &numbers).expect("the guest goes on");
        for backup in 0..4 {
            let what = format!("{how}, round {round}, backup {backup}");
            let dest = guest.beside(&format!("backup{backup}"));
            let source = guest.dir.clone();
            let more = ["--source", path(&source), "--exclude", "foreign", "--throttle", "1MiB"];
            let outcome = backup::take(guest.pid(), &dest, &more);
            println!("{what}: {} {}", outcome.status, outcome.stderr.trim());
            assert_nobody_crashed(&outcome, &bystanders, &what);
            bystanders.assert_unharmed(&what);
            ended += 1;
            succeeded += u64::from(outcome.status.success());
        }
        for verb in ["rescue", "check"] {
            let output = Command::new(HOTBACKUP).args([verb, "--json", "--pid", &guest.pid().to_string()]).output();
            let output = output.expect("it starts");
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let sound = output.status.code().is_some_and(|code| code != 101) && !said.contains("panicked");
            assert!(sound, "{how}, round {round}: {verb} died: {}: {said}", output.status);
        }
        assert!(spoiled(&guest.dir) > 0, "{how}: nothing was spoiled");
        bystanders.assert_unharmed(how);
        let helpers = crate::holders::holders(guest.pid());
        guest.kill();
        // They end with their target, whatever they read.
        let gone = |&pid: &i32| processes::state(pid).is_none();
        wait_until("the end of the helpers", || helpers.iter().all(gone));
        assert_no_helper_crashed(&bystanders, &format!("{how}, round {round}, at the end"));
    }
    println!("{how}: {ended} backups, {succeeded} succeeded");
}

#[test]
fn a_target_that_shrinks_the_session_memory_harms_nobody() {
    spoils("shrink");
}

#[test]
fn a_target_that_scribbles_over_the_session_memory_harms_nobody() {
    spoils("scribble");
}

#[test]
fn a_target_that_changes_single_words_of_the_session_memory_harms_nobody() {
    spoils("poke");
}
