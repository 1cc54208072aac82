//! What must hold before anything of the target is touched: kernel features, permission, architecture, a target that is not
//! frozen, and room below the limits.

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::rights;
pub use super::rights::{check_filters, check_filters_can_be_read, check_root, remedy_for_filters};
use crate::calls::filter::USER_NOTIF;
use crate::error::Error;
use crate::helper::process::{self as helper, PTRACER};
use crate::sys::notify;
use crate::target::cgroups;
use crate::target::listener::has_listener;
use crate::target::process::Process;
use crate::target::{quota, room};

const TSYNC: u64 = 1 << 0; // 3.17
const SPEC_ALLOW: u64 = 1 << 2; // 4.17: or speculation controls slow the target before 5.16
const NEW_LISTENER: u64 = 1 << 3; // 5.0
const TSYNC_ESRCH: u64 = 1 << 4; // 5.7: lets TSYNC and NEW_LISTENER go together
const WAIT_KILLABLE_RECV: u64 = 1 << 5; // 5.19: once received, only a fatal signal interrupts

/// The flags that the filter is installed with.
pub const FILTER_FLAGS: u64 = TSYNC | SPEC_ALLOW | NEW_LISTENER | TSYNC_ESRCH | WAIT_KILLABLE_RECV;

/// The kernel features that hotbackup needs, each with whether it is there.
pub fn kernel_features() -> Vec<(&'static str, &'static str, bool)> {
    vec![
        ("seccomp user notifications", "5.0", notify::action_available(USER_NOTIF)),
        (
            "seccomp's TSYNC together with a listener",
            "5.7",
            notify::flags_available(TSYNC | TSYNC_ESRCH | NEW_LISTENER),
        ),
        ("seccomp's WAIT_KILLABLE_RECV", "5.19", notify::flags_available(FILTER_FLAGS)),
    ]
}

/// Checks all of it, without touching the target.
///
/// # Errors
/// The first thing that is missing.
pub fn check(process: &Process) -> Result<(), Error> {
    check_right(process)?;
    rights::check_filters(process)?;
    rights::check_root(process).map_err(|remedy| Error::NotPermitted {
        pid: process.pid(),
        action: "following the paths of",
        remedy,
    })?;
    // Before anything of ours joins its cgroups, or waits for it.
    cgroups::check_thawed(process)?;
    check_room(process)
}

/// Checks whether its limits, those above it, and ours leave room.
///
/// # Errors
/// [`Error::NoRoom`]
pub fn check_room(process: &Process) -> Result<(), Error> {
    let is_kept = has_listener(process);
    if !is_kept {
        room::check(process)?;
    }
    quota::check(process, is_kept)
}

/// Checks kernel, permission and architecture.
///
/// # Errors
/// The first thing that is missing.
pub fn check_right(process: &Process) -> Result<(), Error> {
    if let Some((feature, since, _)) = kernel_features().into_iter().find(|(_, _, there)| !there) {
        return Err(Error::KernelTooOld { feature, since });
    }
    let pid = process.pid();
    if process.first_thread_ended() {
        return Err(Error::FirstThreadEnded(pid));
    }
    if !process.is_alive() {
        return Err(Error::TargetExited(pid));
    }
    if let Some(tracer) = process.tracer(pid) {
        return Err(traced_by(process, tracer));
    }
    // Reading the call a thread is in takes the same right as attaching (PTRACE_MODE_ATTACH_FSCREDS).
    match process.read_file("syscall") {
        Ok(_) => {}
        Err(Errno::ESRCH | Errno::ENOENT) => return Err(Error::NoSuchProcess(pid)),
        // Somebody else's tracee, or not ours to trace.
        Err(_) => {
            let not_permitted = || Error::not_permitted(pid, "tracing");
            return Err(process.tracer(pid).map_or_else(not_permitted, |tracer| traced_by(process, tracer)));
        }
    }
    if !has_listener(process) {
        process.open_file("mem", OFlag::O_RDWR).map_err(Error::os(pid, "writing to the memory of"))?;
    }
    rights::check_own_calls(process)?;
    check_architecture(process)
}

/// A debugger holds it, or another hotbackup does for an instant.
fn traced_by(process: &Process, tracer: i32) -> Error {
    let pid = process.pid();
    if helper::is(tracer, PTRACER, process) { Error::Busy(pid) } else { Error::AlreadyTraced { pid, tracer } }
}

/// Whether the target must give up gaining privileges (`no_new_privs`) to install a filter.
pub fn needs_no_new_privs(process: &Process) -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let pid = process.pid();
    let capable = process
        .status_field(pid, "CapEff")
        .and_then(|set| u64::from_str_radix(&set, 16).ok())
        .is_some_and(|set| set & SYS_ADMIN != 0);
    // A capability in a user namespace of its own counts there, and that is where the kernel asks.
    !capable && process.status_field(pid, "NoNewPrivs").is_none_or(|value| value != "1")
}

/// The program must be a 64-bit x86 one (`EI_CLASS`, `e_machine` of its ELF header).
fn check_architecture(process: &Process) -> Result<(), Error> {
    use std::io::Read;
    const CLASS_64: u8 = 2;
    const MACHINE_X86_64: u16 = 62;
    let pid = process.pid();
    let exe = process.open_file("exe", OFlag::O_RDONLY).map_err(Error::os(pid, "reading the program of"))?;
    let mut header = [0u8; 20];
    let read = std::fs::File::from(exe).read_exact(&mut header);
    let machine = u16::from_le_bytes([header[18], header[19]]);
    if read.is_err() || header[4] != CLASS_64 || machine != MACHINE_X86_64 {
        return Err(Error::ForeignArchitecture(pid));
    }
    Ok(())
}
