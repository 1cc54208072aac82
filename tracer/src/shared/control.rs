//! Who answers the target: one word in shared memory, changed by compare-and-swap alone.
//!
//! ```text
//!   Attaching(g) --listener there--> Supervised(g) --finished, died, lease run out--> Kept(g)
//!        |                               ^                                              |
//!        +--died, listener there------------------------------------> Kept(g)           |
//!                                        +----------- next backup: g+1 -----------------+
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The supervisor is about to install the filter.
    Attaching,
    /// The supervisor answers.
    Supervised,
    /// The keeper answers; a supervisor that finds this has been revoked, or has handed over.
    Kept,
}

/// The word: who, and the how-manieth supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Control {
    /// Who answers.
    pub role: Role,
    /// Counts supervisors from 1.
    pub generation: u32,
}

impl Control {
    fn pack(self) -> u64 {
        u64::from(self.generation) << 32 | self.role as u64
    }

    fn unpack(word: u64) -> Self {
        let role = match word as u32 {
            0 => Role::Attaching,
            1 => Role::Supervised,
            _ => Role::Kept,
        };
        Self { role, generation: (word >> 32) as u32 }
    }

    /// Reads the word.
    pub fn load(word: &AtomicU64) -> Self {
        Self::unpack(word.load(Ordering::SeqCst))
    }

    /// Sets the word before anybody else can see it.
    pub fn store(self, word: &AtomicU64) {
        word.store(self.pack(), Ordering::SeqCst);
    }

    /// Changes the word from `self` to `next`; `false` when somebody was quicker.
    pub fn change(self, word: &AtomicU64, next: Self) -> bool {
        word.compare_exchange(self.pack(), next.pack(), Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// The same generation in another role.
    pub fn with(self, role: Role) -> Self {
        Self { role, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_fails_when_somebody_was_quicker() {
        let word = AtomicU64::new(0);
        let first = Control { role: Role::Attaching, generation: 1 };
        first.store(&word);
        assert!(first.change(&word, first.with(Role::Supervised)));
        assert!(!first.change(&word, first.with(Role::Kept)));
        assert_eq!(Control::load(&word), Control { role: Role::Supervised, generation: 1 });
    }
}
