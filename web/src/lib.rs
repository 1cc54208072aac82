//! What a service does, to be looked at: `/metrics` for Prometheus, `/status.json`, and one page that draws it.
//!
//! Nothing can be changed through it, and it needs nothing from elsewhere: the page's three files are in the program. It listens on a
//! loopback address unless it is told otherwise. There, only requests that name a loopback host are answered, so that no web page
//! whose name was made to lead here (DNS rebinding) can read it.
#![forbid(unsafe_code)]

mod door;
mod metrics;
mod serve;
mod snapshot;

pub use metrics::metrics;
pub use serve::{Error, Server, serve};
pub use snapshot::{Running, Snapshot, Target, Watch};
