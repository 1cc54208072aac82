//! A service on a scratch directory, and who speaks to it.
use std::fs::{self, DirBuilder};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use mongodb::bson::{Bson, Document, doc};
use mongodb::error::ErrorKind;
use mongodb::sync::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::common::backup::{HOTBACKUP, scratch};
use crate::common::guest::{Guest, Linked};
use crate::common::mongod;

/// What takes longer hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Where a service lives.
pub struct Place(pub TempDir);

impl Place {
    pub fn new() -> Self {
        let place = Self(scratch());
        for name in ["run", "state"] {
            DirBuilder::new().mode(0o700).create(place.path(name)).expect("a directory");
        }
        fs::create_dir(place.path("backups")).expect("a directory");
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A configuration with one target, and what is said of it besides. Its lease is long: on a busy machine a backup may get no
    /// processor for the usual second, and would be given up.
    pub fn config(&self, target: &str) -> String {
        format!(
            "state = {:?}\n[[target]]\nname = \"main\"\ndestination = {:?}\nsocket = {:?}\nlease = \"20s\"\n{target}\n",
            self.path("state"),
            self.path("backups"),
            self.path("main.sock")
        )
    }

    /// Starts a service, and returns once it serves.
    pub fn serve(&self, config: &str) -> Serving {
        let file = self.path("config.toml");
        fs::write(&file, config).expect("a configuration");
        let mut command = self.command(&["serve", "--json", "--config"]);
        let mut child = command.arg(file).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        assert_eq!(ready["event"], "ready", "{ready}");
        Serving { child, ready }
    }

    /// hotbackup, with this place's runtime directory.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(HOTBACKUP);
        command.args(arguments).env("HOTBACKUP_RUNTIME_DIR", self.path("run"));
        command
    }

    /// Runs it.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it starts")
    }

    /// The driver, at the Unix socket.
    pub fn client(&self) -> Client {
        mongod::client(&self.uri())
    }

    /// Where drivers find the Unix socket.
    pub fn uri(&self) -> String {
        let path = self.path("main.sock").to_string_lossy().replace('/', "%2F");
        format!("mongodb://{path}/?directConnection=true&retryReads=false&retryWrites=false")
    }

    /// What is left where backups go, but for those that are named.
    pub fn left_but(&self, named: &[&str]) -> Vec<String> {
        let entries = fs::read_dir(self.path("backups")).expect("readable");
        let names = entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
        names.filter(|name| !named.contains(&name.as_str())).collect()
    }
}

/// A running service, killed when dropped; its backups go on.
pub struct Serving {
    child: Child,
    /// What it said first.
    pub ready: Value,
}

impl Serving {
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Where the port in front of mongod is.
    pub fn front(&self) -> String {
        self.ready["targets"][0]["listen"].as_str().expect("a port").to_owned()
    }

    /// What its HTTP port answers.
    pub fn get(&self, what: &str) -> String {
        let mut stream = TcpStream::connect(self.ready["http"].as_str().expect("an address")).expect("connected");
        write!(stream, "GET {what} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer");
        assert!(head.contains(" 200 "), "{head}");
        body.to_owned()
    }

    /// Ends it as a service manager does.
    pub fn stop(mut self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).expect("our child");
        assert!(self.child.wait().expect("our child").success());
    }

    /// Kills it.
    pub fn kill(mut self) {
        self.child.kill().expect("our child");
        self.child.wait().expect("our child");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// A guest that writes, and what a configuration says of it.
pub fn guest() -> (Guest, String) {
    let guest = Guest::start("rings", Linked::Dynamically, &["2", "8", "100"]);
    let target = format!("pid = {}\nsource = [{:?}]", guest.pid(), guest.dir);
    (guest, target)
}

/// Runs a command on admin.
pub fn ask(client: &Client, command: Document) -> Result<Document, (i32, String)> {
    client.database("admin").run_command(command.clone()).run().map_err(|error| match *error.kind {
        ErrorKind::Command(error) => (error.code, error.message),
        kind => panic!("{command}: {kind:?}"),
    })
}

/// The same for one that must succeed.
pub fn must(client: &Client, command: Document) -> Document {
    ask(client, command.clone()).unwrap_or_else(|error| panic!("{command}: {error:?}"))
}

/// Waits until something is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a backup runs.
pub fn in_progress(client: &Client) -> bool {
    must(client, doc! {"backupStatus": 1}).get_bool("inProgress").expect("a flag")
}

/// Has a backup begin that cannot end by itself: nothing is copied until the rate is raised.
pub fn start_paused(client: &Client, dest: &str) {
    must(client, doc! {"backupThrottle": 0});
    must(client, doc! {"backupStart": dest, "wait": false});
    until("the backup tracks", || running(client).get_str("phase").is_ok_and(|phase| phase == "track"));
}

/// Lets it go on, and waits for its end.
pub fn let_go(client: &Client) {
    must(client, doc! {"backupThrottle": Bson::Null});
    until("the backup ends", || !in_progress(client));
}

/// The backup that runs, in detail; empty if there is none.
pub fn running(client: &Client) -> Document {
    let status = must(client, doc! {"backupStatus": 1, "details": true});
    let details = status.get_document("details").expect("details");
    details.get_document("running").cloned().unwrap_or_default()
}

/// What is remembered of the newest backup.
pub fn newest(client: &Client) -> Document {
    let list = must(client, doc! {"backupList": 1});
    list.get_array("backups").expect("a list")[0].as_document().expect("a backup").clone()
}

/// A finished backup.
pub fn assert_published(dest: &Path) {
    assert!(dest.join(".hotbackup/manifest.json").exists(), "{dest:?} is no backup");
}
