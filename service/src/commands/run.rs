//! Doing what is asked.
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::Document;

use super::answers::{self, Code, Refusal, refusal};
use super::request::{Command, parse};
use crate::jobs::Target;

/// Does a command, and gives the answer; `None` when nobody waits for it any more. A backup goes on all the same: it is not to be
/// lost because a shell's window was closed. Whoever wants its end says `backupCancel`.
pub(crate) fn run(target: &Arc<Target>, body: &Document, wanted: &dyn Fn() -> bool) -> Option<Document> {
    let command = match parse(body, &|text| target.host().bytes(text)) {
        Ok(command) => command,
        Err(error) => return Some(refusal(&error)),
    };
    match perform(target, command, wanted) {
        Ok(answer) => answer,
        Err(error) => Some(refusal(&error)),
    }
}

fn perform(target: &Arc<Target>, command: Command, wanted: &dyn Fn() -> bool) -> Result<Option<Document>, Refusal> {
    Ok(Some(match command {
        Command::Start { dest, wait, limit_ms } => {
            let id = target.start(&dest)?;
            if !wait {
                return Ok(Some(answers::done()));
            }
            let limit = limit_ms.map(|ms| Instant::now() + Duration::from_millis(ms));
            let expired = || limit.is_some_and(|limit| Instant::now() >= limit);
            match target.wait(&id, &|| wanted() && !expired()) {
                Some(ended) => answers::ended(&ended),
                None if expired() => {
                    let words = "maxTimeMS is over; the backup goes on";
                    return Err(Refusal::new(Code::MaxTimeMSExpired, words));
                }
                None => return Ok(None),
            }
        }
        Command::Status { details } => answers::status(&target.status(), details),
        Command::Throttle(rate) => {
            target.throttle(rate);
            answers::done()
        }
        Command::Cancel => {
            target.cancel()?;
            answers::done()
        }
        Command::List { most } => answers::list(&target.list(most)),
        Command::Verify { dest } => match target.verify(&dest, wanted)? {
            Some(lines) => answers::verified(&lines),
            None => return Ok(None),
        },
    }))
}
