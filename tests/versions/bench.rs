//! Two releases, and a target that both work on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::backup::{self, HOTBACKUP, Outcome, Running, verify};
use crate::common::names;
use crate::common::process::{assert_not_stopped, pair, status};
use crate::faults::disk;
use crate::faults::target::{Guest, Target, WORKERS, goes_on};

/// The longest that any call may wait, whoever dies: the lease of one second, and looks.
const BOUND: Duration = Duration::from_millis(1500);
/// A target that stands still for so long hangs.
pub const STANDSTILL: Duration = Duration::from_secs(30);

/// A release of hotbackup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    Earlier,
    Today,
}

/// Whose keepers, and whose supervisor.
pub const BOTH_WAYS: [(Release, Release); 2] = [(Release::Earlier, Release::Today), (Release::Today, Release::Earlier)];

impl Release {
    /// Its command.
    pub fn command(self) -> Command {
        match self {
            Self::Earlier => Command::new(super::earlier::program()),
            Self::Today => Command::new(HOTBACKUP),
        }
    }
}

/// A strict target.
pub struct Bench {
    pub target: Guest,
    backups: u32,
}

impl Bench {
    /// A new one, which `release` has attached to.
    pub fn attached_by(release: Release) -> Self {
        let mut bench = Self::new();
        bench.back_up(release);
        pair(bench.pid());
        bench
    }

    /// A new one.
    pub fn new() -> Self {
        disk::watch();
        let mut target = Guest::start(false);
        target.begin();
        Self { target, backups: 0 }
    }

    pub fn pid(&self) -> i32 {
        self.target.pid()
    }

    fn dest(&mut self) -> PathBuf {
        self.backups += 1;
        self.target.scratch().join(format!("backup-{}", self.backups))
    }

    /// Starts a backup by a command of hotbackup's.
    pub fn start(&mut self, command: Command, release: Release, more: &[&str]) -> Running {
        let dest = self.dest();
        let source = self.target.source();
        let mut words: Vec<&str> = source.iter().map(String::as_str).collect();
        words.extend(self.target.mapped(false));
        // What calls the guest makes every release's filter shows.
        words.extend(["--accept-unseen"].iter().filter(|_| release == Release::Today));
        words.extend(more);
        backup::start_command(command, self.pid(), &dest, &words)
    }

    /// A whole backup, which must be right. Returns its report.
    pub fn back_up(&mut self, release: Release) -> Outcome {
        let outcome = patiently(|| self.start(release.command(), release, &[]).finish());
        self.assert_unharmed(&format!("backed up by {release:?}"));
        outcome
    }

    /// A whole backup by a release that finds keepers, which must be right.
    pub fn back_up_kept(&mut self, release: Release) {
        let outcome = self.back_up(release);
        assert_eq!(outcome.stop_us(), None, "{release:?} stopped a thread to attach once more");
        assert_eq!(status(self.pid(), "Seccomp_filters").as_deref(), Some("1"), "one filter");
    }

    /// Fails unless the target goes on, and none of its calls since the last time waited for longer than the lease.
    pub fn assert_unharmed(&mut self, what: &str) {
        if let Err(still) = goes_on(&mut self.target, 5, STANDSTILL) {
            panic!("{what}: {still}");
        }
        let wait = self.target.longest(&[], None);
        assert!(wait.net <= BOUND, "{what}: a call waited {:?}, more than {BOUND:?}: {}", wait.net, wait.what);
        assert_not_stopped(self.pid());
        self.target.begin();
    }
}

/// What a backup may be given up for on a machine that hardly gets to it.
const TOO_SLOW: [&str; 6] =
    ["hold_too_long", "waited_too_long", "revoked", "before_image_slow", "quiesce", "attach_failed"];
/// How often it is tried all the same.
const TRIES: u32 = 5;

/// Has a backup taken, once more where the machine was too slow for its bounds. It must be right in the end.
pub fn patiently(mut take: impl FnMut() -> Outcome) -> Outcome {
    let mut outcome = take();
    for _ in 1..TRIES {
        let error = outcome.events.iter().find(|event| event["event"] == "error");
        let Some(kind) = error.and_then(|error| error["kind"].as_str()).filter(|kind| TOO_SLOW.contains(kind)) else {
            break;
        };
        println!("once more: {}", outcome.failure(kind));
        outcome = take();
    }
    assert_right(&outcome);
    outcome
}

/// Fails unless a backup succeeded and holds a state that existed.
pub fn assert_right(outcome: &Outcome) {
    let report = outcome.report();
    verify(&outcome.dest);
    judge(&outcome.dest).unwrap_or_else(|wrong| panic!("THE BACKUP IS WRONG: {wrong}\n{report}"));
}

fn judge(dest: &Path) -> Result<(), String> {
    names::check(dest, WORKERS).map(drop)
}
