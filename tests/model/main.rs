//! The model check: threads make long random sequences of all kinds of calls while backup after backup is taken, at random
//! moments, with random settings, to both points in time. Each thread's calls are then made again elsewhere, untraced,
//! and every backup must be, byte for byte, what some whole number of them leads to, cut at one place through all threads.
//!
//! `HOTBACKUP_SEED` chooses the calls and the settings, `HOTBACKUP_MODEL_BACKUPS` how many backups each test takes, and
//! `HOTBACKUP_MODEL_DIR` a directory on the file system to work on.
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod backup;
    pub mod disk;
    pub mod driver;
    pub mod guest;
    pub mod moment;
    pub mod random;
    pub mod snapshot;
}
mod disks;
mod found;
mod order;
mod overlay;
mod regressions;
mod replay;
mod run;
mod self_check;
mod settings;
mod shrink;
mod tally;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use common::backup::{alone, number_from, seed};
use disks::Disk;
use run::{Damage, run};
use settings::Settings;
use tally::Tally;

/// A run; one in which the guest died or something else panicked has failed like one with a wrong backup.
fn outcome(settings: &Settings, damage: Option<Damage>) -> Result<Tally, String> {
    catch_unwind(AssertUnwindSafe(|| run(settings, damage))).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().cloned();
        Err(said.or_else(|| panic.downcast_ref::<&str>().map(|&said| said.to_owned())).unwrap_or_default())
    })
}

/// Does a run, and if it fails looks for a smaller one that does.
fn states_that_existed(settings: &Settings) {
    let _alone = alone();
    match outcome(settings, None) {
        Ok(tally) => tally.print(settings),
        Err(wrong) => {
            let limit = Duration::from_secs(number_from("HOTBACKUP_MODEL_SHRINK", 60));
            let smallest = shrink::shrink(settings, &replay::kinds(), limit, |tried| {
                outcome(tried, None).inspect_err(|wrong| println!("so it is with {tried}:\n{wrong}")).is_err()
            });
            panic!("{wrong}\nA line for tests/model/regressions.txt:\n{smallest}");
        }
    }
}

fn here() -> Settings {
    Settings::new(seed(), Disk::Here, number_from("HOTBACKUP_MODEL_BACKUPS", 8))
}

#[test]
fn every_backup_is_what_a_whole_number_of_calls_leads_to() {
    states_that_existed(&here());
}

#[test]
fn so_it_is_when_the_threads_never_pause() {
    states_that_existed(&Settings { pause_us: 0, ..here() });
}

/// By code of ours in the guest; where a thread has descriptors of its own, all are notified.
#[test]
fn so_it_is_when_calls_are_captured_at_their_sites() {
    let mut settings = Settings { sites: true, ..here() };
    settings.without.insert("own-descriptors".into());
    states_that_existed(&settings);
}

#[test]
fn so_it_is_when_they_are_and_threads_have_descriptors_of_their_own() {
    let usual = here();
    states_that_existed(&Settings { sites: true, pause_us: 0, backups: usual.backups.div_ceil(2), ..usual });
}

#[test]
fn so_it_is_when_8_byte_writes_are_not_shown() {
    // In a guest that does more than this all the time, nearly every backup is refused.
    let mut settings = Settings { eventfd: true, pause_us: 4000, ..here() };
    // Positions are looked at in the target's own table alone: whatever is opened in another is refused.
    settings.without.insert("own-descriptors".into());
    states_that_existed(&settings);
}

#[test]
fn so_it_is_with_files_beyond_4_gib() {
    let usual = here();
    // Zeros without number are to be hashed in each.
    let backups = usual.backups.div_ceil(4);
    states_that_existed(&Settings { backups, without: [].into(), ..usual });
}
