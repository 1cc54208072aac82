//! A target: its process, the one backup that may run, and those that have been.
//!
//! A backup is a process of its own, with a socket of its own (`ID.sock`) through which the service hears of it and steers it, and
//! files that say what became of it. All that is known lies in these, so that a service that is started again takes up where the
//! last one ended.
mod child;
mod follow;
mod nights;
mod record;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use hotbackup_archive::{History, Night};
use jiff::Timestamp;
use serde_json::Value;

use self::record::Record;
use crate::config::{Selector, TargetConfig};
use crate::control::{Ended, Request, Running, TargetStatus, say};
use crate::host::Host;
use crate::places::{self, finished_backup, new_backup};
use crate::util::{lock, now_ms, wait};

/// Looking for the process takes a look at all of them: not more often than this.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// So long what a backup that was killed has left is tried to be removed; the next one to the same place tries again.
const MOMENT: Duration = Duration::from_secs(10);
/// How often it is asked whether anybody still waits.
const GLANCE: Duration = Duration::from_millis(200);

/// Why something could not be begun.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The destination.
    #[error("{0}")]
    Destination(String),
    /// There is no process, or several.
    #[error("there is no process to back up: {0}")]
    NoProcess(String),
    /// One runs.
    #[error("a backup to {0} is running: one at a time")]
    Busy(String),
    /// None runs.
    #[error("no backup is running")]
    Idle,
    /// Anything else.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

impl Error {
    /// The name of the cause, as in the table of exit codes.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Destination(_) => "dest_io",
            Self::NoProcess(_) => "not_one_process",
            Self::Busy(_) => "busy",
            Self::Idle | Self::Io { .. } => "service_failed",
        }
    }
}

impl From<places::Error> for Error {
    fn from(error: places::Error) -> Self {
        Self::Destination(error.to_string())
    }
}

/// A server that is looked after.
pub struct Target {
    config: TargetConfig,
    selector: Selector,
    host: Arc<dyn Host>,
    directory: PathBuf,
    history: History,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    throttle: Option<u64>,
    running: Option<Job>,
    /// Oldest first.
    ended: Vec<(Record, Ended)>,
    looked: Option<(Instant, Result<i32, String>)>,
    /// What became of every backup, oldest first; and when the next one is due.
    nights: Vec<Night>,
    next: Option<(Timestamp, u32)>,
}

/// The backup that runs.
struct Job {
    record: Record,
    /// What it said last.
    heard: Option<Running>,
    /// To speak to it.
    voice: Option<UnixStream>,
    cancelled: bool,
}

