//! What the tests here have in common.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::common::backup::{self, HOTBACKUP, Outcome};
use crate::common::guest::Guest;
use crate::common::process::{self, assert_not_stopped, path};

/// Both points in time, twice: the first backup installs the filter, the others come by the keeper.
pub const POINTS: [&str; 4] = ["end", "start", "end", "start"];

/// Backs up a process of a guest, by `command`, to each of these points in time; all must be right.
fn back_up_to(points: &[&str], command: impl Fn() -> Command, guest: &mut Guest, source: &str, rings: usize) {
    let target = guest.pid();
    for (round, point) in points.iter().enumerate() {
        let dest = guest.beside(&format!("backup{round}"));
        let more = ["--source", source, "--point", point, "--throttle", "32MiB"];
        let outcome = backup::start_command(command(), target, &dest, &more).finish();
        assert_right(&outcome, rings);
        fs::remove_dir_all(&dest).expect("our own backup");
        guest.assert_goes_on();
        assert_not_stopped(target);
    }
}

/// Backs up a guest, by `command`, to each point in time in turn; all must be right.
pub fn back_up_by(command: impl Fn() -> Command, guest: &mut Guest, rings: usize) {
    let source = guest.dir.clone();
    back_up_to(&POINTS, command, guest, path(&source), rings);
}

/// The same by root.
pub fn back_up(guest: &mut Guest, rings: usize) {
    back_up_by(|| Command::new(HOTBACKUP), guest, rings);
}

/// The same once to each point, for a guest that takes long.
pub fn back_up_large(guest: &mut Guest, rings: usize) {
    let source = guest.dir.clone();
    back_up_to(&POINTS[..2], || Command::new(HOTBACKUP), guest, path(&source), rings);
}

/// Fails unless a backup succeeded, and each ring is in a state that existed, to which it had come by writing.
pub fn assert_right(outcome: &Outcome, rings: usize) {
    let newest = process::assert_right(outcome, rings);
    assert!(newest.iter().all(|&record| record > 0), "the guest has written: {newest:?}");
}

/// A backup by `command` that must fail for `cause`, and leave nothing behind, with the target unharmed. Says what it says.
pub fn refused_by(command: Command, guest: &mut Guest, cause: &str) -> String {
    let (dest, source) = (guest.beside("refused"), guest.dir.clone());
    let outcome = backup::start_command(command, guest.pid(), &dest, &["--source", path(&source)]).finish();
    let said = outcome.failure(cause);
    println!("{said}");
    assert!(!dest.exists(), "a refused backup left {dest:?}");
    // What the destination does not keep is told before.
    let sentences = outcome.stderr.lines().filter(|line| !line.starts_with("hotbackup: warning: ")).count();
    assert_eq!(sentences, 1, "one clear sentence: {}", outcome.stderr);
    guest.assert_goes_on();
    assert_not_stopped(guest.pid());
    said
}

/// The same by root.
pub fn refused(guest: &mut Guest, cause: &str) -> String {
    refused_by(Command::new(HOTBACKUP), guest, cause)
}

/// Fails unless all these words are said.
pub fn assert_names(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "{word:?} is missing in: {said}");
    }
}

/// Runs a tool, which must succeed.
pub fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error} (these tests need root, and util-linux)"));
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

/// Where the guests are built.
pub fn workshop() -> PathBuf {
    let home = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("guests");
    fs::create_dir_all(&home).expect("the target directory takes a directory");
    home
}
