//! What was done, counted.

use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use hotbackup_copier::Report;

/// What one run, or several, came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    /// Backups that were right.
    pub right: u64,
    /// Backups that failed, as they had to.
    pub refused: u64,
    /// Backups that were given up because the machine was busy.
    pub given_up: u64,
    /// Steps of all threads.
    pub steps: u64,
    /// Those of them between the beginning and the end of a backup.
    pub steps_during: u64,
    hold: Duration,
    backup: Duration,
}

impl Tally {
    /// Counts a backup that was right.
    pub fn add(&mut self, report: &Report) {
        self.right += 1;
        self.hold = self.hold.max(Duration::from_micros(report.hold_us));
        let backup = report.phases.iter().map(|phase| phase.duration_us).sum();
        self.backup = self.backup.max(Duration::from_micros(backup));
    }

    /// Says what this run came to, and all so far.
    pub fn print(self, settings: &impl fmt::Display) {
        static ALL: Mutex<Tally> = Mutex::new(Tally {
            right: 0,
            refused: 0,
            given_up: 0,
            steps: 0,
            steps_during: 0,
            hold: Duration::ZERO,
            backup: Duration::ZERO,
        });
        assert!(self.right > 0, "no backup succeeded");
        let mut all = ALL.lock().expect("nothing panics with it");
        *all = Self {
            right: all.right + self.right,
            refused: all.refused + self.refused,
            given_up: all.given_up + self.given_up,
            steps: all.steps + self.steps,
            steps_during: all.steps_during + self.steps_during,
            hold: all.hold.max(self.hold),
            backup: all.backup.max(self.backup),
        };
        println!("{self} ({settings})\nso far: {all}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { right, refused, given_up, steps, steps_during, hold, backup } = self;
        write!(
            f,
            "{right} backups right, {refused} refused, {given_up} given up; {steps} steps, {steps_during} of them during a backup; longest \
             hold {hold:.1?}, backup {backup:.1?}"
        )
    }
}
