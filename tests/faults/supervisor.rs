//! `hotbackup backup --json` as a process that faults happen to, and the other commands, each with a limit.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::apart::Sidecar;
use super::plan::Plan;
use super::processes;
use super::target::Target;
use crate::common::backup::HOTBACKUP;

/// A backup here takes well under a second; one that takes this long hangs.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A running backup, killed when dropped.
pub struct Supervisor {
    child: Child,
    pid: i32,
    sidecar: Option<Sidecar>,
    lines: Receiver<String>,
    events: Vec<Value>,
    phases: Vec<String>,
    stderr: PathBuf,
    /// When its process was there.
    pub started: Instant,
}

/// How it ended.
#[derive(Debug)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// What it printed last, as JSON.
    pub last: Value,
    /// What it said to people.
    pub stderr: String,
    /// How many before it were revoked though nothing happened to them.
    pub revoked: u32,
}

impl Ended {
    /// In a few words.
    pub fn words(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(0), _) if self.revoked > 0 => "0 after a revoked one".into(),
            (Some(0), _) => "0".into(),
            (Some(code), _) => format!("{code} {}", self.last["kind"].as_str().unwrap_or("?")),
            (None, signal) => format!("signal {}", signal.unwrap_or(0)),
        }
    }
}

impl Supervisor {
    /// Starts a backup as `plan` says. `steps` is the fail points' variable.
    pub fn start(target: &dyn Target, plan: &Plan, dest: &Path, steps: Option<&str>) -> Self {
        let stderr = target.scratch().join("supervisor");
        let sidecar = plan.apart.then(|| Sidecar::new(target.pid(), target.scratch()));
        let there = |sidecar: &Sidecar| (sidecar.command(target.pid(), HOTBACKUP), target.pid_there());
        let (mut command, number) = sidecar.as_ref().map_or_else(|| (Command::new(HOTBACKUP), target.pid()), there);
        command.args(["backup", "--json", "--pid", &number.to_string(), "--point", plan.point]);
        command.args(target.source());
        command.args(target.mapped(plan.mapped));
        if let Some(rate) = plan.throttle {
            command.args(["--throttle", rate]);
        }
        if let Some(steps) = steps {
            command.env(failpoint::VARIABLE, steps);
        }
        let said = File::create(&stderr).expect("a file for what it says");
        command.arg(dest).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(said);
        let mut child = command.spawn().expect("hotbackup starts");
        let mut pid = child.id().cast_signed();
        if let Some(sidecar) = &sidecar {
            assert!(processes::wait_until(LIMIT, || sidecar.pid().is_some()), "the sidecar does not start");
            pid = sidecar.pid().expect("it is there");
            assert!(processes::is_apart(pid), "the supervisor is where the keepers are");
        }
        let started = Instant::now();
        let out = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, pid, sidecar, lines, events: Vec::new(), phases: Vec::new(), stderr, started }
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Kills it, and with it its sidecar as a whole, if it is in one.
    pub fn kill(&self) {
        match &self.sidecar {
            Some(sidecar) => sidecar.kill(),
            None => drop(processes::send(self.pid, Signal::SIGKILL)),
        }
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("our child").is_none()
    }

    /// Waits until it says that it is in `phase`, or that something was copied; `false` when it ended, or struck a fail
    /// point, before.
    pub fn wait_for(&mut self, phase: &str, mut given_up: impl FnMut() -> bool) -> bool {
        let began = Instant::now();
        while !self.phases.iter().any(|known| known == phase) {
            match self.lines.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => self.take(&line),
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) if given_up() || began.elapsed() > LIMIT => return false,
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
        true
    }

    /// Whether it has said that it is in `phase`, or has ended.
    pub fn has_come_to(&mut self, phase: &str) -> bool {
        while let Ok(line) = self.lines.try_recv() {
            self.take(&line);
        }
        !self.is_running() || self.phases.iter().any(|known| known == phase)
    }

    fn take(&mut self, line: &str) {
        // A killed process may leave half a line.
        let Ok(event) = serde_json::from_str::<Value>(line) else { return };
        if let Some(phase) = event["phase"].as_str().filter(|_| event["event"] == "phase") {
            self.phases.push(phase.to_owned());
        }
        self.events.push(event);
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<Ended, String> {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("our child") {
                break status;
            }
            if began.elapsed() > LIMIT {
                let doing = processes::doing(self.pid());
                return Err(format!("the backup has not ended within {LIMIT:?}; phases {:?}\n{doing}", self.phases));
            }
            std::thread::sleep(Duration::from_micros(500));
        };
        // The pipe is closed now, or soon will be.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(5)) {
            self.take(&line);
        }
        let last = self.events.last().cloned().unwrap_or_default();
        Ok(Ended { status, last, stderr: fs::read_to_string(&self.stderr).unwrap_or_default(), revoked: 0 })
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if self.is_running() {
            processes::send(self.pid(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

/// Runs another of hotbackup's commands. Returns its exit code and all it said.
pub fn command(arguments: &[&str]) -> Result<(i32, String), String> {
    let mut child = Command::new(HOTBACKUP)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hotbackup starts");
    if !processes::wait_until(LIMIT, || child.try_wait().expect("our child").is_some()) {
        let doing = processes::doing(child.id().cast_signed());
        let _ = child.kill();
        let _ = child.wait();
        return Err(format!("hotbackup {} has not ended within {LIMIT:?}\n{doing}", arguments.join(" ")));
    }
    let output = child.wait_with_output().expect("our child");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    Ok((output.status.code().unwrap_or(-1), said))
}
