//! Starting the helper so that the program does not notice: no child that its `wait` could find, and no SIGCHLD.
//!
//! ```text
//!   caller ──clone(VM, VFORK, no signal)──> first ──the same──> second: becomes the helper
//!                                           ends at once, and is waited for by its number
//! ```
//!
//! It is what `posix_spawn` does, twice. Both run in the caller's memory, each on a stack of its own, while the caller waits: they call
//! what the kernel offers, and nothing else. The second one is an orphan when the first has ended, so it is the child of process 1,
//! or of a subreaper. All signals are blocked meanwhile, so that no handler of the program runs in either.
use std::ffi::{CString, c_char, c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::ptr;

use crate::find::{Helper, variable};

/// Each stack. The functions below need some hundred bytes.
const STACK: usize = 64 << 10;
/// What the helper may see of the environment. Not what it loads, or where from: that is the program's own.
const PASSED_ON: [&std::ffi::CStr; 2] = [c"HOTBACKUP_LOG", c"HOTBACKUP_FAILPOINT"];
/// Descriptors that are moved out of the way of 0 to 3.
const ASIDE: c_int = 10;

/// All that the two need: prepared before, as they cannot allocate.
struct Plan {
    path: *const c_char,
    /// The program, if it is not to be found by its path.
    program: c_int,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    socket: c_int,
    null: c_int,
    /// Standard error is kept: somebody wants to read the helper's log.
    logs: bool,
    second_stack: *mut c_void,
    /// What became of it.
    pid: c_int,
    errno: c_int,
}

/// Starts the helper with a socket as its standard input. Returns its number.
pub fn start(helper: &Helper, socket: &OwnedFd) -> io::Result<c_int> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let stacks = Stacks::new()?;
    let (path, program) = prepare(helper)?;
    let values = PASSED_ON.iter().filter_map(|name| {
        let value = variable(name)?;
        CString::new([name.to_bytes(), b"=", value.to_bytes()].concat()).ok()
    });
    let values: Vec<CString> = values.collect();
    let arguments = [c"hotbackup".as_ptr(), c"library".as_ptr(), ptr::null()];
    let environment: Vec<*const c_char> = values.iter().map(|value| value.as_ptr()).chain([ptr::null()]).collect();
    let mut plan = Plan {
        path: path.as_ptr(),
        program: program.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        arguments: arguments.as_ptr(),
        environment: environment.as_ptr(),
        socket: socket.as_raw_fd(),
        null: null.as_raw_fd(),
        logs: variable(PASSED_ON[0]).is_some(),
        second_stack: stacks.top(1),
        pid: -1,
        errno: 0,
    };
    let plan = &raw mut plan;
    let blocked = Blocked::all();
    // SAFETY: the stack is ours alone, and what the plan points to stays until both are done with it: the kernel lets this thread
    // sleep until then. See `first` for what runs there.
    let child = unsafe { libc::clone(first, stacks.top(0), libc::CLONE_VM | libc::CLONE_VFORK, plan.cast()) };
    let error = io::Error::last_os_error();
    if child < 0 {
        return Err(error);
    }
    // SAFETY: asks for that one child, and no status. Somebody else may have waited for it: then there is none.
    while unsafe { libc::waitpid(child, ptr::null_mut(), libc::__WALL) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    drop(blocked);
    // SAFETY: nobody else uses it any more.
    let (pid, errno) = unsafe { ((*plan).pid, (*plan).errno) };
    if errno != 0 {
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(pid)
}

/// Allows the helper, and what it starts, to trace this process, where Yama forbids it even to the same user.
pub fn permit(pid: c_int) {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    // A number that is not known would permit everybody.
    if pid > 0 && scope.trim() == "1" {
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_PTRACER, pid as libc::c_ulong, 0, 0, 0) };
    }
}

