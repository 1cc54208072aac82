//! When to stop copying what keeps changing, and hold.
use crate::Tuning;

/// A pass that leaves more than this share of what the one before left does not help enough.
const HELPS: f64 = 0.75;

/// Whether the hold comes next, judging by the bytes that were due after each pass so far, the last one last.
pub(crate) fn has_converged(due_after: &[u64], tuning: &Tuning) -> bool {
    match due_after {
        [] => false,
        [.., last] if *last <= tuning.hold_below || due_after.len() >= tuning.max_passes as usize => true,
        [.., before, last] => *last as f64 > *before as f64 * HELPS,
        [_] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(due_after: &[u64]) -> bool {
        has_converged(due_after, &Tuning { hold_below: 100, max_passes: 4, ..Tuning::default() })
    }

    #[test]
    fn without_a_pass_there_is_no_hold() {
        assert!(!holds(&[]));
    }

    #[test]
    fn little_left_means_hold() {
        assert!(holds(&[100]));
        assert!(!holds(&[101]));
        assert!(holds(&[1000, 0]));
    }

    #[test]
    fn passes_go_on_while_they_help() {
        assert!(!holds(&[1000, 700]));
        assert!(!holds(&[1000, 750]));
        assert!(!holds(&[1000, 700, 500]));
    }

    #[test]
    fn a_pass_that_hardly_helped_is_the_last() {
        assert!(holds(&[1000, 760]));
        assert!(holds(&[1000, 5000]));
        assert!(holds(&[10_000, 1000, 800]));
    }

    #[test]
    fn the_number_of_passes_is_bounded() {
        assert!(holds(&[80_000, 20_000, 5_000, 1_000]));
    }
}
