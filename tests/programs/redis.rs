//! Redis with an append-only file, which it rewrites in children that it forks. Not with `appendfsync everysec`: while a sync
//! is under way, Redis puts off the write itself for up to two seconds, and has acknowledged it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::Signal;

use crate::common::backup::{self, alone, scratch};
use crate::judge::{Held, back_up, judge, turns};
use crate::load::{Client, Load, noise};
use crate::server::{Server, copy_of, free_port, must, wait_until};

const PACKAGE: &str = "redis-server redis-tools";
const CLIENTS: usize = 3;
/// Keys that are only there to be copied.
const STOCK: u64 = 2000;

/// A running server.
struct Redis {
    server: Server,
    port: u16,
}

impl Redis {
    fn start(dir: &Path, fsync: &str) -> Self {
        let port = free_port();
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir);
        command.args(["--appendonly", "yes", "--appendfsync", fsync, "--auto-aof-rewrite-percentage", "0"]);
        let mut server = Server::start(command, &dir.with_extension(format!("{port}.log")), PACKAGE);
        // While it loads its data it answers everything else with an error.
        server.wait_until(|| Connection::open(port).is_some_and(|mut it| it.ask(&["PING"]).as_text() == Ok("PONG")));
        Self { server, port }
    }

    fn connection(&self) -> Connection {
        Connection::open(self.port).expect("it listens")
    }
}

/// What a server answers (RESP).
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    Text(String),
    Number(i64),
    Nothing,
    Many(Vec<Answer>),
    Error(String),
}

impl Answer {
    fn as_text(&self) -> Result<&str, &Self> {
        if let Self::Text(text) = self { Ok(text) } else { Err(self) }
    }
}

struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(port: u16) -> Option<Self> {
        TcpStream::connect(("127.0.0.1", port)).ok().map(|stream| Self(BufReader::new(stream)))
    }

    fn ask(&mut self, words: &[&str]) -> Answer {
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.0.get_mut().write_all(text.as_bytes()).expect("it reads");
        self.answer()
    }

    fn answer(&mut self) -> Answer {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it answers");
        assert!(line.ends_with("\r\n"), "it closed the connection: {line:?}");
        let (kind, rest) = line.trim_end().split_at(1);
        let number = || rest.parse::<i64>().expect("a number");
        match kind {
            "+" => Answer::Text(rest.to_owned()),
            "-" => Answer::Error(rest.to_owned()),
            ":" => Answer::Number(number()),
            "$" if number() < 0 => Answer::Nothing,
            "$" => {
                let mut bytes = vec![0; usize::try_from(number()).expect("a length") + 2];
                self.0.read_exact(&mut bytes).expect("it answers");
                bytes.truncate(bytes.len() - 2);
                Answer::Text(String::from_utf8(bytes).expect("our own text"))
            }
            "*" => Answer::Many((0..number()).map(|_| self.answer()).collect()),
            _ => panic!("no answer of its protocol: {line:?}"),
        }
    }
}

/// Sets keys and counts them, in turn.
fn client(number: usize, mut connection: Connection) -> Client {
    Box::new(move |k| {
        let turn = k / 2;
        if k % 2 == 0 {
            let value = noise(k, 100 + (k as usize * 37) % 2000);
            let answer = connection.ask(&["SET", &format!("sequence:{number}:{turn}"), &value]);
            assert_eq!(answer.as_text(), Ok("OK"));
        } else {
            let answer = connection.ask(&["INCR", &format!("counter:{number}")]);
            assert_eq!(answer, Answer::Number(turn.cast_signed() + 1));
        }
    })
}

/// Has the server rewrite its append-only file and save a snapshot, over and over, each in a child.
struct Rewrites {
    end: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<u64>,
}

