//! What our small processes have in common, the keeper and the ptracer: a small program executed from memory, out of the
//! supervisor's session, in the target's cgroups, deaf to the signals that end a service.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd;

use super::place::place;
use super::program::{self, Program};
use crate::sys::inherited;
use crate::sys::pidfd;
use crate::sys::{process as low, procfs};
use crate::target::cgroups;
use crate::target::process::Process;

/// The process that answers when no supervisor does.
pub const KEEPER: Kind = Kind(c"hotbackup-keep");
/// The keepers' parent.
pub const PARENT: Kind = Kind(c"hotbackup-reap");
/// The process that does all ptrace there is.
pub const PTRACER: Kind = Kind(c"hotbackup-trace");

/// Standard input, output and error.
pub(crate) const STANDARD: u32 = 3;

/// The last argument of keepers and their parent that were born from the target.
pub(crate) const BORN: &str = "born";

/// Which process it is: what `ps` shows (15 bytes at most), and the name that it is called by.
#[derive(Debug, Clone, Copy)]
pub struct Kind(&'static CStr);

impl Kind {
    /// The name.
    pub fn name(self) -> &'static OsStr {
        OsStr::from_bytes(self.0.to_bytes())
    }

    /// Whether a program with this name of its own is one of this kind.
    pub fn is_called(self, name: &str) -> bool {
        self.0.to_bytes() == name.as_bytes()
    }
}

/// Starts one for `target`: `NAME PID START`, with the session memory, once there is one, as standard input.
pub(crate) fn start(
    target: &Process,
    program: Program,
    kind: Kind,
    memory: Option<OwnedFd>,
    output: Stdio,
    error: Stdio,
) -> std::io::Result<Child> {
    let program = program.open()?;
    let mut command = Command::new(program.path());
    command.arg0(kind.name()).args([target.pid().to_string(), target.start().to_string()]);
    // /dev/null may not be there.
    let memory =
        memory.map_or_else(|| std::io::pipe().map(|(nothing, _)| nothing.into()), |memory| Ok(memory.into()))?;
    command.env_clear().stdin::<Stdio>(memory).stdout(output).stderr(error);
    if let Ok(armed) = std::env::var(failpoint::VARIABLE) {
        command.env(failpoint::VARIABLE, armed);
    }
    command.spawn()
}

/// The first moments of such a process: returns the target and, if it is there, the session memory.
pub(crate) fn begin(kind: Kind, arguments: &[String]) -> Result<(Process, Option<OwnedFd>), String> {
    begin_with(kind, arguments, STANDARD, || Ok(()))
}

/// The same with the descriptors below `kept`, and something that is done before anything is looked at in /proc.
pub(crate) fn begin_with(
    kind: Kind,
    arguments: &[String],
    kept: u32,
    first: impl FnOnce() -> Result<(), String>,
) -> Result<(Process, Option<OwnedFd>), String> {
    inherited::forget(kept);
    let [pid, start, ..] = arguments else { return Err("it is started by hotbackup alone".into()) };
    let pid: i32 = pid.parse().map_err(|_| "bad pid")?;
    let _ = unistd::setsid();
    low::set_name(kind.0);
    // Stopping a service signals its whole cgroup, and mongod still writes while it shuts down.
    use Signal::{SIGHUP, SIGINT, SIGPIPE, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1, SIGUSR2};
    for ignored in [SIGTERM, SIGINT, SIGHUP, SIGPIPE, SIGQUIT, SIGTSTP, SIGUSR1, SIGUSR2] {
        low::ignore_signal(ignored);
    }
    let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let is_memory = nix::sys::stat::fstat(&input).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG);
    first()?;
    let target = Process::open(pid).map_err(|error| error.to_string())?;
    if target.start().to_string() != *start {
        return Err(format!("process {pid} is another one now"));
    }
    place(&target);
    Ok((target, is_memory.then_some(input)))
}

/// Lets go of standard error, so that nobody waits for a word on it. Its number stays taken, by something that can be neither
/// read nor written: what is opened next must not be taken for it.
pub(crate) fn close_standard_error() {
    let _ = nothing().and_then(unistd::dup2_stderr);
}

/// The same with standard input and output, too.
pub(crate) fn close_standard() {
    let _ = nothing().and_then(unistd::dup2_stdin);
    let _ = nothing().and_then(unistd::dup2_stdout);
    close_standard_error();
}

