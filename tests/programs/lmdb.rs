//! LMDB: it reads through a mapping and writes by calls, and its lock file is mapped writable.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::backup::{self, alone, scratch};
use crate::judge::{Held, back_up, judge};
use crate::load::Load;
use crate::script::{Script, python};
use crate::server::must;

const PACKAGE: &str = "python3-lmdb lmdb-utils";
const CLIENTS: usize = 2;

fn started(mode: &str) -> (TempDir, PathBuf, Script, Load) {
    let scratch = scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    let arguments = [dir.to_str().expect("a plain name"), mode];
    let (script, clients) = Script::start("lmdb.py", &arguments, CLIENTS, &scratch.path().join("stderr"));
    let load = Load::start(clients);
    load.wait_for(50);
    (scratch, dir, script, load)
}

fn held(dir: &Path) -> Held {
    must(Command::new("mdb_stat").arg("-a").arg(dir), PACKAGE);
    let said = must(python("lmdb.py").arg(dir).args(["read", &CLIENTS.to_string()]), PACKAGE);
    let held_of = |line: &str| {
        let numbers: Vec<u64> = line.split(' ').map(|word| word.parse().expect("a number")).collect();
        assert!(numbers.iter().all(|number| *number == numbers[0]), "never so: {said}");
        numbers[0]..=numbers[0]
    };
    said.lines().map(held_of).collect()
}

fn backed_up(mode: &str, more: &[&str]) {
    let _alone = alone();
    let (scratch, dir, script, load) = started(mode);
    let outcomes = back_up(script.pid(), scratch.path(), &dir, more, "4MiB", &load);
    let acks = load.stop();
    script.end();
    judge(&outcomes, &acks, held);
}

#[test]
fn lmdb_whose_lock_file_is_excluded() {
    backed_up("plain", &["--exclude", "lock.mdb"]);
}

#[test]
fn lmdb_with_its_mapped_lock_file() {
    backed_up("plain", &["--mapped", "64MiB"]);
}

/// It stores the page that makes a transaction count last: any instant is a state of the database.
#[test]
fn lmdb_that_writes_through_its_mapping() {
    backed_up("writemap", &["--mapped", "128MiB"]);
}

/// A backup that must be refused because this file is mapped writable.
fn refused(mode: &str, more: &[&str], file: &str) {
    let _alone = alone();
    let (scratch, dir, script, load) = started(mode);
    let dest = scratch.path().join("backup");
    let source = dir.to_str().expect("a plain name");
    let said = backup::take(script.pid(), &dest, &[&["--source", source], more].concat()).failure("untraceable");
    assert!(said.contains(file) && said.contains("mapping"), "{said}");
    load.wait_for(20);
    load.stop();
    script.end();
}

#[test]
fn lmdb_is_refused_because_its_lock_file_is_mapped_writable() {
    refused("plain", &[], "lock.mdb");
}

#[test]
fn lmdb_that_writes_through_its_mapping_is_refused() {
    refused("writemap", &["--exclude", "lock.mdb"], "data.mdb");
}
