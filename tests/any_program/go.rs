//! A Go program: raw calls, stacks that move, and a runtime that signals its own threads all the time.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bench::{POINTS, assert_right, workshop};
use crate::common::backup::{self, HOTBACKUP, Outcome, alone, number_from, scratch, seed, verify};
use crate::common::guest::{Guest, check_rings};
use crate::common::process::{assert_not_stopped, kill_all, kill_one, pair, path, wait_until};
use crate::common::random::Random;

const RINGS: usize = 16;

/// The guest's program, built unless it is newer than its source.
pub fn build() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/strict.go");
    let home = workshop();
    let lock = File::create(home.join("go-lock")).expect("the target directory takes a file");
    lock.lock().expect("the lock file can be locked");
    let program = home.join("strict-go");
    let age = |path: &Path| fs::metadata(path).and_then(|found| found.modified()).ok();
    if age(&program) > age(&source) {
        return program;
    }
    let made = home.join("strict-go.new");
    let mut compiler = Command::new("go");
    compiler.arg("build").arg("-o").arg(&made).arg(&source);
    compiler.env("GOCACHE", home.join("go-cache")).env("GOPATH", home.join("go-path"));
    compiler.env("GO111MODULE", "off").env("CGO_ENABLED", "0").env("GOFLAGS", "").env("GOTOOLCHAIN", "local");
    let output = compiler.output().expect("this guest needs a Go compiler: apt-get install golang-go");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(&made, &program).expect("a rename inside the target directory");
    program
}

/// Fails unless a backup is a state that existed: each ring; and the log that all share, between which and the rings there is
/// one order.
pub fn assert_state(outcome: &Outcome) {
    assert_right(outcome, RINGS);
    judge(&outcome.dest).unwrap_or_else(|wrong| panic!("{wrong}\n{}", outcome.report()));
}

fn judge(dest: &Path) -> Result<(), String> {
    let newest = check_rings(dest, RINGS)?;
    let log = fs::read(dest.join("log")).map_err(|error| error.to_string())?;
    if !log.len().is_multiple_of(16) {
        return Err(format!("the log ends within a line, at {}", log.len()));
    }
    let mut noted = HashMap::new();
    for line in log.chunks(16) {
        let word = |at| u64::from_le_bytes(line[at..at + 8].try_into().expect("eight bytes"));
        let (ring, record) = (word(0) as usize, word(8));
        let before = noted.insert(ring, record).unwrap_or(0);
        if record != before + 1 {
            return Err(format!("the log has record {record} of ring {ring} after {before}"));
        }
    }
    for (ring, &record) in newest.iter().enumerate() {
        let last = noted.get(&ring).copied().unwrap_or(0);
        if record != last && record != last + 1 {
            return Err(format!("ring {ring} holds record {record}, and the log notes {last}"));
        }
        let current = dest.join(ring.to_string()).join("current");
        let text = fs::read_to_string(&current).map_err(|error| format!("{current:?}: {error}"))?;
        let named = text.parse::<u64>().map_err(|error| format!("{current:?} holds {text:?}: {error}"))?;
        // Replaced each 64 records, once the record is noted.
        let (least, most) = (last.saturating_sub(1) / 64 * 64, last / 64 * 64);
        if named != least && named != most {
            return Err(format!("ring {ring} is at record {last}, and {current:?} holds {named}"));
        }
    }
    Ok(())
}

/// The guest's command, for a data directory.
pub fn command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg(dir).args([&RINGS.to_string(), "32"]);
    command
}

/// The guest, started.
fn start() -> Guest {
    let scratch = scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    let command = command(&build(), &dir);
    Guest::spawn(scratch, dir, command)
}

fn back_up(guest: &mut Guest, point: &str) {
    let dest = guest.beside("backup");
    let source = guest.dir.clone();
    let more = ["--source", path(&source), "--point", point, "--throttle", "32MiB"];
    assert_state(&backup::take(guest.pid(), &dest, &more));
    fs::remove_dir_all(&dest).expect("our own backup");
    guest.assert_goes_on();
    assert_not_stopped(guest.pid());
}

#[test]
fn a_go_program_is_backed_up() {
    let _alone = alone();
    let mut guest = start();
    for point in POINTS {
        back_up(&mut guest, point);
    }
}

