//! Both rules hold across containers: host and sidecar at the same target, cgroups that are killed, limited and frozen, and
//! a target that spoils the memory it shares with its keepers. On runc, and the light way by unshare(1) and nsenter(1).
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod backup;
    pub mod guest;
    pub mod names;
    pub mod process;
    pub mod stuck_disk;
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

mod bench;
mod cgroup;
mod holders;
mod profile;
mod runtime;
mod target;

mod born;
mod check;
mod closing;
mod ends;
mod frozen;
mod hostile;
mod memory;
mod pids;
mod rescue;
mod turns;
mod words;
