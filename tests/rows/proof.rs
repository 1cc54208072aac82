//! Every row of the table, and every command of ioctl(2), has tests named after it, and without its decoder one of them
//! finds the backup wrong.
use std::collections::VecDeque;
use std::process::{Command, Output};
use std::sync::Mutex;

use hotbackup_event::failpoint;
use hotbackup_tracer::calls::{Row, TABLE, When, ioctls::COMMANDS};

/// Tests at the same time.
const JOBS: usize = 2;

/// What a fail point calls each row and each command, and what its tests' names begin with.
fn rows() -> Vec<(&'static str, String)> {
    // Those that are shown for a table of descriptors change no file.
    let changes = |row: &&Row| row.name != "ioctl" && !matches!(row.when, When::ForTheTable(_));
    let rows = TABLE.iter().filter(changes).map(|row| (row.name, row.name.to_owned()));
    let commands = COMMANDS.iter().map(|command| (command.name, format!("ioctl_{}", command.name.to_lowercase())));
    rows.chain(commands).collect()
}

/// This program again.
fn this_program(arguments: &[&str], skipped: Option<&str>) -> Output {
    let mut command = Command::new(std::env::current_exe().expect("a program"));
    command.args(arguments).env_remove("RUST_BACKTRACE");
    if let Some(row) = skipped {
        command.env(failpoint::VARIABLE, format!("row.{row}:skip"));
    }
    command.output().expect("it starts")
}

/// The tests of this program, each with its module.
fn tests() -> Vec<String> {
    let listed = String::from_utf8(this_program(&["--list"], None).stdout).expect("text");
    let tests: Vec<String> = listed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect();
    assert!(tests.len() > 100, "{listed}");
    tests
}

/// Those named after a row: the one that has just its name comes first.
fn named_after<'a>(tests: &'a [String], name: &str) -> Vec<&'a str> {
    let last = |test: &str| test.rsplit("::").next().unwrap_or_default().to_owned();
    let is_named =
        |test: &&str| last(test).strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'));
    let mut named: Vec<&str> = tests.iter().map(String::as_str).filter(is_named).collect();
    named.sort_by_key(|test| last(test).len());
    named
}

#[test]
fn every_row_has_a_test_named_after_it() {
    let tests = tests();
    let without: Vec<_> = rows().into_iter().filter(|(_, name)| named_after(&tests, name).is_empty()).collect();
    assert!(without.is_empty(), "{without:?}");
}

/// How a test fails that finds out about a missing decoder; not because something else went wrong.
fn found_out(output: &Output) -> bool {
    const WORDS: [&str; 3] = ["the backup is wrong", "the backup failed: ", "the backup succeeded"];
    let text = String::from_utf8_lossy(&output.stdout);
    !output.status.success() && WORDS.iter().any(|words| text.contains(words))
}

#[test]
fn every_row_is_proven_by_a_test_named_after_it() {
    let tests = tests();
    let left: Mutex<VecDeque<_>> = Mutex::new(rows().into());
    let unproven = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..JOBS {
            scope.spawn(|| {
                while let Some((row, name)) = { left.lock().expect("not poisoned").pop_front() } {
                    let named = named_after(&tests, &name);
                    let proves = |test: &&str| found_out(&this_program(&[test, "--exact"], Some(row)));
                    match named.iter().find(|test| proves(test)) {
                        Some(test) => println!("{row}: {test}"),
                        None => unproven.lock().expect("not poisoned").push((row, named)),
                    }
                }
            });
        }
    });
    let unproven = unproven.into_inner().expect("not poisoned");
    assert!(unproven.is_empty(), "without these decoders no test fails: {unproven:#?}");
}
