//! Whether there is hope for it, told from outside.

use std::sync::atomic::{AtomicU64, Ordering};

use super::cancel::Cancellation;
use super::site;
use crate::attach::region;
use crate::shared::memory::Memory;
use crate::target::process::Process;

/// Why calls would stay notified, as far as that can be told from outside. `memory` is the session's, where the process was attached to
/// before.
pub(crate) fn obstacle(process: &Process, memory: Option<&Memory>) -> Option<&'static str> {
    let word = |word: &AtomicU64| word.load(Ordering::SeqCst);
    match memory {
        Some(memory) if word(&memory.region) == 0 => return Some("there is no place for it since its first backup"),
        Some(memory) if site::is_denied(process, word(&memory.own)) => return Some(site::DENIED),
        Some(_) => {}
        None => {
            if let Some(why) = region::obstacle(process) {
                return Some(why);
            }
        }
    }
    site::never_overcommitted().or_else(|| Cancellation::default().may_come(process))
}
