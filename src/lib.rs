//! hotbackup: a consistent copy of a running database's directory, by PID.
//!
//! [`session::backup`] is the one call; the `hotbackup` command ([`cli`]) only draws what it tells.
#![forbid(unsafe_code)]

pub mod cli;
pub mod demo;
pub mod discover;
pub mod exit;
pub mod library;
pub mod select;
pub mod serve;
pub mod session;
mod trial;

/// The small static program that keeper and ptracer are, which the build script makes of `tracer/keeper`.
pub static KEEPER_PROGRAM: hotbackup_tracer::Program =
    hotbackup_tracer::Program::new(include_bytes!(env!("HOTBACKUP_KEEPER_PROGRAM")));
