//! Any program: strict guests of kinds that the other tests do not have, each backed up several times under load, to both
//! points in time. Every backup must be a state that existed, and what cannot be followed is refused, by name and with no
//! harm: see "Which processes" in `docs/operations.md`.
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod backup;
    pub mod guest;
    pub mod process;
    pub mod random;
}
mod bench;
mod capabilities;

mod descriptors;
mod go;
mod limits;
mod long_calls;
mod ordinary;
mod owners;
mod surroundings;
mod writes;
