//! Where the target's stopped calls come in, and when they go on.
pub(crate) mod capture;
pub(crate) mod needs;
