//! Several threads write to the same files, through descriptors that stay open, while others rename, link and replace those
//! files. For each thread the backup holds all records up to one, and that one fits the point in time.
#![forbid(unsafe_code)]
mod common;

use common::random::{Random, seeds};
use common::{Bench, Quiet, Target, entry, id_of};
use hotbackup_copier::{Control, Point, Report};
use hotbackup_event::{Effect, FileId};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Files, and the slots in each: a thread has one slot in every file, in blocks that it shares with others.
const FILES: u64 = 4;
const THREADS: u64 = 3;
const SLOTS: u64 = 7;

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64
}

/// Where record `n` of a thread goes: the file and the offset in it.
fn slot(thread: u64, n: u64) -> (usize, u64) {
    let turn = n / FILES;
    ((n % FILES) as usize, 64 + (turn % SLOTS) * 40_000 + thread * 64)
}

/// A thread's records: when each was let go at the earliest, and when it was written.
fn write_records(target: &Target, thread: u64, files: &[(File, FileId)], stop: &AtomicBool) -> Vec<(u64, u64)> {
    let mut times = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let n = times.len() as u64;
        let (file, start) = slot(thread, n);
        let (file, id) = &files[file];
        let before = now();
        target.call(
            || vec![Effect::Content { file: *id, start, end: start + 8 }],
            || file.write_all_at(&(n + 1).to_le_bytes(), start).unwrap(),
        );
        times.push((before, now()));
    }
    times
}

/// Moves the files around. At the end of each turn all of them have a name.
fn shuffle(target: &Target, root: &Path, seed: u64, stop: &AtomicBool) {
    let mut random = Random::new(seed);
    let path = |number: u64| root.join(format!("dir{}/file{number}", number % 2));
    while !stop.load(Ordering::Relaxed) {
        let (a, b) = (random.below(FILES), random.below(FILES));
        match random.below(5) {
            _ if a == b => target.chmod(&path(a), 0o600 | random.below(64) as u32),
            0 => {
                let spare = root.join("spare");
                target.rename(&path(a), &spare);
                target.rename(&path(b), &path(a));
                target.rename(&spare, &path(b));
            }
            1 => {
                target.link(&path(a), &root.join("linked"));
                target.unlink(&path(a));
                target.rename(&root.join("linked"), &path(a));
            }
            2 => {
                let (old, new) = (root.join("dir0"), root.join("dirx"));
                target.rename(&old, &new);
                target.mkdir(&old);
                target.create(&new.join("junk"));
                target.rename(&new.join("file0"), &path(0));
                target.rename(&new.join("file2"), &path(2));
                target.unlink(&new.join("junk"));
                target.rmdir(&new);
            }
            3 => {
                // In place of another, in one step.
                target.call(
                    || vec![entry(path(a)), entry(path(b))],
                    || {
                        use rustix::fs::{CWD, RenameFlags, renameat_with};
                        renameat_with(CWD, path(a), CWD, path(b), RenameFlags::EXCHANGE).unwrap();
                    },
                );
            }
            _ => target.append(&path(a), &[7; 100]),
        }
    }
}

/// The files of the backup, by the number that each begins with.
fn files_of(root: &Path, found: &mut Vec<Option<Vec<u8>>>) {
    for entry in std::fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files_of(&entry.path(), found);
        } else if entry.file_name() != "manifest.json" && entry.file_name() != "junk" {
            let data = std::fs::read(entry.path()).unwrap();
            let number = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
            found[number] = Some(data);
        }
    }
}

fn check(seed: u64, report: &Report, logs: &[Vec<(u64, u64)>]) {
    let mut found = vec![None; FILES as usize];
    files_of(&report.dest, &mut found);
    // At no moment was a file without a name.
    let found: Vec<Vec<u8>> = found.into_iter().map(|data| data.expect("a file is missing")).collect();
    for (thread, times) in logs.iter().enumerate() {
        let held = |(file, start): (usize, u64)| {
            let bytes = found[file].get(start as usize..start as usize + 8);
            bytes.map_or(0, |bytes| u64::from_le_bytes(bytes.try_into().unwrap()))
        };
        // Each slot holds the last of its records up to the one in question.
        let cycle = FILES * SLOTS;
        let all: Vec<u64> = (0..cycle).map(|n| held(slot(thread as u64, n))).collect();
        let last_in = |n: u64, upto: u64| if upto > n { (upto - 1 - n) / cycle * cycle + n + 1 } else { 0 };
        let fits = |upto: u64| (0..cycle).all(|n| all[n as usize] == last_in(n, upto));
        let finished = times.iter().filter(|(_, after)| *after < report.point_in_time_ns).count() as u64;
        let begun = times.iter().filter(|(before, _)| *before <= report.point_in_time_ns).count() as u64;
        assert!(
            (finished..=begun).any(fits),
            "seed {seed}: thread {thread} holds up to {:?}, should be {finished} to {begun}: {all:?}",
            all.iter().max()
        );
    }
}

fn run(seed: u64, point: Point) {
    let mut bench = Bench::new();
    let mut random = Random::new(seed);
    bench.tuning.hold_below = random.below(2) << 18;
    bench.tuning.max_passes = 1 + random.below(5) as u32;
    bench.tuning.max_entry_marks = [2, 1000][random.below(2) as usize];
    if random.below(4) == 0 {
        // So little that holds are given up.
        bench.tuning.hold_budget = std::time::Duration::from_nanos(1);
    }
    for dir in ["dir0", "dir1"] {
        std::fs::create_dir(bench.source.join(dir)).unwrap();
    }
    let files: Vec<(File, FileId)> = (0..FILES)
        .map(|number| {
            let path = bench.source.join(format!("dir{}/file{number}", number % 2));
            // As long as all slots, so that appends come after them.
            let mut content = vec![0; 64 + SLOTS as usize * 40_000];
            content[..8].copy_from_slice(&number.to_le_bytes());
            std::fs::write(&path, content).unwrap();
            (File::options().write(true).open(&path).unwrap(), id_of(&path))
        })
        .collect();
    let (backup, target) = bench.prepare(point);
    let (stop, ready) = (AtomicBool::new(false), Barrier::new(THREADS as usize + 1));
    let control = Control::new([None, Some(8 << 20)][random.below(2) as usize]);
    let (report, logs) = std::thread::scope(|scope| {
        let (target, files, stop, ready, source) = (&target, &files, &stop, &ready, &bench.source);
        let writers: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || {
                    ready.wait();
                    write_records(target, thread, files, stop)
                })
            })
            .collect();
        scope.spawn(move || shuffle(target, source, seed, stop));
        ready.wait();
        let report = backup.run(&*target.calls, &Quiet, &control);
        stop.store(true, Ordering::Relaxed);
        (report, writers.into_iter().map(|writer| writer.join().unwrap()).collect::<Vec<_>>())
    });
    let report = report.unwrap_or_else(|error| panic!("seed {seed} {point:?}: {error}"));
    check(seed, &report, &logs);
}

#[test]
fn every_record_up_to_one_is_in_a_backup_of_the_end() {
    seeds(40).for_each(|seed| run(seed, Point::End));
}

#[test]
fn every_record_up_to_one_is_in_a_backup_of_the_start() {
    seeds(40).for_each(|seed| run(seed, Point::Start));
}
