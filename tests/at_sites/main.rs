//! Targets whose calls are captured at their sites, and what others do with a thread that is in code of ours there: debuggers,
//! profilers, dumps of stacks, core files, cancellation. And those in which nothing can be captured so. (What is captured:
//! `sites.rs`, `rows/at_sites.rs`, `model/`.)
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod backup;
    pub mod core_pattern;
    pub mod guest;
    pub mod nobody;
    pub mod process;
}
mod cancelled;
mod denied;
mod harness;
mod looked_at;
