//! The model check: threads make long random sequences of all kinds of calls while backup after backup is taken, at random
//! moments, with random settings, to both points in time. Each thread's calls are then made again elsewhere, untraced,
//! and every backup must be, byte for byte, what some whole number of them leads to.
//!
//! `HOTBACKUP_SEED` chooses the calls and the settings, `HOTBACKUP_MODEL_BACKUPS` how many backups each test takes, and
//! `HOTBACKUP_MODEL_DIR` a directory on the file system to work on.
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod backup;
    pub mod guest;
    pub mod moment;
    pub mod snapshot;
}
mod replay;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hotbackup_copier::{Error, Point, Tuning};
use tempfile::TempDir;

use common::backup::{alone, number_from, scratch, seed, verify};
use common::moment::{How, back_up_as};
use common::snapshot::Snapshot;
use replay::{Live, Replay};

const THREADS: usize = 4;

/// Random numbers for moments and settings.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.next() as usize % of.len()]
    }

    fn how(&mut self) -> How {
        let tuning = Tuning {
            hold_below: self.one_of(&[0, 64 << 10, 1 << 20, 8 << 20]),
            max_passes: self.one_of(&[1, 2, 8]),
            // None: the first hold is given up, and what it had begun to look at is left to a sync.
            hold_budget: self.one_of(&[Duration::ZERO, Duration::from_millis(4), Duration::from_millis(20)]),
            before_image_threads: self.one_of(&[1, 2, 4]),
            max_entry_marks: self.one_of(&[2, 50, 16 << 10]),
            sync_each_below: self.one_of(&[0, 1000]),
            ..Tuning::default()
        };
        let rate = self.one_of(&[None, None, Some(30 << 20), Some(100 << 20)]);
        How { point: self.one_of(&[Point::End, Point::Start]), tuning, rate }
    }
}

/// The run of one guest: all its backups, and the replays that judge them.
struct Run {
    live: Live,
    replays: Vec<Replay>,
    /// The source.
    dir: PathBuf,
    dest: PathBuf,
    _scratch: TempDir,
}

impl Run {
    fn new(seed: u64, pause_us: u64, eventfd: bool) -> Self {
        let scratch = match std::env::var_os("HOTBACKUP_MODEL_DIR") {
            Some(dir) => TempDir::with_prefix_in("hotbackup-", dir).expect("a scratch directory"),
            None => scratch(),
        };
        let dir = scratch.path().join("data");
        fs::create_dir(&dir).expect("a data directory");
        // The replays work on the same file system: not all can do the same.
        let replays = (0..THREADS).map(|thread| Replay::start(seed, thread, scratch.path())).collect();
        let live = Live::start(seed, THREADS, pause_us, eventfd, &dir);
        let dest = scratch.path().join("backup");
        Self { live, replays, dir, dest, _scratch: scratch }
    }

    /// Says what is wrong with the backup, if anything.
    fn judge(&mut self) -> Result<(), String> {
        verify(&self.dest);
        let backup = Snapshot::of(&self.dest);
        self.replay(&self.dest.clone());
        let log = replay::log(&self.dest.join("shared/log"));
        // In the log all threads' appends lie in one order: it must have been cut at one place.
        if !replay::log(&self.dir.join("shared/log")).starts_with(&log) {
            return Err("the log in the backup is not how the log began".into());
        }
        for (thread, replay) in self.replays.iter_mut().enumerate() {
            let wanted = of_thread(thread);
            let found = backup.clone().of_calls(&wanted);
            let logged: Vec<_> = log.iter().copied().filter(|(of, _)| *of == thread as u64).collect();
            let differences = |dir: &Path| {
                let mut all = Snapshot::of(dir).of_calls(&wanted).differences(&found);
                let replayed = replay::log(&dir.join("shared/log"));
                if replayed != logged {
                    let (last, right) = (logged.last(), replayed.last());
                    all.push(format!(
                        "it has logged {} records up to {last:?}, not {} up to {right:?}",
                        logged.len(),
                        replayed.len()
                    ));
                }
                all
            };
            let whole = differences(&replay.dir);
            if whole.is_empty() {
                continue;
            }
            replay.half();
            let half = differences(&replay.dir);
            if !half.is_empty() {
                return Err(format!(
                    "thread {thread} had counted {} steps; the backup is not what they lead to:\n{}\nnor what the next \
                     one's call makes of that:\n{}",
                    replay::steps(&self.dest, thread),
                    whole.join("\n"),
                    half.join("\n")
                ));
            }
        }
        Ok(())
    }

