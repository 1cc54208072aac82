//! What there is to see, at one moment.
use hotbackup_archive::Night;
use jiff::Timestamp;
use serde::Serialize;

/// Whoever knows. Asked once a request, from a thread of its own; it should be quick.
pub trait Watch: Send + Sync + 'static {
    /// How it is now.
    fn snapshot(&self) -> Snapshot;
}

/// Everything.
#[derive(Debug, Clone, Serialize)]
pub struct Snapshot {
    /// When.
    pub time: Timestamp,
    /// Of this program.
    pub version: String,
    /// The servers that are looked after.
    pub targets: Vec<Target>,
}

/// One server.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Target {
    /// What it is called.
    pub name: String,
    /// Its process, if it runs.
    pub process: Option<i32>,
    /// The backup that is being taken.
    pub running: Option<Running>,
    /// When the next one is due.
    pub next: Option<Timestamp>,
    /// Which try that is, if it is another one of a backup that failed: from 2.
    pub next_attempt: Option<u32>,
    /// What was done, oldest first.
    pub history: Vec<Night>,
}

/// A backup that is being taken.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Running {
    /// Its phase.
    pub phase: String,
    /// Milliseconds since it was begun.
    pub elapsed_ms: u64,
    /// Bytes of content that are known.
    pub bytes_total: u64,
    /// Bytes still to be copied.
    pub bytes_due: u64,
    /// Bytes written so far.
    pub bytes_copied: u64,
    /// Bytes a second, of late.
    pub rate: Option<u64>,
    /// Seconds until it is complete, at that rate.
    pub eta_s: Option<u64>,
    /// The rate that it is held to.
    pub throttle: Option<u64>,
    /// The hold so far, in microseconds.
    pub hold_us: Option<u64>,
    /// The longest that a call has waited so far, in microseconds.
    pub longest_wait_us: Option<u64>,
}

impl Target {
    /// The last backup that was good.
    pub fn last_good(&self) -> Option<&Night> {
        self.history.iter().rev().find(|night| night.good)
    }
}