impl Rewrites {
    fn start(mut connection: Connection) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&end);
        let thread = std::thread::spawn(move || {
            let mut children = 0;
            while !stop.load(Ordering::Relaxed) {
                for command in ["BGREWRITEAOF", "BGSAVE"] {
                    // Refused while another child is at it.
                    if matches!(connection.ask(&[command]), Answer::Text(_)) {
                        children += 1;
                    }
                    std::thread::sleep(std::time::Duration::from_millis(15));
                }
            }
            children
        });
        Self { end, thread }
    }

    fn stop(self) -> u64 {
        self.end.store(true, Ordering::Relaxed);
        self.thread.join().expect("every command was answered")
    }
}

/// What a data directory holds, by Redis's own checks and a server started on it.
fn held(dir: &Path) -> Held {
    let manifest = dir.join("appendonlydir/appendonly.aof.manifest");
    must(Command::new("redis-check-aof").arg(manifest), PACKAGE);
    if dir.join("dump.rdb").exists() {
        must(Command::new("redis-check-rdb").arg(dir.join("dump.rdb")), PACKAGE);
    }
    let redis = Redis::start(dir, "no");
    let keys = all(&mut redis.connection());
    assert_eq!(keys.keys().filter(|key| key.starts_with("stock:")).count() as u64, STOCK);
    let held_of = |number: usize| {
        let prefix = format!("sequence:{number}:");
        let mut turns_held: Vec<u64> = Vec::new();
        for (key, value) in &keys {
            let Some(turn) = key.strip_prefix(&prefix) else { continue };
            let turn: u64 = turn.parse().expect("a number");
            assert_eq!(*value, noise(2 * turn, 100 + (2 * turn as usize * 37) % 2000), "{key} has another value");
            turns_held.push(turn);
        }
        turns_held.sort_unstable();
        let counter = keys.get(&format!("counter:{number}")).map_or(0, |value| value.parse().expect("a number"));
        turns(number, &turns_held, counter)
    };
    let held = (0..CLIENTS).map(held_of).collect();
    redis.server.stop(Signal::SIGTERM);
    held
}

fn all(connection: &mut Connection) -> BTreeMap<String, String> {
    let Answer::Many(keys) = connection.ask(&["KEYS", "*"]) else { panic!("a list of keys") };
    let value_of = |key: Answer| {
        let key = key.as_text().expect("a key").to_owned();
        let value = connection.ask(&["GET", &key]).as_text().expect("a value").to_owned();
        (key, value)
    };
    keys.into_iter().map(value_of).collect()
}

fn started(fsync: &str) -> (tempfile::TempDir, PathBuf, Redis) {
    let scratch = scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    let redis = Redis::start(&dir, fsync);
    let mut connection = redis.connection();
    for key in 0..STOCK {
        let answer = connection.ask(&["SET", &format!("stock:{key}"), &noise(key, 2000)]);
        assert_eq!(answer.as_text(), Ok("OK"));
    }
    (scratch, dir, redis)
}

/// How long a child takes to save a key, in microseconds.
fn set_delay(connection: &mut Connection, microseconds: u64) {
    let answer = connection.ask(&["CONFIG", "SET", "rdb-key-save-delay", &microseconds.to_string()]);
    assert_eq!(answer.as_text(), Ok("OK"));
}

fn backed_up(fsync: &str, rewriting: bool) {
    let _alone = alone();
    let (scratch, dir, mut redis) = started(fsync);
    let load = Load::start((0..CLIENTS).map(|number| client(number, redis.connection())).collect());
    load.wait_for(100);
    // The first backup brings the filter; children that are forked after it carry it.
    let mut outcomes = back_up(redis.server.pid(), scratch.path(), &dir, &[], "8MiB", &load);
    if rewriting {
        // So that children are at work when the point comes, and when a backup begins.
        set_delay(&mut redis.connection(), 50);
        let rewrites = Rewrites::start(redis.connection());
        let again = scratch.path().join("rewriting");
        fs::create_dir(&again).expect("a directory");
        outcomes.extend(back_up(redis.server.pid(), &again, &dir, &[], "8MiB", &load));
        let children = rewrites.stop();
        println!("{children} children");
        assert!(children > 3, "only {children} children wrote during the backups");
    }
    let acks = load.stop();
    redis.server.assert_alive();
    judge(&outcomes, &acks, held);
    redis.server.stop(Signal::SIGTERM);
}

