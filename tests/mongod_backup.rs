//! Backups of a running mongod under load: another mongod starts on each, finds every table valid, and every write that
//! was acknowledged before the point in time.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tempfile::TempDir;

mod common {
    pub mod acks;
    pub mod backup;
    pub mod load;
    pub mod mongod;
    pub mod random;
    pub mod validate;
}
use common::acks::Acks;
use common::backup::{self, Outcome, alone, number_from, scratch, seed};
use common::load::{self, Load};
use common::mongod::{Mongod, Opts};
use common::validate;

/// A server with something to copy, its clients not yet started.
struct Subject {
    server: Mongod,
    scratch: TempDir,
    directoryperdb: bool,
}

impl Subject {
    fn start(change: impl FnOnce(&Path, &mut Opts)) -> Self {
        let scratch = scratch();
        let dbpath = scratch.path().join("db");
        fs::create_dir(&dbpath).expect("a data directory");
        let mut opts = Opts { dbpath, small_journal: true, ..Opts::default() };
        change(scratch.path(), &mut opts);
        let server = Mongod::start(&opts);
        load::fill(&server.uri(), 24);
        Self { server, scratch, directoryperdb: opts.directoryperdb }
    }

    fn dest(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn check(&self, outcome: &Outcome, acks: &Acks) {
        println!("hold {} us, stop {:?} us: {}", outcome.hold_us(), outcome.stop_us(), outcome.report());
        validate::assert_right(outcome, self.directoryperdb, acks);
        fs::remove_dir_all(&outcome.dest).expect("our own backup");
    }
}

/// The number of the newest journal file.
fn newest_journal(dbpath: &Path) -> u64 {
    let names = fs::read_dir(dbpath.join("journal")).expect("a journal");
    names
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_prefix("WiredTigerLog.")?.parse().ok())
        .max()
        .expect("a journal file")
}

/// One backup to each point in time under load.
fn both_points(change: impl FnOnce(&Path, &mut Opts)) -> Subject {
    let mut subject = Subject::start(change);
    let load = Load::start(&subject.server.uri(), seed());
    load.wait_for(500);
    let journal = newest_journal(&subject.server.dbpath);
    let outcomes = ["end", "start"].map(|point| {
        let dest = subject.dest(&format!("backup-{point}"));
        // About two seconds of copying, in which the schema changes several times.
        let outcome = backup::take(subject.server.pid(), &dest, &["--point", point, "--throttle", "16MiB"]);
        outcome.report();
        load.wait_for(200);
        outcome
    });
    assert!(newest_journal(&subject.server.dbpath) > journal, "the journal was to rotate during the backups");
    let acks = load.stop();
    subject.server.assert_unharmed();
    assert!(outcomes[0].stop_us().is_some_and(|us| us > 0), "the first backup attaches");
    assert_eq!(outcomes[1].stop_us(), None, "the second goes through the keeper");
    for outcome in &outcomes {
        assert_no_way_back(&outcome.dest, subject.scratch.path(), &outcome.dest);
        subject.check(outcome, &acks);
    }
    subject
}

/// Fails when anything in the backup is a symlink: a server started on it must not reach the live files.
fn assert_no_way_back(directory: &Path, scratch: &Path, backup: &Path) {
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("readable").path();
        let kind = fs::symlink_metadata(&path).expect("there").file_type();
        assert!(!kind.is_symlink(), "{path:?} leads out of {backup:?} into {scratch:?}");
        if kind.is_dir() {
            assert_no_way_back(&path, scratch, backup);
        }
    }
}

#[test]
fn a_plain_dbpath_is_backed_up_under_load() {
    let _alone = alone();
    let subject = both_points(|_, _| {});
    subject.server.stop();
}

#[test]
fn a_directory_per_database_is_backed_up_under_load() {
    let _alone = alone();
    let subject = both_points(|_, opts| opts.directoryperdb = true);
    assert!(subject.server.dbpath.join(load::DATABASE).is_dir());
    subject.server.stop();
}

