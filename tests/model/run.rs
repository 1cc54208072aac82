//! One run: a guest, backups of it at random moments with random settings, and the replays that judge them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hotbackup_copier::{Error, Point, Tuning};

use crate::common::backup::verify;
use crate::common::moment::{How, back_up_as};
use crate::common::random::Random;
use crate::common::snapshot::Snapshot;
use crate::disks::{Disk, Ground};
use crate::order::{Cut, Next, in_order};
use crate::replay::{self, Live, Replay};
use crate::settings::Settings;
use crate::tally::Tally;

/// Something done to a backup before it is judged, to see that the judge finds it.
pub type Damage = fn(&Path);

/// Takes backups of one guest, and judges each. Says what is wrong with the first wrong one.
pub fn run(settings: &Settings, damage: Option<Damage>) -> Result<Tally, String> {
    let mut random = Random::new(settings.seed);
    let mut run = Run::new(settings);
    let mut tally = Tally::default();
    // Where most are refused it may take more to see one that is right.
    let some_are_refused = settings.eventfd || settings.on == Disk::Overlay || has_far(settings);
    let most = if some_are_refused { 10 * settings.backups } else { settings.backups };
    for number in 0..most {
        if number >= settings.backups && tally.right > 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(random.below(60)));
        // The first decides whether there is a region for it; then both ways take turns.
        let how = How { at_sites: settings.sites && number % 4 != 3, ..how(&mut random) };
        let said = format!("backup {number} with {settings}, {how:?}");
        let before = run.live.steps();
        let taken = back_up_as(run.live.pid(), &run.dir, &run.dest, how, |_| {});
        tally.steps_during += run.live.steps() - before;
        run.live.assert_goes_on();
        run.live.rest(true);
        match taken {
            Ok(report) => {
                if let Err(wrong) = run.judge(damage) {
                    let kept = if damage.is_none() { run.keep(settings) } else { String::new() };
                    return Err(format!("{said}{kept}:\n{wrong}\n{report:?}"));
                }
                tally.add(&report);
                fs::remove_dir_all(&run.dest).expect("the backup can be removed");
            }
            Err(failure) if may_be_refused(settings, &failure.0) => tally.refused += 1,
            Err(failure) if machine_was_busy(&failure.0) => {
                println!("{said}: {}", failure.0);
                tally.given_up += 1;
            }
            Err(failure) => return Err(format!("{said}: {}", failure.0)),
        }
        run.check_the_model();
        run.live.rest(false);
    }
    // A machine that is busy all the time proves nothing, and nor does a backup that is always given up.
    if tally.given_up > settings.backups.div_ceil(4) {
        return Err(format!("{} of {} backups were given up", tally.given_up, settings.backups));
    }
    tally.steps = run.live.steps();
    Ok(tally)
}

/// Whether files reach beyond 4 GiB, by holes.
fn has_far(settings: &Settings) -> bool {
    !settings.without.contains("far")
}

fn may_be_refused(settings: &Settings, error: &Error) -> bool {
    match error {
        // What was not saved was written 8 bytes at a time after the point: found out.
        Error::Blind(cause) if cause.contains("8 bytes") => settings.eventfd,
        // One call may cut off more holes than can be looked at while it may wait, without optimisation.
        Error::Blind(cause) => has_far(settings) && cause.contains("took longer than a second"),
        Error::BeforeImageSlow { .. } => has_far(settings),
        // Opening a file of the lower layer to write makes another file of it, which no call shows: found out.
        Error::ForeignChange { .. } => settings.on == Disk::Overlay,
        // A child that was forked in the instant before the filter carries none, and is found out.
        Error::Untraceable { cause, .. } => cause.contains("is not followed"),
        _ => false,
    }
}

/// Our own threads were kept from the processor for so long that the target was let go instead.
fn machine_was_busy(error: &Error) -> bool {
    match error {
        Error::HoldTooLong { .. } => true,
        Error::Blind(cause) => ["had waited for", "did not answer in time"].iter().any(|said| cause.contains(said)),
        _ => false,
    }
}

