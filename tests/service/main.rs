//! The control service, as its clients see it: drivers at its Unix socket and at the port in front of mongod, the shell, and
//! `status`, `throttle` and `cancel`.
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod backup;
    pub mod guest;
    pub mod mongod;
}
mod harness;
mod raw;
mod servers;

mod clients;
mod front;
mod front_restarts;
mod long;
mod malformed;
mod others;
mod restarts;
mod selects;
mod socket;
mod steer;
mod tls;
