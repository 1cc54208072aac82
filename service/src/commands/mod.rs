//! The commands: what a document asks for, and what is answered. `run.rs` does it.
mod answers;
mod request;
mod run;

pub use answers::{Code, Refusal, refusal};
pub use request::{Command, NAMES, parse};
pub(crate) use run::run;
