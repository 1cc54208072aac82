//! The memory that supervisor, keepers and target share.
//!
//! - [`control`]: who answers, one word of it.
//! - [`roles`]: who lives: locks on it.
//! - [`board`]: what is told through the trampolines in the target.
//! - [`memory`]: all of it: the layout, the slots for received calls, the words of the leases.

pub mod board;
pub mod control;
pub mod memory;
pub mod roles;
