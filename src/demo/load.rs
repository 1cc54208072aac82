//! The writer at work, as its owner sees it: a child process, read line by line.
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::check::check_tree;
use super::writer::Line;
use super::{Error, Window, cancelled};
use crate::session::Control;

/// Filling the files may take this long on a slow disk.
const START_LIMIT: Duration = Duration::from_secs(300);
/// The writer reports ten times a second; without a report for this long, it hangs.
const REPORT_LIMIT: Duration = Duration::from_secs(10);

/// The writer, which ends with its owner.
pub(super) struct Load {
    child: Child,
    /// It writes until this is closed.
    until: Option<ChildStdin>,
    words: Option<ChildStderr>,
    reports: Receiver<Line>,
    lines: Vec<Line>,
    /// The line up to which has been measured.
    measured: usize,
}

impl Load {
    /// Starts it, and waits until it has filled its files.
    pub(super) fn start(dir: &Path, data: u64, control: &Control) -> Result<Self, Error> {
        let setup = |error: std::io::Error| Error::Setup(format!("the writer cannot be started: {error}"));
        let mut child = Command::new(std::env::current_exe().map_err(setup)?)
            .args(["demo-writer", "--data", &data.to_string(), "--dir"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo, which ends the writer by itself.
            .process_group(0)
            .spawn()
            .map_err(setup)?;
        let (out, (sender, reports)) = (child.stdout.take(), channel());
        // Ends with the writer, whose end closes the pipe.
        std::thread::spawn(move || {
            let lines = out.into_iter().flat_map(|out| BufReader::new(out).lines().map_while(Result::ok));
            lines.filter_map(|line| serde_json::from_str(&line).ok()).try_for_each(|line| sender.send(line))
        });
        let (until, words) = (child.stdin.take(), child.stderr.take());
        let mut load = Self { child, until, words, reports, lines: Vec::new(), measured: 0 };
        let began = Instant::now();
        while load.lines.is_empty() {
            cancelled(control)?;
            match load.reports.recv_timeout(Duration::from_millis(20)) {
                Ok(line) => load.lines.push(line),
                Err(RecvTimeoutError::Timeout) if began.elapsed() < START_LIMIT => {}
                Err(_) => return Err(Error::Setup(load.ending("the writer takes too long to fill its files"))),
            }
        }
        Ok(load)
    }

    /// The process to back up.
    pub(super) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// What it did since this was last asked.
    ///
    /// # Errors
    /// It came to harm.
    pub(super) fn lap(&mut self) -> Result<Window, Error> {
        self.lines.extend(self.reports.try_iter());
        // The first of two may have been made up before.
        for _ in 0..2 {
            match self.reports.recv_timeout(REPORT_LIMIT) {
                Ok(line) => self.lines.push(line),
                Err(_) => return Err(Error::Harmed(self.ending("the writer does not report any more"))),
            }
        }
        let lap = &self.lines[self.measured..];
        self.measured = self.lines.len() - 1;
        let [from, .., to] = lap else { unreachable!("two lines have just come") };
        let calls = to.steps.iter().sum::<u64>() - from.steps.iter().sum::<u64>();
        let ms = (to.begun_ns.saturating_sub(from.begun_ns) / 1_000_000).max(1);
        let longest_us = lap[1..].iter().map(|line| line.longest_us).max().unwrap_or(0);
        Ok(Window { ms, per_second: calls as f64 * 1e3 / ms as f64, longest_us })
    }

    /// Ends it, and says whether the backup is the state at the point in time: `Ok` with what was checked, the inner `Err`
    /// with what is wrong.
    ///
    /// # Errors
    /// It came to harm.
    pub(super) fn judge(&mut self, backup: &Path, point_ns: u64) -> Result<Result<String, String>, Error> {
        drop(self.until.take());
        loop {
            match self.reports.recv_timeout(REPORT_LIMIT) {
                Ok(line) => self.lines.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => return Err(Error::Harmed("the writer does not end".into())),
            }
        }
        if !self.child.wait().is_ok_and(|status| status.success()) {
            return Err(Error::Harmed(self.ending("")));
        }
        Ok(check_tree(backup).and_then(|state| {
            state.is_of(point_ns, &self.lines)?;
            Ok(format!(
                "the backup is the state after call {} of {} threads, {} records, not one missing or too new",
                state.steps.iter().sum::<u64>(),
                state.steps.len(),
                state.records
            ))
        }))
    }

    /// How it ended and what it said, or `otherwise` if it lives.
    fn ending(&mut self, otherwise: &str) -> String {
        // Its pipe is closed a little before it can be waited for.
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if began.elapsed() < Duration::from_secs(1) => std::thread::sleep(Duration::from_millis(5)),
                status => break status.ok().flatten(),
            }
        };
        let Some(status) = status else { return otherwise.to_owned() };
        let mut words = String::new();
        let _ = self.words.take().map(|mut pipe| pipe.read_to_string(&mut words));
        format!("the writer ended ({status}): {}", words.trim())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