    /// Has every thread's calls made again, as far as a tree says.
    fn replay(&mut self, tree: &Path) {
        let steps: Vec<u64> = (0..THREADS).map(|thread| replay::steps(tree, thread)).collect();
        for (replay, &steps) in self.replays.iter_mut().zip(&steps) {
            replay.begin(steps);
        }
        for (replay, steps) in self.replays.iter_mut().zip(steps) {
            replay.wait(steps);
        }
    }

    /// The model itself must be right: the guest's own tree, at rest, is what the replays make.
    fn check_the_model(&mut self) {
        let live = Snapshot::of(&self.dir);
        self.replay(&self.dir.clone());
        for (thread, replay) in self.replays.iter().enumerate() {
            let wanted = of_thread(thread);
            let differences = Snapshot::of(&replay.dir).of_calls(&wanted).differences(&live.clone().of_calls(&wanted));
            assert!(differences.is_empty(), "the replay of thread {thread} is wrong:\n{}", differences.join("\n"));
        }
    }
}

/// Which names are a thread's own.
fn of_thread(thread: usize) -> impl Fn(&Path) -> bool {
    let (top, own) = (format!("t{thread}"), format!("shared/t{thread}-"));
    move |name| name.starts_with(&top) || name.to_str().is_some_and(|name| name.starts_with(&own))
}

/// Takes backups of one guest, and judges each.
fn states_that_existed(pause_us: u64, eventfd: bool) {
    let _alone = alone();
    let seed = seed();
    let mut noise = Noise(seed);
    let mut run = Run::new(seed, pause_us, eventfd);
    let backups = number_from("HOTBACKUP_MODEL_BACKUPS", 10);
    let (mut right, mut refused) = (0, 0);
    for number in 0..backups {
        std::thread::sleep(Duration::from_millis(noise.next() % 60));
        let how = noise.how();
        let said = format!("backup {number} of seed {seed}, {how:?}");
        let taken = back_up_as(run.live.pid(), &run.dir, &run.dest, how, |_| {});
        run.live.assert_goes_on();
        run.live.rest(true);
        match taken {
            Ok(report) => {
                if let Err(wrong) = run.judge() {
                    let kept = run.dest.with_file_name("wrong");
                    let _ = fs::rename(&run.dest, &kept);
                    panic!("{said}:\n{wrong}\n{report:?}");
                }
                right += 1;
                fs::remove_dir_all(&run.dest).expect("the backup can be removed");
            }
            // What was not saved was written 8 bytes at a time after the point: found out, and refused.
            Err(failure) if eventfd && matches!(&failure.0, Error::Blind(cause) if cause.contains("8 bytes")) => {
                refused += 1;
            }
            Err(failure) => panic!("{said}: {}", failure.0),
        }
        run.check_the_model();
        run.live.rest(false);
    }
    let calls: u64 = (0..THREADS).map(|thread| replay::steps(&run.dir, thread)).sum();
    println!("{right} backups right, {refused} refused, in {calls} steps of {THREADS} threads");
    assert!(right > 0, "no backup succeeded");
}

#[test]
fn every_backup_is_what_a_whole_number_of_calls_leads_to() {
    states_that_existed(100, false);
}

#[test]
fn so_it_is_when_the_threads_never_pause() {
    states_that_existed(0, false);
}

#[test]
fn so_it_is_when_8_byte_writes_are_not_shown() {
    states_that_existed(100, true);
}
