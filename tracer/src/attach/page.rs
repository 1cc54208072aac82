//! The page in the target: words for results, a name, the filter.
//!
//! ```text
//!   0     for each attempt: the session's memory, its eventfd, the listener, four words each
//!   288   the memory's name
//!   352   struct sock_fprog
//!   368   the filter
//!   33152 what keepers are born by, see `birth/`; the rest is their stack
//! ```

use seccompiler::sock_filter;

use crate::calls::filter::UNSHOWN_CLOSE;
use crate::ptracer::payload::{Call, PENDING, Value};
use crate::shared::memory::MEMORY_NAME;

/// Bytes mapped: room for the longest filter there may be.
pub(super) const PAGE_BYTES: u64 = 36 << 10;
/// How often a line is tried when a ptracer is killed at it.
pub(super) const ATTEMPTS: usize = 3;

const DESCRIPTORS: usize = 3;
const WORDS: usize = 4;
/// What stands, before anything is made, where the number stands that is closed: none, by a call that no filter of ours shows.
pub(super) const CLOSED_BEFORE: u64 = (UNSHOWN_CLOSE as u64) << 32 | u32::MAX as u64;
const NAME: u64 = (8 * ATTEMPTS * DESCRIPTORS * WORDS) as u64;
const HEADER: u64 = 352;
const PROGRAM: u64 = HEADER + 16;
/// Behind the longest filter.
pub(super) const BIRTH: u64 = 33_152;
const _: () = assert!(PROGRAM + 8 * libc::BPF_MAXINSNS as u64 <= BIRTH, "the longest filter has room");
const _: () = assert!(NAME + (MEMORY_NAME.len() as u64) < HEADER, "the name has its place");

/// The page, by its address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Page(pub u64);

/// A descriptor that a line makes, by the address of its words: its number, where it was moved to, the number that is
/// closed by that, and what came of closing it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Made {
    words: u64,
    /// Where the number stands that is closed.
    closed: u64,
}

impl Page {
    fn made(self, attempt: usize, which: usize) -> Made {
        Made::at(self.0 + 8 * (WORDS * (DESCRIPTORS * attempt + which)) as u64)
    }

    /// The session's memory and its eventfd.
    pub fn session(self, attempt: usize) -> [Made; 2] {
        [self.made(attempt, 0), self.made(attempt, 1)]
    }

    /// The listener.
    pub fn listener(self, attempt: usize) -> Made {
        self.made(attempt, 2)
    }

    /// Where the memory's name stands.
    pub fn name(self) -> u64 {
        self.0 + NAME
    }

    /// Where `struct sock_fprog` stands.
    pub fn header(self) -> u64 {
        self.0 + HEADER
    }

    /// What stands in the words, and the name, before any line is run.
    pub fn before(self) -> Vec<u8> {
        let words = [PENDING, PENDING, CLOSED_BEFORE, PENDING];
        let words = words.into_iter().cycle().take(ATTEMPTS * DESCRIPTORS * WORDS).flat_map(u64::to_ne_bytes);
        words.chain(MEMORY_NAME.bytes()).collect()
    }

    /// Header and program.
    pub fn program(self, filter: &[sock_filter]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + filter.len() * 8);
        bytes.extend((filter.len() as u64).to_ne_bytes()); // u16 length, padding
        bytes.extend((self.0 + PROGRAM).to_ne_bytes());
        for instruction in filter {
            bytes.extend(instruction.code.to_ne_bytes());
            bytes.extend([instruction.jt, instruction.jf]);
            bytes.extend(instruction.k.to_ne_bytes());
        }
        assert!(HEADER + bytes.len() as u64 <= PAGE_BYTES, "the filter outgrew its place");
        bytes
    }
}

impl Made {
    /// By its four words.
    pub fn at(words: u64) -> Self {
        Self { words, closed: words + 16 }
    }

    /// The same with the number that is closed at another place, which is a word like that, too.
    pub fn with_closed_at(self, closed: u64) -> Self {
        Self { closed, ..self }
    }

    /// Where its first number stands.
    pub fn at_low(self) -> u64 {
        self.words
    }

    /// Where the number stands that it was moved to.
    pub fn at_high(self) -> u64 {
        self.words + 8
    }

    fn at_closed(self) -> u64 {
        self.closed
    }

    /// What stands here is the last to be known.
    pub fn at_end(self) -> u64 {
        self.words + 24
    }

    /// Its first number, as an argument.
    pub fn low(self) -> Value {
        Value::At(self.at_low())
    }

    /// `call` makes it.
    pub fn made_by(self, call: Call) -> Call {
        Call { lower: Some(self.at_closed()), ..call.into(self.at_low()) }
    }

    /// It goes to the first free number from `high` on, and the low one is the program's again. Where it cannot go, it stays.
    pub fn moved(self, high: u64) -> [Call; 2] {
        let moved = Call::of(libc::SYS_fcntl, self.low(), [libc::F_DUPFD_CLOEXEC as u64, high]).into(self.at_high());
        let close = Call::of(libc::SYS_close, Value::At(self.at_closed()), []).into(self.at_end());
        [moved, Call { unless_failed: true, ..close }]
    }
}
