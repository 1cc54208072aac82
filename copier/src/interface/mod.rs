//! What a backup is asked for, how it is steered, and what it tells: what the crate shows to others, in plain types.
pub(crate) mod control;
pub(crate) mod monitor;
pub(crate) mod placing;
pub(crate) mod report;
pub(crate) mod spec;
