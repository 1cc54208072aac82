//! What is done to processes: the calls that no crate wraps.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::check;

/// Names the calling thread, at most 15 bytes: what `ps` and `top` show.
pub fn set_name(name: &CStr) {
    // SAFETY: the kernel reads a C string.
    unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
}

/// Has the calling thread run as soon as it wakes: a thread of the target stands still until it does, and on a busy
/// machine the fair scheduler would let it wait for some milliseconds. Real-time priority where permitted
/// (CAP_SYS_NICE), else it stays as it is. For threads that do little and then sleep.
pub fn hurry() {
    const SLACK_NS: libc::c_ulong = 1;
    let lowest = libc::sched_param { sched_priority: 1 };
    // SAFETY: the kernel reads one `struct sched_param`; 0 is the calling thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const lowest);
        libc::prctl(libc::PR_SET_TIMERSLACK, SLACK_NS);
    }
}

/// Has the calling thread be one among others again.
pub fn relax() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads one `struct sched_param`; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_OTHER | libc::SCHED_RESET_ON_FORK, &raw const none) };
}

/// Whether descriptor `a.1` of process `a.0` and descriptor `b.1` of process `b.0` are the same open file (kcmp(2), 3.5).
///
/// # Errors
/// `EBADF`, `ESRCH`, or `EPERM` when both cannot be looked at.
pub fn is_same_file(a: (i32, i32), b: (i32, i32)) -> Result<bool, Errno> {
    const KCMP_FILE: libc::c_int = 0;
    let (first, second) = (a.1 as libc::c_ulong, b.1 as libc::c_ulong);
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_kcmp, a.0, b.0, KCMP_FILE, first, second) }).map(|order| order == 0)
}

/// Whether two threads share one table of descriptors (kcmp(2), 3.5).
///
/// # Errors
/// `ESRCH`, or `EPERM` or `ENOSYS` when that cannot be known.
pub fn share_descriptors(a: i32, b: i32) -> Result<bool, Errno> {
    const KCMP_FILES: libc::c_int = 2;
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_FILES, 0, 0) }).map(|order| order == 0)
}

/// Whether two processes share their memory (kcmp(2), 3.5).
///
/// # Errors
/// As [`share_descriptors`].
pub fn share_memory(a: i32, b: i32) -> Result<bool, Errno> {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: no memory is passed.
    check(unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_VM, 0, 0) }).map(|order| order == 0)
}

/// Keeps this process out of the swap: what it has used so far, the room that its stack and heap may need, and whatever it
/// comes to use. The rest of its program, most of it the C library's, need not be there. Not where that is permitted for
/// so little that a stack could not grow any more: to be paged out makes an answer late, and no more than that.
pub fn lock_memory() {
    use nix::sys::mman::{MapFlags, MlockAllFlags, ProtFlags, mlockall, mmap_anonymous, munlockall, munmap};
    const ROOM: std::num::NonZeroUsize = std::num::NonZeroUsize::new(1 << 20).unwrap();
    const USUAL: usize = 48 << 10;
    forget_program();
    // As pages come into use (4.4).
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    if mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault).is_err() {
        return;
    }
    // SAFETY: a new mapping at an address of the kernel's choice.
    match unsafe { mmap_anonymous(None, ROOM, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE) } {
        // SAFETY: just mapped, and nobody knows of it.
        Ok(room) => drop(unsafe { munmap(room, ROOM.get()) }),
        Err(_) => {
            let _ = munlockall();
            return;
        }
    }
    std::hint::black_box([1u8; USUAL]);
    std::hint::black_box(vec![1u8; USUAL]);
}

