//! What everything rests on: file system calls, moving data, locks. Knows nothing of backups.
pub(crate) mod digest;
pub mod io;
pub(crate) mod sys;
pub(crate) mod util;
