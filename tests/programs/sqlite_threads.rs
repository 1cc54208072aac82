//! SQLite with several connections in one process, each in a thread of its own: Python's sqlite3.

use std::fs;
use std::path::Path;

use crate::common::backup::{alone, scratch};
use crate::judge::{Held, back_up, judge};
use crate::load::Load;
use crate::script::Script;
use crate::sqlite::{ask, assert_whole};

const CLIENTS: usize = 3;

fn held(dir: &Path) -> Held {
    let database = dir.join("app.db");
    assert_whole(&database);
    let held_of = |client: usize| {
        let statement =
            format!("select (select n from counter{client}), count(*), ifnull(max(k), -1) + 1 from sequence{client};");
        let said = ask(&database, &statement);
        let numbers: Vec<u64> = said.trim().split('|').map(|word| word.parse().expect("a number")).collect();
        assert!(numbers.iter().all(|number| *number == numbers[0]), "client {client}: never so: {said}");
        numbers[0]..=numbers[0]
    };
    (0..CLIENTS).map(held_of).collect()
}

fn backed_up(mode: &str, more: &[&str]) {
    let _alone = alone();
    let scratch = scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    let database = dir.join("app.db");
    let arguments = [database.to_str().expect("a plain name"), mode];
    let (script, clients) = Script::start("sqlite_threads.py", &arguments, CLIENTS, &scratch.path().join("stderr"));
    let load = Load::start(clients);
    load.wait_for(60);
    let outcomes = back_up(script.pid(), scratch.path(), &dir, more, "1MiB", &load);
    let acks = load.stop();
    script.end();
    judge(&outcomes, &acks, held);
}

#[test]
fn sqlite_in_threads_with_a_rollback_journal() {
    backed_up("delete", &[]);
}

#[test]
fn sqlite_in_threads_with_a_write_ahead_log_whose_mapped_index_is_excluded() {
    backed_up("wal", &["--exclude", "*-shm"]);
}

#[test]
fn sqlite_in_threads_with_a_write_ahead_log_and_its_mapped_index() {
    backed_up("wal", &["--mapped", "64MiB"]);
}
