//! The built-in writer as the demo's load: a child process, read line by line.
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::check::check_tree;
use super::writer::Line;
use super::{Error, Load, Options, Owned, Sample, pause};
use crate::session::Control;

/// Filling the files may take this long on a slow disk.
const START_LIMIT: Duration = Duration::from_secs(300);
/// The writer reports ten times a second; without a report for this long, it hangs.
const REPORT_LIMIT: Duration = Duration::from_secs(10);
/// What a thread does between its writes: a database parses, sorts and compresses, this hashes.
const WORK: &str = "64KiB";
/// A thread syncs its log after so many steps, as a database commits.
const COMMIT: &str = "64";

/// The writer at work.
pub(super) struct Writer {
    child: Owned,
    words: Option<std::process::ChildStderr>,
    dir: PathBuf,
    threads: u32,
    reports: Arc<Reports>,
}

#[derive(Default)]
struct Reports {
    lines: Mutex<Vec<(u64, Line)>>,
    arrived: Condvar,
}

impl Writer {
    pub(super) fn start(dir: &Path, options: &Options, control: &Control) -> Result<Self, Error> {
        let setup = |error: std::io::Error| Error::Setup(format!("the writer cannot be started: {error}"));
        let mut child = Command::new(std::env::current_exe().map_err(setup)?)
            .arg("demo-writer")
            .arg("--dir")
            .arg(dir)
            .args(["--threads", &options.threads.to_string(), "--data", &options.data.to_string()])
            .args(["--work", WORK, "--commit", COMMIT, "--die-with-parent"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for the demo, which ends the writer by itself.
            .process_group(0)
            .spawn()
            .map_err(setup)?;
        let reports = Arc::new(Reports::default());
        read_reports(&mut child, &reports);
        let words = child.stderr.take();
        let mut writer = Self { child: Owned(child), words, dir: dir.into(), threads: options.threads, reports };
        let began = Instant::now();
        while writer.lines().is_empty() {
            writer.lives().map_err(Error::Setup)?;
            if began.elapsed() > START_LIMIT {
                return Err(Error::Setup("the writer takes too long to fill its files".into()));
            }
            pause(control, Duration::from_millis(20))?;
        }
        Ok(writer)
    }

    fn lives(&mut self) -> Result<(), String> {
        let Some(status) = self.child.0.try_wait().map_err(|error| error.to_string())? else { return Ok(()) };
        let mut words = String::new();
        if let Some(mut pipe) = self.words.take() {
            let _ = pipe.read_to_string(&mut words);
        }
        Err(format!("the writer ended ({status}): {}", words.trim()))
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Line)>> {
        self.reports.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_reports(child: &mut Child, reports: &Arc<Reports>) {
    let Some(out) = child.stdout.take() else { return };
    let reports = Arc::clone(reports);
    // Ends with the writer, whose end closes the pipe.
    std::thread::spawn(move || {
        for text in BufReader::new(out).lines().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str(&text) else { continue };
            reports.lines.lock().unwrap_or_else(PoisonError::into_inner).push((now_ns(), line));
            reports.arrived.notify_all();
        }
    });
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

impl Load for Writer {
    fn title(&self) -> String {
        format!(
            "{} threads that do little else than write, rename and truncate, and check that every call does all it\n\
             was asked. Each such call waits some microseconds for its answer; a server does more between them.",
            self.threads
        )
    }

    fn unit(&self) -> &'static str {
        "changing calls"
    }

    fn pid(&self) -> i32 {
        self.child.0.id().cast_signed()
    }

    fn sources(&self) -> Vec<PathBuf> {
        vec![self.dir.clone()]
    }

    /// The second report from now on: the first may have been made up before.
    fn sample(&self) -> Result<Sample, Error> {
        let lines = self.lines();
        let goal = lines.len() + 2;
        let (lines, wait) = self
            .reports
            .arrived
            .wait_timeout_while(lines, REPORT_LIMIT, |lines| lines.len() < goal)
            .unwrap_or_else(PoisonError::into_inner);
        match lines.last() {
            Some((_, line)) if !wait.timed_out() => {
                Ok(Sample { elapsed: Duration::from_millis(line.elapsed_ms), ops: line.ops })
            }
            _ => Err(Error::Harmed(format!("the writer has not reported for {} s", REPORT_LIMIT.as_secs()))),
        }
    }

    fn longest_us(&self) -> u64 {
        let mut lines = self.lines();
        // What has been told is taken out; the steps stay for the verdict.
        lines.iter_mut().map(|(_, line)| std::mem::take(&mut line.recent_max_call_us)).max().unwrap_or(0)
    }

    fn harmed(&mut self) -> Result<(), Error> {
        self.lives().map_err(Error::Harmed)
    }

    fn judge(&mut self, backup: &Path, point_ns: u64) -> Result<Result<String, String>, Error> {
        let _ = self.child.0.kill();
        let _ = self.child.0.wait();
        let lines = self.lines();
        let earliest =
            lines.iter().rev().find(|(arrived, _)| *arrived < point_ns).map_or(&[][..], |(_, line)| &line.steps);
        // Made up before the writer ended, and long after the point in time.
        let latest = lines.last().map_or(&[][..], |(_, line)| &line.steps);
        Ok(check_tree(backup).and_then(|summary| {
            summary.lies_between(earliest, latest)?;
            Ok(format!(
                "the backup is the state after call {} of {} threads, {} records, not one missing or too new",
                summary.total(),
                summary.steps.len(),
                summary.records
            ))
        }))
    }
}