/// Random settings.
fn how(random: &mut Random) -> How {
    let tuning = Tuning {
        hold_below: random.one_of(&[0, 64 << 10, 1 << 20, 8 << 20]),
        max_passes: random.one_of(&[1, 2, 8]),
        // None: the first hold is given up, and what it had begun to look at is left to a sync.
        hold_budget: random.one_of(&[Duration::ZERO, Duration::from_millis(4), Duration::from_millis(20)]),
        before_image_threads: random.one_of(&[1, 2, 4]),
        max_entry_marks: random.one_of(&[2, 50, 16 << 10]),
        sync_each_below: random.one_of(&[0, 1000]),
        ..Tuning::default()
    };
    let rate = random.one_of(&[None, None, Some(30 << 20), Some(100 << 20)]);
    How { point: random.one_of(&[Point::End, Point::Start]), tuning, rate, at_sites: false }
}

/// The run of one guest.
struct Run {
    live: Live,
    replays: Vec<Replay>,
    /// The source.
    dir: PathBuf,
    dest: PathBuf,
    ground: Ground,
}

impl Run {
    fn new(settings: &Settings) -> Self {
        let ground = Ground::new(settings);
        let replays = (0..settings.threads).map(|thread| {
            let dir = ground.at.join(format!("replay{thread}"));
            Replay::start(settings, thread, &dir)
        });
        let replays = replays.collect();
        let dir = ground.at.join("data");
        fs::create_dir_all(&dir).expect("a data directory");
        let live = Live::start(settings, &dir);
        let dest = ground.at.join("backup");
        Self { live, replays, dir, dest, ground }
    }

    /// Says what is wrong with the backup, if anything.
    fn judge(&mut self, damage: Option<Damage>) -> Result<Vec<Cut>, String> {
        verify(&self.dest);
        if let Some(damage) = damage {
            damage(&self.dest);
        }
        let log = replay::log(&self.dest.join("shared/log"));
        // In the log all threads' appends lie in one order: it must have been cut at one place.
        if !replay::log(&self.dir.join("shared/log")).starts_with(&log) {
            return Err("the log in the backup is not how the log began".into());
        }
        let backup = Snapshot::of(&self.dest);
        let parts: Vec<Part> = (0..self.replays.len()).map(|thread| Part::of(&backup, &log, thread)).collect();
        let steps = self.replay(&self.dest.clone());
        let whole: Vec<_> =
            parts.iter().zip(&self.replays).map(|(part, replay)| part.differences(&replay.dir)).collect();
        for replay in &mut self.replays {
            replay.begin_half();
        }
        let mut cuts = Vec::new();
        for (thread, whole) in whole.iter().enumerate() {
            let step = steps[thread];
            self.replays[thread].wait(step);
            let half = parts[thread].differences(&self.replays[thread].dir);
            let next = match (whole.is_empty(), half.is_empty()) {
                (true, true) => Next::Unseen,
                (true, false) => Next::Missing,
                (false, true) => Next::Held,
                (false, false) => {
                    let returned = self.returned_otherwise(thread, step);
                    return Err(format!(
                        "{returned}thread {thread} had counted {step} steps; the backup is not what they lead to:\n{}\nnor what \
                         the next one's call makes of that:\n{}",
                        whole.join("\n"),
                        half.join("\n")
                    ));
                }
            };
            cuts.push(Cut::new(&self.live.times, thread, step, next));
        }
        in_order(&cuts).map(|()| cuts)
    }

    /// Has every thread's calls made again, as far as a tree says.
    fn replay(&mut self, tree: &Path) -> Vec<u64> {
        let steps: Vec<u64> = (0..self.replays.len()).map(|thread| replay::steps(tree, thread)).collect();
        for (replay, &steps) in self.replays.iter_mut().zip(&steps) {
            replay.begin(steps);
        }
        for (replay, &steps) in self.replays.iter_mut().zip(&steps) {
            replay.wait(steps);
        }
        steps
    }

