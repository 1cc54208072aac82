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
//! in `ledger`, the switch of phases in [`mod@capture`], passes in `sync` and `copy`, the hold in `hold`, and the
//! claims on blocks in `drain`.
#![forbid(unsafe_code)]

mod backup;
mod blockmap;
pub mod capture;
mod context;
mod control;
mod converge;
mod copy;
mod drain;
mod error;
mod foreign;
mod hash;
mod hold;
pub mod io;
mod kept;
mod ledger;
mod manifest;
mod mapped;
mod monitor;
mod node;
mod publish;
mod remove;
mod report;
mod saver;
mod spec;
mod stage;
mod sys;
mod track;
mod tree;
mod util;
mod verify;

pub use backup::Backup;
pub use capture::Capture;
pub use control::Control;
pub use error::Error;
pub use monitor::{Monitor, Phase, Progress, Quiesce};
pub use report::{BeforeImages, HoldTimes, Mapped, PhaseTimes, Report};
pub use spec::{Point, Source, Spec, Tuning};
pub use verify::{Problem, VerifyReport, verify};
