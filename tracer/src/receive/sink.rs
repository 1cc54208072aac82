//! The narrow interface between receiver and backup: an event in, an answer out.

use std::time::Duration;

use hotbackup_event::Effect;

use super::answering::Ticket;
use crate::error::Error;

/// How long a call waits for its answer at most, where the sink knows no better.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a call may change, or why that cannot be known.
#[derive(Debug)]
pub struct Event {
    /// The thread; 0 for what was found at attach.
    pub tid: i32,
    /// The call's name.
    pub call: &'static str,
    /// What it may change.
    pub effects: Vec<Effect>,
    /// Why the call, or what follows from it, cannot be followed.
    pub blind: Option<String>,
}

/// Who the events go to. None of these may wait for anything but memory and locks held for microseconds.
pub trait Sink: Send + Sync + 'static {
    /// A call is stopped and waits for its ticket to be dropped.
    fn deliver(&self, event: Event, ticket: Ticket);
    /// Of a call with this one effect that was delivered just now, in the drain: whether it may be made again, and need not be delivered.
    /// Once this says yes of some bytes it never says no again.
    fn is_settled(&self, effect: &Effect) -> bool {
        let _ = effect;
        false
    }
    /// Something was found at attach that no call stands for.
    fn found(&self, event: Event);
    /// Something cannot be followed that no call stands for.
    fn blind(&self, cause: String);
    /// Returns when paths may be resolved: not while calls are held, for those would move what paths mean.
    fn wait_until_released(&self);
    /// Nobody will deliver any more: the target ended, or the keeper took over.
    fn lost(&self, cause: Error);
    /// Called every 10 ms or so, more often in a hold, and at each call: time to cut short what takes too long.
    fn tick(&self) {}
    /// How long a call may wait for its ticket to be dropped. After that the sink is [lost](Self::lost), and the call is
    /// answered.
    fn patience(&self) -> Duration {
        PATIENCE
    }
}
