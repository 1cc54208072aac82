//! The board: what the trampolines in the target and a supervisor tell each other. It lies behind the slots of the session's memory,
//! where the target maps it; the code that works on it there is `sys/trampoline.rs`, whose offsets are held to these by a test.
//!
//! # Who sets the mode
//!
//! The mode word's upper half is a stamp: twice the generation, plus one when a keeper answers. A word is only replaced by one with
//! the same or a later stamp. So a supervisor that was revoked, and wakes up late, changes nothing any more; nor does a keeper that
//! is slow and comes after the next supervisor.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use zerocopy::FromBytes;

use super::control::{Control, Role};

/// Where the calls go that come through a patched site. The numbers are where each begins in a stub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Mode {
    /// The call, and nothing else: between backups.
    Direct = 0,
    /// Counted in the first epoch, and marked.
    Mark0 = 0x100,
    /// Counted in the second, and marked.
    Mark1 = 0x200,
    /// As if there were no patch: the filter shows the call.
    Notify = 0x300,
}

/// Bytes of the code region.
pub const REGION_BYTES: u64 = 64 << 10;
/// Of these, what stubs may have; behind them stand the lines of code by which sites are patched.
pub const STUBS_BYTES: u64 = 40 << 10;
/// Bytes of a stub in it.
pub const STUB_BYTES: u64 = 1024;
/// Descriptors from this number on are always notified.
pub const DESCRIPTORS: usize = 16_384;
/// Files with a map of their own.
pub const MAPS: usize = 4096;
/// Counters of an epoch.
pub const COUNTERS: usize = 64;
/// Words of bits that maps may have between them: of 2 TiB, at 64 KiB a bit.
pub const WORDS: usize = (4 << 20) / 8;
/// What a bit stands for, in bytes.
pub const BLOCK: u64 = 64 << 10;

/// An entry of the descriptor table.
pub mod entry {
    /// Nothing is known: notify.
    pub const UNKNOWN: u32 = 0;
    /// No file of ours: the call.
    pub const NO_FILE: u32 = 1;
    /// The map of number `entry - FIRST_MAP`.
    pub const FIRST_MAP: u32 = 2;
    /// A file whose calls are always notified.
    pub const ALWAYS_SHOWN: u32 = FIRST_MAP + super::MAPS as u32;
    /// From here on: about to be known.
    pub const PENDING: u32 = 1 << 31;
}

/// A counter on a cache line of its own.
#[repr(C, align(64))]
#[derive(FromBytes)]
pub struct Counter {
    /// Calls under way.
    pub count: AtomicU32,
    rest: [u32; 15],
}

/// Which bits belong to a file.
#[repr(C)]
#[derive(FromBytes)]
pub struct Map {
    /// How many blocks it covers.
    pub blocks: AtomicU64,
    /// Where its bits begin, in bytes. The word before them is 1 when they say which blocks are saved, and the target sets none; else 0.
    pub bits: AtomicU64,
}

/// The first page: all that keepers need of it.
#[repr(C, align(4096))]
#[derive(FromBytes)]
pub struct ModeWord {
    mode: AtomicU64,
    rest: [u64; 511],
}

/// See the module.
#[repr(C)]
#[derive(FromBytes)]
pub struct Board {
    /// Where the calls go.
    pub word: ModeWord,
    /// Two epochs.
    pub counters: [[Counter; COUNTERS]; 2],
    /// The descriptor table: see [`entry`].
    pub descriptors: [AtomicU32; DESCRIPTORS],
    /// The maps.
    pub maps: [Map; MAPS],
    /// Their bits. While tracking, a set bit says that the block may have changed; in the drain, that it is saved.
    pub bits: [AtomicU64; WORDS],
    /// Whatever stands in a map, a trampoline reaches no further.
    guard: [u64; WORDS],
}

/// Whose word it is.
pub fn stamp(control: Control) -> u32 {
    control.generation.wrapping_mul(2) | u32::from(control.role == Role::Kept)
}

impl ModeWord {
    /// Sets the mode, unless somebody later has. Whether it is set.
    pub fn set_mode(&self, stamp: u32, mode: Mode) -> bool {
        let mut seen = self.mode.load(Ordering::SeqCst);
        let word = u64::from(stamp) << 32 | u64::from(mode as u32);
        while stamp.wrapping_sub((seen >> 32) as u32).cast_signed() >= 0 {
            match self.mode.compare_exchange(seen, word, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return true,
                Err(other) => seen = other,
            }
        }
        false
    }
}

impl ModeWord {
    /// Whether this one had the last word.
    pub fn is_by(&self, stamp: u32) -> bool {
        (self.mode.load(Ordering::SeqCst) >> 32) as u32 == stamp
    }
}

#[cfg(test)]
impl ModeWord {
    /// Whatever it is.
    pub fn set_raw(&self, word: u64) {
        self.mode.store(word, Ordering::SeqCst);
    }
}

impl Board {
    /// Whether all counters of an epoch were seen at zero, each at some time since this was called.
    pub fn is_zero(&self, epoch: usize) -> bool {
        self.counters[epoch].iter().all(|counter| counter.count.load(Ordering::SeqCst) == 0)
    }

    /// Nobody is inside, and nobody can come in: what threads left behind that never came out is forgotten.
    pub fn reset_counters(&self) {
        self.counters.iter().flatten().for_each(|counter| counter.count.store(0, Ordering::SeqCst));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_late_changes_nothing() {
        let board = crate::sys::memory::Region::<Board>::create("a-board").expect("memory");
        let at = |role, generation| stamp(Control { role, generation });
        let now = || board.word.mode.load(Ordering::SeqCst) as u32;
        assert!(board.word.set_mode(at(Role::Supervised, 1), Mode::Mark0));
        assert!(board.word.set_mode(at(Role::Kept, 1), Mode::Direct));
        assert!(!board.word.set_mode(at(Role::Supervised, 1), Mode::Notify), "it was revoked");
        assert_eq!(now(), Mode::Direct as u32);
        assert!(board.word.set_mode(at(Role::Supervised, 2), Mode::Notify));
        assert!(!board.word.set_mode(at(Role::Kept, 1), Mode::Direct), "a slow keeper");
        assert_eq!(now(), Mode::Notify as u32);
    }

    #[test]
    fn the_trampolines_find_what_they_look_for() {
        use std::mem::offset_of;
        let at = [offset_of!(Board, counters), offset_of!(Board, descriptors), offset_of!(Board, maps)];
        assert_eq!(at, [4096, 12_288, 77_824], "as in sys/trampoline.rs");
        assert_eq!((offset_of!(Map, bits), size_of::<Map>()), (8, 16));
        let reached = (0x3f_fff8 + (0x1ff_ffff >> 3) + 8, 2 * 8 * WORDS);
        assert!(reached.0 <= reached.1, "{reached:?}");
    }
}
