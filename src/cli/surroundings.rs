//! What the command has from whoever started it and does not go by: the mask of new files, blocked signals, limits that may be raised.

use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::stat::{Mode, umask};

use super::{Failure, signals};
use crate::exit::Cause;

/// A limit, its name, how a shell says it, and what a backup needs of it at least.
type Limit = (Resource, &'static str, &'static str, rlim_t);

/// What is needed. Address space: without a limit 750 MiB were in use with 2 processors, nearly all of it only reserved, by malloc
/// for threads; backups go well with 512 MiB. A file: the helpers' program is executed from memory, where it is one.
const LIMITS: [Limit; 5] = [
    (Resource::RLIMIT_AS, "RLIMIT_AS", "ulimit -v", 512 << 20),
    (Resource::RLIMIT_DATA, "RLIMIT_DATA", "ulimit -d", 256 << 20),
    (Resource::RLIMIT_FSIZE, "RLIMIT_FSIZE", "ulimit -f", 1 << 20),
    (Resource::RLIMIT_NOFILE, "RLIMIT_NOFILE", "ulimit -n", 64),
    (Resource::RLIMIT_STACK, "RLIMIT_STACK", "ulimit -s", 256 << 10),
];
/// Seconds of processor time in which a cancelled backup is removed.
const PARTING_S: rlim_t = 2;

/// As the kernel's first process has it.
const USUAL_SLACK_NS: u64 = 50_000;

/// Begins as any other command does. What may not be changed stays as it is.
pub(super) fn settle() {
    // What is copied gets its mode as in the source; until then nobody else is to look at it.
    umask(Mode::from_bits_truncate(0o077));
    signals::settle();
    // With another's slack, of a second for one, every wait of ours would end as late, and the keepers take us for dead.
    let _ = nix::sys::prctl::set_timerslack(USUAL_SLACK_NS);
    for (resource, ..) in LIMITS {
        raise(resource);
    }
    if let Ok((_, most)) = getrlimit(Resource::RLIMIT_CPU)
        && most != RLIM_INFINITY
        && setrlimit(Resource::RLIMIT_CPU, RLIM_INFINITY, RLIM_INFINITY).is_err()
    {
        // At the hard limit the kernel kills, and what was half-written stays.
        let _ = setrlimit(Resource::RLIMIT_CPU, most.saturating_sub(PARTING_S).max(1), most);
    }
}

/// As far as is permitted: for root, beyond the hard limit.
fn raise(resource: Resource) {
    const STACK: rlim_t = 8 << 20;
    let Ok((soft, hard)) = getrlimit(resource) else { return };
    let most = match resource {
        // More is no use, and moves where programs lie that are started.
        Resource::RLIMIT_STACK if soft >= STACK => return,
        Resource::RLIMIT_STACK => STACK.min(hard),
        // There is a limit for all (proc_sys_fs(5)).
        Resource::RLIMIT_NOFILE => {
            let all = std::fs::read_to_string("/proc/sys/fs/nr_open").ok();
            all.and_then(|text| text.trim().parse().ok()).unwrap_or(hard).max(hard)
        }
        _ => RLIM_INFINITY,
    };
    if setrlimit(resource, most, most.max(hard)).is_err() {
        let _ = setrlimit(resource, hard, hard);
    }
}

/// Fails when a limit leaves no room for a backup.
pub(super) fn check() -> Result<(), Failure> {
    for (resource, name, shell, least) in LIMITS {
        let Ok((most, _)) = getrlimit(resource) else { continue };
        if most < least {
            let words = format!(
                "hotbackup itself may have only {most} of {name}, and needs {least}: raise that limit ({shell}) where it is \
                 started, or give it CAP_SYS_RESOURCE"
            );
            return Err(Failure::new(Cause::OwnLimit, words));
        }
    }
    Ok(())
}

/// Why a cancelled backup really ended.
pub(super) fn explain(failure: Failure) -> Failure {
    if failure.cause != Cause::Cancelled || !signals::ran_out_of_time() {
        return failure;
    }
    let words = "hotbackup itself may use no more processor time (RLIMIT_CPU): raise that limit (ulimit -t) where it is started, or \
                 give it CAP_SYS_RESOURCE";
    Failure::new(Cause::OwnLimit, words)
}
