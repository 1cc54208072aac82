//! Whether a night that failed is tried again, and when: a pure function of its cause and of times.
use std::time::Duration;

use jiff::Timestamp;

/// However often it has failed, the next try is not later than this.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// What comes out the same however often it is tried, until a person changes something; and what a person has ended.
const CANNOT_MEND: [&str; 19] = [
    "usage",
    "not_permitted",
    "kernel_too_old",
    "cannot_follow",
    "own_limit",
    "dest_not_empty",
    "dest_inside_source",
    "dest_read_only",
    "dest_not_directory",
    "dest_mount_point",
    "dest_cannot_hold",
    "source_not_directory",
    "sources_overlap",
    "symlink_loop",
    "source_unknown",
    "source_contains_itself",
    "mapped_too_large",
    "unseen_calls",
    "cancelled",
];

/// How often it is tried again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retry {
    /// So many times, after the first.
    pub times: u32,
    /// So long after the first failure, and twice as long after each further one.
    pub after: Duration,
}

/// Which try of a night it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// From 1.
    pub attempt: u32,
    /// When it was begun, if it was left unfinished: by a service that ended, or because the backup could not be checked.
    pub resumed: Option<Timestamp>,
    /// When the next night is due. It takes the place of a try that would come after it.
    pub next: Option<Timestamp>,
}

impl Default for Turn {
    fn default() -> Self {
        Self { attempt: 1, resumed: None, next: None }
    }
}

impl Retry {
    /// When to try again what has failed just now for this cause.
    pub fn again(&self, turn: &Turn, cause: &str, now: Timestamp) -> Option<Timestamp> {
        if turn.attempt > self.times || CANNOT_MEND.contains(&cause) {
            return None;
        }
        let doubled = 1_u32.checked_shl(turn.attempt - 1).unwrap_or(u32::MAX);
        let at = now.checked_add(self.after.saturating_mul(doubled).min(LONGEST)).ok()?;
        turn.next.is_none_or(|next| at < next).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RETRY: Retry = Retry { times: 3, after: Duration::from_secs(600) };

    fn after(retry: Retry, turn: Turn, cause: &str) -> Option<i64> {
        let now = Timestamp::from_second(1_000_000).unwrap();
        retry.again(&turn, cause, now).map(|at| at.as_second() - now.as_second())
    }

    #[test]
    fn each_wait_is_twice_as_long_and_their_number_is_bounded() {
        let waits: Vec<_> = (1..=5).map(|attempt| after(RETRY, Turn { attempt, ..Turn::default() }, "busy")).collect();
        assert_eq!(waits, [Some(600), Some(1200), Some(2400), None, None]);
        let many = Retry { times: u32::MAX, ..RETRY };
        for attempt in [6, 7, 33, 34, 1000] {
            let expected = if attempt == 6 { 19_200 } else { 21_600 };
            assert_eq!(after(many, Turn { attempt, ..Turn::default() }, "busy"), Some(expected), "{attempt}");
        }
        assert_eq!(after(Retry::default(), Turn::default(), "busy"), None);
    }

    #[test]
    fn the_next_night_takes_the_place_of_a_later_try() {
        let next = |second| Turn { next: Timestamp::from_second(second).ok(), ..Turn::default() };
        assert_eq!(after(RETRY, next(1_000_601), "busy"), Some(600));
        assert_eq!(after(RETRY, next(1_000_600), "busy"), None);
    }

    #[test]
    fn what_no_try_mends_are_causes_that_there_are_and_that_the_documents_name() {
        let read =
            |name: &str| std::fs::read_to_string(format!("{}/../docs/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let (codes, service) = (read("exit-codes.md"), read("service.md"));
        for cause in CANNOT_MEND {
            assert!(codes.contains(&format!("| `{cause}` |")), "{cause}");
            assert!(cause == "cancelled" || service.contains(&format!("`{cause}`")), "{cause}");
        }
    }

    #[test]
    fn what_no_try_mends_is_not_tried_again() {
        for cause in ["cancelled", "dest_read_only", "mapped_too_large", "source_unknown"] {
            assert_eq!(after(RETRY, Turn::default(), cause), None, "{cause}");
        }
        for cause in ["not_one_process", "untraceable", "dest_full", "revoked", "hook_failed", "died", ""] {
            assert_eq!(after(RETRY, Turn::default(), cause), Some(600), "{cause}");
        }
    }
}