impl Target {
    /// Takes a target up where it was left: backups that run are followed again.
    ///
    /// # Errors
    /// In words: its directory cannot be used, or a rate is none.
    pub fn open(config: &TargetConfig, state: &Path, host: &Arc<dyn Host>) -> Result<Arc<Self>, String> {
        let directory = state.join(&config.name);
        let cannot = |error: io::Error| format!("cannot use {}: {error}", directory.display());
        DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(cannot)?;
        let throttle = match fs::read(directory.join("throttle")) {
            // One that a power failure has cut short counts as none.
            Ok(text) if serde_json::from_slice::<Option<u64>>(&text).is_ok() => {
                serde_json::from_slice(&text).unwrap_or_default()
            }
            _ => config.throttle.as_deref().map(|text| host.bytes(text)).transpose()?,
        };
        let records = Record::load(&directory).map_err(cannot)?;
        let (open, ended): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.ended_ms.is_none());
        let ended = ended.into_iter().map(|record| (record.clone(), record.ended(&directory))).collect();
        let history = History::at(directory.join("history"));
        let nights = history.read().map_err(|error| error.to_string())?;
        let target = Arc::new(Self {
            history,
            config: config.clone(),
            selector: config.selector()?,
            host: Arc::clone(host),
            directory: directory.clone(),
            state: Mutex::new(State { throttle, ended, nights, ..State::default() }),
            changed: Condvar::new(),
        });
        for record in open {
            // One at most runs; of another there is only the end to be noted.
            if record.lives() && lock(&target.state).running.is_none() {
                target.adopt(record).map_err(cannot)?;
            } else {
                target.finish(record);
            }
        }
        Ok(target)
    }

    fn adopt(self: &Arc<Self>, record: Record) -> io::Result<()> {
        tracing::info!("backup {} to {} still runs", record.id, record.dest);
        lock(&self.state).running = Some(Job { record: record.clone(), heard: None, voice: None, cancelled: false });
        let target = Arc::clone(self);
        std::thread::Builder::new().name("follow".into()).spawn(move || target.follow(record, None))?;
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    pub(crate) fn config(&self) -> &TargetConfig {
        &self.config
    }

    pub(crate) fn host(&self) -> &dyn Host {
        &*self.host
    }

    /// Starts a backup, and gives its name.
    ///
    /// # Errors
    /// One runs, there is no process, or the destination is none.
    pub fn start(self: &Arc<Self>, dest: &str) -> Result<String, Error> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let place = new_backup(&self.config.destination, dest)?;
        let process = self.find().map_err(Error::NoProcess)?;
        let started_ms = now_ms();
        let mut record = Record {
            id: format!("{started_ms}-{}", NUMBER.fetch_add(1, Ordering::Relaxed)),
            dest: place.path.to_string_lossy().into_owned(),
            started_ms,
            process,
            supervisor: None,
            ended_ms: None,
        };
        let throttle = {
            let mut state = lock(&self.state);
            if let Some(job) = &state.running {
                return Err(Error::Busy(job.record.dest.clone()));
            }
            state.running = Some(Job { record: record.clone(), heard: None, voice: None, cancelled: false });
            state.throttle
        };
        let undo = |record: &Record, what, source| {
            lock(&self.state).running = None;
            record.forget(&self.directory);
            self.changed.notify_all();
            Error::Io { what, source }
        };
        // First of all somebody who will follow it: without him it would go on unheard.
        let (hand_over, taken) = std::sync::mpsc::channel::<(Record, Child)>();
        let target = Arc::clone(self);
        let follower = std::thread::Builder::new().name("follow".into()).spawn(move || {
            if let Ok((record, child)) = taken.recv() {
                target.follow(record, Some(child));
            }
        });
        follower.map_err(|error| undo(&record, "cannot follow a backup", error))?;
        let child = child::start(&self.config, &record, throttle, &place, &self.directory);
        let mut child = child.map_err(|error| undo(&record, "cannot start the backup", error))?;
        let pid = child.id().cast_signed();
        // Our own child is not reaped yet, so its number is its own.
        record.supervisor = record::started(pid).map(|start| (pid, start));
        if let Err(error) = record.save(&self.directory) {
            let _ = (child.kill(), child.wait());
            return Err(undo(&record, "cannot note the backup", error));
        }
        if let Some(job) = &mut lock(&self.state).running {
            job.record = record.clone();
        }
        let id = record.id.clone();
        // He waits for nothing else.
        let _ = hand_over.send((record, child));
        Ok(id)
    }

    /// Waits until a backup has ended, as long as somebody wants to know.
    pub fn wait(&self, id: &str, wanted: &dyn Fn() -> bool) -> Option<Ended> {
        let mut state = lock(&self.state);
        loop {
            if let Some((_, ended)) = state.ended.iter().rev().find(|(record, _)| record.id == id) {
                return Some(ended.clone());
            }
            if state.running.as_ref().is_none_or(|job| job.record.id != id) {
                return None;
            }
            state = wait(&self.changed, state, GLANCE);
            drop(state);
            if !wanted() {
                return None;
            }
            state = lock(&self.state);
        }
    }

    /// Sets the rate, of the backup that runs and of those to come.
    pub fn throttle(&self, rate: Option<u64>) {
        let mut state = lock(&self.state);
        state.throttle = rate;
        if let Some(Job { voice: Some(voice), .. }) = &state.running {
            // One that has just ended does not hear it.
            let _ = say(voice, &Request::Throttle { target: None, rate });
        }
        let kept = serde_json::to_vec(&rate).map_err(io::Error::from);
        if let Err(error) = kept.and_then(|text| {
            let (file, draft) = (self.directory.join("throttle"), self.directory.join("throttle.new"));
            fs::write(&draft, text).and_then(|()| fs::rename(draft, file))
        }) {
            tracing::warn!("the rate of {} will be forgotten at the service's end: {error}", self.name());
        }
    }

    /// Has the backup that runs end. It leaves nothing.
    ///
    /// # Errors
    /// None runs.
    pub fn cancel(&self) -> Result<(), Error> {
        let mut state = lock(&self.state);
        let job = state.running.as_mut().ok_or(Error::Idle)?;
        job.cancelled = true;
        if let Some(voice) = &job.voice {
            let _ = say(voice, &Request::Cancel { target: None });
        }
        Ok(())
    }

    /// Compares a backup with its manifest: what `hotbackup verify --json` says. Nothing when nobody waits any more.
    ///
    /// # Errors
    /// There is no such backup of this target.
    pub fn verify(&self, dest: &str, wanted: &dyn Fn() -> bool) -> Result<Option<Vec<Value>>, Error> {
        let place = finished_backup(&self.config.destination, dest)?;
        child::verify(&place, None, wanted).map_err(|source| Error::Io { what: "cannot look at the backup", source })
    }

    /// Those that have ended, newest first, and whether the backup is there.
    pub fn list(&self, most: usize) -> Vec<(Ended, bool)> {
        let ended: Vec<Ended> =
            lock(&self.state).ended.iter().rev().take(most).map(|(_, ended)| ended.clone()).collect();
        let is_there = |ended: &Ended| ended.ok && finished_backup(&self.config.destination, &ended.dest).is_ok();
        ended.into_iter().map(|ended| (is_there(&ended), ended)).map(|(there, ended)| (ended, there)).collect()
    }

    /// How it stands.
    pub fn status(&self) -> TargetStatus {
        let process = self.look();
        let state = lock(&self.state);
        let now = now_ms();
        let aged = |(_, ended): &(Record, Ended)| aged(now, ended);
        TargetStatus {
            target: self.config.name.clone(),
            service: true,
            process: process.as_ref().ok().copied(),
            problem: process.err(),
            throttle: state.throttle,
            running: state.running.as_ref().map(|job| job.status(now, state.throttle)),
            last: state.last(now),
            last_good: state.ended.iter().rev().find(|(_, ended)| ended.ok && !state.found_bad(&ended.dest)).map(aged),
            next_ms: state.next.and_then(|(next, _)| u64::try_from(next.as_millisecond()).ok()),
            next_attempt: state.next.map(|(_, attempt)| attempt).filter(|attempt| *attempt > 1),
        }
    }

    fn find(&self) -> Result<i32, String> {
        let found = self.host.find(&self.selector);
        lock(&self.state).looked = Some((Instant::now(), found.clone()));
        found
    }

    /// The process, as it was a moment ago.
    fn look(&self) -> Result<i32, String> {
        match &lock(&self.state).looked {
            Some((when, found)) if when.elapsed() < LOOK_EVERY => return found.clone(),
            _ => {}
        }
        self.find()
    }

    /// One that was killed could remove nothing itself: what it left is removed before its end is told, so that the disk is not full of it
    /// when the next one begins. Its helpers, which end with it, have the directory for a moment longer.
    fn clear_after(&self, ended: &Ended) {
        let (destination, dest) = (self.config.destination.clone(), ended.dest.clone());
        let (done, is_done) = std::sync::mpsc::channel::<()>();
        // In a thread of its own: the disk may be dead, which must not keep the end from being told.
        let clear = move || {
            clear(&destination, &dest);
            drop(done);
        };
        if std::thread::Builder::new().name("leftovers".into()).spawn(clear).is_ok() {
            let _ = is_done.recv_timeout(MOMENT);
        }
    }

    /// Notes the end of a backup.
    fn finish(&self, mut record: Record) {
        record.ended_ms = Some(now_ms());
        if let Err(error) = record.save(&self.directory) {
            tracing::warn!("the end of backup {} cannot be noted: {error}", record.id);
        }
        let ended = record.ended(&self.directory);
        match &ended.message {
            None => tracing::info!("backup of {} to {} is complete", self.name(), ended.dest),
            Some(words) => tracing::warn!("backup of {} to {} failed: {words}", self.name(), ended.dest),
        }
        if ended.kind.as_deref() == Some(record::DIED) {
            self.clear_after(&ended);
        }
        let mut state = lock(&self.state);
        if state.running.as_ref().is_some_and(|job| job.record.id == record.id) {
            state.running = None;
        }
        state.ended.push((record, ended.clone()));
        while state.ended.len() > record::REMEMBERED {
            let good = state.ended.iter().rposition(|(_, ended)| ended.ok);
            let (gone, _) = state.ended.remove(usize::from(good == Some(0)));
            gone.forget(&self.directory);
        }
        drop(state);
        self.changed.notify_all();
        self.note_by_hand(&ended);
    }
}

