//! Files that the kernel itself writes to, because somebody has asked it to: behind loop devices, and as swap.
//!
//! Whoever asked need not be followed, nor live any more, and no process has the file open for it. A loop device tells device
//! and inode of the file behind it, and its path; swap only a path. Paths are told as seen from our root, or from that of
//! whoever asked, in whatever namespace: they are looked for from ours and from the target's. Where the device itself
//! cannot be opened, as in a container, its path must do.
//!
//! Not told by the kernel: which file process accounting and quotas go to. Those change in ordinary ways, by their times.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use hotbackup_event::FileId;
use nix::errno::Errno;

use super::process::{Process, read_below};
use crate::error::errno;
use crate::sys::loops::{self, Behind};
use crate::sys::stat;

const LOOP: &str = "the kernel, through a loop device";
const SWAP: &str = "the kernel, which uses it as swap";

/// All of them that can be found, and how each is written to. A file without a time of birth is one that is known by device
/// and inode alone.
pub fn written_by_kernel(process: &Process) -> Vec<(FileId, &'static str)> {
    let mut found = Vec::new();
    for (name, path) in loop_devices() {
        let places = at(process, &path);
        match behind(&name) {
            // It has just been given back, or can only be read.
            Err(Errno::ENXIO) | Ok(Behind { is_read_only: true, .. }) => {}
            Ok(Behind { dev, ino, .. }) => {
                let is_it = |file: &&FileId| (file.dev, file.ino) == (dev, ino);
                let file = places.iter().find(is_it).copied();
                found.push((file.unwrap_or(FileId { dev, ino, btime_ns: 0 }), LOOP));
            }
            Err(_) => found.extend(places.into_iter().map(|file| (file, LOOP))),
        }
    }
    let swaps = read_below(process.proc(), "swaps").unwrap_or_default();
    for path in swaps.lines().filter_map(swap_file) {
        found.extend(at(process, &path).into_iter().map(|file| (file, SWAP)));
    }
    found
}

/// Names and paths of the devices that something is behind.
fn loop_devices() -> Vec<(String, Vec<u8>)> {
    let Ok(devices) = std::fs::read_dir("/sys/block") else { return Vec::new() };
    let loops = devices.flatten().filter_map(|device| {
        let name = device.file_name().into_string().ok().filter(|name| name.starts_with("loop"))?;
        let path = std::fs::read(device.path().join("loop/backing_file")).ok()?;
        Some((name, path.strip_suffix(b"\n").unwrap_or(&path).to_owned()))
    });
    loops.collect()
}

/// What is behind a device.
fn behind(name: &str) -> Result<Behind, Errno> {
    let device = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(Path::new("/dev").join(name));
    loops::behind(device.map_err(|error| errno(&error))?.as_fd())
}

/// The path in a line of /proc/swaps, if that is a file's.
fn swap_file(line: &str) -> Option<Vec<u8>> {
    let mut words = line.split_whitespace();
    let (path, kind) = (words.next()?, words.next()?);
    (kind == "file").then(|| unescaped(path.as_bytes()))
}

/// Octal escapes as in many files of procfs.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, more @ ..] = rest {
        let digits = more.get(..3).filter(|_| *first == b'\\');
        match digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()) {
            Some(byte) => (plain, rest) = ([plain, vec![byte]].concat(), &more[3..]),
            None => (plain, rest) = ([plain, vec![*first]].concat(), more),
        }
    }
    plain
}

/// The regular files at a path, seen from our root and from the target's.
fn at(process: &Process, path: &[u8]) -> Vec<FileId> {
    let from_target = [format!("{}/root/", process.pid()).as_bytes(), path].concat();
    let mut found = Vec::new();
    for path in [path.to_owned(), from_target] {
        let Ok(name) = CString::new(OsStr::from_bytes(&path).as_bytes()) else { continue };
        let file = stat::identity(process.proc(), &name, true).ok().filter(stat::Identity::is_file);
        found.extend(file.map(|file| file.id).filter(|id| !found.contains(id)).into_iter().collect::<Vec<_>>());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_taken_from_the_list_of_swaps() {
        let list = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n\
                    /dev/sda2                               partition\t9999\t\t0\t\t-2\n\
                    /a\\040swap\\134file\\011x                  file\t\t36\t\t0\t\t-3\n";
        let found: Vec<_> = list.lines().filter_map(swap_file).collect();
        assert_eq!(found, [b"/a swap\\file\tx".to_vec()]);
        assert_eq!(unescaped(b"\\04"), b"\\04");
        assert_eq!(unescaped(b"\\xyz"), b"\\xyz");
    }
}
