//! libHotBackup: a program links this, calls one function, and is backed up while it runs. The interface is C:
//! `include/backup.h`, and `include/hotbackup_test.h` for tests of such programs. `docs/library.md` says how it is used.
//!
//! The library itself does little. It starts a helper (`hotbackup`, see its `library` module), which attaches to the process as
//! it would from outside, and carries messages between the helper and the caller's functions until it says that it is over:
//!
//! | file | |
//! |---|---|
//! | `lib` | the C functions |
//! | `callbacks` | the caller's functions |
//! | `backup` | one call, from its arguments to its result |
//! | `live` | what other threads may change meanwhile, and see |
//! | `launcher` | the helper that waits, and how it is reached |
//! | `start` | starting it so that it is nobody's child |
//! | `find` | where it is |
//! | `socket` | descriptors |
//!
//! Until the first backup there is nothing: no thread, no descriptor, and no symbol of the C library is replaced, ever.
#![allow(non_snake_case, reason = "the library's name is what servers' builds look for")]

mod backup;
mod callbacks;
mod find;
mod launcher;
mod live;
mod socket;
mod start;

use std::ffi::{c_char, c_int, c_ulong, c_void};

use callbacks::{Callbacks, ErrorFun, ExcludeFun, PollFun, StopFun};

/// A C string in a constant.
#[repr(transparent)]
#[derive(Debug)]
pub struct Text(*const c_char);

// SAFETY: it points to a constant, and is never changed.
unsafe impl Sync for Text {}

/// `const char *tokubackup_version_string`
#[unsafe(no_mangle)]
#[allow(non_upper_case_globals, reason = "the interface's name")]
pub static tokubackup_version_string: Text =
    Text(concat!("libHotBackup ", env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast());

/// Backs up each source to the destination of the same index, all to one point in time. See `include/backup.h`.
///
/// # Safety
/// Both arrays hold `dir_count` pointers, each null or to a C string; the functions may be called with their pointers from this
/// thread until this returns.
#[unsafe(no_mangle)]
#[allow(clippy::too_many_arguments, reason = "it is the interface that servers call")]
pub unsafe extern "C" fn tokubackup_create_backup(
    source_dirs: *const *const c_char,
    dest_dirs: *const *const c_char,
    dir_count: c_int,
    poll_fun: PollFun,
    poll_extra: *mut c_void,
    error_fun: ErrorFun,
    error_extra: *mut c_void,
    exclude_copy_fun: ExcludeFun,
    exclude_copy_extra: *mut c_void,
    before_stop_capt_fun: StopFun,
    before_stop_capt_extra: *mut c_void,
    after_stop_capt_fun: StopFun,
    after_stop_capt_extra: *mut c_void,
) -> c_int {
    let callbacks = Callbacks {
        poll: (poll_fun, poll_extra),
        error: (error_fun, error_extra),
        exclude: (exclude_copy_fun, exclude_copy_extra),
        before_stop: (before_stop_capt_fun, before_stop_capt_extra),
        after_stop: (after_stop_capt_fun, after_stop_capt_extra),
    };
    // SAFETY: as our caller promises.
    let arguments = unsafe { callbacks::paths(source_dirs, dest_dirs, dir_count) };
    backup::run(arguments, &callbacks)
}

/// Bytes a second; 0 pauses copying, and `ULONG_MAX` is no limit. For this backup and all that follow.
#[unsafe(no_mangle)]
pub extern "C" fn tokubackup_throttle_backup(bytes_per_second: c_ulong) {
    live::set_throttle(bytes_per_second);
}

/// For tests: whether backups go on capturing until this is taken back.
#[unsafe(no_mangle)]
pub extern "C" fn hotbackup_set_keep_capturing(keep: c_int) {
    live::set_keep(keep != 0);
}

/// For tests: whether backups may start to copy.
#[unsafe(no_mangle)]
pub extern "C" fn hotbackup_set_start_copying(start: c_int) {
    live::set_wait(start == 0);
}

/// For tests: whether changes are captured.
#[unsafe(no_mangle)]
pub extern "C" fn hotbackup_is_capturing() -> c_int {
    c_int::from(live::is_capturing())
}

/// For tests: whether all has been copied once.
#[unsafe(no_mangle)]
pub extern "C" fn hotbackup_done_copying() -> c_int {
    c_int::from(live::is_copied())
}
