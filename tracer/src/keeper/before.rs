//! Keepers of the layouts before, beside which this one has begun (`follow/ancestors.rs`): whoever ends them stops them first, as a whole,
//! with a call in their hand perhaps. If he is killed right then, that call waits until somebody has them go on. That is this keeper:
//! the next backup or rescue stops them anew.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use nix::sys::signal::Signal;

use crate::helper::process as helper;
use crate::shared::memory::{Memory, here};
use crate::shared::roles::Part;
use crate::sys::pidfd;
use crate::target::process::Process;

/// Has those go on that stand still, where they can be seen and nobody is about to end them.
pub(super) fn go_on(target: &Process, memory: &Memory) {
    let place = memory.before.load(Ordering::SeqCst);
    if place == 0 || place != here() {
        return;
    }
    let stands = |pid: &i32| {
        helper::is_keeper_of_before(*pid, target) && target.status(*pid).is_some_and(|it| it.state() == Some('T'))
    };
    if !target.list(".").iter().any(stands) {
        return;
    }
    // Who ends them has it from before the stop until after the end: one that went on in between would take a call with it.
    let Ok(_part) = memory.take(Part::Supervisor) else { return };
    for pid in target.list(".").into_iter().filter(stands) {
        if let Ok(keeper) = pidfd::open(pid)
            && helper::is_keeper_of_before(pid, target)
        {
            let _ = pidfd::signal(keeper.as_fd(), Signal::SIGCONT);
        }
    }
}
