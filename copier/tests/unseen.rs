//! A change that no call of the target explains fails the backup, and names what was changed.
#![forbid(unsafe_code)]
mod common;

use common::faulty::Faulty;
use common::{AtPhase, BLOCK, Bench, Target, id_of, pattern};
use hotbackup_copier::{Control, Error, Phase, Point, Quiesce, Report};
use hotbackup_event::{Effect, FileId};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

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

/// A target of which is told, afterwards, what it may have changed unseen.
struct Looks<'a> {
    target: &'a Target,
    /// Before the end of each grace.
    marks: Vec<Effect>,
    /// When everything is saved.
    unexplained: Vec<Effect>,
}

impl Quiesce for Looks<'_> {
    fn grace(&self) -> Result<(), String> {
        self.target.calls.grace()
    }

    fn unseen(&self, after_hold: bool) -> Vec<Effect> {
        if after_hold { self.unexplained.clone() } else { self.marks.clone() }
    }
}

/// A backup of one file of six blocks that is changed just before the point in time. `told` says what is told of it: to be
/// marked, and unexplained.
fn with_looks(
    change: impl Fn(&Target, &Path) + Sync,
    told: impl Fn(FileId) -> (Vec<Effect>, Vec<Effect>),
) -> (Result<Report, Error>, Bench) {
    let bench = Bench::new();
    let file = bench.source.join("file");
    fs::write(&file, pattern(1, 6 * BLOCK as usize)).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            change(&target, &file);
        }
    });
    let (marks, unexplained) = told(id_of(&file));
    let result = backup.run(&Looks { target: &target, marks, unexplained }, &changing, &Control::default());
    assert_eq!(result.is_ok(), bench.dest.exists());
    (result, bench)
}

/// The third block is written to, so that it is the only one saved after the point in time. Then an effect on the file turns
/// out to have come unseen.
fn with_unexplained(effect: impl Fn(FileId) -> Effect) -> Result<Report, Error> {
    with_looks(|target, file| target.pwrite(file, 2 * BLOCK, b"new"), |file| (vec![], vec![effect(file)])).0
}

#[test]
fn what_was_saved_before_the_point_in_time_may_be_written_to_unseen_after_it() {
    for (start, end) in [(0, 2 * BLOCK), (3 * BLOCK, u64::MAX), (6 * BLOCK, 7 * BLOCK)] {
        with_unexplained(|file| Effect::Content { file, start, end }).unwrap();
    }
    with_unexplained(|file| Effect::Append { file, size: 4 * BLOCK }).unwrap();
    with_unexplained(|_| Effect::Content { file: id_of("/"), start: 0, end: u64::MAX }).unwrap();
}

