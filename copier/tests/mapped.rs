//! Files with writable shared mappings: what is stored while the target stands still is impossible, what was stored before is
//! in the backup, what is stored after is not; and a hold that came to nothing leaves no trace.
#![forbid(unsafe_code)]
mod common;

use common::{AtPhase, BLOCK, Bench, Quiet, Target, id_of, pattern, until};
use hotbackup_copier::{Control, Error, Phase, Point, Quiesce, Report};
use hotbackup_event::{Effect, FileId};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const BOTH: [Point; 2] = [Point::End, Point::Start];
const SIZE: usize = 5 * BLOCK as usize + 100;

/// A target that stands still when it is asked to, and stores before and after.
struct Stores<'a> {
    target: &'a Target,
    /// What it has mapped at that moment.
    mapped: Vec<FileId>,
    /// Called with the number of the try, when the target goes on. Says whether it had stood still.
    goes_on: &'a (dyn Fn(u32) -> Result<(), String> + Sync),
    tries: AtomicU32,
    /// What was said to be mapped before each hold.
    prepared: Mutex<Vec<Vec<FileId>>>,
}

impl Quiesce for Stores<'_> {
    fn grace(&self) -> Result<(), String> {
        self.target.calls.grace()
    }

    fn prepare_to_freeze(&self, mapped: &dyn Fn() -> Vec<FileId>) -> Result<(), String> {
        assert!(!self.target.capture.is_holding(), "it may take long");
        self.prepared.lock().unwrap().push(mapped());
        Ok(())
    }

    fn while_frozen(&self, _: Duration, _: &[FileId], work: &mut dyn FnMut(&[FileId])) -> Result<(), String> {
        work(&self.mapped);
        (self.goes_on)(self.tries.fetch_add(1, Ordering::SeqCst))
    }
}

struct Case {
    bench: Bench,
    file: PathBuf,
}

impl Case {
    fn new() -> Self {
        let mut bench = Bench::new();
        bench.tuning.mapped_bytes = 1 << 20;
        bench.tuning.hold_lease = Duration::from_millis(200);
        let file = bench.source.join("file");
        fs::write(&file, pattern(1, SIZE)).unwrap();
        fs::write(bench.source.join("other"), pattern(2, SIZE)).unwrap();
        Self { bench, file }
    }

    /// Takes a backup of a target that maps the file at the beginning of a phase, if it maps it.
    fn run(
        &self,
        point: Point,
        is_mapped: bool,
        goes_on: &(dyn Fn(u32, &Target) -> Result<(), String> + Sync),
    ) -> Result<Report, Error> {
        let (backup, target) = self.bench.prepare(point);
        let id = id_of(&self.file);
        let mapped = if is_mapped { vec![id] } else { Vec::new() };
        let goes_on = |number| goes_on(number, &target);
        let stores =
            Stores { target: &target, mapped, goes_on: &goes_on, tries: AtomicU32::new(0), prepared: Mutex::default() };
        let maps = AtPhase::new(|phase| {
            if phase == Phase::Track {
                target.call(|| vec![Effect::Mapped { file: id }], || ());
            }
            if phase == Phase::Hold {
                store(&self.file, BLOCK, b"before");
            }
        });
        let report = backup.run(&stores, &maps, &Control::default());
        let (tries, prepared) = (stores.tries.into_inner(), stores.prepared.into_inner().unwrap());
        assert_eq!(prepared, vec![vec![id]; tries as usize], "others are looked for before each hold");
        report
    }

    fn backed_up(&self) -> Vec<u8> {
        fs::read(self.bench.dest.join("file")).unwrap()
    }
}

/// What no call shows.
fn store(path: &Path, at: u64, what: &[u8]) {
    fs::File::options().write(true).open(path).unwrap().write_all_at(what, at).unwrap();
}

fn with(stores: &[(u64, &[u8])]) -> Vec<u8> {
    let mut content = pattern(1, SIZE);
    for (at, what) in stores {
        content[*at as usize..][..what.len()].copy_from_slice(what);
    }
    content
}

