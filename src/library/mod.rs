//! The other end of libHotBackup: hidden verbs that the library starts, and nobody else.
//!
//! ```text
//!   the program ──first backup──> launcher ──each backup──> worker: attaches to the program, copies, tells
//!        └───────────── a socket for each backup ─────────────┘
//! ```
//!
//! Two, because whatever a process starts once it has been followed has the same filter, and would wait for an answer to its own
//! calls. The launcher is started before that, waits for what it is asked, and ends with the program. It is small, and nobody's
//! child: the program need not, and cannot, wait for it.
//!
//! The worker backs up the process that made its socket, as the kernel says, and no other: whoever may start hotbackup with more
//! rights than its own can still only have itself backed up.

mod errno;
mod launcher;
mod line;
mod relay;
mod worker;

pub use launcher::run as launch;
pub use worker::run as work;

/// What the launcher starts itself as, for one backup.
const WORK: &str = "library-work";
