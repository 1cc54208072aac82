//! Whether the target has room for what the attach leaves in it: two descriptors (the listener, and later a copy of the
//! shared memory), and one small mapping. A process that is close to a limit of its own is left alone: what we take, it
//! could not have.

use std::collections::HashMap;

use crate::error::Error;
use crate::target::process::Process;

/// Descriptors that must be free: ours, and as many again as a program may well open next.
const DESCRIPTORS: u64 = 16;
/// Memory that must be free, for the same reason.
const BYTES: u64 = 1 << 20;
/// Mappings that must be free.
const MAPPINGS: u64 = 64;

/// Checks the target's limits.
///
/// # Errors
/// [`Error::NoRoom`], with the limit and what would raise it.
pub fn check(process: &Process) -> Result<(), Error> {
    let pid = process.pid();
    let limits = process.read_file("limits").map_err(Error::os(pid, "reading the limits of"))?;
    let limits = parse_limits(&limits);
    let status = |field| {
        let text = process.status_field(pid, field)?;
        text.split_whitespace().next()?.parse().ok().map(|kilobytes: u64| kilobytes << 10)
    };
    let no_room = |what: String| Err(Error::NoRoom { pid, what });
    if let Some(&most) = limits.get("Max open files") {
        let open = process.descriptors().into_iter().filter(|&(fd, _)| (fd as u64) < most).count() as u64;
        if open + DESCRIPTORS > most {
            return no_room(format!(
                "of {most} file descriptors it has {open} open, and {DESCRIPTORS} must be free: raise that limit (prlimit \
                 --pid {pid} --nofile={})",
                most.saturating_mul(2).max(open + 2 * DESCRIPTORS)
            ));
        }
    }
    for (limit, field, option) in [("Max address space", "VmSize", "as"), ("Max data size", "VmData", "data")] {
        let (Some(&most), Some(used)) = (limits.get(limit), status(field)) else { continue };
        if used + BYTES > most {
            return no_room(format!(
                "of {most} bytes of memory that it may map (RLIMIT_{}) it has {used}, and {BYTES} must be free: raise that \
                 limit (prlimit --pid {pid} --{option}=unlimited)",
                option.to_uppercase()
            ));
        }
    }
    let most = crate::target::process::read_below(process.proc(), "sys/vm/max_map_count").ok();
    if let Some(most) = most.and_then(|text| text.trim().parse::<u64>().ok()) {
        let used = process.read_file("maps").unwrap_or_default().lines().count() as u64;
        if used + MAPPINGS > most {
            return no_room(format!(
                "it has {used} mappings of {most} that a process may have: raise vm.max_map_count (sysctl)"
            ));
        }
    }
    Ok(())
}

/// The soft limits of /proc/PID/limits that are numbers.
pub(super) fn parse_limits(text: &str) -> HashMap<&str, u64> {
    const NAME: usize = 26; // the width of the first column
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_at_checked(NAME)?;
            Some((name.trim(), rest.split_whitespace().next()?.parse().ok()?))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limits_are_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max data size             unlimited            unlimited            bytes     \n\
                    Max open files            1024                 1048576              files     \n\
                    Max address space         73728                unlimited            bytes     \n";
        let limits = parse_limits(text);
        assert_eq!(limits, HashMap::from([("Max open files", 1024), ("Max address space", 73728)]));
    }

    #[test]
    fn a_process_without_narrow_limits_has_room() {
        check(&Process::open(std::process::id() as i32).unwrap()).unwrap();
    }
}