    /// The model itself must be right: the guest's own tree, at rest, is what the replays make.
    fn check_the_model(&mut self) {
        self.replay(&self.dir.clone());
        let (live, log) = (Snapshot::of(&self.dir), replay::log(&self.dir.join("shared/log")));
        for (thread, replay) in self.replays.iter().enumerate() {
            let differences = Part::of(&live, &log, thread).differences(&replay.dir);
            let returned = || self.returned_otherwise(thread, replay::steps(&self.dir, thread));
            assert!(
                differences.is_empty(),
                "{}the replay of thread {thread} is wrong:\n{}",
                returned(),
                differences.join("\n")
            );
        }
    }

    /// Which call returned what it did not in the replay: then the file system is not the same to both, or one was
    /// disturbed.
    fn returned_otherwise(&self, thread: usize, last: u64) -> String {
        let found = self.live.times.first_difference(thread, &self.replays[thread].times, last, &replay::kinds());
        found.map_or_else(String::new, |found| format!("thread {thread}, {found}\n"))
    }

    /// Copies everything to the target directory, to be looked at.
    fn keep(&self, settings: &Settings) -> String {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("wrong-{}", settings.seed));
        let _ = fs::remove_dir_all(&kept);
        let mut copy = std::process::Command::new("cp");
        match copy.args(["-a", "--sparse=always"]).args([&self.ground.at, &kept]).status() {
            Ok(status) if status.success() => format!(", kept in {kept:?}"),
            failed => format!(", not kept ({failed:?})"),
        }
    }
}

/// What a tree holds of one thread.
struct Part {
    thread: usize,
    tree: Snapshot,
    logged: Vec<(u64, u64)>,
}

impl Part {
    fn of(tree: &Snapshot, log: &[(u64, u64)], thread: usize) -> Self {
        let logged = log.iter().copied().filter(|(of, _)| *of == thread as u64).collect();
        Self { thread, tree: tree.clone().of_calls(of_thread(thread)), logged }
    }

    /// Where it is not what a replay has made.
    fn differences(&self, dir: &Path) -> Vec<String> {
        let mut all = Snapshot::of(dir).of_calls(of_thread(self.thread)).differences(&self.tree);
        let replayed = replay::log(&dir.join("shared/log"));
        if replayed != self.logged {
            let (last, right) = (self.logged.last(), replayed.last());
            all.push(format!(
                "it has logged {} records up to {last:?}, not {} up to {right:?}",
                self.logged.len(),
                replayed.len()
            ));
        }
        all
    }
}

/// Which names are a thread's own.
fn of_thread(thread: usize) -> impl Fn(&Path) -> bool {
    let (top, own) = (format!("t{thread}"), format!("shared/t{thread}-"));
    move |name| name.starts_with(&top) || name.to_str().is_some_and(|name| name.starts_with(&own))
}

#[test]
fn a_backup_put_together_from_two_is_not_cut_at_one_place() {
    let _alone = crate::common::backup::alone();
    let settings = Settings::new(crate::common::backup::seed(), crate::disks::Disk::Here, 2);
    let mut run = Run::new(&settings);
    let mut cuts = [(); 2].map(|()| {
        let how = How { point: Point::End, tuning: Tuning::default(), rate: None, at_sites: settings.sites };
        back_up_as(run.live.pid(), &run.dir, &run.dest, how, |_| {}).expect("a backup");
        run.live.assert_goes_on();
        run.live.rest(true);
        let cuts = run.judge(None).expect("a right backup");
        fs::remove_dir_all(&run.dest).expect("the backup can be removed");
        run.live.rest(false);
        cuts
    });
    let [first, second] = &mut cuts;
    std::mem::swap(&mut first[2], &mut second[2]);
    assert!(in_order(first).is_err() && in_order(second).is_err());
}
