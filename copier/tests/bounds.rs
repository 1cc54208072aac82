//! Whatever shape a source has, the work is bounded by what is there: holes, depth, names, links, extents.
#![forbid(unsafe_code)]
mod common;

use common::faulty::{Faulty, Kind};
use common::{AtPhase, BLOCK, Bench, Quiet, pattern, source};
use hotbackup_copier::{Backup, Control, Error, Phase, Point, verify};
use rustix::fs::Mode;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The number in an environment variable, or the usual one.
fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).map_or(usual, |text| text.parse().expect("a number"))
}

/// Runs a test in a process of its own, which may have so many MiB of memory at most.
fn within(test: &str, mib: u64, run: impl FnOnce()) {
    const INSIDE: &str = "HOTBACKUP_TEST_INSIDE";
    if std::env::var(INSIDE).is_ok_and(|inside| inside == test) {
        run();
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
        assert!(peak < mib << 10, "{peak} KiB of memory were needed");
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let output = command.args([test, "--exact", "--nocapture"]).env(INSIDE, test).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&said));
}

/// A bench in memory, where files may be as long as files can be.
fn in_memory() -> Bench {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let (source, dest) = (dir.path().join("source"), dir.path().join("dest"));
    fs::create_dir(&source).unwrap();
    Bench { source, dest, dir, ..Bench::new() }
}

fn assert_verified(bench: &Bench) {
    assert_eq!(verify(&bench.dest, &Quiet).unwrap().problems, []);
}

/// Whether one file's bytes are another's at these places.
fn assert_same_at(bench: &Bench, name: &str, places: &[u64]) {
    let [a, b] = [&bench.source, &bench.dest].map(|at| File::open(at.join(name)).unwrap());
    for place in places {
        let [mut x, mut y] = [vec![0; 5000], vec![0; 5000]];
        assert_eq!(a.read_at(&mut x, *place).unwrap(), b.read_at(&mut y, *place).unwrap());
        assert_eq!(x, y, "at {place}");
    }
}

const HUGE: u64 = 4 << 60;

#[test]
fn four_exbibytes_of_hole_are_copied_by_their_data() {
    within("four_exbibytes_of_hole_are_copied_by_their_data", 128, || {
        let places = [0, 70_000, 1 << 40, (3 << 60) + 12345, HUGE - 4000];
        for point in [Point::End, Point::Start] {
            let bench = in_memory();
            let file = File::create(bench.source.join("huge")).unwrap();
            file.set_len(HUGE).unwrap();
            for place in places {
                file.write_all_at(&pattern(place, 4000), place).unwrap();
            }
            // More than 64 bits can count together.
            for number in 0..6 {
                File::create(bench.source.join(format!("empty{number}"))).unwrap().set_len(HUGE).unwrap();
            }
            let report = bench.back_up(point).unwrap();
            assert!(report.bytes_copied < 32 << 20, "{report:?}");
            assert_eq!(fs::metadata(bench.dest.join("huge")).unwrap().len(), HUGE);
            assert_eq!(fs::metadata(bench.dest.join("empty3")).unwrap().blocks(), 0);
            assert_same_at(&bench, "huge", &places);
            assert_verified(&bench);
            // And a change is found.
            File::options().write(true).open(bench.dest.join("huge")).unwrap().write_all_at(b"x", 5 << 50).unwrap();
            let found = verify(&bench.dest, &Quiet).unwrap().problems;
            assert!(found.iter().any(|problem| problem.what.contains("other content")), "{found:?}");
        }
    });
}

