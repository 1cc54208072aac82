//! SQLite, as its own shell: one connection, every journal mode.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::common::backup::{self, alone, scratch};
use crate::judge::{Held, back_up, judge};
use crate::load::{Client, Load, noise};
use crate::pipe::{Pipe, Shell};
use crate::server::{Server, must};

/// What to install.
pub const PACKAGE: &str = "sqlite3";
/// How many rows the window holds.
const WINDOW: u64 = 40;

/// Something to copy, and what the client writes to.
const TABLES: &str = "create table stock(pad); \
    insert into stock with recursive n(i) as (select 1 union all select i + 1 from n where i < 1000) \
    select randomblob(4000) from n; \
    create table sequence(k integer primary key, pad); create table shown(k integer primary key, pad); \
    create table counter(n); insert into counter values(0);";

/// A shell on a database, which is the program that is backed up.
struct Target {
    server: Server,
    pipe: Option<Pipe>,
    dir: PathBuf,
    scratch: TempDir,
}

impl Target {
    /// Starts it with these pragmas.
    fn start(pragmas: &str) -> Self {
        let scratch = scratch();
        let dir = scratch.path().join("data");
        fs::create_dir(&dir).expect("a data directory");
        let log = scratch.path().join("stderr");
        let mut command = shell(&dir);
        command.stderr(fs::File::create(&log).expect("a log file"));
        let (child, mut pipe) = Pipe::open(command, PACKAGE);
        let server = Server::of(child, &log);
        pipe.say(&format!("{pragmas} {TABLES}"));
        Self { server, pipe: Some(pipe), dir, scratch }
    }

    /// Its client, which takes the pipe along.
    fn client(&mut self) -> Client {
        let mut pipe = self.pipe.take().expect("one client");
        Box::new(move |k| drop(pipe.say(&transaction(k))))
    }

    fn pid(&self) -> i32 {
        self.server.pid()
    }
}

/// A shell on the database in a directory, which waits for others, and ends at the first statement that fails.
fn shell(dir: &Path) -> Command {
    let mut command = Command::new("sqlite3");
    command.args(["-batch", "-bail", "-cmd", ".timeout 60000"]).arg(dir.join("app.db"));
    command
}

/// Write number `k`: one transaction over three tables; now and then one that moves the whole file about as well.
fn transaction(k: u64) -> String {
    let insert = noise(k, 300 + (k as usize * 37) % 3000);
    let mut text = format!(
        "begin; insert into sequence values({k}, '{insert}'); update counter set n = n + 1; \
         insert into shown values({k}, '{}'); delete from shown where k <= {k} - {WINDOW}; commit;",
        noise(k, 200)
    );
    text += match k % 60 {
        20 => "create index by_pad on sequence(pad);",
        40 => "drop index if exists by_pad;",
        59 => "vacuum;",
        _ => "",
    };
    text
}

/// What one statement says of a database, opened anew.
pub fn ask(database: &Path, statement: &str) -> String {
    must(Command::new("sqlite3").args(["-batch", "-bail"]).arg(database).arg(statement), PACKAGE)
}

/// Fails unless SQLite itself finds a database whole.
pub fn assert_whole(database: &Path) {
    assert_eq!(ask(database, "pragma integrity_check;"), "ok\n");
}

/// How many writes the database in a directory holds.
fn held(dir: &Path) -> Held {
    let database = dir.join("app.db");
    assert_whole(&database);
    let said = ask(
        &database,
        "select (select n from counter), count(*), ifnull(max(k), -1) from sequence; \
         select count(*), ifnull(min(k), 0), ifnull(max(k), -1) from shown; select count(*) from stock;",
    );
    let numbers: Vec<i64> = said.split(['|', '\n']).filter_map(|word| word.parse().ok()).collect();
    let [counter, rows, newest, shown, oldest, latest, stock] = numbers[..] else { panic!("seven numbers: {said}") };
    let window = WINDOW.cast_signed().min(counter);
    assert_eq!(
        (rows, newest, shown, oldest, latest, stock),
        (counter, counter - 1, window, counter - window, counter - 1, 1000),
        "no number of transactions leaves this: {said}"
    );
    let counter = counter.cast_unsigned();
    vec![counter..=counter]
}

