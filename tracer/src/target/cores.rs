//! Where a core file of the target would fall (core(5)): the kernel writes it, and no call shows it.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::readlinkat;

use super::process::{Process, read_below};

/// The directory into which a core file would be written if the process died now: as links in /proc show it. `None`: none
/// would be written, or somebody else would be given it. Its children may have other limits, and die elsewhere.
pub fn core_directory(process: &Process) -> Option<PathBuf> {
    let pid = process.pid();
    let limits = read_below(process.proc(), &format!("{pid}/limits")).ok()?;
    let limit = limits.lines().find_map(|line| line.strip_prefix("Max core file size"))?;
    let pattern = read_below(process.proc(), "sys/kernel/core_pattern").ok()?;
    let pattern = pattern.trim_end_matches('\n');
    // To a program, or a socket.
    if limit.split_whitespace().next() == Some("0") || pattern.starts_with(['|', '@']) {
        return None;
    }
    // What is filled in holds no slash.
    let path = Path::new(pattern);
    let link = |name: &str| readlinkat(process.proc(), format!("{pid}/{name}").as_str()).ok().map(PathBuf::from);
    let from = link(if path.is_absolute() { "root" } else { "cwd" })?;
    let parent = path.parent().unwrap_or(path).strip_prefix("/").unwrap_or_else(|_| path.parent().unwrap_or(path));
    let dir = if parent.as_os_str().as_bytes().is_empty() { from } else { from.join(parent) };
    Some(std::fs::canonicalize(&dir).unwrap_or(dir))
}
