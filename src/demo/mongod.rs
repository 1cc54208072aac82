//! A real mongod as the demo's load: clients that insert with `{w: 1, j: true}`, each its own numbered sequence. The backup
//! is right when a second mongod starts from it, finds every collection valid, and finds of each sequence an unbroken
//! beginning that holds every insert acknowledged before the point in time.
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bson::{Binary, Document, doc, spec::BinarySubtype};

use super::record::mix;
use super::wire::Connection;
use super::{Error, Load, Options, Owned, Sample, pause};
use crate::session::Control;

const DATABASE: &str = "demo";
const START_LIMIT: Duration = Duration::from_secs(120);
/// An insert takes milliseconds; one without an answer for this long hangs.
const PATIENCE: Duration = Duration::from_secs(30);
/// A document's ballast in bytes; random, so that compression does not shrink it away.
const PAD: usize = 1_000;
const FILL_PAD: usize = 16_000;
const FILL_BATCH: u64 = 64;

/// The mongod that a PATH search finds.
pub fn in_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("mongod")).find(|program| program.is_file())
}

/// A mongod, and how to reach it.
struct Process {
    child: Owned,
    port: u16,
    log: PathBuf,
}

impl Process {
    fn start(program: &Path, dbpath: &Path, log: &Path, control: &Control) -> Result<Self, Error> {
        let setup = |error: io::Error| Error::Setup(format!("{}: {error}", program.display()));
        // Somebody may take the port before the server does; then its log says so.
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr()).map_err(setup)?.port();
        let child = Command::new(program)
            .arg("--dbpath")
            .arg(dbpath)
            .arg("--logpath")
            .arg(log)
            .args(["--bind_ip", "127.0.0.1", "--port", &port.to_string(), "--wiredTigerCacheSizeGB", "0.25"])
            .arg("--nounixsocket")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(setup)?;
        let mut process = Self { child: Owned(child), port, log: log.into() };
        let began = Instant::now();
        while process.connect().and_then(|mut c| c.run(&doc! {"ping": 1, "$db": "admin"})).is_err() {
            process.lives().map_err(Error::Setup)?;
            if began.elapsed() > START_LIMIT {
                return Err(Error::Setup(format!("{} does not answer; see {}", program.display(), log.display())));
            }
            pause(control, Duration::from_millis(50))?;
        }
        Ok(process)
    }

    fn connect(&self) -> io::Result<Connection> {
        Connection::open(self.port, PATIENCE)
    }

    fn lives(&mut self) -> Result<(), String> {
        let status = self.child.0.try_wait().map_err(|error| error.to_string())?;
        status.map_or(Ok(()), |status| Err(format!("mongod ended ({status}): {}", self.last_words())))
    }

    /// The last thing in the log that is an error, or the last line.
    fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let grave = text.lines().rev().find(|line| line.contains(r#""s":"F""#) || line.contains(r#""s":"E""#));
        grave.or(text.lines().next_back()).unwrap_or("it says nothing").to_owned()
    }
}

/// What the clients share.
#[derive(Default)]
struct Shared {
    ops: AtomicU64,
    longest_ns: AtomicU64,
    stop: AtomicBool,
    failed: Mutex<Option<String>>,
    /// For each client, when each of its inserts had been acknowledged (realtime ns), by number.
    acknowledged: Vec<Mutex<Vec<u64>>>,
}

/// mongod at work.
pub(super) struct Server {
    program: PathBuf,
    base: PathBuf,
    control: Control,
    version: String,
    process: Process,
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<()>>,
    began: Instant,
}

