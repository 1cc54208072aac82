//! What our small processes have in common, the keeper and the ptracer: hotbackup executed again, out of the
//! supervisor's session, in the target's cgroups, deaf to the signals that end a service.

use std::ffi::CStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};

use hotbackup_event::failpoint;
use nix::sys::signal::Signal;

use super::place::place;
use crate::shared::memory::Memory;
use crate::sys::pidfd;
use crate::sys::process as low;
use crate::target::cgroups;
use crate::target::process::{Process, list_numbers};

/// The process that answers when no supervisor does.
pub const KEEPER: Kind = Kind { name: c"hotbackup-keep", subcommand: "keeper" };
/// The process that does all ptrace there is.
pub const PTRACER: Kind = Kind { name: c"hotbackup-trace", subcommand: "ptracer" };

/// Which process it is.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// What `ps` shows (15 bytes at most).
    pub name: &'static CStr,
    /// The hidden subcommand that the executable is called with.
    pub subcommand: &'static str,
}

/// The command that starts one for `target`: `program SUBCOMMAND PID START`, with the shared memory as standard input.
pub(crate) fn command(target: &Process, program: &Path, kind: Kind, memory: OwnedFd) -> Command {
    let mut command = Command::new(program);
    command.arg(kind.subcommand).args([target.pid().to_string(), target.start().to_string()]);
    command.env_clear().stdin(Stdio::from(memory));
    if let Ok(armed) = std::env::var(failpoint::VARIABLE) {
        command.env(failpoint::VARIABLE, armed);
    }
    command
}

/// The first moments of such a process: returns the target and the shared memory.
pub(crate) fn begin(kind: Kind, arguments: &[String]) -> Result<(Process, Memory), String> {
    let [pid, start] = arguments else { return Err("it is started by hotbackup alone".into()) };
    let pid: i32 = pid.parse().map_err(|_| "bad pid")?;
    let _ = nix::unistd::setsid();
    low::set_name(kind.name);
    // Stopping a service signals its whole cgroup, and mongod still writes while it shuts down.
    use Signal::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
    for ignored in [SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT, SIGTSTP, SIGUSR1, SIGUSR2] {
        low::ignore_signal(ignored);
    }
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let memory = Memory::open(input).map_err(|errno| format!("no shared memory on its standard input: {errno}"))?;
    let target = Process::open(pid).map_err(|error| error.to_string())?;
    if target.start().to_string() != *start {
        return Err(format!("process {pid} is another one now"));
    }
    let _ = std::env::set_current_dir("/");
    place(pid);
    Ok((target, memory))
}

/// Ends all processes of `kind` for `target`, and waits for their ends.
pub(crate) fn end_all(kind: Kind, target: &Process) {
    for pid in list_numbers(target.proc(), ".") {
        if is(pid, kind, target)
            && let Ok(process) = pidfd::open(pid)
            && is(pid, kind, target)
        {
            cgroups::end(target.proc(), pid, process.as_fd());
        }
    }
}

/// Whether process `pid` runs as our own user.
pub(crate) fn is_ours(pid: i32) -> bool {
    let owner = fs::metadata(format!("/proc/{pid}")).map(|metadata| metadata.uid());
    owner.is_ok_and(|owner| owner == nix::unistd::geteuid().as_raw())
}

/// Whether process `pid` is one of `kind`, for whatever target.
pub(crate) fn is_any(pid: i32, kind: Kind) -> bool {
    arguments(pid, kind).is_some()
}

/// Whether process `pid` is one of `kind` for `target`, by name, arguments and owner: only ours, root's, and those of the
/// target's own user are trusted, who may do with it as they like.
pub(crate) fn is(pid: i32, kind: Kind, target: &Process) -> bool {
    let ours = [target.pid().to_string(), target.start().to_string()];
    if arguments(pid, kind).is_none_or(|arguments| arguments != ours) {
        return false;
    }
    let owner = fs::metadata(format!("/proc/{pid}")).map(|metadata| metadata.uid());
    let of_target = || target.status_field(target.pid(), "Uid")?.split_whitespace().next()?.parse().ok();
    owner.is_ok_and(|owner| owner == 0 || owner == nix::unistd::geteuid().as_raw() || of_target() == Some(owner))
}

/// For which target process `pid` was started, by number and start, if its name and arguments are those of `kind`.
fn arguments(pid: i32, kind: Kind) -> Option<[String; 2]> {
    let read = |name: &str| fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
    if read("comm").trim_ascii_end() != kind.name.to_bytes() {
        return None;
    }
    let words = String::from_utf8(read("cmdline")).ok()?;
    let mut words = words.split('\0').skip(1).map(str::to_owned);
    let [verb, target, start] = [words.next()?, words.next()?, words.next()?];
    (verb == kind.subcommand).then_some([target, start])
}
