//! Raw system calls: the one place with `unsafe`.
//!
//! Everything here is a thin, safe wrapper whose error is the kernel's errno. What no crate offers (seccomp's
//! ioctls, pidfds, statx) is called by number; the rest of the crate forbids `unsafe`.
#![allow(unsafe_code)]

pub mod inherited;
pub mod loops;
pub mod memory;
#[cfg(test)]
pub mod native_tests;
pub mod notify;
pub mod passing;
pub mod pidfd;
pub mod process;
pub mod procfs;
pub mod stat;
pub mod trace;
pub mod trampoline;

use nix::errno::Errno;

/// The result of a raw call: `-1` means errno.
fn check(result: i64) -> Result<i64, Errno> {
    if result == -1 { Err(Errno::last()) } else { Ok(result) }
}

/// Calls again while a signal interrupted the call.
pub fn retry_on_eintr<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}