#[cfg_attr(not(feature = "embedded"), allow(clippy::unnecessary_wraps))]
fn prepare(helper: &Helper) -> io::Result<(CString, Option<OwnedFd>)> {
    match helper {
        Helper::At(path) => Ok((CString::new(path.clone().into_os_string().into_vec())?, None)),
        #[cfg(feature = "embedded")]
        Helper::Embedded(program) => {
            use std::io::Write;
            use std::os::fd::FromRawFd;
            // SAFETY: the name is a C string.
            let made = unsafe { libc::memfd_create(c"hotbackup".as_ptr(), libc::MFD_CLOEXEC) };
            if made < 0 {
                return Err(io::Error::last_os_error());
            }
            // SAFETY: it is new.
            let mut file = File::from(unsafe { OwnedFd::from_raw_fd(made) });
            file.write_all(program)?;
            Ok((CString::default(), Some(file.into())))
        }
    }
}

/// The one between. Runs while the caller sleeps, in its memory.
extern "C" fn first(plan: *mut c_void) -> c_int {
    let plan = plan.cast::<Plan>();
    // SAFETY: the plan is there until both are done. errno is the caller's own, which sleeps.
    unsafe {
        let pid = libc::clone(second, (*plan).second_stack, libc::CLONE_VM | libc::CLONE_VFORK, plan.cast());
        if pid < 0 {
            (*plan).errno = *libc::__errno_location();
        } else {
            (*plan).pid = pid;
        }
        libc::_exit(0)
    }
}

/// The one that becomes the helper. Its descriptors and signal handlers are copies, its memory is the caller's.
extern "C" fn second(plan: *mut c_void) -> c_int {
    let plan = plan.cast::<Plan>();
    // SAFETY: as above. Everything here is a system call on what is this process's own.
    unsafe {
        libc::setsid();
        let mut usual: libc::sigaction = std::mem::zeroed();
        usual.sa_sigaction = libc::SIG_DFL;
        for signal in 1..=64 {
            // Those that cannot be changed are as they should be.
            libc::sigaction(signal, &raw const usual, ptr::null_mut());
        }
        let socket = libc::fcntl((*plan).socket, libc::F_DUPFD, ASIDE);
        let null = libc::fcntl((*plan).null, libc::F_DUPFD, ASIDE);
        let program = if (*plan).program < 0 { -1 } else { libc::fcntl((*plan).program, libc::F_DUPFD, ASIDE) };
        libc::dup2(socket, 0);
        libc::dup2(null, 1);
        if !(*plan).logs {
            libc::dup2(null, 2);
        }
        let mut from = 3;
        if program >= 0 {
            libc::dup3(program, 3, libc::O_CLOEXEC);
            from = 4;
        }
        libc::syscall(libc::SYS_close_range, from as libc::c_uint, libc::c_uint::MAX, 0);
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        let flags = if program >= 0 { libc::AT_EMPTY_PATH } else { 0 };
        let at = if program >= 0 { 3 } else { libc::AT_FDCWD };
        libc::syscall(libc::SYS_execveat, at, (*plan).path, (*plan).arguments, (*plan).environment, flags);
        (*plan).errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Two stacks.
struct Stacks(*mut c_void);

impl Stacks {
    fn new() -> io::Result<Self> {
        let (access, flags) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK);
        // SAFETY: new memory, wherever there is room.
        let memory = unsafe { libc::mmap(ptr::null_mut(), 2 * STACK, access, flags, -1, 0) };
        if memory == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Self(memory)) }
    }

    /// Where one of them begins: it grows downwards.
    fn top(&self, which: usize) -> *mut c_void {
        // SAFETY: at the end of the memory at most.
        unsafe { self.0.add((which + 1) * STACK) }
    }
}

impl Drop for Stacks {
    fn drop(&mut self) {
        // SAFETY: it is ours, and whoever ran on it has ended or become another program.
        unsafe { libc::munmap(self.0, 2 * STACK) };
    }
}

/// All signals are blocked in this thread, until this is dropped.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> Self {
        // SAFETY: all-zero is a value of it.
        let (mut all, mut before): (libc::sigset_t, libc::sigset_t) =
            unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
        // SAFETY: both have room for a set.
        unsafe {
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        }
        Self(before)
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set that was there.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}
