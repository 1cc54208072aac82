//! What is told of the progress is how far the backup has come.
#![forbid(unsafe_code)]
mod common;

use common::{BLOCK, Bench, pattern};
use hotbackup_copier::{Control, Monitor, Phase, Point, Progress};
use std::sync::Mutex;

/// Keeps what is told.
#[derive(Default)]
struct Told(Mutex<Vec<Progress>>);

impl Monitor for Told {
    fn progress(&self, progress: &Progress) {
        self.0.lock().unwrap().push(progress.clone());
    }
}

#[test]
fn what_is_copied_and_what_is_due_are_all_there_is() {
    for (point, phase) in [(Point::End, Phase::Track), (Point::Start, Phase::Drain)] {
        let bench = Bench::new();
        for seed in 0..2 {
            std::fs::write(bench.source.join(format!("file{seed}")), pattern(seed, 20 * BLOCK as usize)).unwrap();
        }
        let (backup, target) = bench.prepare(point);
        let told = Told::default();
        // Slow enough for something to be told on the way.
        backup.run(&*target.calls, &told, &Control::new(Some(4 << 20))).unwrap();
        let told = told.0.into_inner().unwrap();
        let on_the_way: Vec<_> = told.iter().filter(|progress| progress.phase == phase && progress.pass <= 1).collect();
        let sums: Vec<_> = on_the_way.iter().map(|now| (now.bytes_copied + now.bytes_due, now.bytes_total)).collect();
        assert!(sums.iter().all(|(sum, total)| sum == total), "{point:?}: {told:#?}");
        let pass = u32::from(point == Point::End);
        let is_under_way = |now: &Progress| now.bytes_copied > 0 && now.bytes_due > 0 && now.pass == pass;
        assert!(on_the_way.iter().any(|now| is_under_way(now)), "{point:?}: {told:#?}");
        assert_eq!(told.last().map(|now| now.bytes_due), Some(0), "{point:?}");
    }
}