#[test]
fn calls_change_four_exbibytes_at_once_at_any_time() {
    within("calls_change_four_exbibytes_at_once_at_any_time", 128, || {
        for at in [Phase::Track, Phase::Hold, Phase::Drain] {
            for point in [Point::End, Point::Start] {
                let bench = in_memory();
                for name in ["cut", "written", "removed"] {
                    let file = File::create(bench.source.join(name)).unwrap();
                    file.set_len(HUGE).unwrap();
                    file.write_all_at(&pattern(7, 4000), 1 << 50).unwrap();
                }
                // Nothing is copied before the point in time but what calls wait for.
                let control = Control::new(Some(if at == Phase::Drain && point == Point::Start { 0 } else { 1 << 40 }));
                let (backup, target) = bench.prepare(point);
                let changing = AtPhase::new(|phase| {
                    if phase == at {
                        target.truncate(&bench.source.join("cut"), 10);
                        target.pwrite(&bench.source.join("written"), 1 << 51, b"new");
                        target.punch(&bench.source.join("written"), 0, 1 << 59);
                        target.unlink(&bench.source.join("removed"));
                        control.set_throttle(None);
                    }
                });
                backup.run(&*target.calls, &changing, &control).unwrap();
                let after = at == Phase::Drain;
                let len = |name: &str| fs::metadata(bench.dest.join(name)).map(|found| found.len()).ok();
                assert_eq!(len("cut"), Some(if after { HUGE } else { 10 }), "{at:?} {point:?}");
                assert_eq!((len("written"), len("removed")), (Some(HUGE), after.then_some(HUGE)));
                let byte = |place| {
                    let mut byte = [0];
                    File::open(bench.dest.join("written")).unwrap().read_exact_at(&mut byte, place).unwrap();
                    byte[0]
                };
                assert_eq!(byte(1 << 51), 0);
                assert_eq!(byte(1 << 50), if after { pattern(7, 1)[0] } else { 0 });
                assert_verified(&bench);
            }
        }
    });
}

#[test]
fn a_hole_is_not_counted_in_the_rate() {
    let bench = Bench::new();
    let file = File::create(bench.source.join("sparse")).unwrap();
    file.set_len(64 << 30).unwrap();
    for place in 0..4 {
        file.write_all_at(&pattern(place, 4096), place << 33).unwrap();
    }
    let control = Control::new(Some(64 << 10));
    let (backup, target) = bench.prepare(Point::End);
    let began = Instant::now();
    // As data it would take 12 days.
    backup.run(&*target.calls, &Quiet, &control).unwrap();
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    assert_same_at(&bench, "sparse", &[0, 1 << 33, 2 << 33, (2 << 33) + 4000, (64 << 30) - 100]);
    assert_verified(&bench);
}

#[test]
fn a_copy_without_holes_has_the_same_hash() {
    let bench = Bench::new();
    let file = File::create(bench.source.join("sparse")).unwrap();
    file.set_len(80 << 20).unwrap();
    file.write_all_at(&pattern(3, 100_000), 1_000_000).unwrap();
    bench.back_up(Point::End).unwrap();
    let manifest = fs::read_to_string(bench.dest.join(".hotbackup/manifest.json")).unwrap();
    assert!(manifest.contains("blake3_pieces") && manifest.contains("\"format_version\":2"), "{manifest}");
    let copy = bench.dest.join("sparse");
    let before = fs::metadata(&copy).unwrap();
    let all = fs::read(&copy).unwrap();
    File::options().write(true).open(&copy).unwrap().write_all_at(&all, 0).unwrap();
    let times = fs::FileTimes::new().set_modified(before.modified().unwrap());
    File::options().write(true).open(&copy).unwrap().set_times(times).unwrap();
    assert!(fs::metadata(&copy).unwrap().blocks() >= (80 << 20) / 512);
    assert_verified(&bench);
}

#[test]
fn a_file_of_many_extents() {
    let extents = number("HOTBACKUP_EXTENTS", 3000);
    within("a_file_of_many_extents", 192, || {
        let bench = Bench::new();
        let file = File::create(bench.source.join("many")).unwrap();
        for extent in 0..extents {
            file.write_all_at(&pattern(extent, 4096), extent * 8192 + 4096).unwrap();
        }
        let report = bench.back_up(Point::End).unwrap();
        assert!(report.bytes_copied <= extents * 4096 + (1 << 16), "{report:?}");
        assert_same_at(&bench, "many", &(0..extents).map(|extent| extent * 8192).collect::<Vec<_>>());
        assert_verified(&bench);
    });
}

