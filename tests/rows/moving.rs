//! Calls that change no name, but where others' paths start. A call by path that is made meanwhile, by another thread that
//! shares the root and the working directory, must be marked where the kernel then makes it: so these are ordered among
//! the calls by path.
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use hotbackup_copier::{Error, Phase, Point, Tuning};

use crate::common::backup::{alone, scratch};
use crate::common::guest::{Guest, Linked};
use crate::common::moment::{How, back_up_as};

/// Made while the target is followed. Without order, some of them are marked in the wrong place.
const MADE: usize = 500;
/// On a busy machine it takes long.
const LIMIT: Duration = Duration::from_secs(60);
/// Backups that are given up because the machine was busy.
const TRIES: u32 = 5;

/// The numbers in both directories, of which none may be there twice.
fn numbers(dir: &Path) -> BTreeSet<u64> {
    let mut all = BTreeSet::new();
    for part in ["a", "b"] {
        for entry in fs::read_dir(dir.join(part)).expect("readable") {
            let name = entry.expect("readable").file_name().into_string().expect("a number");
            assert!(all.insert(name.parse().expect("a number")), "the backup is wrong: {name} is there twice");
        }
    }
    all
}

fn count(dir: &Path) -> usize {
    let of = |part| fs::read_dir(dir.join(part)).expect("readable").count();
    of("a") + of("b")
}

fn moved_by(how: &str) {
    let _alone = alone();
    for _ in 0..TRIES {
        let scratch = scratch();
        let trigger = scratch.path().join("trigger");
        let mut guest = Guest::start_in(
            scratch,
            "moves_about",
            Linked::Dynamically,
            &[how, trigger.to_str().expect("a plain name")],
        );
        let (dir, dest) = (guest.dir.clone(), guest.beside("backup"));
        let wait_for = |more: usize| {
            let (from, began) = (count(&dir), Instant::now());
            while count(&dir) < from + more {
                assert!(began.elapsed() < LIMIT, "the guest makes no files");
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let tuning = Tuning { hold_budget: Duration::from_secs(5), ..Tuning::default() };
        let settings = How { point: Point::End, tuning, rate: None, at_sites: false };
        let result = back_up_as(guest.pid(), &dir, &dest, settings, |phase| match phase {
            Phase::Track => {
                fs::write(&trigger, "").expect("written");
                wait_for(1);
            }
            // All has been looked at once.
            Phase::Hold => wait_for(MADE),
            _ => {}
        });
        guest.assert_alive();
        match result {
            Ok(report) => {
                let kept = numbers(&dest);
                let last = kept.last().copied().unwrap_or(0);
                let lost: Vec<u64> = (1..=last).filter(|number| !kept.contains(number)).collect();
                assert!(lost.is_empty(), "the backup is wrong: of {last}, it lacks {lost:?}\n{report:?}");
                assert!(last >= MADE as u64, "the backup is wrong: it holds {last}");
                return;
            }
            Err(failure) if machine_was_busy(&failure.0) => println!("once more: {}", failure.0),
            Err(failure) => panic!("the backup failed: {}", failure.0),
        }
    }
    panic!("the machine was busy {TRIES} times");
}

fn machine_was_busy(error: &Error) -> bool {
    match error {
        Error::HoldTooLong { .. } => true,
        Error::Blind(cause) => ["had waited for", "did not answer in time"].iter().any(|said| cause.contains(said)),
        _ => false,
    }
}

#[test]
fn chdir() {
    moved_by("chdir");
}

#[test]
fn fchdir() {
    moved_by("fchdir");
}

#[test]
fn chroot() {
    moved_by("chroot");
}
