//! Changes that no call showed before they were made: does the backup still hold what was there at the point in time?
use crate::Error;
use crate::base::sys::now_ns;
use crate::marks::ledger::Ledger;
use crate::marks::node::Node;
use hotbackup_event::Effect;
use std::sync::Arc;

/// A change after the point in time that was not seen before it was made: is anything lost by it? Only what was still
/// to be read then.
pub(crate) fn explain(ledger: &Ledger, effect: &Effect) -> Result<(), Error> {
    let Some(Node::File(file)) = ledger.find(&effect.subject(), now_ns()) else { return Ok(()) };
    if let Effect::Untraceable { cause, .. } = *effect {
        return Err(Error::Untraceable { path: file.path(), cause });
    }
    ledger.touch(&Node::File(Arc::clone(&file)));
    let lost = {
        let mut state = file.state();
        let blocks = ledger.affected(&mut state, effect);
        state.map.changes_later(blocks.clone());
        blocks.start < state.late.end && state.late.start < blocks.end
    };
    if !lost {
        return Ok(());
    }
    let path = file.path();
    Err(Error::Blind(format!(
        "{} may have been written to, 8 bytes at a time, before it was saved; such writes are not seen in a process \
         that has eventfds, unless its first backup since it was started is taken with --show-all-writes",
        path.display()
    )))
}
