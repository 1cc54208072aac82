//! The drain: saving what still belongs to the point in time, some of it before calls of the target change it.
pub(crate) mod foreign;
pub(crate) mod sample;
pub(crate) mod saver;
pub(crate) mod unseen;

use crate::Error;
use crate::context::Context;
use crate::passes::copy::{Copier, Mode};
use crate::tree::Tree;

/// Reads all that still belongs to the point in time, and makes sure that nobody else had a hand in it.
pub(crate) fn save_rest<P: Send + 'static>(
    context: &Context<'_, P>,
    copier: &mut Copier,
    tree: &Tree,
) -> Result<(), Error> {
    let files = context.ledger.files();
    for file in &files {
        if file.state().is_open() {
            copier.copy(context, file, Mode::Drain, || Ok(()))?;
        }
        context.tell(false);
        context.check()?;
    }
    for file in &files {
        file.wait_until(&context.ledger, |state| !state.is_open());
    }
    let differing = sample::compare(context, &files)?;
    for effect in context.quiesce.unseen(true) {
        unseen::explain(&context.ledger, &effect)?;
    }
    foreign::check(context, tree)?;
    // Not before it is known what came unseen. What is found by its change time was more than one block.
    sample::judge(context, &differing)?;
    // Last: had anybody else let a call go before this, what was read since might not belong to T. The one who receives
    // may know that already and not have come to say it.
    if !context.quiesce.is_in_charge() {
        return Err(Error::LetGo);
    }
    context.check()
}