/// A chain of directories with a file in the last, deeper than a path can be.
fn chain(top: &Path, depth: u64) {
    let mut at = rustix::fs::open(top, rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..depth {
        rustix::fs::mkdirat(&at, "d", Mode::RWXU).unwrap();
        at = rustix::fs::openat(&at, "d", rustix::fs::OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY;
    let file = rustix::fs::openat(&at, "file", flags, Mode::RUSR).unwrap();
    rustix::io::write(&file, b"deep").unwrap();
}

#[test]
fn a_chain_of_directories_deeper_than_any_stack() {
    let depth = number("HOTBACKUP_DEPTH", 2500);
    let work = move || {
        let mut bench = Bench::new();
        chain(&bench.source, depth);
        // Paths are put together for those.
        bench.exclude = vec!["nothing".into()];
        // What has been put into place is removed again: the manifest cannot be made.
        let io = Arc::new(Faulty::failing(Kind::Create, 1, rustix::io::Errno::IO));
        let (backup, target) = bench.prepare_with(Point::End, &io);
        let error = backup.run(&*target.calls, &Quiet, &Control::default()).unwrap_err();
        assert!(matches!(&error, Error::DestIo { path, .. } if path.ends_with("manifest.json")), "{error}");
        // All its directories are open.
        drop(target);
        bench.assert_nothing_staged();
        let report = bench.back_up(Point::Start).unwrap();
        assert_eq!((report.files, report.directories), (1, depth + 1));
        assert_verified(&bench);
        // Not by a library that may walk it by recursion.
        for path in [&bench.source, &bench.dest] {
            assert!(Command::new("rm").arg("-r").arg(path).status().unwrap().success());
        }
    };
    let thread = std::thread::Builder::new().stack_size(384 << 10).spawn(work).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_directory_of_many_entries() {
    let entries = number("HOTBACKUP_ENTRIES", 4000);
    within("a_directory_of_many_entries", 64 + entries / 500, || {
        let bench = Bench::new();
        for entry in 0..entries {
            drop(File::create(bench.source.join(format!("a name of usual length {entry}"))).unwrap());
        }
        assert_eq!(bench.back_up(Point::End).unwrap().files, entries);
    });
}

#[test]
fn a_farm_of_hard_links() {
    let names = number("HOTBACKUP_NAMES", 30_000);
    let bench = Bench::new();
    fs::write(bench.source.join("0"), pattern(1, 10_000)).unwrap();
    (1..names).for_each(|name| fs::hard_link(bench.source.join("0"), bench.source.join(name.to_string())).unwrap());
    let began = Instant::now();
    assert_eq!(bench.back_up(Point::End).unwrap().files, 1);
    // With a look at each name for each name it takes many minutes.
    assert!(began.elapsed() < Duration::from_secs(100), "{:?}", began.elapsed());
    assert_eq!(fs::metadata(bench.dest.join("7")).unwrap().nlink(), names);
}

#[test]
fn a_file_that_grows_faster_than_it_is_copied() {
    let bench = Bench::new();
    let path = bench.source.join("grows");
    fs::write(&path, pattern(1, BLOCK as usize)).unwrap();
    let control = Control::new(Some(4 << 20));
    let (backup, target) = bench.prepare(Point::End);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                target.append(&path, &pattern(1, BLOCK as usize));
            }
        });
        let drains = AtPhase::new(|phase| {
            if phase == Phase::Drain {
                over.store(true, Ordering::SeqCst);
                control.set_throttle(None);
            }
        });
        let result = backup.run(&*target.calls, &drains, &control);
        over.store(true, Ordering::SeqCst);
        result.unwrap();
    });
    let (all, copy) = (fs::read(&path).unwrap(), fs::read(bench.dest.join("grows")).unwrap());
    assert!(copy.len() as u64 >= BLOCK && all.starts_with(&copy));
    assert_verified(&bench);
}

