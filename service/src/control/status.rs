//! How a target stands: the contract of `status --json`. Fields may be added, none are taken away or change their meaning.
use serde::{Deserialize, Serialize};

/// One target, or one backup that runs by itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TargetStatus {
    /// Its name in the configuration; `pid N` of a backup that runs by itself.
    pub target: String,
    /// Whether the service looks after it.
    pub service: bool,
    /// The process, where there is one.
    pub process: Option<i32>,
    /// Why there is none.
    pub problem: Option<String>,
    /// The rate for the backup that runs and for those to come, in bytes a second; null is no limit.
    pub throttle: Option<u64>,
    /// The backup that runs.
    pub running: Option<Running>,
    /// The backup that ended last, however it did.
    pub last: Option<Ended>,
    /// The last one that succeeded.
    pub last_good: Option<Ended>,
    /// When the next one is due, in milliseconds since 1970; null without a schedule.
    pub next_ms: Option<u64>,
    /// Where that is another try of a backup that failed: which one, from 2.
    #[serde(default)]
    pub next_attempt: Option<u32>,
}

/// A backup that runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Running {
    /// Its name in the service's records; empty for one that runs by itself.
    #[serde(default)]
    pub id: String,
    /// Where it will be.
    pub dest: String,
    /// The process that is backed up.
    pub process: i32,
    /// The process that does it.
    pub supervisor: i32,
    /// When it was started, in milliseconds since 1970.
    pub started_ms: u64,
    /// How long it runs, in milliseconds.
    pub elapsed_ms: u64,
    /// `attach`, `track`, `hold`, `drain`, `publish` or `done`.
    pub phase: String,
    /// How much is in place, of what is known; it falls when the process writes.
    pub percent: f64,
    /// Bytes copied.
    pub bytes_copied: u64,
    /// Bytes still due.
    pub bytes_due: u64,
    /// Size of all files.
    pub bytes_total: u64,
    /// Files copied at least once.
    pub files_copied: u64,
    /// Files known.
    pub files_total: u64,
    /// Bytes a second, over the last few seconds.
    pub rate: u64,
    /// Seconds until what is due is copied at that rate; null where that cannot be said.
    pub eta_s: Option<u64>,
    /// How long writers have been held so far, in microseconds.
    pub hold_us: u64,
    /// The longest that a call of the process has waited so far, in microseconds, hold included.
    #[serde(default)]
    pub longest_wait_us: u64,
    /// The rate allowed.
    pub throttle: Option<u64>,
    /// A cancel was asked for.
    #[serde(default)]
    pub cancelled: bool,
}

/// A backup that has ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// Its name in the service's records.
    pub id: String,
    /// Where it is, or would have been.
    pub dest: String,
    /// Whether it succeeded.
    pub ok: bool,
    /// When it began and ended, in milliseconds since 1970.
    pub started_ms: u64,
    /// See above.
    pub ended_ms: u64,
    /// The same, as seconds until now.
    pub age_s: u64,
    /// Of one that succeeded: its point in time, in nanoseconds since 1970.
    pub point_in_time_ns: Option<u64>,
    /// Its bytes.
    pub bytes: u64,
    /// Its files.
    pub files: u64,
    /// How long it held writers, in microseconds.
    pub hold_us: u64,
    /// The longest that a call of the process waited, in microseconds, hold included.
    #[serde(default)]
    pub longest_wait_us: u64,
    /// Of one that failed: the cause, as in the table of exit codes.
    pub kind: Option<String>,
    /// Its exit code.
    pub exit_code: Option<u8>,
    /// The words.
    pub message: Option<String>,
}

/// What part of `total` is not `due`, in percent with one decimal.
pub fn percent(total: u64, due: u64) -> f64 {
    if total == 0 {
        return 0.0;
    }
    (total.saturating_sub(due) as f64 / total as f64 * 1000.0).floor() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_documented() {
        let documents = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/service.md")).unwrap();
        let contract = documents.split("### JSON").nth(1).unwrap();
        let status = TargetStatus {
            running: Some(Running::default()),
            last: Some(Ended::default()),
            last_good: Some(Ended::default()),
            ..TargetStatus::default()
        };
        let all = serde_json::to_value(&status).unwrap();
        for part in [&all, &all["running"], &all["last"]] {
            for field in part.as_object().unwrap().keys() {
                assert!(contract.contains(&format!("`{field}`")), "{field} is not in docs/service.md");
            }
        }
    }
}
