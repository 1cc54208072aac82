//! How to attach.

use std::path::PathBuf;
use std::time::Duration;

/// How to attach.
#[derive(Debug, Clone)]
pub struct Options {
    /// The program to start keeper and ptracer with: hotbackup itself.
    pub keeper_program: PathBuf,
    /// How long this supervisor may make no progress until the keeper takes over; while a hold is on it is 50 ms.
    pub lease: Duration,
    /// Have the filter show writes of 8 bytes, too, in a target with eventfds (see `flight/unseen.rs`), at its cost. A filter that is
    /// there already stays as it is.
    pub show_all_writes: bool,
}
