//! Nights, one after the other, with every step that can go wrong going wrong: what stays, where `latest` leads, and what is told.
#![forbid(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hotbackup_archive::{Check, Hook, Night, Plan, Policy, Retry, Taken, Turn, Work, night, read_mark};
use hotbackup_copier::{Backup, Control, Monitor, Point, Quiesce, Source, Spec, Tuning};
use jiff::tz::TimeZone;
use tempfile::TempDir;

struct Silent;
impl Monitor for Silent {}
impl Quiesce for Silent {
    fn grace(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Takes real backups of a directory that nobody changes, and has what it is told go wrong.
struct Worker {
    source: PathBuf,
    fails: Cell<bool>,
    found: RefCell<Result<Vec<String>, String>>,
}

impl Work for Worker {
    fn take(&self, dest: &Path) -> Result<Taken, (String, String)> {
        if self.fails.get() {
            return Err(("busy".into(), "another hotbackup is at work".into()));
        }
        let source =
            Source { root: File::open(&self.source).expect("there").into(), path: self.source.clone(), name: None };
        let spec = Spec {
            sources: vec![source],
            dest: dest.to_owned(),
            point: Point::Start,
            exclude: Vec::new(),
            tuning: Tuning::default(),
            pid: 1,
            root: None,
        };
        let backup = Backup::<()>::prepare(spec).expect("prepared");
        let report = backup.run(&Silent, &Silent, &Control::new(None)).expect("taken");
        Ok(Taken { bytes: report.bytes_total, hold_us: report.hold_us, ..Taken::default() })
    }

    fn check(&self, _: &Path, _: Check) -> Result<Vec<String>, String> {
        self.found.borrow().clone()
    }
}

struct House {
    worker: Worker,
    plan: Plan,
    scratch: TempDir,
}

impl House {
    fn new(keep: Policy) -> Self {
        let scratch = tempfile::tempdir().expect("made");
        let (source, shelf) = (scratch.path().join("source"), scratch.path().join("shelf"));
        fs::create_dir(&source).and_then(|()| fs::create_dir(&shelf)).expect("made");
        fs::write(source.join("file"), "content").expect("written");
        let worker = Worker { source, fails: Cell::new(false), found: RefCell::new(Ok(Vec::new())) };
        let plan = Plan {
            shelf,
            keep,
            zone: TimeZone::UTC,
            before: None,
            after: None,
            check: Check::Content,
            retry: Retry::default(),
        };
        Self { worker, plan, scratch }
    }

    /// A night in a second of its own: that is what names tell apart.
    fn night(&self) -> Night {
        let second =
            || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let before = second();
        while second() == before {
            std::thread::yield_now();
        }
        self.turn(&Turn::default())
    }

    fn turn(&self, turn: &Turn) -> Night {
        night(&self.plan, &self.worker, turn)
    }

    fn latest(&self) -> Option<PathBuf> {
        fs::read_link(self.plan.shelf.join("latest")).ok().map(|name| self.plan.shelf.join(name))
    }

    fn backups(&self) -> usize {
        let all = fs::read_dir(&self.plan.shelf).expect("there").flatten();
        all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).count()
    }
}

fn hook(script: &str) -> Option<Hook> {
    Some(Hook { command: ["sh", "-c", script].map(str::to_owned).into(), timeout: Duration::from_secs(60) })
}

#[test]
fn each_good_night_is_the_latest_and_the_oldest_goes() {
    let house = House::new(Policy { last: 2, ..Policy::default() });
    let nights: Vec<Night> = (0..4).map(|_| house.night()).collect();
    assert!(nights.iter().all(|night| night.good && night.warnings.is_empty()), "{nights:#?}");
    assert_eq!(house.latest().as_ref(), Some(&nights[3].dest));
    assert_eq!(house.backups(), 2);
    assert_eq!(nights[3].taken.map(|taken| taken.bytes), Some(7));
    assert_eq!(nights[3].removed, [nights[1].dest.clone()]);
    assert!(read_mark(&nights[3].dest).is_some_and(|mark| mark.good && !mark.server_tried));
}

#[test]
fn a_night_without_a_backup_removes_nothing_and_leaves_latest_as_it_is() {
    let house = House::new(Policy { last: 1, ..Policy::default() });
    let good = house.night();
    house.worker.fails.set(true);
    let bad = house.night();
    assert_eq!((bad.good, bad.cause.as_deref()), (false, Some("busy")));
    assert_eq!((house.latest(), house.backups()), (Some(good.dest), 1));
}

#[test]
fn a_backup_that_is_found_bad_is_kept_marked_and_never_latest() {
    let house = House::new(Policy { last: 1, ..Policy::default() });
    let good = house.night();
    *house.worker.found.borrow_mut() = Ok(vec!["file has other content".into()]);
    let bad = house.night();
    assert_eq!(bad.cause.as_deref(), Some("verify_failed"));
    assert!(bad.message.is_some_and(|words| words.contains("file has other content")));
    assert!(read_mark(&bad.dest).is_some_and(|mark| !mark.good && mark.problems == ["file has other content"]));
    assert_eq!((house.latest(), house.backups()), (Some(good.dest), 2));
    *house.worker.found.borrow_mut() = Ok(Vec::new());
    let next = house.night();
    assert_eq!((house.latest(), house.backups()), (Some(next.dest), 1), "with a newer good one both older ones go");
}

#[test]
fn a_backup_that_cannot_be_checked_is_not_latest() {
    let house = House::new(Policy::default());
    *house.worker.found.borrow_mut() = Err("no mongod here".into());
    let night = house.night();
    assert_eq!((night.good, night.cause.as_deref()), (false, Some("check_failed")));
    assert_eq!((house.latest(), house.backups()), (None, 1));
}

#[test]
fn a_before_hook_that_fails_means_no_backup() {
    let mut house = House::new(Policy::default());
    house.plan.before = hook("exit 3");
    let night = house.night();
    assert_eq!((night.cause.as_deref(), house.backups()), (Some("hook_failed"), 0));
    assert!(night.message.is_some_and(|words| words.contains("no backup was taken")));
}

#[test]
fn the_after_hook_is_told_how_it_ended_whatever_happened() {
    let mut house = House::new(Policy::default());
    let told = house.scratch.path().join("told");
    house.plan.after =
        hook(&format!("echo \"$HOTBACKUP_OUTCOME $HOTBACKUP_DEST $HOTBACKUP_MESSAGE\" >> {}", told.display()));
    let good = house.night();
    house.worker.fails.set(true);
    let bad = house.night();
    let expected =
        format!("success {} \nfailure {} another hotbackup is at work\n", good.dest.display(), bad.dest.display());
    assert_eq!(fs::read_to_string(&told).expect("written"), expected);
    house.worker.fails.set(false);
    house.plan.after = hook("exit 1");
    let night = house.night();
    assert!(night.good && night.warnings.len() == 1, "the backup is good all the same: {night:#?}");
}

#[test]
fn what_broken_off_ones_left_goes_before_the_next_is_taken() {
    let house = House::new(Policy::default());
    let left = house.plan.shelf.join(".2026-11-01T000000Z.hotbackup-partial-1");
    fs::create_dir_all(left.join(".hotbackup/data")).expect("made");
    house.worker.fails.set(true);
    house.night();
    assert!(!left.exists());
}

#[test]
fn one_that_was_left_unfinished_is_gone_on_with_under_its_own_name() {
    let mut house = House::new(Policy::default());
    house.plan.before = hook("exit 3");
    let begun = "2026-11-29T021500Z";
    house.worker.take(&house.plan.shelf.join(begun)).expect("taken");
    fs::remove_dir_all(house.plan.shelf.join(begun)).expect("removed");
    let night = house.turn(&Turn { resumed: hotbackup_archive::at(begun.as_ref()), ..Turn::default() });
    assert!(night.good && night.dest.ends_with(begun), "{night:#?}");
    assert_eq!(house.latest(), Some(night.dest));
}

#[test]
fn a_night_that_failed_says_when_it_is_tried_again_and_the_after_hook_is_told() {
    let mut house = House::new(Policy::default());
    let told = house.scratch.path().join("told");
    house.plan.after = hook(&format!("echo \"$HOTBACKUP_OUTCOME $HOTBACKUP_RETRY\" >> {}", told.display()));
    house.plan.retry = Retry { times: 1, after: Duration::from_secs(600) };
    house.worker.fails.set(true);
    let first = house.night();
    let at = first.retry.expect("it is tried again");
    assert!((590..=610).contains(&(at.as_second() - first.ended.as_second())), "{first:#?}");
    let turn = first.next_turn(None);
    assert_eq!((turn.attempt, turn.resumed), (2, None), "from the beginning");
    let second = house.turn(&turn);
    assert_eq!((second.attempt, second.retry), (2, None), "once, and no more");
    house.worker.fails.set(false);
    let third = house.night();
    assert!(third.good && third.retry.is_none());
    assert_eq!(fs::read_to_string(&told).expect("written"), format!("failure {at}\nfailure \nsuccess \n"));
}

#[test]
fn a_backup_that_could_not_be_checked_is_checked_again_and_not_taken_again() {
    let mut house = House::new(Policy::default());
    house.plan.retry = Retry { times: 1, after: Duration::from_secs(600) };
    *house.worker.found.borrow_mut() = Err("no mongod here".into());
    let first = house.night();
    assert!(first.retry.is_some(), "{first:#?}");
    *house.worker.found.borrow_mut() = Ok(Vec::new());
    // It is there: taking another one under its name would be an error.
    let taken = Cell::new(0);
    let again = night(&house.plan, &Again { worker: &house.worker, asked: &taken }, &first.next_turn(None));
    assert!(again.good && again.dest == first.dest && again.attempt == 2, "{again:#?}");
    assert_eq!((taken.get(), house.backups(), house.latest()), (1, 1, Some(first.dest)));
}

/// What a service does with a backup that it has: nothing.
struct Again<'a> {
    worker: &'a Worker,
    asked: &'a Cell<u32>,
}

impl Work for Again<'_> {
    fn take(&self, dest: &Path) -> Result<Taken, (String, String)> {
        self.asked.set(self.asked.get() + 1);
        assert!(dest.join(".hotbackup/manifest.json").exists(), "it is the one that is there");
        Ok(Taken::default())
    }

    fn check(&self, backup: &Path, how: Check) -> Result<Vec<String>, String> {
        self.worker.check(backup, how)
    }
}
