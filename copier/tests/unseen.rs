//! A change that no call of the target explains fails the backup, and names what was changed.
#![forbid(unsafe_code)]
mod common;

use common::{AtPhase, Bench, Target, id_of, pattern};
use hotbackup_copier::{Control, Error, Phase, Point, Report};
use hotbackup_event::Effect;
use std::fs;
use std::io::Write;
use std::path::Path;

/// Takes a backup during which `change` happens at the beginning of a phase.
fn with(point: Point, at: Phase, change: impl Fn(&Target, &Path) + Sync) -> (Result<Report, Error>, Bench) {
    let bench = Bench::new();
    fs::create_dir(bench.source.join("dir")).unwrap();
    for name in ["a", "b", "dir/c"] {
        fs::write(bench.source.join(name), pattern(1, 100_000)).unwrap();
    }
    // The clock that change times are taken from must move on before anything is changed.
    let tick = bench.dir.path().join("tick");
    let start = fs::metadata(bench.source.join("b")).unwrap().modified().unwrap();
    common::until("the clock of the file system moves on", || {
        fs::write(&tick, b"x").unwrap();
        fs::metadata(&tick).unwrap().modified().unwrap() > start
    });
    let (backup, target) = bench.prepare(point);
    let changing = AtPhase::new(|phase| {
        if phase == at {
            change(&target, &bench.source);
        }
    });
    let result = backup.run(&*target.calls, &changing, &Control::default());
    (result, bench)
}

fn append_unseen(path: &Path) {
    fs::File::options().append(true).open(path).unwrap().write_all(b"unseen").unwrap();
}

const BOTH: [Point; 2] = [Point::End, Point::Start];

#[test]
fn another_process_writes_to_a_file() {
    for point in BOTH {
        for at in [Phase::Hold, Phase::Drain] {
            let (result, bench) = with(point, at, |_, root| append_unseen(&root.join("dir/c")));
            match result {
                Err(error @ Error::ForeignChange { .. }) => {
                    let text = error.to_string();
                    assert!(text.contains("dir/c") && text.contains(&std::process::id().to_string()), "{text}");
                }
                other => panic!("{point:?} {at:?}: {other:?}"),
            }
            assert!(!bench.dest.exists());
        }
    }
}

#[test]
fn another_process_removes_or_creates_or_renames() {
    let changes: [&(dyn Fn(&Path) + Sync); 4] = [
        &|root| fs::remove_file(root.join("a")).unwrap(),
        &|root| fs::write(root.join("dir/new"), b"x").unwrap(),
        &|root| fs::rename(root.join("a"), root.join("renamed")).unwrap(),
        &|root| fs::rename(root.join("dir"), root.join("renamed")).unwrap(),
    ];
    for (number, change) in changes.iter().enumerate() {
        for point in BOTH {
            for at in [Phase::Hold, Phase::Drain] {
                let (result, _) = with(point, at, |_, root| change(root));
                assert!(matches!(result, Err(Error::ForeignChange { .. })), "{number} {point:?} {at:?}: {result:?}");
            }
        }
    }
}

#[test]
fn what_the_target_does_is_not_taken_for_it() {
    for point in BOTH {
        for at in [Phase::Track, Phase::Hold, Phase::Drain] {
            let (result, _) = with(point, at, |target, root| {
                target.append(&root.join("a"), b"x");
                target.chmod(&root.join("dir/c"), 0o600);
                target.rename(&root.join("b"), &root.join("dir/b"));
                target.rename(&root.join("dir"), &root.join("moved"));
                target.link(&root.join("a"), &root.join("moved/a"));
                target.unlink(&root.join("a"));
                // Outside: only the number of names changes.
                let outside = root.parent().unwrap().join("outside");
                fs::hard_link(root.join("moved/c"), &outside).unwrap();
            });
            result.unwrap_or_else(|error| panic!("{point:?} {at:?}: {error}"));
        }
    }
}

#[test]
fn a_file_that_can_change_unseen_fails_the_backup_wherever_it_becomes_known() {
    for at in [Phase::Track, Phase::Hold] {
        let (result, _) = with(Point::End, at, |target, root| {
            let file = id_of(root.join("a"));
            target.call(|| vec![Effect::Untraceable { file, cause: "a writable shared mapping" }], || ());
        });
        match result {
            Err(error @ Error::Untraceable { .. }) => {
                let text = error.to_string();
                assert!(text.contains("/a ") && text.contains("a writable shared mapping"), "{text}");
            }
            other => panic!("{at:?}: {other:?}"),
        }
    }
}

#[test]
fn a_file_that_can_change_unseen_elsewhere_matters_when_it_comes_in() {
    let outside = |root: &Path| root.parent().unwrap().join("outside");
    let map = |target: &Target, root: &Path| {
        fs::write(outside(root), b"x").unwrap();
        let file = id_of(outside(root));
        target.call(|| vec![Effect::Untraceable { file, cause: "a writable shared mapping" }], || ());
    };
    with(Point::End, Phase::Track, map).0.unwrap();
    let (result, _) = with(Point::End, Phase::Track, |target, root| {
        map(target, root);
        target.rename(&outside(root), &root.join("inside"));
    });
    assert!(matches!(result, Err(Error::Untraceable { .. })), "{result:?}");
}
