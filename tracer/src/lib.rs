//! Attach to a running process, and see every call that can change a file before it runs.
//!
//! - [`attach`]: a thread of the target installs the filter for all of them.
//! - [`filter`], [`calls`]: which calls are shown, and what each may change.
//! - [`listener`]: receiving them; [`grace`](Tracer::grace): the proof that those let go have finished.
//! - [`keeper`]: the process that answers when we cannot. [`ptracer`]: the process that does all ptrace there is.
//! - [`sys`]: raw system calls, the only unsafe code.
//!
//! The receiver stands behind one narrow interface, [`listener::Sink`]: an event in, an answer out.
#![deny(unsafe_code)]

mod answering;
pub mod attach;
mod blind_spots;
pub mod calls;
mod error;
pub mod filter;
mod grace;
pub mod helper;
mod inflight;
pub mod keeper;
pub mod listener;
mod mapped;
pub mod outsiders;
pub mod process;
pub mod ptracer;
mod rescue;
mod session;
pub mod sys;
mod unseen;
mod warden;

mod mount_table;

pub use error::Error;
pub use listener::{Event, Sink, Ticket};
pub use mount_table::MountTable;
pub use process::Process;
pub use rescue::{Rescued, rescue};
pub use session::{LEASE, Options, Tracer};
pub use unseen::Look;
