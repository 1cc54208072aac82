//! Which slots are free. The lowest comes first, so that of the session's memory no more is used than there are calls at one time:
//! a keeper looks at what has been used, all of which counts as its own.

use std::sync::atomic::{AtomicU64, Ordering};

const BITS: usize = 64;

/// A set of numbers, each free or taken.
pub(super) struct Free(Vec<AtomicU64>);

impl Free {
    /// All below `count`, free.
    pub fn all(count: usize) -> Self {
        let word = |from: usize| match count - from {
            left if left < BITS => (1 << left) - 1,
            _ => u64::MAX,
        };
        Self((0..count).step_by(BITS).map(|from| AtomicU64::new(word(from))).collect())
    }

    /// Takes the lowest that is free.
    pub fn take(&self) -> Option<usize> {
        self.0.iter().enumerate().find_map(|(at, word)| {
            let lowest = |bits: u64| (bits != 0).then(|| bits & (bits - 1));
            let before = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, lowest).ok()?;
            Some(at * BITS + before.trailing_zeros() as usize)
        })
    }

    /// Gives one back.
    pub fn give(&self, number: usize) {
        self.0[number / BITS].fetch_or(1 << (number % BITS), Ordering::AcqRel);
    }

    /// How many are free.
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.load(Ordering::Acquire).count_ones() as usize).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_taken_once_the_lowest_first() {
        let free = Free::all(130);
        assert_eq!(free.count(), 130);
        let taken: Vec<usize> = std::iter::from_fn(|| free.take()).collect();
        assert_eq!((taken, free.count()), ((0..130).collect(), 0));
        [129, 64, 70].into_iter().for_each(|number| free.give(number));
        assert_eq!([(); 4].map(|()| free.take()), [Some(64), Some(70), Some(129), None]);
    }

    #[test]
    fn of_several_threads_no_two_have_the_same() {
        let (free, taken) = (Free::all(70), (0..70).map(|_| AtomicU64::new(0)).collect::<Vec<_>>());
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let Some(number) = free.take() else { continue };
                        assert_eq!(taken[number].fetch_add(1, Ordering::SeqCst), 0);
                        taken[number].store(0, Ordering::SeqCst);
                        free.give(number);
                    }
                });
            }
        });
        assert_eq!(free.count(), 70);
    }
}