/// Links that lead out of their directory and back in, as many as take longer to look at than a hold may last.
fn links(bench: &Bench, count: usize) {
    fs::create_dir_all(bench.source.join("links")).unwrap();
    fs::create_dir_all(bench.source.join("real/inside")).unwrap();
    fs::write(bench.source.join("real/inside/file"), b"x").unwrap();
    for number in 0..count {
        symlink("../real/inside/file", bench.source.join(format!("links/{number}"))).unwrap();
    }
}

#[test]
fn links_that_lead_out_and_back_in_do_not_lengthen_the_hold() {
    let bench = Bench::new();
    links(&bench, 8000);
    let file = bench.source.join("real/changes");
    fs::write(&file, b"").unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let changing = AtPhase::new(|phase| {
        if phase == Phase::Hold {
            // As a database does it.
            let new = bench.source.join("real/changes.new");
            target.create(&new);
            target.append(&new, b"new");
            target.rename(&new, &file);
        }
    });
    let report = backup.run(&*target.calls, &changing, &Control::default()).unwrap();
    assert_eq!(fs::read(bench.dest.join("real/changes")).unwrap(), b"new");
    assert_eq!(fs::read_link(bench.dest.join("links/7999")).unwrap(), Path::new("../real/inside/file"));
    println!("{:?}", report.hold);
}

/// What a link leads to outside of the source is what it leads to at the point in time, whatever on its way was moved.
#[test]
fn what_moves_on_the_way_of_a_link_before_the_hold_is_seen_in_it() {
    for moved in ["out/b", "out/via", "out/b/file"] {
        let bench = Bench::new();
        let outside = bench.dir.path().join("out");
        let at = |name: &str| bench.dir.path().join(name);
        for (dir, text) in [("b", "old"), ("c", "new")] {
            fs::create_dir_all(outside.join(dir)).unwrap();
            fs::write(outside.join(dir).join("file"), text).unwrap();
        }
        symlink("b", outside.join("via")).unwrap();
        symlink("../out/via/file", bench.source.join("link")).unwrap();
        symlink("c", at("out/via.new")).unwrap();
        let (backup, target) = bench.prepare(Point::End);
        let changing = AtPhase::new(|phase| {
            if phase == Phase::Hold {
                match moved {
                    "out/b" => {
                        target.rename(&at("out/b"), &at("out/gone"));
                        target.rename(&at("out/c"), &at("out/b"));
                    }
                    "out/via" => target.rename(&at("out/via.new"), &at("out/via")),
                    _ => target.rename(&at("out/c/file"), &at("out/b/file")),
                }
            }
        });
        backup.run(&*target.calls, &changing, &Control::default()).unwrap();
        assert_eq!(fs::read(bench.dest.join("link")).unwrap(), b"new", "{moved}");
    }
}

/// Links that lead to directories with links that lead to directories: 2^40 copies of the last.
#[test]
fn links_that_multiply_what_they_lead_to_are_refused_before_anything_is_copied() {
    let bench = Bench::new();
    let at = |level: usize| bench.dir.path().join(format!("level{level}"));
    for level in 0..40 {
        fs::create_dir(at(level)).unwrap();
        for name in ["a", "b"] {
            symlink(at(level + 1), at(level).join(name)).unwrap();
        }
    }
    fs::create_dir(at(40)).unwrap();
    symlink(at(0), bench.source.join("link")).unwrap();
    let (backup, target) = bench.prepare(Point::End);
    let error = backup.run(&*target.calls, &Quiet, &Control::default()).unwrap_err();
    assert!(matches!(error, Error::DestTooSmall { needed, .. } if needed > 1 << 50), "{error}");
    bench.assert_nothing_staged();
}

#[test]
fn what_the_kernel_shows_of_itself_is_no_source() {
    let mut bench = Bench::new();
    bench.source = "/proc/self".into();
    let mut spec = bench.spec(Point::End);
    spec.sources = vec![source(Path::new("/sys/kernel"), None)];
    for spec in [bench.spec(Point::End), spec] {
        let error = Backup::<common::Permit>::prepare(spec).expect_err("refused");
        let words = error.to_string();
        assert!(matches!(error, Error::SourceUnreadable { .. }) && words.contains("holds no data"), "{words}");
    }
}