/// Lets go of the pages of this program's code and constants: how a process begins touches many that it never needs again.
/// They come back as they are used.
pub fn forget_program() {
    let Ok(maps) = super::procfs::read("self/maps") else { return };
    let Ok(program) = super::procfs::stat("self/exe") else { return };
    for line in maps.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [range, flags, offset, _, inode, ..] = words[..] else { continue };
        // Nothing there was ever written to: what stands at the program's beginning, or is executed.
        if inode != program.st_ino.to_string() || !(flags == "r-xp" || flags == "r--p" && offset == "00000000") {
            continue;
        }
        let Some((start, end)) = range.split_once('-') else { continue };
        let number = |text| usize::from_str_radix(text, 16).ok();
        let (Some(start), Some(end)) = (number(start), number(end)) else { continue };
        // SAFETY: a private mapping of a file, and of those only what is never written to: the same content comes back.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// Has the kernel kill this process when its parent, process `parent`, ends; at once if that has ended already. For a child of
/// a process with a single thread: it is that thread's end that counts.
pub fn die_with(parent: i32) {
    // SAFETY: no memory is passed.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    if nix::unistd::getppid().as_raw() != parent {
        std::process::exit(1);
    }
}

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The new process.
    Child,
    /// The old one, with the new one's process id.
    Parent(i32),
}

/// Makes a copy of this process, which must have a single thread.
///
/// # Errors
/// The kernel's (`EAGAIN`, `ENOMEM`).
pub fn fork_single_threaded() -> Result<Forked, Errno> {
    // SAFETY: with a single thread no lock is held by another, so the child may do whatever the parent may.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Child => Ok(Forked::Child),
        nix::unistd::ForkResult::Parent { child } => Ok(Forked::Parent(child.as_raw())),
    }
}

/// Ignores a signal for good.
pub fn ignore_signal(signal: nix::sys::signal::Signal) {
    // SAFETY: SIG_IGN runs no code.
    let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigIgn) };
}

/// Puts another file in the place of standard output.
///
/// # Errors
/// The kernel's.
pub fn replace_stdout(file: BorrowedFd<'_>) -> Result<(), Errno> {
    nix::unistd::dup2_stdout(file)
}

/// Whether the thread `tid` registered restartable sequences and is inside one now; it must be ptrace-stopped.
/// A kernel that cannot say (before 5.13) has no answer to rely on, and says `false`.
pub fn in_restartable_sequence(tid: Pid) -> bool {
    #[repr(C)]
    #[derive(Default)]
    struct Configuration {
        address: u64,
        size: u32,
        signature: u32,
        flags: u32,
        pad: u32,
    }
    const GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
    let mut found = Configuration::default();
    let size = size_of::<Configuration>();
    // SAFETY: the kernel writes at most `size` bytes to `found`.
    let result = unsafe { libc::ptrace(GET_RSEQ_CONFIGURATION, tid.as_raw(), size, &raw mut found) };
    if result < 0 || found.address == 0 {
        return false;
    }
    let pointer = found.address + 8; // rseq_cs follows two u32
    nix::sys::ptrace::read(tid, pointer as *mut _).is_ok_and(|value| value != 0)
}

/// `PROCMAP_QUERY` (6.11): does a file-backed shared mapping lie in `[start, end)`?
///
/// # Errors
/// `ENOTTY` before 6.11.
pub fn shared_file_mapping(maps: BorrowedFd<'_>, start: u64, end: u64) -> Result<Option<(u64, u64)>, Errno> {
    #[repr(C)]
    #[derive(Default)]
    struct Query {
        size: u64,
        query_flags: u64,
        query_addr: u64,
        vma_start: u64,
        vma_end: u64,
        vma_flags: u64,
        vma_page_size: u64,
        vma_offset: u64,
        inode: u64,
        dev_major: u32,
        dev_minor: u32,
        vma_name_size: u32,
        build_id_size: u32,
        vma_name_addr: u64,
        build_id_addr: u64,
    }
    const PROCMAP_QUERY: u64 = 0xc068_6611; // _IOWR('f', 17, struct procmap_query)
    const SHARED: u64 = 0x08;
    const COVERING_OR_NEXT: u64 = 0x10;
    const FILE_BACKED: u64 = 0x20;
    let mut query = Query {
        size: size_of::<Query>() as u64,
        query_flags: SHARED | COVERING_OR_NEXT | FILE_BACKED,
        query_addr: start,
        ..Query::default()
    };
    // SAFETY: the kernel reads and writes one `struct procmap_query` of the size it is told.
    match check(unsafe { libc::ioctl(maps.as_raw_fd(), PROCMAP_QUERY as _, &raw mut query) }.into()) {
        Ok(_) if query.vma_start < end => Ok(Some((query.vma_start, query.vma_end))),
        Ok(_) | Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
