//! What is known of each file and directory, and what calls may have changed of it since it was looked at.
pub(crate) mod bits;
pub(crate) mod blockmap;
pub(crate) mod claims;
pub(crate) mod lease;
pub(crate) mod ledger;
pub(crate) mod node;