fn nothing() -> Result<OwnedFd, Errno> {
    open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

/// How often it is looked for processes again after some were found and ended.
const PASSES: usize = 8;

/// Ends all processes of `kind` for `target`, and waits for their ends. One of them may have started another one just before its
/// own end, behind the place that the list had come to; so it is looked again until none is found.
pub(crate) fn end_all(kind: Kind, target: &Process) {
    for _ in 0..PASSES {
        let mut ended = 0;
        for pid in target.list(".") {
            if is(pid, kind, target)
                && let Ok(process) = pidfd::open(pid)
                && is(pid, kind, target)
                && cgroups::end(target.proc(), pid, process.as_fd())
            {
                ended += 1;
            }
        }
        if ended == 0 {
            return;
        }
    }
}

/// Whether process `pid` runs as our own user.
pub(crate) fn is_ours(pid: i32) -> bool {
    let owner = procfs::stat(&pid.to_string()).map(|found| found.st_uid);
    owner.is_ok_and(|owner| owner == nix::unistd::geteuid().as_raw())
}

/// Whether process `pid` is one of `kind`, for whatever target.
pub(crate) fn is_any(pid: i32, kind: Kind) -> bool {
    arguments(pid, kind).is_some()
}

/// Whether process `pid` is one of `kind` for `target`, by name, arguments and owner: only ours, root's, and those of the
/// target's own user are trusted, who may do with it as they like. It may have been started where the target has another
/// number: by the target itself, or from a container.
pub(crate) fn is(pid: i32, kind: Kind, target: &Process) -> bool {
    let Some([number, start]) = arguments(pid, kind) else { return false };
    let is_its_number = || number == target.pid().to_string() || number == target.name().inner.to_string();
    start == target.start().to_string() && is_its_number() && is_trusted(pid, target)
}

/// The same of a keeper of the releases before the session's memory lay in the target: `PROGRAM keeper PID START`.
pub(crate) fn is_keeper_of_before(pid: i32, target: &Process) -> bool {
    let Some(words) = words(pid, KEEPER) else { return false };
    let ours = ["keeper".into(), target.pid().to_string(), target.start().to_string()];
    words.get(1..4).is_some_and(|words| words == ours) && is_trusted(pid, target)
}

/// Whether process `pid` has the name of one of `kind` and no arguments, as one that is about to execute it.
pub(crate) fn is_nameless(pid: i32, kind: Kind, target: &Process) -> bool {
    let lives = || target.status(pid).is_some_and(|status| !status.is_dead());
    words(pid, kind).is_some_and(|words| words.iter().all(String::is_empty)) && lives() && is_trusted(pid, target)
}

fn is_trusted(pid: i32, target: &Process) -> bool {
    let owner = procfs::stat(&pid.to_string()).map(|found| found.st_uid);
    let of_target = || target.status_field(target.pid(), "Uid")?.split_whitespace().next()?.parse().ok();
    owner.is_ok_and(|owner| owner == 0 || owner == unistd::geteuid().as_raw() || of_target() == Some(owner))
}

/// Name and arguments of process `pid`, if it calls itself one of `kind`.
fn words(pid: i32, kind: Kind) -> Option<Vec<String>> {
    words_if(pid, |name| kind.is_called(name))
}

fn words_if(pid: i32, is_wanted: impl Fn(&str) -> bool) -> Option<Vec<String>> {
    let read = |name: &str| procfs::read(&format!("{pid}/{name}")).unwrap_or_default();
    // Names first: the arguments are read from the process's memory, and that may take as long as it likes.
    is_wanted(read("comm").trim_ascii_end()).then(|| read("cmdline").split('\0').map(str::to_owned).collect())
}

/// The names that the kernel gives to what is executed by [`start`], by the keepers' parent, or by the target (since 6.14 that of the
/// memory that is executed, cut short): it has them until it has given itself one.
fn is_of_the_kernel(name: &str) -> bool {
    const MOST: usize = 15;
    let of_memory = format!("memfd:{}", program::NAME);
    name == "exe" || name == &of_memory[..MOST] || !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit())
}

/// For which target process `pid` was started, by number and start, if its name and arguments are those of `kind`. It may have
/// been executed just now, and not have taken its name yet.
fn arguments(pid: i32, kind: Kind) -> Option<[String; 2]> {
    let mut words = words_if(pid, |name| kind.is_called(name) || is_of_the_kernel(name))?.into_iter();
    let [name, target, start] = [words.next()?, words.next()?, words.next()?];
    kind.is_called(&name).then_some([target, start])
}
