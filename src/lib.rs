//! hotbackup: a consistent copy of a running database's directory, by PID.
//!
//! [`session::backup`] is the one call; the `hotbackup` command ([`cli`]) only draws what it tells.
#![forbid(unsafe_code)]

pub mod cli;
pub mod demo;
pub mod discover;
pub mod exit;
pub mod session;
