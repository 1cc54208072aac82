//! A program as a process of ours: started in a group of its own, killed when dropped, its output kept in a file.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// Starting on a backup may replay a log.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running program.
pub struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts `command`; what it prints goes to the file `log`, but for what is piped already.
    pub fn start(mut command: Command, log: &Path, package: &str) -> Self {
        let out = File::create(log).expect("a log file");
        let err = out.try_clone().expect("a second descriptor");
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| missing(&command, package, &error));
        Self { child, log: log.to_owned() }
    }

    /// Takes over a child that was started with pipes, in a group of its own.
    pub fn of(child: Child, log: &Path) -> Self {
        Self { child, log: log.to_owned() }
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Waits until `ready`; fails when it ends before.
    pub fn wait_until(&mut self, mut ready: impl FnMut() -> bool) {
        let began = Instant::now();
        while !ready() {
            self.assert_alive();
            assert!(began.elapsed() < START_LIMIT, "it does not answer within {START_LIMIT:?}:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Fails when it has ended.
    pub fn assert_alive(&mut self) {
        if let Some(status) = self.child.try_wait().expect("our child") {
            panic!("it ended with {status}:\n{}", self.said());
        }
    }

    /// The end of what it printed.
    pub fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
    }

    /// Asks it to end, and requires that it ends well.
    pub fn stop(mut self, signal: Signal) {
        nix::sys::signal::kill(Pid::from_raw(self.pid()), signal).expect("our child can be signalled");
        self.wait_for_end();
    }

    /// Waits for its end, which it was asked for; requires that it ends well.
    pub fn wait_for_end(&mut self) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                assert!(status.success(), "it ended with {status}:\n{}", self.said());
                return;
            }
            assert!(began.elapsed() < START_LIMIT, "it does not end:\n{}", self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The whole group: a program of several processes leaves none behind.
        let _ = killpg(Pid::from_raw(self.pid()), Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Runs a tool to its end.
pub fn run(command: &mut Command, package: &str) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| missing(command, package, &error))
}

/// Runs a tool that must succeed; returns what it printed.
pub fn must(command: &mut Command, package: &str) -> String {
    let output = run(command, package);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{out}{err}", output.status);
    out
}

fn missing(command: &Command, package: &str, error: &std::io::Error) -> ! {
    panic!("{:?} does not start ({error}): apt-get install {package}", command.get_program())
}

/// Waits until something is so.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < START_LIMIT, "{what}: not within {START_LIMIT:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A port that is free just now.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}

/// A copy of a backup, to be opened: programs recover when they open, and the backup stays as it was.
pub fn copy_of(backup: &Path) -> PathBuf {
    let copy = backup.with_extension("opened");
    let status = Command::new("cp").arg("-a").arg(backup).arg(&copy).status().expect("cp runs");
    assert!(status.success());
    fs::remove_dir_all(copy.join(".hotbackup")).expect("a backup has its manifest");
    copy
}
