//! Releases of hotbackup meet at one target: an earlier one's keepers and today's supervisor, and the other way round. Each takes over
//! from the other's keepers and hands back to them, also where any of them is killed in between; no call of the target fails, or
//! waits for longer than the lease, and every backup is right. The target is never to be started anew.
//!
//! The earlier release is built from git, and where git has not got its commit, from `earlier.tar.xz`, which holds the same sources.
//!
//! A filter stays as long as its process. What an earlier release's does not show is refused, or named where that is accepted.
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod backup;
    pub mod guest;
    pub mod names;
    pub mod process;
}
// The guest that times every call, and how a backup of it is judged: the fault harness's.
#[path = "../faults"]
#[allow(dead_code)]
mod faults {
    pub mod disk;
    pub mod page;
    pub mod processes;
    pub mod target;
}

mod before;
mod bench;
mod earlier;

mod filters;
mod settled;
mod turns;
