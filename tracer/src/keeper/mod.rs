//! The keeper: the small process that guarantees an answer to the target when no supervisor does.
//!
//! - [`start`], `run`, `twin`: the keeper itself, one thread that no longer allocates once it runs, and its stand-in.
//! - `answers`, `listener`: what it answers, and by what.
//! - [`parent`]: whose children they are. `born`: those that the target itself has started.
//! - [`spawn`]: starting one, out of the supervisor's session and cgroup.
//! - `before`: having keepers of earlier releases go on that stand still.
//! - [`find`]: finding the one of a target, and taking its listener over.

mod answers;
mod before;
mod born;
pub(crate) mod find;
mod listener;
pub(crate) mod parent;
mod run;
pub(crate) mod spawn;
pub(crate) mod start;
mod twin;

use std::time::Duration;

/// How often keeper and twin look at one another.
const LOOK: Duration = Duration::from_millis(100);
/// Looks without progress after which somebody counts as hung: a keeper or twin after half a second, a supervisor after its
/// lease, which is divided by this.
const LOOKS: u32 = 5;
/// Descriptor of the keeper with the shared memory.
const MEMORY_FD: i32 = 0;
/// Descriptor of the keeper with the eventfd that wakes it.
const WAKE_FD: i32 = 1;
