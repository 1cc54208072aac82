//! SQLite with several connections in one process, each in a thread of its own: Python's sqlite3.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use crate::common::backup::{alone, scratch};
use crate::judge::{Held, back_up, judge};
use crate::load::{Client, Load};
use crate::server::Server;
use crate::sqlite::{ask, assert_whole};

const CLIENTS: usize = 3;
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/programs/sqlite_threads.py");

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
    let log = scratch.path().join("stderr");
    let mut command = Command::new("python3");
    command.arg(SCRIPT).arg(dir.join("app.db")).args([mode, &CLIENTS.to_string()]).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(fs::File::create(&log).expect("a log file"));
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}: apt-get install python3"));
    let input = Arc::new(Mutex::new(child.stdin.take().expect("piped")));
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut server = Server::of(child, &log);
    assert_eq!(lines.next().and_then(Result::ok).as_deref(), Some("ready"), "{}", server.said());

    // Each answer goes to the client that waits for it.
    let (answers, waiting): (Vec<Sender<u64>>, Vec<_>) = (0..CLIENTS).map(|_| channel()).unzip();
    let reader = std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let (client, k) = line.split_once(' ').expect("two numbers");
            let _ = answers[client.parse::<usize>().expect("a client")].send(k.parse().expect("a number"));
        }
    });
    let clients = waiting.into_iter().enumerate().map(|(client, answer)| {
        let input = Arc::clone(&input);
        Box::new(move |k| {
            writeln!(input.lock().expect("no writer panics"), "{client} {k}").expect("the script reads");
            assert_eq!(answer.recv().expect("the script answers"), k);
        }) as Client
    });
    let load = Load::start(clients.collect());
    load.wait_for(60);
    let outcomes = back_up(server.pid(), scratch.path(), &dir, more, "1MiB", &load, 2);
    let acks = load.stop();
    drop(input);
    server.wait_for_end();
    reader.join().expect("every answer was for a client");
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
