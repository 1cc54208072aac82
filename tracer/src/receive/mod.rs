//! Receiving calls, and seeing to their answers.
//!
//! - [`listener`]: the thread that takes each stopped call from the kernel; `paths`: the one that decodes calls by path.
//! - `decoding`: from a stopped call to an event. [`sink`]: who the events go to.
//! - [`answering`]: the calls that were received and not answered; the duty to answer one is a [`answering::Ticket`];
//!   `free`: which slots of the session's memory are.

pub mod answering;
mod decoding;
mod free;
pub(crate) mod listener;
mod paths;
pub mod sink;
