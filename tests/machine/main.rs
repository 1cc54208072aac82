//! A new Debian machine with systemd, from the package to a backup of mongod every night, by the commands of docs/operations.md alone;
//! and the life of the service there: restarts, a watchdog, an upgrade, its removal.
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod acks;
    pub mod backup;
    pub mod load;
    pub mod mongod;
    pub mod package;
    pub mod random;
    pub mod validate;
}
mod boot;
mod document;
mod house;
mod life;
mod nights;
