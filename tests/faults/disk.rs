//! The disk may stand still, too. A call of the target that waits for it waits for none of us: so this program makes such calls
//! itself, seen by nobody, and remembers when they took long.

use std::collections::VecDeque;
use std::fs;
use std::sync::{Mutex, Once, PoisonError};
use std::time::Duration;

use super::page::{Span, now};
use crate::common::backup::scratch;

/// A call that takes this long is a stall, in nanoseconds.
const LONG_NS: u64 = 10_000_000;
/// How often one is made.
const PAUSE: Duration = Duration::from_millis(5);
/// Stalls that are remembered.
const MOST: usize = 4096;

static STALLS: Mutex<VecDeque<Span>> = Mutex::new(VecDeque::new());

/// Begins to watch the disk that the targets' directories are on.
pub fn watch() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        std::thread::spawn(|| {
            let scratch = scratch();
            let (next, current) = (scratch.path().join("next"), scratch.path().join("current"));
            loop {
                let begin = now();
                // What databases do, and what waits longest: ext4 writes the file out when it replaces another.
                let done = fs::write(&next, begin.to_ne_bytes()).and_then(|()| fs::rename(&next, &current));
                let end = now();
                if done.is_ok() && end - begin >= LONG_NS {
                    let mut stalls = STALLS.lock().unwrap_or_else(PoisonError::into_inner);
                    if stalls.len() == MOST {
                        stalls.pop_front();
                    }
                    stalls.push_back((begin, end));
                }
                std::thread::sleep(PAUSE);
            }
        });
    });
}

/// The stalls that ended since `began`. A stall under way is not among them: give it a moment.
pub fn stalls(began: u64) -> Vec<Span> {
    let stalls = STALLS.lock().unwrap_or_else(PoisonError::into_inner);
    stalls.iter().filter(|stall| stall.1 > began).copied().collect()
}
