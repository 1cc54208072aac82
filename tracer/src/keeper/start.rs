//! The keeper's first moments: from the command line to the first twin.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::signal::Signal;

use super::run::Keeper;
use super::state::Control;
use super::twin::Twin;
use crate::process::Process;
use crate::sys::mapping::Mapping;
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
    let [pid, start] = arguments else { return Err("it is started by hotbackup alone".into()) };
    let pid: i32 = pid.parse().map_err(|_| "bad pid")?;
    let _ = nix::unistd::setsid();
    low::set_name(super::NAME);
    // Stopping a service signals its whole cgroup, and mongod still writes while it shuts down.
    use Signal::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    for ignored in [SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT, SIGUSR1, SIGUSR2] {
        low::ignore_signal(ignored);
    }
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let memory = Mapping::open(input).map_err(|errno| format!("no shared memory on its standard input: {errno}"))?;
    let target = Process::open(pid).map_err(|error| error.to_string())?;
    if target.start().to_string() != *start {
        return Err(format!("process {pid} is another one now"));
    }
    let flags = EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC;
    let wake = EventFd::from_value_and_flags(0, flags).map_err(|errno| errno.to_string())?;
    let _ = std::env::set_current_dir("/");
    // Without the right to lock memory it may be paged out, which makes an answer late, not wrong.
    let _ = mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE);
    let ready = nix::unistd::dup(std::io::stdout()).map_err(|errno| errno.to_string())?;
    low::replace_stdout(wake.as_fd()).map_err(|errno| errno.to_string())?;
    let mut keeper =
        Keeper { target, memory, wake, listener: None, supervisor: None, twin: Twin::default(), idle_looks: 0 };
    keeper.open_supervisor();
    if keeper.supervisor.is_none() {
        return Err("its supervisor is gone".into());
    }
    // The twin is there before the filter is.
    keeper.renew_twin();
    keeper.memory.watched.store(Control::load(&keeper.memory.control).generation, Ordering::SeqCst);
    let _ = nix::unistd::write(&ready, b"k"); // nobody listens any more if this is the twin
    Ok(keeper)
}
