//! Following a process for nobody: every call goes on at once.
use std::sync::Arc;

use hotbackup_tracer::{Error, Event, Options, Sink, Ticket, Tracer};

/// Lets everything go.
struct Nobody;

impl Sink for Nobody {
    fn deliver(&self, _: Event, ticket: Ticket) {
        drop(ticket);
    }
    fn found(&self, _: Event) {}
    fn blind(&self, cause: String) {
        panic!("{cause}");
    }
    fn wait_until_released(&self) {}
    fn lost(&self, cause: Error) {
        panic!("{cause}");
    }
}

/// The usual ones; calls are captured at their sites, or not.
pub fn options(at_sites: bool) -> Options {
    Options {
        keeper_program: hotbackup::KEEPER_PROGRAM,
        lease: hotbackup_tracer::LEASE,
        show_all_writes: false,
        at_sites,
        accept_unseen: false,
    }
}

/// Follows a process, and has waited for a first grace.
pub fn follow(pid: i32, at_sites: bool) -> Tracer {
    let tracer = Tracer::attach(pid, &options(at_sites), Arc::new(Nobody)).expect("attached");
    tracer.grace().expect("a first grace");
    tracer
}
