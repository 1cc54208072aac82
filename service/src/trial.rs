//! The strongest check of a backup there is: a server is started on a copy of it, and validates every collection.
//!
//! The server listens at a Unix socket in a directory that only we can enter, and nowhere else: it asks nobody for a password. It is
//! killed when this ends in whatever way but by SIGKILL; then it stays, on a copy that nobody uses.
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use nix::libc::{SIGKILL, SIGTERM};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::wire::{self, HEADER, Header};

/// A server that recovers replays its journal first: minutes, of a large one.
const START: Duration = Duration::from_secs(600);
/// A collection of many terabytes takes hours to validate.
const VALIDATE: Duration = Duration::from_secs(24 * 3600);
/// Then it is killed: it is only a copy.
const STOP: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(20);

/// Why it could not be tried. What the server finds wrong is no error, but a problem.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server does not start.
    #[error("cannot start {}: {source}; name a mongod of the version that wrote the data", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A place for its socket, or talking to it.
    #[error("cannot try the backup with a server: {0}")]
    Io(#[from] io::Error),
}

/// Starts `mongod` on a data directory, which it changes, and has it validate everything. Returns what is wrong, a line each.
///
/// # Errors
/// It could not be tried, or is not wanted any more.
pub fn validate(mongod: &Path, data: &Path, wanted: &(dyn Fn() -> bool + Sync)) -> Result<Vec<String>, Error> {
    let place = Place::new()?;
    let mut server = Server::start(mongod, data, &place)?;
    // What ends it from outside says nothing about the data: not enough memory, for one, or we ourselves.
    let blame = |status: ExitStatus, what: &str| match status.signal() {
        Some(SIGKILL | SIGTERM) => Err(Error::Io(io::Error::other(format!("the server was ended ({status})")))),
        _ => Ok(vec![format!("{what} ({status}): {}", place.last_words())]),
    };
    let mut client = match server.connect(&place.socket(), wanted)? {
        Ok(client) => client,
        Err(status) => return blame(status, "the server does not start from it"),
    };
    let pid = Pid::from_raw(server.0.id().cast_signed());
    let done = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                if !wanted() {
                    // It is not reaped before this thread has ended.
                    let _ = kill(pid, Signal::SIGKILL);
                    return;
                }
                std::thread::sleep(GLANCE);
            }
        });
        let found = client.validate_all();
        done.store(true, Ordering::SeqCst);
        found
    });
    match found {
        Ok(problems) => {
            server.stop();
            Ok(problems)
        }
        Err(error) => match server.ended() {
            Some(status) => blame(status, "the server ended while it validated"),
            None => Err(error.into()),
        },
    }
}

/// How the data lies, which a server must be told again: what it noted itself when it made it.
fn layout(data: &Path) -> Vec<&'static str> {
    let noted = fs::read(data.join("storage.bson")).ok().and_then(|bytes| Document::from_reader(&*bytes).ok());
    let options = noted.as_ref().and_then(|noted| noted.get_document("storage").ok()?.get_document("options").ok());
    let says = |name: &str| options.is_some_and(|options| options.get_bool(name).is_ok_and(|said| said));
    let all = [("directoryPerDB", "--directoryperdb"), ("directoryForIndexes", "--wiredTigerDirectoryForIndexes")];
    all.into_iter().filter(|(name, _)| says(name)).map(|(_, flag)| flag).collect()
}

/// The directory for socket and log, removed in the end.
struct Place(PathBuf);

