//! The process that takes a backup, or looks at one: hotbackup itself, started once more. It goes on when the service ends.
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::record::Record;
use crate::config::TargetConfig;
use crate::places::Place;

/// What runs is this very program, whatever its file's name leads to by now.
const PROGRAM: &str = "/proc/self/exe";
/// More of what `verify` says is not read.
const MOST_WORDS: u64 = 8 << 20;

/// Starts a backup. Its directory is where the backup goes, so that no path is looked up a second time.
pub(super) fn start(
    config: &TargetConfig,
    record: &Record,
    throttle: Option<u64>,
    place: &Place,
    directory: &Path,
) -> io::Result<Child> {
    let mut command = Command::new(PROGRAM);
    command.arg0("hotbackup").args(["backup", "--json", "--quiet", "--pid", &record.process.to_string()]);
    for source in &config.source {
        command.arg("--source").arg(source);
    }
    for glob in &config.exclude {
        command.args(["--exclude", glob]);
    }
    if let Some(point) = &config.point {
        command.args(["--point", point]);
    }
    if let Some(lease) = &config.lease {
        command.args(["--lease", lease]);
    }
    if let Some(rate) = throttle {
        command.args(["--throttle", &rate.to_string()]);
    }
    command.arg("--control").arg(record.file(directory, "sock")).arg("--").arg(&place.name);
    command.current_dir(place.parent_path());
    // A group of its own: what is typed at the service's terminal does not reach it.
    command.process_group(0).stdin(Stdio::null());
    command.stdout(File::create(record.file(directory, "out"))?).stderr(File::create(record.file(directory, "err"))?);
    command.spawn()
}

/// Has a backup compared with its manifest. Ends early, with nothing, when nobody waits any more.
/// With a server program, also what a server finds that is started on a copy of it.
pub(super) fn verify(
    place: &Place,
    mongod: Option<&Path>,
    wanted: &dyn Fn() -> bool,
) -> io::Result<Option<Vec<Value>>> {
    let mut command = Command::new(PROGRAM);
    command.arg0("hotbackup").args(["verify", "--json", "--quiet"]);
    if let Some(mongod) = mongod {
        command.arg("--start-with").arg(mongod);
    }
    command.arg("--").arg(&place.name);
    command.current_dir(place.parent_path()).process_group(0);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let Some(out) = child.stdout.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        out.take(MOST_WORDS).read_to_string(&mut text).map(|_| text)
    });
    while !reader.is_finished() {
        if !wanted() {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let text = reader.join().map_err(|_| io::Error::other("the reader panicked"))?;
    // A reader that stopped early leaves the pipe closed: it ends.
    child.wait()?;
    Ok(Some(text?.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()))
}
