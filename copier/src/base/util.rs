//! Locks that outlive a panic of whoever held them: the backup fails then anyway, but the target must still be let go.
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Waits to be notified, but not longer than `limit`.
pub(crate) fn wait<'a, T>(condvar: &Condvar, guard: MutexGuard<'a, T>, limit: Duration) -> MutexGuard<'a, T> {
    condvar.wait_timeout(guard, limit).unwrap_or_else(PoisonError::into_inner).0
}

/// Microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

/// A path, and how many more there are.
pub(crate) fn and_more(first: &Path, many: u64) -> String {
    // The destination itself has no name within it.
    let first = if first.as_os_str().is_empty() { Path::new(".") } else { first };
    let more = if many > 1 { format!(" and {} more", many - 1) } else { String::new() };
    format!("{}{more}", first.display())
}

/// The beginning of a name, `most` bytes at most, to be part of another one. Not cut within a letter of UTF-8: there are file systems
/// that take whole ones only.
pub fn shortened(name: &OsStr, most: usize) -> &OsStr {
    let bytes = name.as_bytes();
    let is_within = |at: &usize| bytes.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    let end = (0..=bytes.len().min(most)).rev().find(|at| !is_within(at)).unwrap_or(0);
    OsStr::from_bytes(&bytes[..end])
}
