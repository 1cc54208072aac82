//! The control service: MongoDB's wire protocol for the commands that operators know, and the backups it runs for them.
//!
//! Nothing here follows a process or copies a file. A backup is a process of its own, `hotbackup backup`, which the service
//! starts and speaks to over a socket; so the death of either harms nobody. What the service needs of the rest, it is given as a
//! [`Host`].
//!
//! ```text
//!   clients -> front (Unix socket; TCP port in front of mongod) -> commands -> jobs -> hotbackup backup
//!   status, throttle, cancel -> control -> jobs
//!   schedules -> nightly -> jobs            HTTP -> look -> jobs
//! ```
#![forbid(unsafe_code)]

pub mod commands;
pub mod config;
pub mod control;
mod front;
mod host;
pub mod jobs;
mod look;
pub mod nightly;
mod places;
mod service;
mod tls;
pub mod trial;
mod util;
pub mod wire;

pub use config::{Config, Selector};
#[doc(hidden)]
pub use front::take_in;
pub use host::Host;
pub use service::{Error, Ready, Service};
