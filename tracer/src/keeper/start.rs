//! The keeper's first moments: from the command line to the first twin.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::born;
use super::find::{eventfd_id, wake_fd};
use super::run::Keeper;
use crate::helper::process::{self as helper, KEEPER};
use crate::shared::control::Control;
use crate::shared::memory::Memory;
use crate::shared::roles::{Held, Part};
use crate::sys::process as low;

/// How long another keeper may take to be gone.
const PREDECESSOR_LIMIT: Duration = Duration::from_secs(1);

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
            if born::is_meant(arguments) {
                born::tell(&problem);
            } else {
                eprintln!("hotbackup keeper: {problem}");
            }
            1
        }
    }
}

/// There is one keeper that acts, whoever starts another. A pair that was killed just now may be about to be gone.
fn take_part(memory: &Memory) -> Result<Held, String> {
    let limit = Instant::now() + PREDECESSOR_LIMIT;
    loop {
        match memory.take(Part::Keeper) {
            Err(Errno::EAGAIN) if Instant::now() < limit => std::thread::sleep(Duration::from_millis(1)),
            taken => return taken.map_err(|errno| format!("there is one already: {errno}")),
        }
    }
}

fn prepare(arguments: &[String]) -> Result<Keeper, String> {
    failpoint::hit("keeper.executed");
    let is_born = born::is_meant(arguments);
    let mut given = None;
    let (target, memory) = if is_born {
        let first = || born::begin().map(|wake| given = Some(wake));
        helper::begin_with(KEEPER, arguments, born::KEEPER_KEEPS, first)?
    } else {
        helper::begin(KEEPER, arguments)?
    };
    let memory = memory.ok_or("there is no session memory on its standard input")?;
    let memory = Memory::open(memory).map_err(|why| format!("no session memory: {why}"))?;
    failpoint::hit("keeper.started");
    let part = take_part(&memory)?;
    let wake = match given.or_else(|| wake_fd(&target, &memory)) {
        Some(wake) => wake,
        // The target has closed it.
        None => {
            let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
            let wake = OwnedFd::from(EventFd::from_value_and_flags(0, flags).map_err(|errno| errno.to_string())?);
            memory.wake_id.store(eventfd_id(&wake).unwrap_or(0), Ordering::SeqCst);
            wake
        }
    };
    low::lock_memory();
    let ready = nix::unistd::dup(std::io::stdout()).map_err(|errno| errno.to_string())?;
    low::replace_stdout(wake.as_fd()).map_err(|errno| errno.to_string())?;
    if !memory.lives(Part::Supervisor) {
        return Err("its supervisor is gone".into());
    }
    let mut keeper = Keeper::new(target, memory, wake, part);
    if is_born {
        // It is the socket.
        keeper.socket = ready.try_clone().ok();
    }
    let control = Control::load(&keeper.memory.control);
    keeper.watch_supervisor(control);
    keeper.memory.keeper.store(std::process::id() as i32, Ordering::SeqCst);
    // The twin is there before the filter is.
    keeper.renew_twin();
    failpoint::hit("keeper.twinned");
    keeper.memory.watched.store(Control::load(&keeper.memory.control).generation, Ordering::SeqCst);
    let _ = nix::unistd::write(&ready, b"k"); // nobody listens any more if this is the twin
    drop(ready);
    helper::close_standard_error(); // of one that was born, the program
    failpoint::hit("keeper.ready");
    Ok(keeper)
}
