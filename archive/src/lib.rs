//! Backups that lie beside one another: which there are, which stay, and how one is put back.
//!
//! A *shelf* is a directory that hotbackup fills by itself, one backup after the other:
//!
//! ```text
//! /backup/orders/
//!     2026-11-28T021500Z/     a backup; its name is when it was begun, UTC
//!     2026-11-29T021500Z/
//!     latest -> 2026-11-29T021500Z
//!     .2026-11-30T021500Z.hotbackup-partial-4711/   one that is being taken, or was broken off
//! ```
//!
//! What has another name is somebody's own: it is listed, and never removed. Nor are, whatever the rules: the newest good backup and the
//! newest that a check has found good, what `latest` leads to, one that is being read (see [`hold`]) or that a server was
//! started on, and bad ones as long as nothing newer is good.
//!
//! | room | what is in it |
//! |---|---|
//! | `error`, `name` | errors; names by time |
//! | `mark` | what a check of a backup found, kept with it; who reads it |
//! | `shelf` | what lies on a shelf, and the link to the newest |
//! | `retain` | which backups stay: a pure function of times |
//! | `tidy` | removing the others, and what broken off ones left |
//! | `schedule`, `hook` | when the next one is due; what is run before and after |
//! | `retry` | whether a night that failed is tried again, and when: a pure function |
//! | `night`, `history` | a backup as it is taken every night, and what became of each |
//! | `users`, `restore` | who uses a directory; a backup put back |
#![forbid(unsafe_code)]

mod error;
mod history;
mod hook;
mod mark;
mod name;
mod night;
mod restore;
mod retain;
mod retry;
mod schedule;
mod shelf;
mod tidy;
mod users;

pub use error::Error;
pub use history::History;
pub use hook::{Hook, HookError};
pub use mark::{Held, Mark, hold, mark, read_mark};
pub use name::{at, of};
pub use night::{Check, Night, Plan, Taken, Work, night};
pub use restore::{Owner, Restored, restore};
pub use retain::{Fate, Policy, Reason, plan};
pub use retry::{Retry, Turn};
pub use schedule::Schedule;
pub use shelf::{Entry, Kind, LATEST, list, set_latest};
pub use tidy::{Tidied, remove_leftovers, tidy};
pub use users::{User, users_below};
