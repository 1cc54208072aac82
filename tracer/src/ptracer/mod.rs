//! The ptracer: the small process that does all ptrace(2) there is.
//!
//! A thread that is stopped by ptrace stays stopped for as long as its tracer does nothing and lives. A supervisor may
//! be stopped at any instant, by Ctrl-Z for one, and must not take a thread of the target with it. So it never traces
//! anything itself: it asks this process, which has a session of its own, stands in the target's cgroups, and has a guard
//! ([`guard`]). What it leaves is harmless at any instant (`attach/mod.rs`).
//!
//! - [`request`]: what it is asked for, one line of JSON each, and what it answers.
//! - [`client`]: the supervisor's side.
//! - [`payload`]: the code that a thread is sent through; [`site`]: where that goes, and which thread.
//! - [`serve`]: the process itself; [`inject`]: sending a thread through injected code; [`pause`]: stopping threads for an
//!   instant, for grace; [`freeze`]: stopping all of them at the same time, for what they have mapped.

pub(crate) mod client;
mod freeze;
mod guard;
mod inject;
mod pause;
pub(crate) mod payload;
mod request;
pub(crate) mod serve;
pub(crate) mod site;
