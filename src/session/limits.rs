//! The bounds of a backup: what a call of the target waits at most, and for what.
//!
//! One lies inside the other: a hold, a wait for a before-image, a wait for whatever reason (the lease). Where one is
//! reached, the hold is ended, or the backup is given up; the target goes on.

use std::time::Duration;

use hotbackup_copier::Tuning;

use super::{Error, Options};

/// The usual lease.
pub const LEASE: Duration = hotbackup_tracer::LEASE;
/// Shorter ones run out on a busy machine, with nothing wrong.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);
/// What a server's clients may be asked to wait for, at the very most.
const LONGEST_LEASE: Duration = Duration::from_secs(60);
/// A hold takes some hundred microseconds where nothing is in its way.
const SHORTEST_HOLD: Duration = Duration::from_millis(1);
/// One read of the source must fit.
const LEAST_MEMORY: u64 = 1 << 20;

/// The copier's limits as the options say.
///
/// # Errors
/// Limits that contradict each other, or cannot be kept.
pub(super) fn tuning(options: &Options) -> Result<Tuning, Error> {
    let Options { before_images, mapped, max_wait, hold, lease, .. } = *options;
    let refused = |words: String| Err(Error::Limits(words));
    if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&lease) {
        return refused(format!("the lease of {lease:?} must lie between {SHORTEST_LEASE:?} and {LONGEST_LEASE:?}"));
    }
    if hold < SHORTEST_HOLD || hold >= lease {
        return refused(format!(
            "the longest hold of {hold:?} must be at least {SHORTEST_HOLD:?}, and shorter than the lease of {lease:?}"
        ));
    }
    if max_wait.is_zero() || max_wait > lease {
        return refused(format!(
            "the wait of {max_wait:?} for a before-image must be longer than 0, and no longer than the lease of {lease:?}"
        ));
    }
    if before_images < LEAST_MEMORY {
        return refused("the memory for before-images must be at least 1MiB".into());
    }
    let before_image_bytes = usize::try_from(before_images).unwrap_or(usize::MAX);
    let mapped_bytes = usize::try_from(mapped).unwrap_or(usize::MAX);
    let reserve = options.reserve;
    Ok(Tuning { before_image_bytes, mapped_bytes, max_wait, hold_lease: hold, reserve, ..Tuning::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(change: impl FnOnce(&mut Options)) -> Result<Tuning, String> {
        let mut options = Options::new(1, "/dest".into());
        change(&mut options);
        tuning(&options).map_err(|error| error.to_string())
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_defaults_are_the_copiers() {
        assert_eq!(with(|_| ()), Ok(Tuning::default()));
    }

    #[test]
    fn limits_reach_the_copier() {
        let changed = with(|options| {
            (options.before_images, options.max_wait, options.hold) = (1 << 20, ms(2000), ms(7));
            options.lease = ms(2000);
        });
        let tuning = changed.expect("these are fine");
        assert_eq!((tuning.before_image_bytes, tuning.max_wait, tuning.hold_lease), (1 << 20, ms(2000), ms(7)));
    }

    #[test]
    fn limits_that_contradict_each_other_are_refused_by_name() {
        type Change = fn(&mut Options);
        let cases: [(Change, &str); 7] = [
            (|options| options.lease = ms(99), "lease"),
            (|options| options.lease = ms(60_001), "lease"),
            (|options| options.hold = Duration::from_micros(999), "hold"),
            (|options| options.hold = ms(1000), "hold"),
            (|options| options.max_wait = Duration::ZERO, "wait"),
            (|options| options.max_wait = ms(1001), "wait"),
            (|options| options.before_images = (1 << 20) - 1, "before-images"),
        ];
        for (change, word) in cases {
            let words = with(change).expect_err(word);
            assert!(words.contains(word) && words.lines().count() == 1, "{words}");
        }
    }
}
