//! One test a row of the table of system calls (`tracer/src/calls/mod.rs`), named after it, and one each for the ways in
//! which a call can name a file. Each makes one change through that one call, at known moments before and after the point
//! in time; without the row's decoder it fails.
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod backup;
    pub mod disk;
    pub mod driver;
    pub mod guest;
    pub mod moment;
    pub mod snapshot;
}
mod at_sites;
mod bench;
mod content;
mod failing;
mod hazards;
mod ioctls;
mod metadata;
mod mounts;
mod moving;
mod mutants;
mod names;
mod nets;
mod opens;
mod paths;
mod proof;
mod renames;
mod scopes;
