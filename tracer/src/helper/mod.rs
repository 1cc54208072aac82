//! What our small processes have in common, the keeper and the ptracer.
//!
//! - [`process`]: how they begin: out of the supervisor's session, deaf to the signals that end a service.
//! - [`program`]: what is executed, from memory.
//! - `place`: in the target's cgroups.

pub(crate) mod place;
pub mod process;
pub mod program;