#[test]
fn redis_that_syncs_always() {
    backed_up("always", false);
}

#[test]
fn redis_that_leaves_syncing_to_the_kernel_and_rewrites_its_files_in_children() {
    backed_up("no", true);
}

/// Redis with a child that saves a snapshot, for as long as `end` does not end it.
struct Saving {
    redis: Redis,
    connection: Connection,
    dir: PathBuf,
    scratch: tempfile::TempDir,
}

impl Saving {
    fn prepare() -> Self {
        let (scratch, dir, redis) = started("no");
        let mut connection = redis.connection();
        set_delay(&mut connection, 1_000_000);
        Self { redis, connection, dir, scratch }
    }

    fn begin(&mut self) {
        assert!(matches!(self.connection.ask(&["BGSAVE"]), Answer::Text(_)));
    }

    fn is_on(&mut self) -> bool {
        let info = self.connection.ask(&["INFO", "persistence"]);
        info.as_text().expect("text").contains("rdb_bgsave_in_progress:1")
    }

    /// Redis ends its child when all that it was to save is gone.
    fn end(&mut self) {
        assert!(self.is_on(), "the child was to be there until now");
        assert_eq!(self.connection.ask(&["FLUSHALL"]).as_text(), Ok("OK"));
        wait_until("the child's end", || !self.is_on());
    }

    fn arguments(&self) -> [&str; 2] {
        ["--source", self.dir.to_str().expect("a plain name")]
    }

    fn dest(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn assert_backed_up(self) {
        backup::take(self.redis.server.pid(), &self.dest("late"), &self.arguments()).report();
        self.redis.server.stop(Signal::SIGTERM);
    }
}

#[test]
fn redis_with_a_child_from_before_the_filter_is_refused_until_the_child_ends() {
    let _alone = alone();
    let mut saving = Saving::prepare();
    saving.begin();
    let outcome = backup::take(saving.redis.server.pid(), &saving.dest("early"), &saving.arguments());
    let said = outcome.failure("several_processes");
    assert!(said.contains("redis") && said.contains("try again"), "{said}");
    saving.end();
    saving.assert_backed_up();
}

#[test]
fn redis_that_forks_a_child_just_before_the_filter_is_there_is_refused_until_the_child_ends() {
    let _alone = alone();
    let mut saving = Saving::prepare();
    let pid = saving.redis.server.pid();
    // It has looked for children, and found none.
    let running = backup::start_failing(pid, &saving.dest("early"), &saving.arguments(), "attach.locked:stop");
    let supervisor = running.pid();
    wait_until("the supervisor to stop", || {
        let status = fs::read_to_string(format!("/proc/{supervisor}/status")).expect("it is not reaped");
        status.contains("State:\tT")
    });
    saving.begin();
    running.signal(Signal::SIGCONT);
    running.finish().failure("several_processes");
    saving.end();
    saving.assert_backed_up();
}

#[test]
fn redis_with_a_child_from_before_the_backup_that_carries_the_filter_is_backed_up() {
    let _alone = alone();
    let mut saving = Saving::prepare();
    let pid = saving.redis.server.pid();
    backup::take(pid, &saving.dest("first"), &saving.arguments()).report();
    saving.begin();
    for point in ["end", "start"] {
        let arguments = [&saving.arguments()[..], &["--point", point]].concat();
        let outcome = backup::take(pid, &saving.dest(point), &arguments);
        outcome.report();
        let copy = copy_of(&outcome.dest);
        must(Command::new("redis-check-aof").arg(copy.join("appendonlydir/appendonly.aof.manifest")), PACKAGE);
    }
    saving.end();
    saving.assert_backed_up();
}
