//! Copy a tree that changes underneath, to one point in time.
//!
//! Somebody (the session, with the tracer) stops every call of the target that may change a file and hands it to
//! [`Capture::admit`] *before it runs*, with a permit; dropping the permit lets the call run. [`Backup::run`]
//! meanwhile copies the source trees to a staging directory beside the destination, fixes the point in time T,
//! saves what belongs to T before it is overwritten, and publishes the result in one step.
//!
//! # Two rules
//!
//! *A notification says where to look; the source says what is true.* An effect is never replayed from its
//! arguments: it marks blocks due, or a directory entry as changed, and the backup takes over what the source then
//! shows. Marking too much is harmless, marking too little is a bug.
//!
//! *First, do no harm.* No permit is ever kept waiting for the destination, except within stated bounds while
//! before-images are saved; whatever fails here, all permits are dropped first and everything else comes after.
//!
//! # Phases
//!
//! ```text
//!              marks, lets go          parks              saves before-images         lets go
//! Attach ──> Track (passes 0..n) ──> Hold (fixes T) ──> Drain ────────────────────> Publish ──> Done
//!                   ^                    │
//!                   └────────────────────┘ the hold would take too long: what was parked is let go, and once more
//!
//! any phase ──> failed or cancelled: every permit is dropped, then the staging directory is removed
//! ```
//!
//! How each way a write can meet the copy is dealt with is written where it is decided: marks and the grace argument
//! in `marks::ledger`, the switch of phases in `gate::capture`, passes in `passes`, the hold in `hold`, and the claims on
//! blocks in `gate::needs`.
//!
//! # Rooms
//!
//! From the ground up; each imports only what stands before it (`tests/layers.rs` of the workspace sees to that).
//!
//! | room | what is in it |
//! |---|---|
//! | `error`, `base` | errors; file system calls, moving data, locks |
//! | `interface` | what a backup is asked for, how it is steered, what it tells |
//! | `marks` | each known file and directory, its block map, claims on its blocks, and the ledger of what calls may have changed |
//! | `tree` | names, and where symbolic links lead |
//! | `gate` | where stopped calls come in, and when they go on |
//! | `space` | how much is to be copied, and what is left free for others |
//! | `stage` | the staging directory, and removing it |
//! | `trial` | what the destination can hold, found out before anything is copied |
//! | `context` | what each of the following needs: where things are, who is told, whether to go on |
//! | `passes` | Track: syncs, and copying while the target writes |
//! | `drain` | Drain: before-images, and the nets |
//! | `hold` | Hold: the moment, and what is mapped then |
//! | `publish` | Publish: names, metadata, manifest; and verifying a backup |
//! | `backup` | one backup, from start to end |
#![forbid(unsafe_code)]

mod backup;
mod base;
mod context;
mod drain;
mod error;
mod gate;
mod hold;
mod interface;
mod marks;
mod passes;
mod publish;
mod space;
mod stage;
mod tree;
mod trial;

pub use backup::Backup;
pub use base::io;
pub use base::util::shortened;
pub use error::Error;
pub use gate::capture::Capture;
pub use interface::control::Control;
pub use interface::monitor::{Monitor, Phase, Progress, Quiesce};
pub use interface::placing::{Choose, Placing};
pub use interface::report::{BeforeImages, HoldTimes, Mapped, NotKept, OutsideLinks, PhaseTimes, Report, Special};
pub use interface::spec::{OWN_DIR, Point, Reserve, Source, Spec, Tuning};
pub use publish::summary::{Summary, summary};
pub use publish::verify::{Problem, VerifyReport, verify};
pub use stage::discard::{is_staging, remove_backup, remove_leftovers};
