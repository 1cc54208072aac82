//! What keepers begin with that were born from the target (`attach/birth/`): nobody who could be asked, perhaps no /proc of their
//! own, and no right to take a descriptor from anybody. All comes by a socket.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use hotbackup_event::failpoint;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, fcntl};
use nix::unistd::{Whence, execveat, lseek};

use crate::helper::process::{BORN, KEEPER, STANDARD};
use crate::sys::process::{Forked, fork_single_threaded};
use crate::sys::{inherited, notify, passing, pidfd, procfs};
use crate::target::process::start_of;

/// The keeper's descriptors at its beginning, besides the three that it always has. The standard ones are the memory, the socket and
/// the program.
const PROC_FD: i32 = 3;
const WAKE_FD: i32 = 4;
const KEPT: u32 = 5;
/// How long a message may take that was sent before.
const LIMIT: Duration = Duration::from_secs(2);

/// Whether these are the arguments of one that was born.
pub(super) fn is_meant(arguments: &[String]) -> bool {
    arguments.get(2).is_some_and(|word| word == BORN)
}

/// How many descriptors the parent, and the keeper, has from whoever executed it.
pub(super) const PARENT_KEEPS: u32 = STANDARD;
pub(super) const KEEPER_KEEPS: u32 = KEPT;

/// What comes by the socket.
pub(super) struct Gifts {
    proc: OwnedFd,
    wake: OwnedFd,
}

/// In the parent: takes them, and makes procfs known, its own or the one that came.
pub(super) fn take_gifts(arguments: &[String]) -> Result<Gifts, String> {
    let socket = std::io::stdout();
    let wake = receive(socket.as_fd(), passing::WAKE)?;
    let given = receive(socket.as_fd(), passing::PROC)?;
    let (pid, start) = (arguments[0].parse::<i32>().unwrap_or(0), arguments[1].parse::<u64>().ok());
    // One that shows another namespace's processes, or has the target hidden, is of no use.
    let shows = |proc: &OwnedFd| start.is_some() && start_of(proc.as_fd(), pid) == start;
    let own = procfs::mounted().ok().filter(shows);
    let proc = own.or_else(|| Some(given).filter(shows)).ok_or("it sees no /proc in which the process is")?;
    procfs::set_root(proc.try_clone().map_err(|error| error.to_string())?);
    failpoint::hit("birth.gifts-taken");
    Ok(Gifts { proc, wake })
}

fn receive(socket: BorrowedFd<'_>, kind: u8) -> Result<OwnedFd, String> {
    let limit = Instant::now() + LIMIT;
    loop {
        match passing::receive(socket, false) {
            Ok(message) if message.bytes == [kind] => {
                return message.fd.ok_or("a descriptor did not come to it".into());
            }
            Ok(_) => return Err("something else came to it".into()),
            Err(Errno::EAGAIN | Errno::EINTR) if Instant::now() < limit => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(errno) => return Err(format!("nothing came to it: {errno}")),
        }
    }
}

/// In the parent: starts the keeper, by the descriptor of the program, as there may be no /proc/self/exe.
pub(super) fn start_keeper(gifts: &Gifts, arguments: &[String]) -> Result<(), String> {
    let words = |errno: Errno| errno.to_string();
    let name = KEEPER.name().to_string_lossy().into_owned();
    let c = |word: String| CString::new(word).map_err(|error| error.to_string());
    let arguments: Vec<CString> =
        std::iter::once(name).chain(arguments.iter().cloned()).map(c).collect::<Result<_, _>>()?;
    let environment: Vec<CString> =
        std::env::vars().map(|(name, value)| c(format!("{name}={value}"))).collect::<Result<_, _>>()?;
    // Out of the way of the numbers that they are to have.
    let away = |fd: &OwnedFd| fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(10)).map_err(words);
    let (proc, wake) = (away(&gifts.proc)?, away(&gifts.wake)?);
    match fork_single_threaded().map_err(words)? {
        Forked::Parent(_) => {
            for number in [proc, wake] {
                drop(inherited::take(number));
            }
            Ok(())
        }
        Forked::Child => {
            let execute = || -> Result<(), Errno> {
                for (fd, number) in [(proc, PROC_FD), (wake, WAKE_FD)] {
                    let fd = inherited::take(fd).ok_or(Errno::EBADF)?;
                    inherited::hand_on(fd.as_fd(), number)?;
                }
                execveat(std::io::stderr().as_fd(), c"", &arguments, &environment, AtFlags::AT_EMPTY_PATH).map(drop)
            };
            let problem = execute().expect_err("it does not come back else");
            tell(&format!("execveat: {problem}"));
            std::process::exit(1);
        }
    }
}

/// In the keeper: makes procfs known, and returns the eventfd. Whatever it will have to do, and a seccomp filter may forbid, is
/// tried, while there is no filter of ours yet.
pub(super) fn begin() -> Result<OwnedFd, String> {
    let proc = inherited::take(PROC_FD).ok_or("it has no /proc")?;
    let wake = inherited::take(WAKE_FD).ok_or("it has no eventfd")?;
    procfs::set_root(proc);
    if !notify::may_answer(wake.as_fd()) {
        return Err("a seccomp filter forbids it to answer (ioctl)".into());
    }
    let myself = pidfd::open(std::process::id() as i32).map_err(|errno| format!("pidfd_open: {errno}"))?;
    lseek(std::io::stdin(), 0, Whence::SeekCur).map_err(|errno| format!("lseek: {errno}"))?;
    pidfd::may_signal(myself.as_fd()).map_err(|errno| format!("pidfd_send_signal: {errno}"))?;
    Ok(wake)
}

/// Says what is wrong.
pub(super) fn tell(problem: &str) {
    let mut bytes = vec![passing::PROBLEM];
    bytes.extend(problem.bytes().take(passing::LONGEST - 1));
    let _ = passing::send(std::io::stdout().as_fd(), &bytes, None);
}

/// The listener that was handed on, if it was by now. It stays there: whoever takes this one's place finds it, too.
pub(super) fn listener(socket: BorrowedFd<'_>) -> Option<OwnedFd> {
    loop {
        let message = passing::receive(socket, true).ok()?;
        if message.bytes == [passing::LISTENER]
            && let Some(fd) = message.fd
            && notify::is_listener(fd.as_fd())
        {
            return Some(fd);
        }
        if message.bytes.is_empty() {
            return None;
        }
        // Of no use, and in the way.
        let _ = passing::receive(socket, false);
    }
}