#[test]
fn what_is_stored_before_is_in_and_what_is_stored_after_is_not() {
    for point in BOTH {
        let case = Case::new();
        let modified = Mutex::new(None);
        let report = case.run(point, true, &|_, _| {
            *modified.lock().unwrap() = fs::metadata(&case.file).unwrap().modified().ok();
            store(&case.file, 0, b"after");
            Ok(())
        });
        let report = report.unwrap();
        assert_eq!((report.mapped.files, report.mapped.bytes), (1, SIZE as u64));
        assert!(report.mapped.frozen_us > 0);
        let backed_up = fs::metadata(case.bench.dest.join("file")).unwrap().modified().ok();
        assert_eq!(backed_up, modified.into_inner().unwrap(), "{point:?}: the time is not that of the point in time");
        assert!(case.backed_up() == with(&[(BLOCK, b"before")]), "{point:?}");
    }
}

#[test]
fn a_target_that_went_on_too_early_is_asked_again() {
    for point in BOTH {
        let case = Case::new();
        let report = case.run(point, true, &|number, _| {
            store(&case.file, 2 * BLOCK + u64::from(number) * BLOCK, b"later");
            if number < 2 { Err("it went on".into()) } else { Ok(()) }
        });
        assert_eq!(report.unwrap().hold.abandoned, 2);
        let expected = with(&[(BLOCK, b"before"), (2 * BLOCK, b"later"), (3 * BLOCK, b"later")]);
        assert!(case.backed_up() == expected, "{point:?}: what the first tries read is in the backup");
    }
}

#[test]
fn what_was_read_in_a_hold_that_was_cut_does_not_count() {
    for point in BOTH {
        let case = Case::new();
        let report = case.run(point, true, &|number, target| {
            if number == 0 {
                until("the hold is cut", || {
                    target.capture.tick();
                    !target.capture.is_holding()
                });
                store(&case.file, 2 * BLOCK, b"later");
                target.pwrite(&case.file, 3 * BLOCK, b"call");
            }
            Ok(())
        });
        assert!(report.unwrap().hold.abandoned >= 1);
        let expected = with(&[(BLOCK, b"before"), (2 * BLOCK, b"later"), (3 * BLOCK, b"call")]);
        assert!(case.backed_up() == expected, "{point:?}");
    }
}

#[test]
fn a_file_that_was_mapped_once_is_copied_again_whole() {
    for point in BOTH {
        let case = Case::new();
        let report = case.run(point, false, &|_, _| Ok(())).unwrap();
        assert_eq!((report.mapped.files, report.mapped.bytes), (0, 0));
        assert!(case.backed_up() == with(&[(BLOCK, b"before")]), "{point:?}");
    }
}

#[test]
fn a_target_that_never_stands_still_fails_the_backup_with_the_reason() {
    let mut case = Case::new();
    case.bench.tuning.hold_tries = 3;
    match case.run(Point::End, true, &|_, _| Err("thread 7 runs".into())) {
        Err(error @ Error::NotFrozen { tries: 3, .. }) => {
            assert!(error.to_string().contains("thread 7 runs"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    case.bench.assert_nothing_staged();
}

#[test]
fn more_than_the_limit_fails_the_backup_and_names_the_file() {
    let mut case = Case::new();
    case.bench.tuning.mapped_bytes = SIZE - 1;
    match case.run(Point::End, true, &|_, _| Ok(())) {
        Err(Error::MappedTooLarge { path, limit }) => {
            assert!(path.ends_with("source/file") && limit == SIZE - 1, "{path:?} {limit}");
        }
        other => panic!("{other:?}"),
    }
    case.bench.tuning.mapped_bytes = SIZE;
    case.run(Point::End, true, &|_, _| Ok(())).unwrap();
}

#[test]
fn without_a_limit_a_mapped_file_fails_the_backup() {
    let mut case = Case::new();
    case.bench.tuning.mapped_bytes = 0;
    for point in BOTH {
        match case.run(point, true, &|_, _| panic!("nothing is to stand still")) {
            Err(Error::Untraceable { path, cause }) => {
                assert!(path.ends_with("source/file") && cause.contains("--mapped"), "{path:?} {cause}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_target_that_maps_nothing_is_not_made_to_stand_still() {
    let case = Case::new();
    let (backup, target) = case.bench.prepare(Point::End);
    backup.run(&*target.calls, &Quiet, &Control::default()).unwrap();
    assert!(case.backed_up() == pattern(1, SIZE));
}
