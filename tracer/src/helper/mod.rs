//! What our small processes have in common, the keeper and the ptracer.
//!
//! - [`process`]: hotbackup executed again, out of the supervisor's session, deaf to the signals that end a service.
//! - `place`: in the target's cgroups.

pub(crate) mod place;
pub mod process;
