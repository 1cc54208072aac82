//! The keeper: the small process that guarantees an answer to the target when no supervisor does.
//!
//! - [`state`]: who answers, one word in shared memory.
//! - `start`, `run`, `twin`: the keeper itself, one thread that no longer allocates once it runs, and its stand-in.
//! - [`spawn`]: starting one, out of the supervisor's session and cgroup.
//! - [`find`]: finding the one of a target, and taking its listener over.

pub(crate) mod copy;
pub mod find;
mod run;
pub mod spawn;
pub mod start;
pub mod state;
mod twin;

use crate::helper::Kind;

/// What it is called.
pub const KIND: Kind = Kind { name: c"hotbackup-keep", subcommand: "keeper" };
/// Descriptor of the keeper with the shared memory.
pub(crate) const MEMORY_FD: i32 = 0;
/// Descriptor of the keeper with the eventfd that wakes it.
pub(crate) const WAKE_FD: i32 = 1;