/// Removes what a backup left that died.
fn clear(destination: &Path, dest: &str) {
    let Ok(place) = new_backup(destination, dest) else { return };
    let began = Instant::now();
    loop {
        // What is opened must not be a link, as the way to an open directory is.
        match hotbackup_archive::remove_leftovers(&place.parent_path().join(".")) {
            Ok(removed) if !removed.is_empty() => tracing::info!("what was copied to {dest} is removed"),
            Ok(_) => {}
            Err(error) => tracing::warn!("what the backup to {dest} left cannot be removed: {error}"),
        }
        if !place.has_staging() || began.elapsed() > MOMENT {
            return;
        }
        std::thread::sleep(GLANCE / 10);
    }
}

/// With its age.
fn aged(now: u64, ended: &Ended) -> Ended {
    Ended { age_s: now.saturating_sub(ended.ended_ms) / 1000, ..ended.clone() }
}

impl Job {
    fn status(&self, now: u64, throttle: Option<u64>) -> Running {
        let heard =
            self.heard.clone().unwrap_or_else(|| Running { phase: "attach".into(), throttle, ..Running::default() });
        Running {
            id: self.record.id.clone(),
            dest: self.record.dest.clone(),
            process: self.record.process,
            supervisor: self.record.supervisor.map_or(0, |(pid, _)| pid),
            started_ms: self.record.started_ms,
            elapsed_ms: now.saturating_sub(self.record.started_ms),
            cancelled: self.cancelled || heard.cancelled,
            ..heard
        }
    }
}