impl Place {
    fn new() -> io::Result<Self> {
        // The path of a socket is short: the usual directory for what is temporary, not one beside the backup.
        let mut number = 0;
        loop {
            let path = std::env::temp_dir().join(format!("hotbackup-trial-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    fs::set_permissions(&path, fs::Permissions::from_mode(0o700))?;
                    return Ok(Self(path));
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && number < 1000 => number += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn socket(&self) -> PathBuf {
        self.0.join("mongod.sock")
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The last thing of weight that the server logged.
    fn last_words(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let grave = |line: &&str| line.contains("\"s\":\"F\"") || line.contains("\"s\":\"E\"");
        let line = log.lines().rev().find(grave).or_else(|| log.lines().last()).unwrap_or("it logged nothing");
        line.chars().take(500).collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Server(Child);

impl Server {
    fn start(mongod: &Path, data: &Path, place: &Place) -> Result<Self, Error> {
        let mut command = Command::new(mongod);
        // The port is only a part of the usual socket's name; TCP is not listened on.
        command.arg("--dbpath").arg(data).arg("--bind_ip").arg(place.socket());
        command.arg("--logpath").arg(place.log()).args(["--setParameter", "diagnosticDataCollectionEnabled=false"]);
        command.args(["--wiredTigerCacheSizeGB", "0.25"]).args(layout(data));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        Ok(Self(child.map_err(|source| Error::Start { program: mongod.to_owned(), source })?))
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        // One that has lost its connection is about to end.
        let began = Instant::now();
        loop {
            match self.0.try_wait() {
                Ok(None) if began.elapsed() < Duration::from_secs(5) => std::thread::sleep(GLANCE),
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
    }

    /// Waits until it answers, or ends.
    fn connect(&mut self, socket: &Path, wanted: &dyn Fn() -> bool) -> io::Result<Result<Client, ExitStatus>> {
        let began = Instant::now();
        loop {
            if let Ok(stream) = UnixStream::connect(socket) {
                stream.set_read_timeout(Some(VALIDATE))?;
                return Ok(Ok(Client { stream, number: 0 }));
            }
            if let Some(status) = self.0.try_wait()? {
                return Ok(Err(status));
            }
            if !wanted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if began.elapsed() > START {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not answer within ten minutes"));
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// Asks it to end.
    fn stop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM);
        let began = Instant::now();
        while began.elapsed() < STOP && matches!(self.0.try_wait(), Ok(None)) {
            std::thread::sleep(GLANCE);
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Client {
    stream: UnixStream,
    number: i32,
}

impl Client {
    fn validate_all(&mut self) -> io::Result<Vec<String>> {
        let mut problems = Vec::new();
        let all = self.ask("admin", doc! {"listDatabases": 1, "nameOnly": true})?;
        let Ok(databases) = all.get_array("databases") else {
            return Err(io::Error::other(format!("the server says {all}")));
        };
        for database in names(databases) {
            for collection in self.collections(&database)? {
                let said = self.ask(&database, doc! {"validate": &collection, "full": true})?;
                if said.get_bool("valid").is_ok_and(|valid| valid) {
                    continue;
                }
                let errors = said.get_array("errors").map_or(&[][..], |list| list.as_slice());
                let words: Vec<&str> = errors.iter().filter_map(Bson::as_str).chain(said.get_str("errmsg")).collect();
                problems.push(format!("{database}.{collection} is not valid: {}", words.join("; ")));
            }
        }
        Ok(problems)
    }

    /// What is no view.
    fn collections(&mut self, database: &str) -> io::Result<Vec<String>> {
        let question = doc! {"listCollections": 1, "filter": {"type": {"$ne": "view"}}, "nameOnly": true};
        let mut answer = self.ask(database, question)?;
        let mut found = Vec::new();
        loop {
            let Ok(cursor) = answer.get_document("cursor") else {
                return Err(io::Error::other(format!("the server says {answer}")));
            };
            let batch = cursor.get_array("firstBatch").or_else(|_| cursor.get_array("nextBatch"));
            found.extend(names(batch.map_or(&[], |list| list.as_slice())));
            match cursor.get_i64("id") {
                Ok(0) | Err(_) => return Ok(found),
                Ok(id) => answer = self.ask(database, doc! {"getMore": id, "collection": "$cmd.listCollections"})?,
            }
        }
    }

    fn ask(&mut self, database: &str, mut question: Document) -> io::Result<Document> {
        question.insert("$db", database);
        self.number += 1;
        let bytes = wire::encode(self.number, 0, false, &question).ok_or(io::ErrorKind::InvalidData)?;
        self.stream.write_all(&bytes)?;
        let mut head = [0; HEADER];
        self.stream.read_exact(&mut head)?;
        let header = Header::read(head).map_err(io::Error::other)?;
        let mut message = head.to_vec();
        message.resize(header.length, 0);
        self.stream.read_exact(&mut message[HEADER..])?;
        Ok(wire::parse(&message).map_err(io::Error::other)?.body)
    }
}

fn names(list: &[Bson]) -> impl Iterator<Item = String> + use<'_> {
    list.iter().filter_map(|item| item.as_document()?.get_str("name").ok().map(str::to_owned))
}
