//! What can go wrong between us and the target, in words for the operator.

use nix::errno::Errno;

/// Why a target cannot be attached to, followed, or answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// there is no process PID
    #[error("there is no process {0}: look its number up again (`pidof mongod`)")]
    NoSuchProcess(i32),
    /// the process ended while it was being followed
    #[error("process {0} ended before the backup was complete: start it and take the backup again")]
    TargetExited(i32),
    /// what is left of the process cannot be looked at
    #[error(
        "the first thread of process {0} has ended while others go on, so that its files and memory cannot be looked at: \
         it cannot be followed"
    )]
    FirstThreadEnded(i32),
    /// not permitted
    #[error("{action} process {pid} is not permitted: {remedy}")]
    NotPermitted {
        /// The target.
        pid: i32,
        /// What was tried, as in "tracing".
        action: &'static str,
        /// What would allow it.
        remedy: &'static str,
    },
    /// somebody else traces it
    #[error("process {pid} is being traced by process {tracer} (a debugger or strace): end that and try again")]
    AlreadyTraced {
        /// The target.
        pid: i32,
        /// Who traces it.
        tracer: i32,
    },
    /// another hotbackup works on it
    #[error("another hotbackup is at work on process {0}: wait for it, or end it")]
    Busy(i32),
    /// a seccomp listener that is not ours
    #[error(
        "process {0} already has a seccomp listener that is not hotbackup's (a container runtime or sandbox): \
             it cannot be followed"
    )]
    ForeignListener(i32),
    /// the filter did not reach a thread
    #[error("a thread of process {0} has a seccomp filter of its own, so the process cannot be followed whole")]
    ThreadDiverges(i32),
    /// the target's own filter would not let it install ours
    #[error(
        "process {pid} has a seccomp filter of its own that forbids, or may forbid, the calls it takes to follow it (a sandbox, \
         systemd's SystemCallFilter), {}: allow it mmap, prctl and seccomp",
        call_name(*.call)
    )]
    OwnFilter {
        /// The target.
        pid: i32,
        /// The first of them.
        call: i64,
    },
    /// the target has a filter, and we may not read it
    #[error(
        "process {pid} has a seccomp filter of its own (a container runtime, a sandbox, systemd), and whether that allows the \
         calls it takes to follow it cannot be read: {remedy}"
    )]
    UnreadFilter {
        /// The target.
        pid: i32,
        /// What would allow it.
        remedy: &'static str,
    },
    /// kernel too old
    #[error("this kernel lacks {feature} (Linux {since} has it): hotbackup cannot follow a process here")]
    KernelTooOld {
        /// The missing feature.
        feature: &'static str,
        /// The first version with it.
        since: &'static str,
    },
    /// children that were there before
    #[error(
        "process {pid} has {count} child process(es) from before hotbackup that can change the source: process {child} ({name}) {how}. \
         hotbackup sees the calls of process {pid} and of what it starts from now on: a program of several processes cannot \
         be backed up yet, and if the child is there for a moment only, try again"
    )]
    SeveralProcesses {
        /// The target.
        pid: i32,
        /// How many such children there are.
        count: usize,
        /// One of them.
        child: i32,
        /// Its program.
        name: String,
        /// What it can do.
        how: String,
    },
    /// a program of another architecture
    #[error("process {0} is not a 64-bit x86 program: hotbackup follows no other kind yet")]
    ForeignArchitecture(i32),
    /// no thread could run the injected calls
    #[error("no thread of process {0} could be used to install the filter ({1}): try again")]
    NoThread(i32, String),
    /// the target is at a limit of its own
    #[error("process {pid} has no room for what it takes to follow it: {what}")]
    NoRoom {
        /// The target.
        pid: i32,
        /// Which limit, and how it is raised.
        what: String,
    },
    /// a cgroup of the target is frozen
    #[error(
        "process {pid} is paused, and so cannot be backed up: {what}; let it go on (`docker unpause`), then try again"
    )]
    Frozen {
        /// The target.
        pid: i32,
        /// Which of its cgroups is frozen, and how it is thawed.
        what: String,
    },
    /// the injected call failed
    #[error("the {call} call injected into process {pid} failed: {errno}")]
    Injected {
        /// The target.
        pid: i32,
        /// The call.
        call: &'static str,
        /// Its errno.
        errno: Errno,
    },
    /// the keeper could not be started or does not answer
    #[error("the keeper for process {pid} {problem}")]
    Keeper {
        /// The target.
        pid: i32,
        /// What is wrong with it.
        problem: String,
    },
    /// the ptracer could not be started, or was killed
    #[error("the process that traces process {pid} for hotbackup failed ({problem}): try again")]
    Ptracer {
        /// The target.
        pid: i32,
        /// What is wrong with it.
        problem: String,
    },
    /// our helpers would end with us
    #[error(
        "whatever answers process {pid} when hotbackup has ended could not be put into its cgroup, and would end with hotbackup's \
         own (a container or service that is stopped), after which process {pid} would wait for ever; and it cannot be started \
         by process {pid} itself: {why}. Run hotbackup as root on the host, or in the very container of process {pid} \
         (docker exec)"
    )]
    CannotOutlive {
        /// The target.
        pid: i32,
        /// Why it cannot be born from the target.
        why: String,
    },
    /// the user has cancelled
    #[error("the attach to process {0} was given up, as it was cancelled")]
    GivenUp(i32),
    /// a child of a process that is kept
    #[error(
        "process {pid} carries the filter of what hotbackup's keepers know as process {other}, so it cannot be followed by \
         itself: if it was forked from that one, back up that one; if it is the same one under another number, as in a \
         container with process numbers of its own, do so from where it has the number {other}"
    )]
    KeptForAnother {
        /// The process asked for.
        pid: i32,
        /// The one whose keepers answer it.
        other: i32,
    },
    /// nobody to rescue
    #[error("process {0} has no hotbackup listener: nothing waits there")]
    NothingToRescue(i32),
    /// the filter that is there is another release's, and shows less
    #[error(
        "the filter of process {pid} is another release's of hotbackup, and {what}: a backup would be wrong if the process made such a \
         call meanwhile. If it makes none, give --accept-unseen, and the backup says so. (The filter stays until the process ends.)"
    )]
    UnseenCalls {
        /// The target.
        pid: i32,
        /// Which calls, or why that cannot be told.
        what: String,
    },
    /// the keeper took over
    #[error("the keeper took process {0} over, because this supervisor did not answer in time: take the backup again")]
    Revoked(i32),
    /// a call was held for too long
    #[error(
        "{call} of thread {tid} of process {pid} had waited for {waited_ms} ms, so it was let go and the backup given up: does \
         a disk or a network file system that the process uses stand still?"
    )]
    WaitedTooLong {
        /// The target.
        pid: i32,
        /// The thread.
        tid: i32,
        /// What it was about to do.
        call: &'static str,
        /// For how long it was held.
        waited_ms: u64,
    },
    /// any other call of ours
    #[error("{operation} process {pid} failed: {errno}")]
    Os {
        /// The target.
        pid: i32,
        /// What was tried, as in "writing to the memory of".
        operation: &'static str,
        /// The errno.
        errno: Errno,
    },
}

