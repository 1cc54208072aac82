//! What a process has mapped: /proc/PID/maps, and the files behind it.

use std::ffi::CString;

use hotbackup_event::FileId;
use nix::errno::Errno;

use super::process::{Process, read_below};
use crate::sys::stat;

/// One line of /proc/PID/maps.
pub struct Mapping<'a> {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `rwxp` or `rwxs`.
    pub permissions: &'a str,
    /// Where in the file it begins.
    pub offset: u64,
    /// Inode; 0 for anonymous memory.
    pub inode: u64,
    /// The path, or `[stack]` and the like.
    pub path: &'a str,
}

impl Mapping<'_> {
    /// Whether stores to it are allowed.
    pub fn is_writable(&self) -> bool {
        self.permissions.as_bytes().get(1) == Some(&b'w')
    }

    /// Whether stores to it reach the file.
    pub fn is_shared(&self) -> bool {
        self.permissions.ends_with('s')
    }
}

/// Reads one line of /proc/PID/maps (proc_pid_maps(5)).
pub fn parse_mapping(line: &str) -> Option<Mapping<'_>> {
    let mut fields = line.splitn(6, ' ');
    let (start, end) = fields.next()?.split_once('-')?;
    let permissions = fields.next()?;
    let offset = u64::from_str_radix(fields.next()?, 16).ok()?;
    let inode = fields.nth(1)?.parse().ok()?;
    Some(Mapping {
        start: u64::from_str_radix(start, 16).ok()?,
        end: u64::from_str_radix(end, 16).ok()?,
        permissions,
        offset,
        inode,
        path: fields.next().unwrap_or("").trim_start(),
    })
}

/// The files with a shared mapping, in the process of thread `tid`, that `wanted` selects. The file is looked at through
/// /proc/PID/map_files, where a path may have changed or another file system hide it; that takes CAP_SYS_ADMIN, so
/// without it by its path, if that still leads to the inode that is mapped.
///
/// # Errors
/// Says which mapping could not be looked at: what it maps is not known then.
pub fn shared_mappings(
    process: &Process,
    tid: i32,
    wanted: impl Fn(&Mapping<'_>) -> bool,
) -> Result<Vec<FileId>, String> {
    let (tid, maps) = read_maps(process, tid)
        .map_err(|errno| format!("the mappings of the target could not be looked at ({errno})"))?;
    let mut files = Vec::new();
    for mapping in maps.lines().filter_map(parse_mapping) {
        if mapping.inode == 0 || !mapping.is_shared() || !wanted(&mapping) {
            continue;
        }
        let look = |path: String, follow| {
            stat::identity(process.proc(), &CString::new(path).map_err(|_| Errno::EINVAL)?, follow)
        };
        let found = match look(format!("{tid}/map_files/{:x}-{:x}", mapping.start, mapping.end), true) {
            Err(Errno::EPERM | Errno::EACCES) => {
                let by_path = look(format!("{tid}/root{}", mapping.path), false);
                by_path.ok().filter(|found| found.id.ino == mapping.inode).ok_or_else(|| {
                    format!("the shared mapping of {} could not be looked at: run as root", mapping.path)
                })?
            }
            Err(_) => continue, // unmapped meanwhile
            Ok(found) => found,
        };
        if found.is_file() {
            files.push(found.id);
        }
    }
    Ok(files)
}

/// The mappings of a process by one of its threads, and the thread that shows them: one that has ended, as the first may
/// long before the others, shows none.
pub(crate) fn read_maps(process: &Process, tid: i32) -> Result<(i32, String), Errno> {
    let read = |tid: i32| Ok((tid, read_below(process.proc(), &format!("{tid}/maps"))?));
    let found = read(tid)?;
    if !found.1.is_empty() {
        return Ok(found);
    }
    let others = process.list(&format!("{tid}/task")).into_iter().filter_map(|tid| read(tid).ok());
    Ok(others.into_iter().find(|(_, maps)| !maps.is_empty()).unwrap_or(found))
}

/// The files that a process has mapped for writing, each once.
pub(crate) fn mapped_for_writing(process: &Process, pid: i32) -> Result<Vec<FileId>, String> {
    let mut files = shared_mappings(process, pid, |mapping| mapping.is_writable())?;
    files.sort_unstable();
    files.dedup();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_is_read_with_blanks_in_its_path() {
        let line = "7f00-7f10 rw-s 00001000 fe:01 1234                       /data/a b";
        let mapping = parse_mapping(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.inode), (0x7f00, 0x7f10, 1234));
        assert_eq!((mapping.permissions, mapping.path), ("rw-s", "/data/a b"));
    }
}
