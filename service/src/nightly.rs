//! Backups by schedule: for each target that has one, a thread that waits for the next time, and takes it as a night is taken
//! ([`hotbackup_archive::night`]).
//!
//! One that failed is tried again, some times and not later than the next one is due, unless its cause is one that no try mends
//! ([`hotbackup_archive::Retry`]). When it is stands in the history, so that the next service keeps to it.
//!
//! A time that passed while no service ran is made up for, once. A night that the last service left unfinished, its backup running or
//! complete but not checked, is gone on with: all that it needs to know lies in the name of its backup, in the target's records, and
//! in its history, where there is a line of each night that is over.
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hotbackup_archive::{Check, Night, Plan, Schedule, Taken, Turn, Work, night};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::config::{HookConfig, Nightly};
use crate::control::Ended;
use crate::jobs::{Error, Target};

/// Clocks are set, and machines sleep: the time is looked at as often as this.
const GLANCE: Duration = Duration::from_secs(10);

/// Begins to take a target's backups by schedule, if it has one.
///
/// # Errors
/// There is no thread for it.
pub(crate) fn start(target: &Arc<Target>) -> std::io::Result<()> {
    let Some(nightly) = target.config().nightly.clone() else { return Ok(()) };
    let target = Arc::clone(target);
    std::thread::Builder::new().name("nightly".into()).spawn(move || run(&target, &nightly))?;
    Ok(())
}

fn run(target: &Arc<Target>, nightly: &Nightly) {
    // Both were read when the configuration was.
    let (Ok(schedule), Ok(retry)) = (Schedule::from_str(&nightly.schedule), nightly.retry()) else { return };
    let plan = Plan {
        shelf: target.config().destination.clone(),
        keep: nightly.keep,
        zone: TimeZone::system(),
        before: nightly.before.as_ref().map(HookConfig::hook),
        after: nightly.after.as_ref().map(HookConfig::hook),
        check: nightly.check,
        retry,
    };
    let worker = Worker { target, mongod: nightly.mongod.as_deref() };
    let after = |time: Timestamp| schedule.next_after(&time.to_zoned(TimeZone::system())).map(|due| due.timestamp());
    let take = |turn: &Turn| {
        let done = night(&plan, &worker, turn);
        tell(target, &done);
        target.note(done.clone());
        done
    };
    let mut last = target.last_night();
    let mut since = last.as_ref().map_or_else(Timestamp::now, |night| night.ended);
    if let Some(begun) = target.unfinished_night() {
        tracing::info!("the backup of {} that was begun at {begun} is gone on with", target.name());
        let next = after(Timestamp::now());
        let again = last.as_ref().filter(|night| night.retry.is_some()).map(|night| night.next_turn(next));
        let turn = Turn { resumed: Some(begun), next, ..again.unwrap_or_default() };
        last = Some(take(&turn));
        since = Timestamp::now();
    }
    loop {
        // A clock that was ahead, and is right again, must not put the next one off.
        let now = Timestamp::now();
        since = since.min(now);
        let Some(due) = after(since) else {
            target.set_next(None);
            tracing::error!("{:?} names no time: {} is not backed up by schedule", schedule.text(), target.name());
            return;
        };
        // Where both have passed the night itself comes, with all its tries.
        let failed = last.as_ref().filter(|_| due > now);
        let again = failed.and_then(|night| Some((night.retry.filter(|at| *at < due)?, night)));
        let at = again.map_or(due, |(at, _)| at);
        let next = after(at.max(now));
        let turn = again.map_or(Turn { next, ..Turn::default() }, |(_, night)| night.next_turn(Some(due)));
        target.set_next(Some((at, turn.attempt)));
        while (since..at).contains(&Timestamp::now()) {
            let left = Duration::try_from(Timestamp::now().duration_until(at)).unwrap_or_default();
            std::thread::sleep(left.clamp(Duration::from_millis(1), GLANCE));
        }
        let now = Timestamp::now();
        // The clock was set back; or it stood still until the night itself was due, which comes with all its tries.
        if now < at || again.is_some() && now >= due {
            continue;
        }
        let done = take(&turn);
        // Times that passed meanwhile are not made up for, but for one that a failed try has come to.
        let overtaken = again.is_some() && !done.good && Timestamp::now() >= due;
        since = if overtaken { now } else { Timestamp::now() };
        last = Some(done);
    }
}

/// Logs how it went.
fn tell(target: &Target, night: &Night) {
    let (name, dest) = (target.name(), night.dest.display());
    for warning in &night.warnings {
        tracing::warn!(target_name = name, "{name}: {warning}");
    }
    for gone in &night.removed {
        tracing::info!(target_name = name, "{name}: {} was removed, as no rule keeps it", gone.display());
    }
    match &night.message {
        Some(words) => {
            let cause = night.cause.as_deref().unwrap_or_default();
            let again = night
                .retry
                .map_or("it is not tried again before the next time".into(), |at| format!("it is tried again at {at}"));
            let tried = night.attempt;
            tracing::error!(
                target_name = name, %dest, cause,
                "the backup of {name} by schedule failed (try {tried}; {again}): {words}"
            );
        }
        None => tracing::info!(target_name = name, %dest, "the backup of {name} by schedule is good: {dest}"),
    }
}

struct Worker<'a> {
    target: &'a Arc<Target>,
    mongod: Option<&'a Path>,
}

impl Work for Worker<'_> {
    fn take(&self, dest: &Path) -> Result<Taken, (String, String)> {
        let name = dest.file_name().unwrap_or_default().to_string_lossy();
        let ended = match self.target.known(dest) {
            Some(ended) => ended,
            None => loop {
                let id = match self.target.running_to(dest) {
                    Some(id) => Ok(id),
                    None => self.target.start(&name),
                };
                match id {
                    // Somebody takes one by hand: this one comes after it.
                    Err(Error::Busy(_)) => self.target.wait_until_idle(),
                    Err(error) => return Err((error.kind().into(), error.to_string())),
                    Ok(id) => match self.target.wait(&id, &|| true) {
                        Some(ended) => break ended,
                        None => return Err(("internal".into(), "the backup's record is gone".into())),
                    },
                }
            },
        };
        match ended {
            Ended { ok: true, bytes, hold_us, longest_wait_us, .. } => {
                let duration_us = ended.ended_ms.saturating_sub(ended.started_ms) * 1000;
                Ok(Taken { bytes, duration_us, hold_us, longest_wait_us })
            }
            Ended { kind, message, .. } => Err((kind.unwrap_or_default(), message.unwrap_or_default())),
        }
    }

    fn check(&self, backup: &Path, how: Check) -> Result<Vec<String>, String> {
        let mongod = if how == Check::Server { self.mongod } else { None };
        self.target.check(&backup.to_string_lossy(), mongod)
    }
}
