//! How `hotbackup status`, `throttle` and `cancel` speak to the service, and to a backup that runs by itself: one JSON object a
//! line over a Unix socket, an answer to each, see `docs/service.md`. The service speaks to its backups in the same way.
mod client;
mod server;
mod socket;
mod status;

pub use client::Client;
pub(crate) use client::say;
pub use server::{Server, Steered};
pub(crate) use socket::Bound;
pub use socket::{bind, connect, may_steer, runtime_directory};
pub use status::{Ended, Running, TargetStatus, percent};

use serde::{Deserialize, Serialize};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Request {
    /// How it stands.
    Status,
    /// The same now, and again a few times a second until either side closes the connection.
    Follow,
    /// Another rate, in bytes a second: null is no limit, 0 pauses copying.
    Throttle {
        /// Of which target; it may be left out where there is one only.
        #[serde(default)]
        target: Option<String>,
        /// The rate.
        rate: Option<u64>,
    },
    /// The backup is to end, and to leave nothing.
    Cancel {
        /// Of which target.
        #[serde(default)]
        target: Option<String>,
    },
}

/// What is answered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// How it stands, to those who asked for that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub targets: Vec<TargetStatus>,
}
