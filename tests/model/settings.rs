//! What one run of the model check is given: everything that decides about it but the machine's own timing. As one line it
//! is kept in `regressions.txt`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::disks::Disk;

/// What one run is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Decides about the calls, and how each backup is taken.
    pub seed: u64,
    /// Threads that make calls.
    pub threads: usize,
    /// How long they pause now and then, in microseconds: some hundred calls a second, or as many as they can.
    pub pause_us: u64,
    /// Whether the guest has an eventfd, so that writes of 8 bytes are not shown.
    pub eventfd: bool,
    /// The file system.
    pub on: Disk,
    /// Whether calls are captured at their sites, in three of four backups.
    pub sites: bool,
    /// How many backups are taken.
    pub backups: u64,
    /// Kinds of calls that are left out: see `KINDS` in `tests/guests/random_calls_kinds.h`.
    pub without: BTreeSet<String>,
}

impl Settings {
    /// Everything that the guest can do, except what makes each backup slow.
    pub fn new(seed: u64, on: Disk, backups: u64) -> Self {
        let without = BTreeSet::from(["far".to_owned()]);
        Self { seed, threads: 4, pause_us: 100, eventfd: false, on, sites: false, backups, without }
    }

    /// The kinds that are left out, for the guest.
    pub fn left_out(&self) -> String {
        self.without.iter().map(String::as_str).collect::<Vec<_>>().join(",")
    }
}

impl fmt::Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, threads, pause_us, eventfd, on, sites, backups, .. } = self;
        write!(
            f,
            "seed={seed} threads={threads} pause={pause_us} eventfd={eventfd} on={on} sites={sites} backups={backups} without={}",
            self.left_out()
        )
    }
}

impl FromStr for Settings {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let wrong = |part: &str| format!("not a setting: {part:?}");
        let mut settings = Self::new(0, Disk::Here, 10);
        settings.without.clear();
        for part in line.split_whitespace() {
            let (name, value) = part.split_once('=').ok_or_else(|| wrong(part))?;
            let number = || value.parse::<u64>().map_err(|_| wrong(part));
            match name {
                "seed" => settings.seed = number()?,
                "threads" => settings.threads = value.parse().map_err(|_| wrong(part))?,
                "pause" => settings.pause_us = number()?,
                "eventfd" => settings.eventfd = value.parse().map_err(|_| wrong(part))?,
                "sites" => settings.sites = value.parse().map_err(|_| wrong(part))?,
                "on" => settings.on = value.parse().map_err(|_| wrong(part))?,
                "backups" => settings.backups = number()?,
                "without" => {
                    settings.without = value.split(',').filter(|kind| !kind.is_empty()).map(str::to_owned).collect();
                }
                _ => return Err(wrong(part)),
            }
        }
        Ok(settings)
    }
}

#[test]
fn settings_are_read_as_they_are_printed() {
    let mut settings = Settings::new(7, Disk::Btrfs, 3);
    settings.eventfd = true;
    settings.sites = true;
    settings.without.insert("rename".into());
    assert_eq!(settings.to_string().parse(), Ok(settings.clone()));
    settings.without.clear();
    assert_eq!(settings.to_string().parse(), Ok(settings));
    assert!("sead=7".parse::<Settings>().is_err());
}