impl Error {
    /// We may not do that to process `pid`.
    pub(crate) fn not_permitted(pid: i32, action: &'static str) -> Self {
        let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
        let status = read(format!("/proc/{pid}/status"));
        let owner = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok());
        let is_ours = owner == Some(nix::unistd::getuid().as_raw());
        Self::NotPermitted {
            pid,
            action,
            remedy: remedy(
                &read("/proc/sys/kernel/yama/ptrace_scope".into()),
                is_ours,
                nix::unistd::geteuid().is_root(),
            ),
        }
    }

    /// Process `pid` has a filter that we may not read, for want of this.
    pub(crate) fn unread_filter(pid: i32, is_filtered: bool) -> Self {
        Self::UnreadFilter { pid, remedy: remedy_for_filters(is_filtered) }
    }

    /// For `map_err`: a call of ours failed on process `pid`.
    pub(crate) fn os(pid: i32, operation: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| match errno {
            Errno::ESRCH => Self::NoSuchProcess(pid),
            Errno::EPERM | Errno::EACCES => Self::not_permitted(pid, operation),
            errno => Self::Os { pid, operation, errno },
        }
    }
}

/// What would let us read a process's filters, where we run under one ourselves or not.
pub(crate) fn remedy_for_filters(is_filtered: bool) -> &'static str {
    if is_filtered {
        "hotbackup itself runs under a seccomp filter, and the kernel lets no such process read one; run it without \
         (docker: --security-opt seccomp=unconfined)"
    } else {
        "give hotbackup CAP_SYS_ADMIN, which root has outside of containers (docker: --cap-add SYS_ADMIN)"
    }
}

