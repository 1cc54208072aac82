//! How to attach.

use std::time::Duration;

use crate::helper::program::Program;

/// How to attach.
#[derive(Debug, Clone)]
pub struct Options {
    /// What keeper and ptracer are.
    pub keeper_program: Program,
    /// How long this supervisor may make no progress until the keeper takes over; while a hold is on it is 50 ms.
    pub lease: Duration,
    /// Have the filter show writes of 8 bytes, too, in a target with eventfds (see `flight/unseen.rs`), at its cost. A filter that is
    /// there already stays as it is.
    pub show_all_writes: bool,
    /// Capture calls at their sites in the target, where that can be done (see `hot/`); the rest by notifications. Only with the
    /// first attach to a process: a region of code is reserved in it then.
    pub at_sites: bool,
    /// Go on where the filter that is there already, another release's, does not show all calls ([`Tracer::unseen_calls`](crate::Tracer::unseen_calls)).
    pub accept_unseen: bool,
}
