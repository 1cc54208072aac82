//! Hot call sites: a second source of the same events, without a notification.
//!
//! Nearly all calls that change content come from a few instructions. The first notification from a site leads to its being
//! *patched* ([`site`]): it jumps to a stub of ours in the target (`sys/trampoline.rs`), which marks the block on the board
//! (`shared/board.rs`) and makes the call where the filter lets it pass. Notifications stay as the net for everything else: for
//! sites of another form, for descriptors that are not in the [`table`], for calls beyond a file's map, in the hold for all calls, and in
//! the drain for those that change what is not saved yet ([`bits`]).
//!
//! # Why no change is missed
//!
//! The bit of a block is set before the call is made, by a thread that has been counted in. Bits are collected after a grace
//! ([`Source::collect`]), and marked as if a notification had said so; a grace that begins after that waits for every
//! thread that was counted in before ([`grace`]). So for any such call and any collection: either its bit was collected, and then
//! the call is over when the source is next looked at, or the bit is there for the next. A bit that was found set, and is
//! collected right after, is no exception: its caller was counted in before. That is the ledger's own argument
//! (`copier/src/marks/ledger.rs`), with the counters in the place of the calls on their way.
//!
//! Before the mode is first set to *mark* in a backup, every thread has been seen outside the region ([`outside`]): those in *direct* are
//! not counted.

mod bits;
mod cancel;
mod grace;
mod mutants;
mod outlook;
mod outside;
mod site;
pub(crate) mod source;
#[cfg(test)]
mod stub_tests;
mod table;

pub(crate) use outlook::obstacle;
pub(crate) use source::Source;
pub use source::Stage;
