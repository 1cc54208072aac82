//! The messages, in the page, by which a thread of the target hands a descriptor on (unix(7)): see `birth/`.
//!
//! ```text
//!   0     struct msghdr
//!   56    struct iovec
//!   72    the message's one byte
//!   80    struct cmsghdr, SCM_RIGHTS
//!   96    the descriptor
//! ```

use std::os::fd::RawFd;

use super::page::{ATTEMPTS, BIRTH, Page};
use crate::ptracer::payload::{Call, Value};
use crate::sys::passing::CONTROL_LENGTH;

/// How long one is.
pub(super) const MESSAGE: u64 = 104;
const DESCRIPTOR: u64 = 96;
/// What stands behind those with the listener, one for each attempt.
pub(super) const END: u64 = BIRTH + MESSAGE * ATTEMPTS as u64;

/// Where the message with the listener stands.
pub(super) fn listener_place(page: Page, attempt: usize) -> u64 {
    page.0 + BIRTH + MESSAGE * attempt as u64
}

/// Where the listener's number is put for it: a word of the kind of [`super::page::CLOSED_BEFORE`].
pub(super) fn listener_word(page: Page, attempt: usize) -> u64 {
    listener_place(page, attempt) + DESCRIPTOR
}

/// The call that hands the listener on, unless there is none.
pub(super) fn hand_on(page: Page, attempt: usize, socket: RawFd) -> Call {
    send(Value::Number(socket as u64), listener_place(page, attempt)).unless_failed()
}

/// The call that sends a message.
pub(super) fn send(socket: Value, message: u64) -> Call {
    Call::of(libc::SYS_sendmsg, socket, [message, (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as u64])
}

/// A message as it stands at `place`.
pub(super) fn message(place: u64, byte: u8, descriptor: u64) -> Vec<u8> {
    let (vector, bytes, control) = (place + 56, place + 72, place + 80);
    let words = [0, 0, vector, 1, control, CONTROL_LENGTH as u64, 0, bytes, 1, u64::from(byte)];
    let kind = (libc::SCM_RIGHTS as u64) << 32 | libc::SOL_SOCKET as u64;
    words.into_iter().chain([CONTROL_LENGTH as u64, kind, descriptor]).flat_map(u64::to_ne_bytes).collect()
}
