//! The process as the kernel shows it.
//!
//! - [`process`]: its threads and what they do, its descriptors; held so that it cannot turn into another one.
//! - [`cgroups`]: its control groups, and whether one is frozen.
//! - [`cores`]: where its core file would fall.
//! - [`kernel_writers`]: files that the kernel writes to for somebody.
//! - [`maps`]: what it has mapped.
//! - [`listener`]: the seccomp listener among its descriptors.
//! - [`mount_table`]: its mounts, and whether they change.
//! - [`room`]: whether its own limits leave room for what an attach leaves in it.
//! - [`quota`]: whether limits leave room for the processes that stand beside it.

pub mod cgroups;
pub mod cores;
pub mod kernel_writers;
pub mod listener;
pub mod maps;
pub mod mount_table;
pub mod process;
pub mod quota;
pub mod room;
