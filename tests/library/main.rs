//! libHotBackup: programs in C and C++ that have themselves backed up by it, as servers do. The hosts are in `hosts/`.
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod backup;
    pub mod guest;
    pub mod names;
    pub mod process;
    pub mod snapshot;
}

mod bench;
mod library;

mod arguments;
mod calls;
mod documented;
mod installed;
mod placed;
mod surroundings;
