//! The process as the kernel shows it.
//!
//! - [`process`]: its threads and what they do, its descriptors; held so that it cannot turn into another one.
//! - [`maps`]: what it has mapped.
//! - [`listener`]: the seccomp listener among its descriptors.
//! - [`mount_table`]: its mounts, and whether they change.
//! - [`room`]: whether its own limits leave room for what an attach leaves in it.

pub mod listener;
pub mod maps;
pub mod mount_table;
pub mod process;
pub mod room;
