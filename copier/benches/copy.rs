//! How fast an idle tree is copied, beside `cp -a` in the same run; how long the hold takes with many files; and how much
//! memory that needs. `cargo bench -p hotbackup-copier --bench copy -- [ROUNDS] [large|small|sparse]`
#![forbid(unsafe_code)]

use hotbackup_copier::{Backup, Control, Monitor, Phase, Point, Quiesce, Report, Source, Spec, Tuning};
use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

struct Idle;
impl Quiesce for Idle {
    fn grace(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Notes how long everything up to the publishing took: what `cp` does as well.
struct Quiet(std::sync::Mutex<Option<Instant>>);
impl Monitor for Quiet {
    fn phase(&self, phase: Phase) {
        if phase == Phase::Publish {
            *self.0.lock().unwrap() = Some(Instant::now());
        }
    }
}

fn back_up(source: &Path, dest: &Path, point: Point) -> (Duration, Report) {
    let root = fs::File::open(source).unwrap().into();
    let spec = Spec {
        sources: vec![Source { root, path: source.into(), name: None }],
        dest: dest.into(),
        point,
        exclude: vec![],
        tuning: Tuning::default(),
        pid: 1,
        root: None,
    };
    let start = Instant::now();
    let backup: Backup<()> = Backup::prepare(spec).unwrap();
    let report = backup.run(&Idle, &Quiet(Default::default()), &Control::default()).unwrap();
    (start.elapsed(), report)
}

/// Copies and syncs, as a backup does.
fn cp(source: &Path, dest: &Path) -> Duration {
    let start = Instant::now();
    assert!(Command::new("cp").arg("-a").arg(source).arg(dest).status().unwrap().success());
    assert!(Command::new("sync").arg("-f").arg(dest).status().unwrap().success());
    start.elapsed()
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn settle() {
    assert!(Command::new("sync").status().unwrap().success());
}

fn compare(name: &str, source: &Path, dir: &Path, rounds: usize) {
    let (mut ours, mut theirs, mut holds) = (Vec::new(), Vec::new(), Vec::new());
    let mut phases = String::new();
    for round in 0..rounds {
        let (a, b) = (dir.join("a"), dir.join("b"));
        let mut backup = || {
            settle();
            let (took, report) = back_up(source, &a, if round % 2 == 0 { Point::End } else { Point::Start });
            ours.push(took.as_secs_f64());
            holds.push(report.hold_us as f64);
            phases = report.phases.iter().map(|p| format!(" {:?} {} ms", p.phase, p.duration_us / 1000)).collect();
            fs::remove_dir_all(&a).unwrap();
        };
        let mut plain = || {
            settle();
            theirs.push(cp(source, &b).as_secs_f64());
            fs::remove_dir_all(&b).unwrap();
        };
        if round % 2 == 0 {
            backup();
            plain();
        } else {
            plain();
            backup();
        }
    }
    println!("{name}: backup {ours:.2?} s, cp -a and sync {theirs:.2?} s");
    let (ours, theirs, hold) = (median(ours), median(theirs), median(holds));
    let speed = theirs / ours;
    println!("{name}: {ours:.2} s, cp -a and sync {theirs:.2} s, speed {speed:.2}; hold {hold} us; last:{phases}");
}

/// Memory of this process at its highest, in KiB.
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn main() {
    let rounds = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(5);
    let dir = tempfile::tempdir().unwrap();
    let wanted = |name: &str| std::env::args().all(|arg| !["large", "small", "sparse"].contains(&&*arg) || arg == name);
    let block: Vec<u8> = (0..1 << 20).map(|n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();

    if wanted("large") {
        let large = dir.path().join("large");
        fs::create_dir(&large).unwrap();
        for name in 0..4 {
            let mut file = fs::File::create(large.join(name.to_string())).unwrap();
            (0..256).for_each(|_| file.write_all(&block).unwrap());
        }
        compare("1 GiB in 4 files", &large, dir.path(), rounds);
        println!("peak memory {} KiB", peak_kib());
        fs::remove_dir_all(&large).unwrap();
    }
    if wanted("sparse") {
        let sparse = dir.path().join("sparse");
        fs::create_dir(&sparse).unwrap();
        let file = fs::File::create(sparse.join("file")).unwrap();
        file.set_len(64 << 30).unwrap();
        (0..250).for_each(|place| file.write_all_at(&block, place << 28).unwrap());
        compare("64 GiB with 250 MiB of data", &sparse, dir.path(), rounds);
        println!("peak memory {} KiB", peak_kib());
        fs::remove_dir_all(&sparse).unwrap();
    }
    if wanted("small") {
        let small = dir.path().join("small");
        for sub in 0..100 {
            let sub = small.join(sub.to_string());
            fs::create_dir_all(&sub).unwrap();
            (0..1000).for_each(|name| fs::write(sub.join(name.to_string()), &block[..1000 + name]).unwrap());
        }
        compare("100,000 small files", &small, dir.path(), rounds);
        println!("peak memory {} KiB", peak_kib());
    }
}
