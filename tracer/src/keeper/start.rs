//! The keeper's first moments: from the command line to the first twin.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use hotbackup_event::failpoint;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::run::Keeper;
use crate::helper::process::{self as helper, KEEPER};
use crate::shared::control::Control;
use crate::sys::process as low;

/// The keeper's whole life; the arguments are those after the subcommand: `PID START`.
///
/// Standard input is the shared memory, standard output a pipe on which one byte says that the keeper is ready.
/// Returns the process's exit code.
pub fn main(arguments: &[String]) -> i32 {
    match prepare(arguments) {
        Ok(mut keeper) => {
            keeper.run();
            0
        }
        Err(problem) => {
            eprintln!("hotbackup keeper: {problem}");
            1
        }
    }
}

fn prepare(arguments: &[String]) -> Result<Keeper, String> {
    let (target, memory) = helper::begin(KEEPER, arguments)?;
    failpoint::hit("keeper.started");
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake = EventFd::from_value_and_flags(0, flags).map_err(|errno| errno.to_string())?;
    low::lock_memory();
    let ready = nix::unistd::dup(std::io::stdout()).map_err(|errno| errno.to_string())?;
    low::replace_stdout(wake.as_fd()).map_err(|errno| errno.to_string())?;
    let mut keeper = Keeper::new(target, memory, wake);
    keeper.open_supervisor();
    if keeper.supervisor.is_none() {
        return Err("its supervisor is gone".into());
    }
    keeper.memory.keeper.store(std::process::id() as i32, Ordering::SeqCst);
    // The twin is there before the filter is.
    keeper.renew_twin();
    failpoint::hit("keeper.twinned");
    keeper.memory.watched.store(Control::load(&keeper.memory.control).generation, Ordering::SeqCst);
    let _ = nix::unistd::write(&ready, b"k"); // nobody listens any more if this is the twin
    drop(ready);
    helper::close_standard_error();
    failpoint::hit("keeper.ready");
    Ok(keeper)
}
