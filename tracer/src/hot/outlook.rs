//! Whether there is hope for it, told from outside.

use std::sync::atomic::{AtomicU64, Ordering};

use std::sync::mpsc::channel;
use std::thread::Builder;
use std::time::Duration;

use super::cancel::Cancellation;
use super::site;
use crate::attach::region;
use crate::shared::memory::Memory;
use crate::target::process::Process;

/// How long what is mapped may take to be read.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

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
    site::never_overcommitted().or_else(|| cancellation(process.pid()))
}

/// Looked at aside: what the process has mapped may lie on a server that does not answer.
fn cancellation(pid: i32) -> Option<&'static str> {
    let (told, heard) = channel();
    let look = move || {
        let found = Process::open(pid).map(|process| Cancellation::default().may_come(&process));
        let _ = told.send(found.unwrap_or(Some("it has ended")));
    };
    let begun = Builder::new().name("outlook".into()).spawn(look);
    let found = begun.ok().and_then(|_| heard.recv_timeout(LOOK_LIMIT).ok());
    found.unwrap_or(Some("its code cannot be read: does a disk, or a network file system, stand still?"))
}
