//! What cron, a service manager, a shell or a program leaves to the command that it starts, and what becomes of it: descriptors,
//! signals, limits, masks, directories, variables, and readers that do not read. None of it may be in the way of the target, end a
//! backup without a word, or live on in what the command leaves behind (for the keepers: `keeper_start.rs`).
#![forbid(unsafe_code)]

#[path = "../common"]
mod common {
    pub mod backup;
    pub mod guest;
    pub mod process;
}
mod beginning;
mod limits;
mod output;
mod signals;
mod terminal;

use std::path::Path;
use std::process::Command;

use common::backup::HOTBACKUP;
use common::guest::{Guest, Linked};

/// How many rings the guest has.
const RINGS: usize = 4;

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "64", "200"])
}

/// hotbackup, started by a shell that does this first.
fn after(line: &str) -> Command {
    let mut command = Command::new("bash");
    command.args(["-c", &format!("{line}; exec \"$@\""), "bash", HOTBACKUP]);
    command
}

/// As a path in a line of a shell.
fn quoted(path: &Path) -> String {
    format!("'{}'", path.display())
}