/// Backups under load of a database with these pragmas. Some do without `fsync`: a backup is what calls have left, and what
/// a disk would hold is not asked.
fn backed_up(pragmas: &str, more: &[&str]) {
    let _alone = alone();
    let mut target = Target::start(pragmas);
    let load = Load::start(vec![target.client()]);
    load.wait_for(70);
    let outcomes = back_up(target.pid(), target.scratch.path(), &target.dir, more, "8MiB", &load);
    let hot = outcomes.iter().filter(|outcome| outcome.dest.join("app.db-journal").exists()).count();
    println!("{pragmas}: {hot} of {} backups hold a journal", outcomes.len());
    let acks = load.stop();
    // Its input is at its end.
    target.server.wait_for_end();
    judge(&outcomes, &acks, held);
    assert_whole(&target.dir.join("app.db"));
}

#[test]
fn sqlite_with_a_journal_that_is_deleted() {
    backed_up("pragma journal_mode = delete; pragma synchronous = off; pragma cache_size = 20;", &[]);
}

#[test]
fn sqlite_with_a_journal_that_is_truncated() {
    backed_up("pragma journal_mode = truncate; pragma synchronous = off; pragma cache_size = 20;", &[]);
}

#[test]
fn sqlite_with_a_journal_that_stays_and_reads_by_mmap() {
    backed_up("pragma journal_mode = persist; pragma synchronous = off; pragma mmap_size = 67108864;", &[]);
}

#[test]
fn sqlite_with_a_write_ahead_log_whose_index_is_in_memory_of_its_own() {
    backed_up(
        "pragma locking_mode = exclusive; pragma journal_mode = wal; pragma wal_autocheckpoint = 50; pragma synchronous = off;",
        &[],
    );
}

#[test]
fn sqlite_with_a_write_ahead_log_whose_mapped_index_is_excluded() {
    backed_up("pragma journal_mode = wal; pragma wal_autocheckpoint = 50;", &["--exclude", "*-shm"]);
}

#[test]
fn sqlite_with_a_write_ahead_log_is_refused_because_its_index_is_mapped() {
    let _alone = alone();
    let mut target = Target::start("pragma journal_mode = wal;");
    let load = Load::start(vec![target.client()]);
    load.wait_for(20);
    for point in ["end", "start"] {
        let dest = target.scratch.path().join("backup");
        let source = target.dir.to_str().expect("a plain name");
        let said = backup::take(target.pid(), &dest, &["--source", source, "--point", point]).failure("untraceable");
        assert!(said.contains("app.db-shm") && said.contains("mapping"), "{said}");
        load.wait_for(20);
    }
    load.stop();
    target.server.wait_for_end();
    assert_whole(&target.dir.join("app.db"));
}

#[test]
fn sqlite_is_refused_while_another_process_has_its_database_open() {
    let _alone = alone();
    let mut target = Target::start("pragma journal_mode = delete; pragma synchronous = off;");
    let load = Load::start(vec![target.client()]);
    load.wait_for(20);
    let mut other = Shell::open(shell(&target.dir), PACKAGE);
    // It has the file open from the first statement on, and writes nothing.
    assert_eq!(other.say("select count(*) from stock;"), ["1000"]);
    let source = target.dir.to_str().expect("a plain name");
    let take = |point: &str| {
        let dest = target.scratch.path().join("backup");
        backup::take(target.server.pid(), &dest, &["--source", source, "--point", point])
    };
    for point in ["end", "start"] {
        let said = take(point).failure("untraceable");
        assert!(said.contains("app.db") && said.contains("another process"), "{said}");
        load.wait_for(20);
    }
    other.end();
    take("end").report();
    load.stop();
    target.server.wait_for_end();
}

#[test]
fn sqlite_is_refused_when_another_process_opens_its_database_during_the_backup() {
    let _alone = alone();
    let mut target = Target::start("pragma journal_mode = delete; pragma synchronous = off;");
    let load = Load::start(vec![target.client()]);
    load.wait_for(20);
    let source = target.dir.to_str().expect("a plain name");
    for point in ["end", "start"] {
        let dest = target.scratch.path().join("backup");
        let arguments = ["--source", source, "--point", point, "--throttle", "2MiB"];
        let mut running = backup::start(target.pid(), &dest, &arguments);
        running.wait_for_copying();
        let mut other = Shell::open(shell(&target.dir), PACKAGE);
        assert_eq!(other.say("update stock set pad = pad where rowid = 1; select count(*) from stock;"), ["1000"]);
        let said = running.finish().failure("untraceable");
        assert!(said.contains("app.db") && said.contains("another process"), "{said}");
        other.end();
        load.wait_for(20);
    }
    load.stop();
    target.server.wait_for_end();
}

#[test]
fn sqlite_with_a_write_ahead_log_and_its_mapped_index() {
    backed_up("pragma journal_mode = wal; pragma wal_autocheckpoint = 50;", &["--mapped", "64MiB"]);
}