/// Kills a backup `after` its start. Either it was complete before, or nothing looks as if it were.
fn kill_after(guest: &mut Guest, round: u64, point: &str, after: Duration) {
    let (dest, source) = (guest.beside(&format!("killed{round}")), guest.dir.clone());
    let more = ["--source", path(&source), "--throttle", "4MiB", "--point", point];
    let running = backup::start(guest.pid(), &dest, &more);
    std::thread::sleep(after);
    running.kill();
    if dest.exists() {
        verify(&dest);
        judge(&dest).expect("a state that existed");
    }
    guest.assert_goes_on();
    assert_not_stopped(guest.pid());
}

/// How long after its start a backup has installed its filter.
fn time_to_filter() -> Duration {
    let guest = start();
    let (dest, source, began) = (guest.beside("backup"), guest.dir.clone(), Instant::now());
    let running = backup::start(guest.pid(), &dest, &["--source", path(&source)]);
    wait_until("the filter", || guest.is_filtered());
    let taken = began.elapsed();
    assert_state(&running.finish());
    taken
}

#[test]
fn a_backup_of_a_go_program_killed_at_any_moment_harms_nothing() {
    let _alone = alone();
    let mut random = Random::new(seed());
    let (mut before, mut after) = (0, 0);
    // About half of the kills come before the filter is there, whenever that is on this machine.
    let mut most = time_to_filter() * 2;
    for round in 0..number_from("HOTBACKUP_FAULTS", 60) / 15 {
        let mut guest = start();
        kill_after(&mut guest, round, "end", most.mul_f64(random.below(1000) as f64 / 1000.0));
        if guest.is_filtered() {
            after += 1;
            most = most.mul_f64(0.5);
        } else {
            before += 1;
            most = most.mul_f64(2.0);
        }
        kill_after(&mut guest, 1000 + round, POINTS[round as usize % 4], Duration::from_micros(random.below(400_000)));
        back_up(&mut guest, "end");
    }
    println!("{before} kills came before the filter was there, {after} after");
}

/// The steps of an attach at which whoever takes them is killed: the process that traces, or the backup.
const STEPS: [&str; 9] = [
    "inject.thread-held",
    "inject.code-written",
    "inject.redirected",
    "inject.let-go",
    "attach.page-mapped",
    "attach.page-written",
    "attach.installed",
    "attach.listener-taken",
    "attach.supervised",
];

#[test]
fn an_attach_to_a_go_program_killed_at_any_step_harms_nothing() {
    let _alone = alone();
    for step in STEPS {
        let mut guest = start();
        let (dest, source) = (guest.beside("killed"), guest.dir.clone());
        // Once: the file says that it has struck.
        let struck = guest.beside("struck");
        let failpoint = format!("{step}:kill@{}", path(&struck));
        let outcome = backup::start_failing(guest.pid(), &dest, &["--source", path(&source)], &failpoint).finish();
        assert!(struck.exists(), "{step} was never come to");
        if outcome.status.success() {
            assert_state(&outcome);
        } else if step.starts_with("inject") {
            // Another one traces in the place of one that was killed, but that took too long.
            outcome.failure_of(&["revoked", "attach_failed"]);
        } else {
            assert!(outcome.status.code().is_none(), "{step}: {}", outcome.stderr);
        }
        guest.assert_goes_on();
        assert_not_stopped(guest.pid());
        back_up(&mut guest, "end");
    }
}

#[test]
fn a_go_program_whose_keepers_are_killed_goes_on_or_waits_and_is_rescued() {
    let _alone = alone();
    let mut guest = start();
    back_up(&mut guest, "end");
    for keeper in 0..2 {
        kill_one(pair(guest.pid())[keeper]);
        guest.assert_goes_on();
    }
    kill_all(guest.pid());
    guest.wait_for_standstill();
    guest.assert_alive();
    let rescue = Command::new(HOTBACKUP).args(["rescue", "--pid", &guest.pid().to_string()]).output();
    let rescue = rescue.expect("it starts");
    assert!(rescue.status.success(), "{}", String::from_utf8_lossy(&rescue.stderr));
    guest.assert_goes_on();
    back_up(&mut guest, "start");
}
