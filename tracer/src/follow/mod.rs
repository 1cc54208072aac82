//! One target, from attach to hand-over.
//!
//! - [`session`]: all of it. `begin`: how a target comes into our hands; [`options`] and `lock` for that.
//! - `unseen_calls`: what an earlier release's filter does not show.
//! - `ancestors`: keepers of the releases before the session's memory lay in the target.
//! - `waiting`: calls with nobody to answer them.
//! - `warden`: the supervisor's eye on its keepers. [`rescue`]: a target that nobody answers.
//! - `blind_spots`, [`outsiders`], `reused`, `mapped`, `newcomers`: what no call shows. [`outlook`]: all that can be known without touching it.

mod ancestors;
mod at_sites;
mod begin;
mod blind_spots;
mod lock;
mod mapped;
mod newcomers;
pub mod options;
pub mod outlook;
pub mod outsiders;
pub mod rescue;
mod reused;
pub mod session;
mod unseen_calls;
mod waiting;
mod warden;
