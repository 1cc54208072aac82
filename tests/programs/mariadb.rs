//! MariaDB with InnoDB: many threads, and files of many kinds. It is told to write by ordinary calls: of itself it uses
//! io_uring, and is refused.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;

use crate::common::backup::{self, alone, scratch};
use crate::judge::{Held, back_up, judge};
use crate::load::{Client, Load, noise};
use crate::pipe::Shell;
use crate::server::{Server, must, run};

const SERVER: &str = "mariadb-server-core";
const TOOLS: &str = "mariadb-client-core";
const CLIENTS: usize = 3;
const ORDINARY_CALLS: &[&str] = &["--innodb-use-native-aio=0"];

/// A running server.
struct Mariadb {
    server: Server,
    socket: PathBuf,
}

impl Mariadb {
    fn start(dir: &Path, more: &[&str]) -> Self {
        // A short path: the address of a socket has 108 bytes.
        let socket = PathBuf::from(format!("/tmp/hotbackup-{}.sock", std::process::id()));
        let mut command = Command::new("mariadbd");
        command.args(["--no-defaults", "--user=root", "--skip-networking", "--innodb-log-file-size=4M"]);
        command.arg(path("--datadir", dir)).arg(path("--socket", &socket)).args(more);
        command.arg(path("--pid-file", &dir.with_extension("pid")));
        let server = Server::start(command, &dir.with_extension("log"), SERVER);
        let mut mariadb = Self { server, socket };
        let socket = mariadb.socket.clone();
        mariadb.server.wait_until(|| run(client(&socket).args(["-e", "select 1"]), TOOLS).status.success());
        mariadb
    }

    fn shell(&self) -> Shell {
        let mut command = client(&self.socket);
        command.args(["--batch", "--skip-column-names", "--unbuffered"]);
        Shell::open(command, TOOLS)
    }

    /// Writes rows and counts them, each in one transaction; now and then changes its table as well.
    fn client(&self, number: usize) -> Client {
        let mut shell = self.shell();
        shell.say(&format!(
            "use app; create table sequence{number}(k bigint primary key, pad text) engine=innodb;
             create table counter{number}(n bigint) engine=innodb; insert into counter{number} values(0);"
        ));
        Box::new(move |k| {
            let pad = noise(k, 300 + (k as usize * 37) % 3000);
            let also = match k % 60 {
                10 => format!("create index by_pad on sequence{number}(pad(20));"),
                30 => format!("optimize table sequence{number};"),
                50 => format!("drop index if exists by_pad on sequence{number};"),
                _ => String::new(),
            };
            shell.say(&format!(
                "begin; insert into sequence{number} values({k}, '{pad}'); update counter{number} set n = n + 1; commit; {also}"
            ));
        })
    }
}

fn path(option: &str, path: &Path) -> String {
    format!("{option}={}", path.display())
}

fn client(socket: &Path) -> Command {
    let mut command = Command::new("mariadb");
    command.args(["--no-defaults", "--user=root"]).arg(path("--socket", socket));
    command
}

/// A data directory, made by its own tool.
fn made(scratch: &Path) -> PathBuf {
    let dir = scratch.join("data");
    let mut command = Command::new("mariadb-install-db");
    command.args(["--no-defaults", "--user=root", "--auth-root-authentication-method=normal", "--skip-test-db"]);
    must(command.args(["--skip-name-resolve", "--innodb-log-file-size=4M"]).arg(path("--datadir", &dir)), SERVER);
    dir
}

fn held(dir: &Path) -> Held {
    // As it was copied, no page is torn.
    for file in fs::read_dir(dir.join("app")).expect("the database is a directory") {
        let file = file.expect("readable").path();
        if file.extension().is_some_and(|end| end == "ibd") {
            must(Command::new("innochecksum").arg(&file), SERVER);
        }
    }
    let server = Mariadb::start(dir, ORDINARY_CALLS);
    let mut check = Command::new("mariadb-check");
    check.args(["--no-defaults", "--user=root", "--check", "--extended", "--databases", "app"]);
    let said = must(check.arg(path("--socket", &server.socket)), TOOLS);
    assert!(said.lines().count() >= 2 * CLIENTS && said.lines().all(|line| line.ends_with("OK")), "{said}");
    let mut shell = server.shell();
    let held_of = |client: usize| {
        let said = shell.say(&format!(
            "select (select n from app.counter{client}), count(*), ifnull(max(k), -1) + 1 from app.sequence{client};"
        ));
        let numbers: Vec<u64> = said[0].split('\t').map(|word| word.parse().expect("a number")).collect();
        assert!(numbers.iter().all(|number| *number == numbers[0]), "client {client}: never so: {said:?}");
        numbers[0]..=numbers[0]
    };
    let held = (0..CLIENTS).map(held_of).collect();
    shell.end();
    server.server.stop(Signal::SIGTERM);
    held
}

#[test]
fn mariadb_that_writes_by_ordinary_calls() {
    let _alone = alone();
    let scratch = scratch();
    let dir = made(scratch.path());
    let mut mariadb = Mariadb::start(&dir, ORDINARY_CALLS);
    mariadb.shell().say("create database app;");
    let load = Load::start((0..CLIENTS).map(|number| mariadb.client(number)).collect());
    load.wait_for(100);
    let outcomes = back_up(mariadb.server.pid(), scratch.path(), &dir, &[], "16MiB", &load);
    let acks = load.stop();
    mariadb.server.assert_alive();
    mariadb.server.stop(Signal::SIGTERM);
    judge(&outcomes, &acks, held);
}

#[test]
fn mariadb_that_writes_by_rings_is_refused() {
    let _alone = alone();
    let scratch = scratch();
    let dir = made(scratch.path());
    let mariadb = Mariadb::start(&dir, &[]);
    let source = dir.to_str().expect("a plain name");
    let said = backup::take(mariadb.server.pid(), &scratch.path().join("backup"), &["--source", source]);
    // Where the machine does not permit io_uring, it takes io_submit.
    let said = said.failure("blind");
    assert!(said.contains("io_uring") || said.contains("io_submit"), "{said}");
    mariadb.server.stop(Signal::SIGTERM);
}
