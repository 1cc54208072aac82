//! Random choices, and which seeds are tried.
#![allow(dead_code, unused_imports)]

#[path = "../../../tests/common/random.rs"]
mod shared;

pub use shared::Random;

/// One of these, if there is any.
pub fn pick<'a, T>(random: &mut Random, all: &'a [T]) -> Option<&'a T> {
    if all.is_empty() { None } else { Some(&all[random.below(all.len() as u64) as usize]) }
}

/// `COPIER_SEEDS` many, from `COPIER_FIRST_SEED` on.
pub fn seeds(default: u64) -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let first = number("COPIER_FIRST_SEED").unwrap_or(1);
    first..first + number("COPIER_SEEDS").unwrap_or(default)
}
