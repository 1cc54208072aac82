//! Whether a backup was cut at one place through all threads. Every call draws a number from one clock before it begins and
//! after it has ended. If a call had ended before another one began, then whatever holds the second holds the first.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// As in `tests/guests/random_calls_times.h`.
const KEPT_STEPS: u64 = 1 << 20;
const HEAD: u64 = 4096;
const WORDS: usize = 8;

/// When the two calls of a step began and ended; 0 is not yet. And what the first was, what it returned, and a hash of all
/// that was returned so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Step {
    call: (u64, u64),
    count: (u64, u64),
    kind: u64,
    value: i64,
    hash: u64,
}

/// The guest's page of times. To be read while it rests.
pub struct Times(File);

impl Times {
    /// That of a guest that is ready.
    pub fn open(path: &Path) -> Self {
        Self(File::open(path).expect("the guest has made its page"))
    }

    /// All zeros if the step has not begun.
    fn of(&self, thread: usize, step: u64) -> Step {
        let (found, times) = self.in_place_of(thread, step);
        assert!(found <= step, "the times of step {step} have been overwritten by those of step {found}");
        if found < step { Step::default() } else { times }
    }

    /// What stands where a step has its place, and which step that is.
    fn in_place_of(&self, thread: usize, step: u64) -> (u64, Step) {
        let size = WORDS as u64 * 8;
        let at = HEAD + (thread as u64 * KEPT_STEPS + step % KEPT_STEPS) * size;
        let mut bytes = [0; WORDS * 8];
        self.0.read_exact_at(&mut bytes, at).expect("the page can be read");
        let word = |n: usize| u64::from_ne_bytes(bytes[n * 8..][..8].try_into().expect("eight bytes"));
        let times = Step {
            call: (word(1), word(2)),
            count: (word(3), word(4)),
            kind: word(5),
            value: word(6).cast_signed(),
            hash: word(7),
        };
        (word(0), times)
    }

    /// Where a thread's calls first returned something else than those of its replay, up to `last`.
    pub fn first_difference(&self, thread: usize, replay: &Self, last: u64, kinds: &[String]) -> Option<String> {
        (last.saturating_sub(KEPT_STEPS).max(1)..=last).find_map(|step| {
            let (here, there) = (self.in_place_of(thread, step), replay.in_place_of(0, step));
            let of = |(_, step): (u64, Step)| format!("{} returned {}", kinds[step.kind as usize], step.value);
            let differ = here.0 == step && there.0 == step && here.1.hash != there.1.hash;
            differ.then(|| format!("step {step}: {}, and in the replay {}", of(here), of(there)))
        })
    }
}

/// Where a backup cuts through one thread's calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// The thread.
    pub thread: usize,
    /// The last step that was counted.
    pub step: u64,
    /// When the last call that the backup surely holds began; 0 if it may hold none.
    began: u64,
    /// When the first call that it surely lacks had ended; 0 if it had not.
    ended: u64,
}

/// What a backup holds of the call after the last step that it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Its effect is there.
    Held,
    /// Its effect is not there.
    Missing,
    /// It has none.
    Unseen,
}

impl Cut {
    /// Of a backup in which `step` was the last that a thread had counted.
    pub fn new(times: &Times, thread: usize, step: u64, next: Next) -> Self {
        // Before the first step nothing was counted by a call that has a time.
        let last = if step == 0 { Step::default() } else { times.of(thread, step) };
        let following = times.of(thread, step + 1);
        let began = if next == Next::Held { following.call.0 } else { last.count.0 };
        let ended = if next == Next::Missing { following.call.1 } else { following.count.1 };
        Self { thread, step, began, ended }
    }
}

/// Says which call is missing though another that began after its end is there.
pub fn in_order(cuts: &[Cut]) -> Result<(), String> {
    for lacking in cuts {
        for holding in cuts {
            if lacking.ended != 0 && lacking.ended < holding.began {
                return Err(format!(
                    "it holds a call of thread {} (after step {}) that began at {}, and lacks one of thread {} (after \
                     step {}) that had ended at {}",
                    holding.thread, holding.step, holding.began, lacking.thread, lacking.step, lacking.ended
                ));
            }
        }
    }
    Ok(())
}

#[test]
fn a_cut_that_lacks_what_had_ended_before_something_it_holds_began_is_not_in_order() {
    let cut = |thread, began, ended| Cut { thread, step: 1, began, ended };
    // Calls that overlap may be on either side; so may what has not ended.
    assert!(in_order(&[cut(0, 10, 14), cut(1, 13, 17)]).is_ok());
    assert!(in_order(&[cut(0, 10, 0), cut(1, 1000, 0)]).is_ok());
    assert!(in_order(&[cut(0, 10, 12), cut(1, 13, 17)]).is_err());
    assert!(in_order(&[cut(1, 13, 17), cut(2, 11, 13), cut(0, 10, 12)]).is_err());
}
