//! What became of each backup, by schedule or by hand: the target's history, and what of it is still to be done.
use std::path::Path;

use hotbackup_archive::{History, Night, Taken, at};
use jiff::Timestamp;
use serde_json::Value;

use super::{GLANCE, State, Target, aged, child};
use crate::control::Ended;
use crate::places::finished_backup;
use crate::util::{lock, wait};

impl State {
    /// Whether a check has found this backup bad.
    pub(super) fn found_bad(&self, dest: &str) -> bool {
        // As bytes: this is asked often, and paths compare slowly.
        let night = self.nights.iter().rev().find(|night| night.dest.as_os_str() == dest);
        night.is_some_and(|night| !night.good)
    }

    /// The backup that ended last. A night that came to none, or whose backup was found bad, is one that failed.
    pub(super) fn last(&self, now: u64) -> Option<Ended> {
        let last = self.ended.last().map(|(_, ended)| ended);
        let ms = |time: Timestamp| u64::try_from(time.as_millisecond()).unwrap_or_default();
        let night = self.nights.last().filter(|night| !night.good);
        let Some(night) = night.filter(|night| last.is_none_or(|last| ms(night.ended) >= last.ended_ms)) else {
            return last.map(|last| aged(now, last));
        };
        let same = last.filter(|last| night.dest.as_os_str() == &*last.dest);
        let known = same.cloned().unwrap_or_else(|| Ended {
            dest: night.dest.to_string_lossy().into_owned(),
            started_ms: ms(night.begun),
            ended_ms: ms(night.ended),
            ..Ended::default()
        });
        let failed = match known.ok || known.kind.is_none() {
            true => Ended { ok: false, kind: night.cause.clone(), message: night.message.clone(), ..known },
            false => known,
        };
        Some(aged(now, &failed))
    }
}

impl Target {
    /// Adds to the history.
    pub(crate) fn note(&self, night: Night) {
        if let Err(error) = self.history.add(&night) {
            tracing::warn!("what became of {} will be forgotten at the service's end: {error}", night.dest.display());
        }
        let nights = &mut lock(&self.state).nights;
        nights.push(night);
        nights.drain(..nights.len().saturating_sub(History::NIGHTS));
    }

    /// Adds one that was taken by hand. Of one by schedule more is known later.
    pub(super) fn note_by_hand(&self, ended: &Ended) {
        if self.scheduled(Path::new(&ended.dest)).is_some() {
            return;
        }
        let time =
            |ms: u64| Timestamp::from_millisecond(i64::try_from(ms).unwrap_or(i64::MAX)).unwrap_or(Timestamp::MAX);
        let duration_us = ended.ended_ms.saturating_sub(ended.started_ms) * 1000;
        let Ended { bytes, hold_us, longest_wait_us, .. } = *ended;
        self.note(Night {
            begun: time(ended.started_ms),
            ended: time(ended.ended_ms),
            dest: ended.dest.clone().into(),
            good: ended.ok,
            taken: ended.ok.then_some(Taken { bytes, duration_us, hold_us, longest_wait_us }),
            cause: ended.kind.clone(),
            message: ended.message.clone(),
            warnings: Vec::new(),
            removed: Vec::new(),
            attempt: 1,
            retry: None,
        });
    }

    /// Of a backup by schedule, when it was begun: it lies directly in the destination, under a time.
    fn scheduled(&self, dest: &Path) -> Option<Timestamp> {
        self.config.nightly.as_ref()?;
        let here = dest.parent() == Some(&self.config.destination);
        dest.file_name().filter(|_| here).and_then(at)
    }

    /// A night whose backup runs, or is complete, and of which the history says nothing yet.
    pub(crate) fn unfinished_night(&self) -> Option<Timestamp> {
        let state = lock(&self.state);
        let running = state.running.iter().map(|job| job.record.dest.as_str());
        let ended = state.ended.iter().rev().filter(|(_, ended)| ended.ok).map(|(_, ended)| ended.dest.as_str());
        let noted = |dest: &str| state.nights.iter().any(|night| night.dest == Path::new(dest));
        let over = state.nights.iter().filter_map(|night| self.scheduled(&night.dest)).max();
        let open = running.chain(ended).filter(|dest| !noted(dest)).filter_map(|dest| self.scheduled(Path::new(dest)));
        open.filter(|begun| over.is_none_or(|over| *begun > over)).max()
    }

    /// The last night by schedule that is over.
    pub(crate) fn last_night(&self) -> Option<Night> {
        let state = lock(&self.state);
        let all = state.nights.iter().filter(|night| self.scheduled(&night.dest).is_some());
        all.max_by_key(|night| night.ended).cloned()
    }

    /// Says when the next one is due, and which try that is.
    pub(crate) fn set_next(&self, next: Option<(Timestamp, u32)>) {
        lock(&self.state).next = next;
    }

    /// The history, oldest first, and when the next one is due.
    pub(crate) fn nights(&self) -> (Vec<Night>, Option<(Timestamp, u32)>) {
        let state = lock(&self.state);
        (state.nights.clone(), state.next)
    }

    /// How a backup to this place ended, if it has succeeded.
    pub(crate) fn known(&self, dest: &Path) -> Option<Ended> {
        let state = lock(&self.state);
        let found = state.ended.iter().rev().find(|(_, ended)| ended.ok && Path::new(&ended.dest) == dest);
        found.map(|(_, ended)| ended.clone())
    }

    /// The backup to this place, if it runs.
    pub(crate) fn running_to(&self, dest: &Path) -> Option<String> {
        let state = lock(&self.state);
        let job = state.running.as_ref().filter(|job| Path::new(&job.record.dest) == dest);
        job.map(|job| job.record.id.clone())
    }

    /// Waits until no backup runs.
    pub(crate) fn wait_until_idle(&self) {
        let mut state = lock(&self.state);
        while state.running.is_some() {
            state = wait(&self.changed, state, GLANCE);
        }
    }

    /// Checks a backup; with a server program, also with a server. Says what is wrong, a line each.
    pub(crate) fn check(&self, dest: &str, mongod: Option<&Path>) -> Result<Vec<String>, String> {
        let place = finished_backup(&self.config.destination, dest).map_err(|error| error.to_string())?;
        let said = child::verify(&place, mongod, &|| true).map_err(|error| error.to_string())?.unwrap_or_default();
        let result = said.iter().find(|event| event["event"] == "result");
        let Some(result) = result else {
            let error = said.iter().find(|event| event["event"] == "error");
            return Err(error.and_then(|event| event["message"].as_str()).unwrap_or("it ended without a word").into());
        };
        let line = |problem: &Value| {
            let part = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
            format!("{}: {}", part("path"), part("what"))
        };
        Ok(result["problems"].as_array().map_or(Vec::new(), |all| all.iter().map(line).collect()))
    }
}
