//! A backup as it is taken every night, without a person.
//!
//! ```text
//! what broken off ones left is removed
//!   -> before-hook -> backup -> check -> mark -> latest -> what no rule keeps is removed -> after-hook
//!          |            |        |                                                            ^
//!          +------------+--------+-- failed: nothing older is removed, `latest` stays --------+
//! ```
//!
//! The after-hook runs however it ended, and is told how, and when it is tried again. A backup that the check finds bad stays, marked, for whoever looks
//! into it; it is never `latest`, and takes no good one's place.
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use crate::{Error, Hook, Mark, Policy, Retry, Turn, mark, name, set_latest, tidy};

/// What is done each time.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The shelf.
    pub shelf: PathBuf,
    /// What stays.
    pub keep: Policy,
    /// Whose days and weeks.
    pub zone: TimeZone,
    /// Run before; if it fails no backup is taken.
    pub before: Option<Hook>,
    /// Run after, however it ended.
    pub after: Option<Hook>,
    /// Whether each backup is checked.
    pub check: Check,
    /// Whether one that failed is tried again.
    pub retry: Retry,
}

/// How a backup is checked when it is complete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// Not at all.
    None,
    /// Everything in it is read and compared with its manifest.
    #[default]
    Content,
    /// And a server is started on a copy of it, which must find its data valid.
    Server,
}

/// What a backup was like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// Bytes of content.
    pub bytes: u64,
    /// How long it took until it had its name, in microseconds.
    pub duration_us: u64,
    /// The hold, in microseconds.
    pub hold_us: u64,
    /// The longest that a call of the target waited, in microseconds, hold included.
    pub longest_wait_us: u64,
}

/// Whoever takes and checks backups.
pub trait Work {
    /// Takes a backup to a directory that does not exist. An error is a cause's name (as in the table of exit codes) and words.
    fn take(&self, dest: &Path) -> Result<Taken, (String, String)>;
    /// Checks it; says what is wrong, a line each. An error: it could not be checked.
    fn check(&self, backup: &Path, how: Check) -> Result<Vec<String>, String>;
}

/// How it went: one line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Night {
    /// When it was begun.
    pub begun: Timestamp,
    /// When all was over.
    pub ended: Timestamp,
    /// The backup, whether or not it is there.
    pub dest: PathBuf,
    /// Whether there is a backup, and it is good as far as that was checked.
    pub good: bool,
    /// What it was like, if it was completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<Taken>,
    /// What went wrong first, if anything did: the cause's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// The same in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What went wrong beside it: a hook after, a backup that could not be removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Backups that were removed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<PathBuf>,
    /// Which try of this night it was, from 1.
    #[serde(default = "first", skip_serializing_if = "is_first")]
    pub attempt: u32,
    /// When it is tried again, if it failed and is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Timestamp>,
}

fn first() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_first(attempt: &u32) -> bool {
    *attempt == 1
}

/// What a backup's check that could not be made is called, as a cause: another try makes the check, and no other backup.
const NOT_CHECKED: &str = "check_failed";

impl Night {
    /// The try that comes after this one.
    pub fn next_turn(&self, next: Option<Timestamp>) -> Turn {
        let resumed = self.cause.as_deref().filter(|cause| *cause == NOT_CHECKED).map(|_| self.begun);
        Turn { attempt: self.attempt.saturating_add(1), resumed, next }
    }
}

/// Takes one. Whatever happens is in what it returns. One that was begun before, and left unfinished, is gone on with: the before-hook
/// ran then, and [`Work::take`] finds what has become of the backup.
pub fn night(plan: &Plan, work: &dyn Work, turn: &Turn) -> Night {
    let resumed = turn.resumed;
    let begun = resumed.unwrap_or_else(Timestamp::now);
    let backup = name::of(begun);
    let mut night = Night {
        begun,
        ended: begun,
        dest: plan.shelf.join(&backup),
        good: false,
        taken: None,
        cause: None,
        message: None,
        warnings: Vec::new(),
        removed: Vec::new(),
        attempt: turn.attempt,
        retry: None,
    };
    match take(plan, work, OsStr::new(&backup), resumed.is_none(), &mut night) {
        Ok(()) => {
            night.good = true;
            clear(plan, &mut night);
        }
        Err((cause, message)) => {
            night.retry = plan.retry.again(turn, &cause, Timestamp::now());
            (night.cause, night.message) = (Some(cause), Some(message));
        }
    }
    if let Some(hook) = &plan.after {
        let outcome = OsString::from(if night.good { "success" } else { "failure" });
        let message = OsString::from(night.message.clone().unwrap_or_default());
        let retry = OsString::from(night.retry.map_or(String::new(), |at| at.to_string()));
        let variables = [
            ("HOTBACKUP_DEST", night.dest.as_os_str()),
            ("HOTBACKUP_OUTCOME", outcome.as_os_str()),
            ("HOTBACKUP_MESSAGE", message.as_os_str()),
            ("HOTBACKUP_RETRY", retry.as_os_str()),
        ];
        let ran = hook.run(&variables);
        night.warnings.extend(ran.err().map(|error| error.to_string()));
    }
    night.ended = Timestamp::now();
    night
}

type Failed = (String, String);

fn take(plan: &Plan, work: &dyn Work, backup: &OsStr, anew: bool, night: &mut Night) -> Result<(), Failed> {
    let dest = plan.shelf.join(backup);
    // A full disk may be full of what the last one left.
    let left = hotbackup_copier::remove_leftovers(&plan.shelf);
    night.warnings.extend(left.err().map(|error| error.to_string()));
    if anew && let Some(hook) = &plan.before {
        let ran = hook.run(&[("HOTBACKUP_DEST", dest.as_os_str())]);
        ran.map_err(|error| ("hook_failed".to_owned(), format!("{error}; no backup was taken")))?;
    }
    night.taken = Some(work.take(&dest)?);
    let here = |error: Error| ("dest_io".to_owned(), error.to_string());
    if plan.check != Check::None {
        let problems = work.check(&dest, plan.check).map_err(|why| {
            let words = format!("the backup is complete, but could not be checked: {why}");
            (NOT_CHECKED.to_owned(), words)
        })?;
        let found = Mark {
            checked: Timestamp::now(),
            good: problems.is_empty(),
            server_tried: plan.check == Check::Server,
            problems: problems.iter().take(20).cloned().collect(),
        };
        let marked = mark(&dest, &found);
        if let Some(first) = problems.first() {
            let words = format!("the backup is not good ({} problems, the first: {first})", problems.len());
            night.warnings.extend(marked.err().map(|error| error.to_string()));
            return Err(("verify_failed".to_owned(), words));
        }
        marked.map_err(here)?;
    }
    set_latest(&plan.shelf, backup).map_err(here)
}

/// Removes what no rule keeps, now that there is a newer good one.
fn clear(plan: &Plan, night: &mut Night) {
    match tidy(&plan.shelf, &plan.keep, &plan.zone, false) {
        Ok(tidied) => {
            night.removed = tidied.removed;
            let stayed = |(path, why): (PathBuf, String)| format!("{} was not removed: {why}", path.display());
            night.warnings.extend(tidied.stayed.into_iter().map(stayed));
        }
        Err(error) => night.warnings.push(error.to_string()),
    }
}