impl Server {
    pub(super) fn start(program: &Path, base: &Path, options: &Options, control: &Control) -> Result<Self, Error> {
        let setup = |error: io::Error| Error::Setup(format!("mongod: {error}"));
        let dbpath = base.join("data");
        std::fs::create_dir(&dbpath).map_err(setup)?;
        let process = Process::start(program, &dbpath, &base.join("mongod.log"), control)?;
        let mut connection = process.connect().map_err(setup)?;
        let build = connection.run(&doc! {"buildInfo": 1, "$db": "admin"}).map_err(setup)?;
        let version = build.get_str("version").unwrap_or("of unknown version").to_owned();
        fill(&mut connection, options.data, control)?;
        let shared = Arc::new(Shared {
            acknowledged: (0..options.threads).map(|_| Mutex::default()).collect(),
            ..Shared::default()
        });
        let mut clients = Vec::new();
        for client in 0..options.threads {
            let (connection, shared) = (process.connect().map_err(setup)?, Arc::clone(&shared));
            clients.push(std::thread::spawn(move || insert(connection, &shared, client as usize)));
        }
        let (program, base, control) = (program.into(), base.into(), control.clone());
        Ok(Self { program, base, control, version, process, shared, clients, began: Instant::now() })
    }

    fn failure(&self) -> Option<String> {
        self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Something to copy that is there before the clients begin.
fn fill(connection: &mut Connection, bytes: u64, control: &Control) -> Result<(), Error> {
    let setup = |error: io::Error| Error::Setup(format!("mongod: {error}"));
    for batch in 0..bytes / (FILL_BATCH * FILL_PAD as u64) {
        pause(control, Duration::ZERO)?;
        let documents: Vec<Document> = (0..FILL_BATCH)
            .map(|n| batch * FILL_BATCH + n)
            .map(|n| doc! {"_id": n as i64, "pad": ballast(n, FILL_PAD)})
            .collect();
        connection.run(&doc! {"insert": "ballast", "documents": documents, "$db": DATABASE}).map_err(setup)?;
    }
    // A checkpoint, so that the copy finds it in the tables.
    connection.run(&doc! {"fsync": 1, "$db": "admin"}).map(drop).map_err(setup)
}

fn ballast(seed: u64, len: usize) -> Binary {
    let mut bytes = Vec::with_capacity(len + 8);
    let mut state = mix(seed);
    while bytes.len() < len {
        state = mix(state);
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    Binary { subtype: BinarySubtype::Generic, bytes }
}

fn collection(client: usize) -> String {
    format!("client{client}")
}

/// One client: inserts 0, 1, 2, ... and waits for the journal each time.
fn insert(mut connection: Connection, shared: &Shared, client: usize) {
    for n in 0_u64.. {
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let command = doc! {
            "insert": collection(client),
            "documents": [{"_id": n as i64, "pad": ballast(n ^ (client as u64) << 40, PAD)}],
            "writeConcern": {"w": 1, "j": true},
            "$db": DATABASE,
        };
        let start = Instant::now();
        if let Err(error) = connection.run(&command) {
            let text = format!("insert {n} of client {client} failed: {error}");
            shared.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
            return;
        }
        shared.longest_ns.fetch_max(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
        shared.acknowledged[client].lock().unwrap_or_else(PoisonError::into_inner).push(now_ns());
        shared.ops.fetch_add(1, Ordering::Relaxed);
    }
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

impl Load for Server {
    fn title(&self) -> String {
        format!("mongod {}, {} clients inserting with {{w: 1, j: true}}", self.version, self.shared.acknowledged.len())
    }

    fn unit(&self) -> &'static str {
        "inserts"
    }

    fn pid(&self) -> i32 {
        self.process.child.0.id().cast_signed()
    }

    /// hotbackup finds the dbpath by itself.
    fn sources(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    fn sample(&self) -> Result<Sample, Error> {
        Ok(Sample { elapsed: self.began.elapsed(), ops: self.shared.ops.load(Ordering::Relaxed) })
    }

    fn longest_us(&self) -> u64 {
        self.shared.longest_ns.swap(0, Ordering::Relaxed) / 1_000
    }

    fn harmed(&mut self) -> Result<(), Error> {
        self.process.lives().map_err(Error::Harmed)?;
        self.failure().map_or(Ok(()), |what| Err(Error::Harmed(what)))
    }

    fn judge(&mut self, backup: &Path, point_ns: u64) -> Result<Result<String, String>, Error> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
        self.harmed()?;
        let _ = self.process.child.0.kill();
        let log = self.base.join("restored.log");
        let restored = match Process::start(&self.program, backup, &log, &self.control) {
            Ok(restored) => restored,
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => return Ok(Err(format!("no mongod starts from it: {error}"))),
        };
        Ok(self.judge_restored(&restored, point_ns))
    }
}

impl Server {
    fn judge_restored(&self, restored: &Process, point_ns: u64) -> Result<String, String> {
        let mut connection = restored.connect().map_err(|error| error.to_string())?;
        let mut run = |command: Document| connection.run(&command).map_err(|error| error.to_string());
        let listed = run(doc! {"listCollections": 1, "nameOnly": true, "$db": DATABASE})?;
        let names = first_batch(&listed)?;
        for name in &names {
            let name = name.get_str("name").map_err(|error| error.to_string())?;
            let result = run(doc! {"validate": name, "full": true, "$db": DATABASE})?;
            if !result.get_bool("valid").unwrap_or(false) {
                return Err(format!("collection {name} is not valid: {result}"));
            }
        }
        let mut total = 0;
        for client in 0..self.shared.acknowledged.len() {
            let group = doc! {"_id": null, "n": {"$sum": 1_i64}, "least": {"$min": "$_id"}, "most": {"$max": "$_id"}};
            let answer = run(doc! {
                "aggregate": collection(client), "pipeline": [{"$group": group}], "cursor": {}, "$db": DATABASE,
            })?;
            let (n, least, most) = match first_batch(&answer)?.first() {
                None => (0, 0, -1),
                Some(found) => {
                    let number = |key| found.get_i64(key).map_err(|error| error.to_string());
                    (number("n")?, number("least")?, number("most")?)
                }
            };
            let acknowledged = self.shared.acknowledged[client].lock().unwrap_or_else(PoisonError::into_inner);
            let before = acknowledged.partition_point(|at| *at < point_ns) as i64;
            unbroken(client, [n, least, most], before, acknowledged.len() as i64)?;
            total += n;
        }
        Ok(format!(
            "a second mongod started from it; {} collections are valid; of {} clients {} inserts are there, each \
             sequence unbroken, not one acknowledged insert missing",
            names.len(),
            self.shared.acknowledged.len(),
            total
        ))
    }
}

/// A client's inserts `0..n` without a gap, with all of the first `before`, and none that was never sent.
fn unbroken(client: usize, [n, least, most]: [i64; 3], before: i64, sent: i64) -> Result<(), String> {
    if n != most + 1 || (n > 0 && least != 0) {
        return Err(format!("client {client} has {n} inserts from {least} to {most}: some are missing in between"));
    }
    if n < before {
        return Err(format!(
            "client {client} has {n} inserts, and {before} were acknowledged before the point in time"
        ));
    }
    if n > sent + 1 {
        return Err(format!("client {client} has {n} inserts, and sent {sent}"));
    }
    Ok(())
}

fn first_batch(answer: &Document) -> Result<Vec<Document>, String> {
    let batch = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let documents = batch.map_err(|error| error.to_string())?.iter().filter_map(|entry| entry.as_document().cloned());
    Ok(documents.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_sequence_is_right_whether_it_ends_at_the_point_or_later() {
        assert_eq!(unbroken(0, [10, 0, 9], 10, 20), Ok(()));
        assert_eq!(unbroken(0, [12, 0, 11], 10, 20), Ok(()));
        assert_eq!(unbroken(0, [0, 0, -1], 0, 0), Ok(()));
        assert_eq!(unbroken(0, [1, 0, 0], 0, 0), Ok(()), "sent, and not acknowledged");
    }

    #[test]
    fn a_gap_a_missing_acknowledged_insert_and_one_never_sent_are_wrong() {
        assert!(unbroken(0, [9, 0, 9], 5, 20).unwrap_err().contains("in between"));
        assert!(unbroken(0, [9, 1, 9], 5, 20).unwrap_err().contains("in between"));
        assert!(unbroken(0, [9, 0, 8], 10, 20).unwrap_err().contains("10 were acknowledged"));
        assert!(unbroken(0, [30, 0, 29], 10, 20).unwrap_err().contains("sent 20"));
    }

    #[test]
    fn ballast_is_as_long_as_asked_and_not_the_same_twice() {
        assert_eq!(ballast(1, 1_000).bytes.len(), 1_000);
        assert_ne!(ballast(1, 100).bytes, ballast(2, 100).bytes);
    }
}