#[test]
fn what_was_saved_after_the_point_in_time_and_written_to_unseen_fails_the_backup_and_is_named() {
    let touching = [(2 * BLOCK, 2 * BLOCK + 8), (0, 2 * BLOCK + 1), (3 * BLOCK - 1, u64::MAX), (0, u64::MAX)];
    for (start, end) in touching {
        match with_unexplained(|file| Effect::Content { file, start, end }) {
            Err(error @ Error::Blind(_)) => assert!(error.to_string().contains("source/file"), "{error}"),
            other => panic!("{start} {end}: {other:?}"),
        }
    }
    match with_unexplained(|file| Effect::Untraceable { file, cause: "a cause" }) {
        Err(Error::Untraceable { path, cause: "a cause" }) => assert!(path.ends_with("file"), "{path:?}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_written_to_unseen_before_the_point_in_time_and_found_is_copied_again() {
    use std::os::unix::fs::FileExt;
    let (result, bench) = with_looks(
        |_, file| {
            fs::File::options().write(true).open(file).unwrap().write_all_at(b"unseen", 4 * BLOCK).unwrap();
        },
        |file| (vec![Effect::Content { file, start: 4 * BLOCK, end: 4 * BLOCK + 6 }], vec![]),
    );
    result.unwrap();
    assert!(fs::read(bench.dest.join("file")).unwrap() == fs::read(bench.source.join("file")).unwrap());
}

/// A backup of one file of eight blocks, of which the third and the fourth are written to in the hold, in a way that is seen,
/// and, before that or after the point in time, changed by `unseen`.
fn with_ordinary_writes(at: Phase, unseen: impl Fn(&Target, &Path) + Sync) -> (Result<Report, Error>, Bench) {
    let bench = Bench::new();
    let file = bench.source.join("file");
    fs::write(&file, pattern(1, 8 * BLOCK as usize - 100)).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let changing = AtPhase::new(|phase| {
        if phase == at {
            unseen(&target, &file);
        }
        if phase == Phase::Hold || phase == at {
            target.pwrite(&file, 3 * BLOCK - 5, b"0123456789");
        }
    });
    let result = backup.run(&*target.calls, &changing, &Control::default());
    (result, bench)
}

fn write_unseen(path: &Path, offset: u64) {
    use std::os::unix::fs::FileExt;
    fs::File::options().write(true).open(path).unwrap().write_all_at(b"unseen", offset).unwrap();
}

#[test]
fn a_block_changed_unseen_in_a_file_that_is_written_to_is_named_with_its_offset() {
    for at in [Phase::Hold, Phase::Drain] {
        for offset in [0, 5 * BLOCK + 17, 8 * BLOCK - 110] {
            match with_ordinary_writes(at, |_, file| write_unseen(file, offset)) {
                (Err(error @ Error::Unexplained { .. }), bench) => {
                    let text = error.to_string();
                    assert!(text.contains("source/file") && text.contains(&format!("offset {offset},")), "{text}");
                    assert!(!bench.dest.exists());
                }
                (other, _) => panic!("{at:?} {offset}: {other:?}"),
            }
        }
    }
}

#[test]
fn an_entry_made_or_removed_unseen_in_a_directory_that_is_changed_by_calls_is_named() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 2] = [
        ("/core", |root| fs::write(root.join("core"), b"dumped").unwrap()),
        ("/a", |root| fs::remove_file(root.join("a")).unwrap()),
    ];
    for (named, change) in changes {
        let (result, _) = with(Point::End, Phase::Hold, |target, root| {
            change(root);
            target.create(&root.join("ordinary"));
            target.create(&root.join("dir/ordinary"));
            // Its status is looked at once more, as that of the directory is.
            if root.join("a").exists() {
                target.chmod(&root.join("a"), 0o600);
            }
        });
        match result {
            Err(error @ Error::ForeignChange { .. }) => {
                assert!(error.to_string().contains(&format!("source{named} ")), "{error}");
            }
            other => panic!("{named}: {other:?}"),
        }
    }
}

/// A source with something of every kind in a directory that calls change all the time, in which `change` is made unseen.
fn replaced(at: Phase, change: impl Fn(&Path) + Sync) -> (Result<Report, Error>, Bench) {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let bench = Bench::new();
    let node =
        |name: &str, kind, mode| mknodat(CWD, bench.source.join(name), kind, Mode::from_raw_mode(mode), 0).unwrap();
    let outside = bench.dir.path().join("outside");
    fs::create_dir(&outside).unwrap();
    for name in ["file", "other"] {
        fs::write(bench.source.join(name), pattern(1, 100)).unwrap();
        fs::write(outside.join(name), pattern(1, 100)).unwrap();
    }
    fs::create_dir(bench.source.join("dir")).unwrap();
    fs::create_dir(bench.dir.path().join("spare")).unwrap();
    std::os::unix::fs::symlink("file", bench.source.join("link")).unwrap();
    std::os::unix::fs::symlink(outside.join("file"), bench.source.join("out")).unwrap();
    node("fifo", FileType::Fifo, 0o600);
    node("socket", FileType::Socket, 0o600);
    let (backup, target) = bench.prepare(Point::End);
    let changing = AtPhase::new(|phase| {
        if phase == at {
            change(&bench.source);
            target.create(&bench.source.join("ordinary"));
        }
    });
    let result = backup.run(&*target.calls, &changing, &Control::default());
    (result, bench)
}

/// Puts what `make` makes in the place of something, at once or after that has been removed.
fn put(root: &Path, name: &str, at_once: bool, make: impl Fn(&Path)) {
    let (there, new) = (root.join(name), root.parent().unwrap().join("new"));
    if at_once {
        make(&new);
        fs::rename(new, there).unwrap();
    } else {
        let is_dir = there.symlink_metadata().unwrap().is_dir();
        if is_dir { fs::remove_dir(&there) } else { fs::remove_file(&there) }.unwrap();
        make(&there);
    }
}

