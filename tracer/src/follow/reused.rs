//! A file is known by device, inode and birth time. Birth times come from a clock that ticks (a hundred times a second, or more
//! often): when an inode is freed and used again within the tick in which it was born, two files have one identity. So a file that
//! somebody else has open, and that is no older than that, may be gone a moment later, and a file of the source be taken for it.
//!
//! Young ones are looked for once more, when their tick is over. What is then still open has its inode as long as that, and
//! whatever gets it later is born in another tick.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hotbackup_event::FileId;

/// Longer than any tick.
const TICK: Duration = Duration::from_millis(20);

/// The files that `look` finds, without those that were gone before anybody could tell them from another.
pub(super) fn settled(look: impl Fn() -> Vec<FileId>) -> Vec<FileId> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    settled_at(now, look, || std::thread::sleep(TICK))
}

fn settled_at(now: Duration, look: impl Fn() -> Vec<FileId>, wait: impl FnOnce()) -> Vec<FileId> {
    let is_young = |file: &FileId| Duration::from_nanos(file.btime_ns) + TICK > now;
    let (mut young, mut found): (Vec<FileId>, Vec<FileId>) = look().into_iter().partition(is_young);
    if !young.is_empty() {
        wait();
        let still_there = look();
        young.retain(|file| still_there.contains(file));
        found.append(&mut young);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const NOW: Duration = Duration::from_secs(1_000);

    fn born(ino: u64, ago: Duration) -> FileId {
        FileId { dev: 1, ino, btime_ns: (NOW - ago).as_nanos() as u64 }
    }

    #[test]
    fn a_young_file_that_is_gone_when_its_tick_is_over_is_not_taken_for_another() {
        let (old, gone) = (born(1, Duration::from_secs(1)), born(2, Duration::from_millis(1)));
        let (stays, later) = (born(3, Duration::ZERO), born(4, Duration::ZERO));
        let is_over = Cell::new(false);
        let look = || if is_over.get() { vec![stays, later] } else { vec![old, gone, stays] };
        assert_eq!(settled_at(NOW, look, || is_over.set(true)), [old, stays]);
    }

    #[test]
    fn nothing_is_waited_for_where_all_are_older() {
        let old = [born(1, Duration::from_secs(1)), born(2, TICK)];
        assert_eq!(settled_at(NOW, || old.to_vec(), || panic!("it waits")), old);
    }
}
