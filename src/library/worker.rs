//! One backup of the program at the other end.
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hotbackup_wire::{Begin, Tell, VERSION};
use nix::errno::Errno;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::errno;
use super::line::Line;
use super::relay::Relay;
use crate::session::{self, Options, Placing};

/// As much stack as a first thread usually has.
const STACK: usize = 8 << 20;

/// Takes the backup that is asked for on the socket at standard input, and tells how it ended.
///
/// # Errors
/// Standard input is no such socket. Whatever else goes wrong is told there.
pub fn run() -> io::Result<()> {
    let socket = io::stdin().as_fd().try_clone_to_owned()?;
    let host = rustix::net::sockopt::socket_peercred(&socket)?.pid.as_raw_nonzero().get();
    let (line, begin) = Line::open(UnixStream::from(socket))?;
    let control = line.control().clone();
    // Another way to be told to stop: as what belongs to a service that is stopped.
    if let Ok(mut signals) = Signals::new([SIGINT, SIGTERM, SIGHUP]) {
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            signals.forever().for_each(|_| control.cancel());
        })?;
    }
    // Not by the first thread, which signals may be given to while it is stuck.
    let (telling, asked) = (Arc::clone(&line), begin);
    let working = std::thread::Builder::new().name("backup".into()).stack_size(STACK);
    let ended = working.spawn(move || back_up(&telling, host, asked))?.join();
    let (errno, text) = ended.unwrap_or_else(|_| (Errno::EIO as i32, "hotbackup has a fault; please report it".into()));
    line.tell(&Tell::End(errno, text));
    line.finish();
    Ok(())
}

fn back_up(line: &Arc<Line>, host: i32, begin: Begin) -> (i32, String) {
    if begin.version != VERSION {
        let text =
            format!("libHotBackup and its helper do not fit together (versions {} and {VERSION})", begin.version);
        return (Errno::EPROTO as i32, text);
    }
    if is_followed_with(host) {
        return (Errno::ENOTSUP as i32, FOLLOWED.into());
    }
    let path = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let (sources, into): (Vec<PathBuf>, Vec<PathBuf>) =
        begin.pairs.into_iter().map(|(source, dest)| (path(source), path(dest))).unzip();
    let relay = Arc::new(Relay::new(Arc::clone(line)));
    let dest = into.first().cloned().unwrap_or_default();
    let options = Options { sources, ..Options::new(host, dest) };
    let chooser = begin.excludes.then(|| Arc::clone(&relay) as _);
    let placing = Placing { into, bare: !begin.manifest, chooser };
    match session::backup_placed(&options, &placing, &*relay, line.control()) {
        Ok(_) => (0, String::new()),
        Err(error) => (errno::of(&error), error.to_string()),
    }
}

const FOLLOWED: &str = "this process was backed up by another hotbackup before it used libHotBackup for the first time, so what it starts \
                        is followed as well and cannot take a backup: restart it, or use `hotbackup backup --pid`";

/// Whether the program's filter is on us as well: then nobody could answer our own calls.
fn is_followed_with(host: i32) -> bool {
    let filters = |who: &str| -> Option<u32> {
        let status = fs::read_to_string(format!("/proc/{who}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"))?.trim().parse().ok()
    };
    let is_listener = |link: PathBuf| link == Path::new("anon_inode:seccomp notify");
    let all = fs::read_dir(format!("/proc/{host}/fd")).into_iter().flatten().flatten();
    let is_kept = all.filter_map(|entry| fs::read_link(entry.path()).ok()).any(is_listener);
    is_kept && filters("self") >= filters(&host.to_string())
}