#[test]
fn an_entry_replaced_unseen_in_a_directory_that_is_changed_by_calls_is_named() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    type Make = fn(&Path);
    let symlink = |text: &'static str| move |at: &Path| std::os::unix::fs::symlink(text, at).unwrap();
    let (to_other, to_the_same) = (symlink("other"), symlink("file"));
    let fifo: Make = |at| mknodat(CWD, at, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    let file: Make = |at| fs::write(at, pattern(1, 100)).unwrap();
    type Replace<'a> = (&'a str, &'a (dyn Fn(&Path) + Sync));
    let changes: [Replace<'_>; 9] = [
        ("link", &to_other),
        ("link", &to_the_same), // by another owner, for one
        ("link", &fifo),
        ("out", &to_other),
        ("fifo", &fifo),
        ("socket", &file),
        ("file", &file),
        ("file", &to_other),
        ("dir", &|at| fs::create_dir(at).unwrap()),
    ];
    for (number, (name, make)) in changes.iter().enumerate() {
        // Links that lead out are looked at in the hold in any case.
        let moments = if *name == "out" { &[Phase::Drain][..] } else { &[Phase::Hold, Phase::Drain] };
        for &at in moments {
            for at_once in [true, false] {
                let (result, bench) = replaced(at, |root| put(root, name, at_once, make));
                match result {
                    Err(error @ Error::ForeignChange { .. }) => {
                        assert!(error.to_string().contains(&format!("source/{name} ")), "{number} {at:?}: {error}");
                    }
                    other => panic!("{number} {name} {at:?} {at_once}: {other:?}"),
                }
                assert!(!bench.dest.exists());
            }
        }
    }
}

#[test]
fn what_the_target_puts_in_the_place_of_something_is_not_taken_for_it() {
    for at in [Phase::Hold, Phase::Drain] {
        let (result, bench) = with(Point::End, at, |target, root| {
            std::os::unix::fs::symlink("a", root.parent().unwrap().join("new")).unwrap();
            target.rename(&root.parent().unwrap().join("new"), &root.join("b"));
            target.unlink(&root.join("a"));
            target.create(&root.join("a"));
            target.create(&root.join("ordinary"));
        });
        result.unwrap_or_else(|error| panic!("{at:?}: {error}"));
        assert_eq!(bench.dest.join("b").is_symlink(), at == Phase::Hold);
    }
}

#[test]
fn a_hole_made_unseen_in_a_file_that_is_written_to_fails_the_backup() {
    let punch = |file: &Path| {
        use rustix::fs::FallocateFlags;
        let file = fs::File::options().write(true).open(file).unwrap();
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&file, flags, 6 * BLOCK, BLOCK).unwrap();
    };
    let (result, _) = with_ordinary_writes(Phase::Hold, |_, file| punch(file));
    match result {
        Err(Error::Unexplained { offset, .. }) => assert!((6 * BLOCK..7 * BLOCK).contains(&offset), "{offset}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_the_target_changes_after_the_point_in_time_is_not_taken_for_unseen() {
    type Change = fn(&Target, &Path);
    let changes: [Change; 5] = [
        |target, file| target.pwrite(file, 5 * BLOCK, b"new"),
        |target, file| target.punch(file, 0, 2 * BLOCK),
        |target, file| target.truncate(file, 6 * BLOCK),
        |target, file| target.append(file, &pattern(2, 2 * BLOCK as usize)),
        |target, file| target.create(file),
    ];
    for (number, change) in changes.iter().enumerate() {
        let (result, bench) = with_ordinary_writes(Phase::Drain, change);
        result.unwrap_or_else(|error| panic!("{number}: {error}"));
        let mut expected = pattern(1, 8 * BLOCK as usize - 100);
        expected[3 * BLOCK as usize - 5..][..10].copy_from_slice(b"0123456789");
        assert!(fs::read(bench.dest.join("file")).unwrap() == expected, "{number}");
    }
}

#[test]
fn a_call_that_changes_a_block_while_it_is_read_again_does_not_wait_and_is_not_taken_for_unseen() {
    let bench = Bench::new();
    let file = bench.source.join("file");
    fs::write(&file, pattern(1, BLOCK as usize)).unwrap();
    let io = Arc::new(Faulty::default());
    let (backup, target) = bench.prepare_with(Point::End, &io);
    std::thread::scope(|scope| {
        let changing = AtPhase::new(|phase| match phase {
            // Named, so that its change time proves nothing; none of its blocks is due.
            Phase::Hold => target.chmod(&file, 0o640),
            Phase::Drain => {
                io.reads.shut(true);
                scope.spawn(|| {
                    common::until("the block is read again", || io.reads.has_waiting());
                    target.pwrite(&file, 100, b"new");
                    io.reads.shut(false);
                });
            }
            _ => {}
        });
        backup.run(&*target.calls, &changing, &Control::default()).unwrap();
    });
    assert!(fs::read(bench.dest.join("file")).unwrap() == pattern(1, BLOCK as usize));
    assert!(fs::read(&file).unwrap() != pattern(1, BLOCK as usize));
}