#[test]
fn a_journal_on_another_volume_becomes_a_directory_of_the_backup() {
    let _alone = alone();
    let subject = both_points(|scratch, opts| opts.journal_link = Some(scratch.join("other-volume/journal")));
    assert!(fs::symlink_metadata(subject.server.dbpath.join("journal")).expect("there").is_symlink());
    subject.server.stop();
}

#[test]
fn backups_in_a_row_under_load_are_all_valid() {
    let _alone = alone();
    let mut subject = Subject::start(|_, _| {});
    let load = Load::start(&subject.server.uri(), seed());
    load.wait_for(200);
    let outcomes: Vec<_> = (0..number_from("HOTBACKUP_BACKUPS", 20))
        .map(|round| {
            let dest = subject.dest(&format!("backup{round}"));
            let point = if round % 2 == 0 { "end" } else { "start" };
            let outcome = backup::take(subject.server.pid(), &dest, &["--point", point]);
            outcome.report();
            load.wait_for(50);
            outcome
        })
        .collect();
    let acks = load.stop();
    subject.server.assert_unharmed();
    let mut holds: Vec<_> = outcomes.iter().map(Outcome::hold_us).collect();
    for outcome in &outcomes {
        subject.check(outcome, &acks);
    }
    holds.sort_unstable();
    println!("hold in us, sorted: {holds:?}");
    subject.server.stop();
}

#[test]
fn kill_9_of_the_backup_fails_no_call_of_the_server() {
    let _alone = alone();
    let mut subject = Subject::start(|_, _| {});
    let load = Load::start(&subject.server.uri(), seed());
    load.wait_for(200);
    for (round, point) in ["end", "start", "end", "start"].into_iter().enumerate() {
        let dest = subject.dest(&format!("killed{round}"));
        let mut running = backup::start(subject.server.pid(), &dest, &["--point", point, "--throttle", "8MiB"]);
        running.wait_for_copying();
        running.kill();
        assert!(!dest.exists(), "a killed backup looks finished");
        // No call hangs, and none has failed: every client and the schema changes go on.
        load.wait_for(200);
        load.assert_going();
    }
    let dest = subject.dest("next");
    let outcome = backup::take(subject.server.pid(), &dest, &[]);
    assert_eq!(outcome.stop_us(), None, "the keeper has the listener");
    load.wait_for(100);
    let acks = load.stop();
    subject.server.assert_unharmed();
    subject.check(&outcome, &acks);
    subject.server.stop();
}

#[test]
fn a_server_whose_backup_hangs_goes_on() {
    let _alone = alone();
    let mut subject = Subject::start(|_, _| {});
    let load = Load::start(&subject.server.uri(), seed());
    load.wait_for(200);
    let dest = subject.dest("hung");
    let mut running = backup::start(subject.server.pid(), &dest, &["--throttle", "8MiB"]);
    running.wait_for_copying();
    running.signal(Signal::SIGSTOP);
    load.wait_for(200);
    running.signal(Signal::SIGCONT);
    // The keeper has taken over meanwhile: the backup cannot know what it has missed.
    let said = running.finish().failure("revoked");
    println!("{said}");
    load.wait_for(100);
    load.stop();
    subject.server.assert_unharmed();
    subject.server.stop();
}

#[test]
fn a_server_that_ends_during_the_backup_fails_it_clearly() {
    let _alone = alone();
    let subject = Subject::start(|_, _| {});
    let dest = subject.dest("backup");
    let mut running = backup::start(subject.server.pid(), &dest, &["--throttle", "4MiB"]);
    running.wait_for_copying();
    // A clean end: mongod writes while it shuts down, and each of those writes must be answered.
    subject.server.stop();
    running.finish().failure("target_exited");
    assert!(!dest.exists());
}

#[test]
fn a_server_shuts_down_cleanly_when_only_the_keeper_is_left() {
    let _alone = alone();
    let mut subject = Subject::start(|_, _| {});
    let outcome = backup::take(subject.server.pid(), &subject.dest("backup"), &[]);
    outcome.report();
    load::fill(&subject.server.uri(), 8);
    subject.server.assert_unharmed();
    let began = Instant::now();
    subject.server.stop();
    assert!(began.elapsed() < Duration::from_secs(60));
}
