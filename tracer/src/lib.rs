//! Attach to a running process, and see every call that can change a file before it runs.
//!
//! The layers, from the ground up; each imports only what stands below it (`tests/layers.rs` looks):
//!
//! | layer | what is in it |
//! |---|---|
//! | `sys` | raw system calls, the only unsafe code; knows nothing of ours |
//! | `shared` | the memory that supervisor, keepers and target share: layout, control word, slots, lease words |
//! | `target` | the process as the kernel shows it: threads, descriptors, maps, room below its limits |
//! | `calls` | table, filter, decoders: from registers and memory to what a call may change |
//! | `helper` | what our small processes have in common: how they begin, where they belong |
//! | `ptracer` | the process that does all ptrace there is |
//! | `attach` | what must hold beforehand, and the injected lines that install the filter |
//! | `keeper` | the process that answers when no supervisor does |
//! | `flight` | which calls are on their way, their order, grace, the net under unseen writes |
//! | `hot` | calls captured at their sites, by code of ours in the target |
//! | `receive` | the listener's threads, tickets, answering |
//! | `follow` | one target from attach to hand-over |
//!
//! The receiver stands behind one narrow interface, [`Sink`]: an event in, an answer out.
#![deny(unsafe_code)]

mod attach;
pub mod calls;
mod error;
mod flight;
mod follow;
mod helper;
mod hot;
mod keeper;
mod ptracer;
mod receive;
mod shared;
mod sys;
mod target;

pub use attach::preflight;
pub use error::Error;
#[cfg(fuzzing)]
pub use flight::trial;
pub use flight::unseen::Look;
pub use follow::options::Options;
pub use follow::outlook;
pub use follow::outsiders;
pub use follow::rescue::{Rescued, rescue};
pub use follow::session::Tracer;
pub use helper::program::Program;
pub use hot::Stage;
pub use hotbackup_event::FileId;
pub use receive::answering::Ticket;
pub use receive::sink::{Event, Sink};
pub use shared::memory::LEASE;
pub use target::cores::core_directory;
pub use target::mount_table::MountTable;
pub use target::process::{GivenUp, Process};

/// Runs the process that `arguments` (with the program's own name) ask for, if they ask for one of ours, keeper or
/// ptracer; returns its exit code. To be called before anything else, by a process with a single thread.
pub fn helper_main(arguments: &[String]) -> Option<i32> {
    use helper::process::{KEEPER, PARENT, PTRACER};
    let (name, rest) = arguments.split_first()?;
    match name {
        name if KEEPER.is_called(name) => Some(keeper::start::main(rest)),
        name if PARENT.is_called(name) => Some(keeper::parent::main(rest)),
        name if PTRACER.is_called(name) => Some(ptracer::serve::main(rest)),
        _ => None,
    }
}
