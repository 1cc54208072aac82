//! What a row of the table is made of.

use serde::{Deserialize, Serialize};

use super::decode::Decoder;

/// When a row's call is shown to us; otherwise it runs unseen.
#[derive(Debug, Clone, Copy)]
pub enum When {
    /// Always.
    Always,
    /// When for any of these tests, `argument & mask == value` (32-bit).
    Any(&'static [Test]),
    /// When these open flags make or cut a file, or open one for writing and the net wants to know.
    Opens(u8),
    /// When all of these hold.
    All(&'static [Test]),
    /// Unless it writes 8 bytes, if the target has eventfds (see `flight/unseen.rs`).
    UnlessEightBytes,
    /// Only if 8-byte writes are not shown: what the net under that exception needs.
    ForTheNet,
    /// For the net, or for the descriptor table of `hot/`: what ends a descriptor.
    Ends,
    /// For the descriptor table alone, when all of these hold: what changes a descriptor's meaning, or whose it is.
    ForTheTable(&'static [Test]),
}

/// What a filter is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Writes of 8 bytes are not shown.
    pub eight_bytes_unseen: bool,
    /// Calls of [`HOT`] made in the region of code that begins here are let pass, as they have been marked (`hot/`).
    pub region: Option<u64>,
}

/// The calls that are let pass where they come from our own code in the target.
pub const HOT: [i64; 6] =
    [libc::SYS_write, libc::SYS_close, libc::SYS_pwrite64, libc::SYS_writev, libc::SYS_pwritev, libc::SYS_pwritev2];

/// A test of one argument.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Argument number, from 0.
    pub argument: u8,
    /// The bits to look at.
    pub mask: u32,
    /// What they must be.
    pub value: u32,
}

/// Who decodes it, and where: by descriptor is quick and done by the receiver itself; paths are resolved one
/// call after another by a thread of their own (see `names.rs`).
#[derive(Clone, Copy)]
pub enum Decode {
    /// By descriptor.
    Descriptor(fn(&mut Decoder<'_>)),
    /// By path.
    Path(fn(&mut Decoder<'_>)),
}

/// One system call of the table.
#[derive(Clone, Copy)]
pub struct Row {
    /// Its number.
    pub nr: i64,
    /// Its name, as in the manual.
    pub name: &'static str,
    /// When it is shown.
    pub when: When,
    /// Its decoder.
    pub decode: Decode,
}

pub(super) const fn by_fd(nr: i64, name: &'static str, decode: fn(&mut Decoder<'_>)) -> Row {
    Row { nr, name, when: When::Always, decode: Decode::Descriptor(decode) }
}

pub(super) const fn by_path(nr: i64, name: &'static str, decode: fn(&mut Decoder<'_>)) -> Row {
    Row { nr, name, when: When::Always, decode: Decode::Path(decode) }
}

impl Row {
    pub(super) const fn when(mut self, when: When) -> Self {
        self.when = when;
        self
    }
}

pub(super) const fn bits(argument: u8, mask: u32, value: u32) -> Test {
    Test { argument, mask, value }
}

pub(super) const CREAT: u32 = libc::O_CREAT as u32;
pub(super) const TRUNC: u32 = libc::O_TRUNC as u32;
