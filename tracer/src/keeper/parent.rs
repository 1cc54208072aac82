//! The keepers' parent: it starts the first of them, and otherwise does nothing but let the kernel bury them.
//!
//! A process that nobody waits for stays a zombie until its parent ends, and an orphan's parent is process 1: in a
//! container often the target itself, which waits for none that it did not start. So keepers are the children of this one,
//! also those whose own parent was killed (it is their subreaper). It ignores SIGCHLD, which has the kernel bury them at once,
//! and ends with the last of them. If it is killed itself the keepers notice nothing.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::sys::wait::wait;

use super::born;
use crate::helper::process::{self as helper, KEEPER, PARENT};
use crate::sys::process as low;

/// Its whole life; the arguments are `PID START`. Standard input, output and error are the keeper's, see [`super::start`].
/// Returns the process's exit code.
pub fn main(arguments: &[String]) -> i32 {
    if let Err(problem) = start(arguments) {
        if born::is_meant(arguments) {
            born::tell(&problem);
        } else {
            eprintln!("hotbackup keeper: {problem}");
        }
        return 1;
    }
    // Its children alone have these now.
    helper::close_standard();
    low::forget_program();
    while wait() != Err(Errno::ECHILD) {}
    0
}

fn start(arguments: &[String]) -> Result<(), String> {
    // The memory is the keeper's.
    let gifts = if born::is_meant(arguments) {
        let mut gifts = None;
        let first = || born::take_gifts(arguments).map(|taken| gifts = Some(taken));
        drop(helper::begin_with(PARENT, arguments, born::PARENT_KEEPS, first)?);
        gifts
    } else {
        drop(helper::begin(PARENT, arguments)?);
        None
    };
    nix::sys::prctl::set_child_subreaper(true).map_err(|errno| errno.to_string())?;
    low::ignore_signal(Signal::SIGCHLD);
    if let Some(gifts) = gifts {
        return born::start_keeper(&gifts, arguments);
    }
    let mut keeper = Command::new("/proc/self/exe");
    keeper.arg0(KEEPER.name()).args(arguments);
    // Nothing is heard of its end: it is buried.
    keeper.spawn().map(drop).map_err(|error| error.to_string())
}
