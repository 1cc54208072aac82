//! Which calls are on their way.
//!
//! - [`inflight`]: the states of a call, and the argument how its end is proven.
//! - [`grace`]: waiting for those ends. [`order`]: the order of calls by path.
//! - [`positions`]: what a call may change where that depends on the others. [`unseen`]: the net under writes of 8 bytes.

pub(crate) mod grace;
pub(crate) mod inflight;
pub(crate) mod order;
pub(crate) mod positions;
#[cfg(any(test, fuzzing))]
pub mod trial;
pub mod unseen;
