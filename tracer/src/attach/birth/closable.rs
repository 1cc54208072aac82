//! Whether all that the target has open can be closed. Who is born has copies of its descriptors, as every child has, and closes them as
//! it executes the keeper. Where that waits for a server that does not answer (FUSE, NFS), it can be ended by nobody, and holds
//! those of them that come after: a socket, for one, that the program may want to bind anew.
//!
//! So a copy of each of them is closed first by a process of ours, which then waits in its place, and holds no other. Only files on
//! disks and the like are left out, where a close waits for nobody.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;

use crate::error::Error;
use crate::ptracer::client::Ptracer;
use crate::target::process::{Process, read_below};

/// File systems that have no `flush` of their own: a close does nothing there.
const LOCAL: [&str; 22] = [
    "btrfs",
    "cgroup",
    "cgroup2",
    "debugfs",
    "devpts",
    "devtmpfs",
    "exfat",
    "ext2",
    "ext3",
    "ext4",
    "f2fs",
    "hugetlbfs",
    "iso9660",
    "mqueue",
    "proc",
    "ramfs",
    "squashfs",
    "sysfs",
    "tmpfs",
    "vfat",
    "xfs",
    "zfs",
];

/// Fails when one cannot.
///
/// # Errors
/// [`Error::CannotOutlive`], with its number and what it is.
pub(crate) fn check(process: &Process, ptracer: &mut Ptracer) -> Result<(), Error> {
    let pid = process.pid();
    let mounts = read_below(process.proc(), &format!("{pid}/mountinfo")).unwrap_or_default();
    let kinds: HashMap<u64, &str> = mounts.lines().filter_map(kind).collect();
    for (number, link) in process.descriptors() {
        if !link.as_bytes().starts_with(b"/") || link.as_bytes().starts_with(b"/memfd:") {
            continue;
        }
        let Ok(info) = read_below(process.proc(), &format!("{pid}/fdinfo/{number}")) else { continue };
        let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
        // One that is mounted nowhere any more may be of any kind.
        let kind = mount.and_then(|mount: u64| kinds.get(&mount).copied()).unwrap_or("unknown");
        if !LOCAL.contains(&kind) && !ptracer.closes(process, number)? {
            let why = format!(
                "its keepers would have to close a copy of its descriptor {number}, {} ({kind}), which does not come to an \
                 end: see to it that this file system answers",
                link.display()
            );
            return Err(Error::CannotOutlive { pid, why });
        }
    }
    Ok(())
}

/// Number and kind of a mount (proc_pid_mountinfo(5)).
fn kind(line: &str) -> Option<(u64, &str)> {
    let (before, after) = line.split_once(" - ")?;
    Some((before.split(' ').next()?.parse().ok()?, after.split(' ').next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_a_mount_is_read_behind_its_optional_fields() {
        let line = "36 35 98:0 / /mnt rw,noatime shared:1 master:2 - fuse.sshfs host:/ rw,user_id=0";
        assert_eq!(kind(line), Some((36, "fuse.sshfs")));
        assert_eq!(kind("nothing"), None);
    }
}