/// What would allow us to trace a process, of our own user or another's, where Yama's ptrace_scope is this (kernel:
/// admin-guide/LSM/Yama.rst).
fn remedy(scope: &str, is_ours: bool, is_root: bool) -> &'static str {
    match (scope.trim(), is_ours) {
        ("3", _) => {
            "kernel.yama.ptrace_scope is 3, so that nobody may trace anything until the machine is started anew"
        }
        _ if is_root => {
            "give hotbackup CAP_SYS_PTRACE and, for a process of another user, CAP_DAC_OVERRIDE: root has them outside of containers \
             (docker: --cap-add SYS_PTRACE)"
        }
        ("1" | "2", true) => "run as root, or give hotbackup CAP_SYS_PTRACE: kernel.yama.ptrace_scope forbids it else",
        (_, true) => {
            "run as root: its own user may not look into it (it is not dumpable, as in prctl(2), has another group, or has \
             capabilities)"
        }
        (_, false) => "run as root, or as its own user, or give hotbackup CAP_SYS_PTRACE and CAP_DAC_OVERRIDE",
    }
}

/// A call that is injected, by its name.
pub(crate) fn call_name(nr: i64) -> &'static str {
    const NAMES: &[(i64, &str)] = &[
        (libc::SYS_mmap, "mmap"),
        (libc::SYS_munmap, "munmap"),
        (libc::SYS_memfd_create, "memfd_create"),
        (libc::SYS_eventfd2, "eventfd2"),
        (libc::SYS_fcntl, "fcntl"),
        (libc::SYS_close, "close"),
        (libc::SYS_prctl, "prctl"),
        (libc::SYS_seccomp, "seccomp"),
        (libc::SYS_socketpair, "socketpair"),
        (libc::SYS_sendmsg, "sendmsg"),
        (libc::SYS_rt_sigprocmask, "rt_sigprocmask"),
        (libc::SYS_clone, "clone"),
        (libc::SYS_dup2, "dup2"),
        (libc::SYS_close_range, "close_range"),
        (libc::SYS_setsid, "setsid"),
        (libc::SYS_execveat, "execveat"),
        (libc::SYS_exit, "exit"),
        (libc::SYS_wait4, "wait4"),
        (libc::SYS_ftruncate, "ftruncate"),
    ];
    NAMES.iter().find(|(number, _)| *number == nr).map_or("a call", |(_, name)| name)
}

/// The errno of an I/O error.
pub(crate) fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remedy_is_one_that_helps_under_this_scope() {
        let cases = [("", false, "its own user"), ("1\n", true, "CAP_SYS_PTRACE"), ("0\n", true, "not dumpable")];
        for (scope, is_ours, word) in cases {
            let words = remedy(scope, is_ours, false);
            assert!(words.contains(word) && words.contains("run as root"), "{scope}: {words}");
        }
        assert!(!remedy("3\n", true, true).contains("root"));
        let words = remedy("1\n", true, true);
        assert!(words.contains("CAP_SYS_PTRACE") && !words.contains("run as root"), "{words}");
    }
}
