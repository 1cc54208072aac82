//! Tracking: syncs, and the passes that copy while the target writes.
pub(crate) mod converge;
pub(crate) mod copy;
pub(crate) mod hash;
pub(crate) mod source;
pub(crate) mod track;
