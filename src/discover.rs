//! Where a running mongod keeps its data, read from the process alone. Every path is the target's, as it sees it.
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use yaml_rust2::YamlLoader;

/// The file that mongod holds open in its dbpath while it runs.
const LOCK_FILE: &str = "mongod.lock";
/// A configuration file is small; more is not read.
const CONFIG_LIMIT: u64 = 1 << 20;

/// Why a data directory was not found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such process.
    #[error("there is no process {pid}: look its number up again (`pidof mongod`)")]
    NoSuchProcess {
        /// The process.
        pid: i32,
    },
    /// Its files may not be looked at.
    #[error(
        "not permitted to see which files process {pid} has open: run as root, or as its own user, or give hotbackup CAP_SYS_PTRACE and CAP_DAC_OVERRIDE"
    )]
    NotPermitted {
        /// The process.
        pid: i32,
    },
    /// Nothing says where its data is.
    #[error("cannot tell where process {pid} keeps its data ({why}): name the directory with --source DIR")]
    Unknown {
        /// The process.
        pid: i32,
        /// What was looked at in vain.
        why: String,
    },
}

/// The data directory of the mongod with this PID: the directory of the `mongod.lock` it holds open; else what its
/// command line says; else what its configuration file says.
///
/// # Errors
/// None of them says it, or the process is gone or may not be looked at.
pub fn dbpath(pid: i32) -> Result<PathBuf, Error> {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => Error::NotPermitted { pid },
        _ => Error::NoSuchProcess { pid },
    };
    let line = read_limited(File::open(proc.join("cmdline")).map_err(failed)?, CONFIG_LIMIT).map_err(failed)?;
    let mut links = Vec::new();
    for entry in std::fs::read_dir(proc.join("fd")).map_err(failed)? {
        let Ok(entry) = entry else { continue };
        // The fd may be closed by now: not the one we look for.
        links.extend(std::fs::read_link(entry.path()));
    }
    if let Some(dir) = lock_dir(&links) {
        return Ok(dir);
    }
    let args = split_args(&line);
    let cwd = std::fs::read_link(proc.join("cwd")).map_err(failed)?;
    let unknown = |why: String| Error::Unknown { pid, why };
    match from_args(&args) {
        Told::DbPath(dir) => Ok(cwd.join(dir)),
        Told::Config(file) => {
            let file = cwd.join(file);
            let text = read_as_target(&proc, &file)
                .map_err(|error| unknown(format!("its configuration file {}: {error}", file.display())))?;
            let dir = from_config(&text).map_err(|why| unknown(format!("{} {why}", file.display())))?;
            Ok(cwd.join(dir))
        }
        Told::Nothing => Err(unknown(format!("it holds no {LOCK_FILE}, and its command line names no dbpath"))),
    }
}

/// The directory whose `mongod.lock` a process holds open, if it does and may be looked at.
pub fn locked(pid: i32) -> Option<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    let links: Vec<PathBuf> = entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
    lock_dir(&links)
}

/// The directory of the lock file among the links of a process's fds.
fn lock_dir(links: &[PathBuf]) -> Option<PathBuf> {
    let lock = links.iter().find(|link| link.is_absolute() && link.file_name().is_some_and(|name| name == LOCK_FILE));
    lock.and_then(|lock| lock.parent()).map(Path::to_path_buf)
}

fn split_args(line: &[u8]) -> Vec<OsString> {
    let line = line.strip_suffix(&[0]).unwrap_or(line);
    line.split(|byte| *byte == 0).map(|arg| OsString::from_vec(arg.to_vec())).collect()
}

/// What a command line tells.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    DbPath(PathBuf),
    Config(PathBuf),
    Nothing,
}

/// `--dbpath` wins over a configuration file, as it does in mongod; one dash does as well as two there.
fn from_args(args: &[OsString]) -> Told {
    let mut config = None;
    let mut args = args.iter().skip(1);
    while let Some(arg) = args.next() {
        if let Some(value) = option(arg, &["--dbpath", "-dbpath"], &mut args) {
            return Told::DbPath(value.into());
        }
        if let Some(value) = option(arg, &["--config", "-config", "-f"], &mut args) {
            config = Some(value.into());
        }
    }
    config.map_or(Told::Nothing, Told::Config)
}

/// The value of `--name VALUE` or `--name=VALUE`, or, after a single letter, `-fVALUE`.
fn option<'a>(arg: &OsString, names: &[&str], rest: &mut impl Iterator<Item = &'a OsString>) -> Option<OsString> {
    for name in names {
        let Some(tail) = arg.as_bytes().strip_prefix(name.as_bytes()) else { continue };
        match tail.split_first() {
            None => return rest.next().cloned(),
            Some((b'=', value)) => return Some(OsString::from_vec(value.to_vec())),
            Some(_) if name.len() == 2 => return Some(OsString::from_vec(tail.to_vec())),
            Some(_) => {}
        }
    }
    None
}

/// `storage.dbPath` of a YAML configuration file, or the `dbpath = ...` of the old format.
fn from_config(text: &str) -> Result<PathBuf, String> {
    if let Ok(documents) = YamlLoader::load_from_str(text) {
        let root = documents.first().ok_or("is empty")?;
        if let Some(dir) = root["storage"]["dbPath"].as_str().or_else(|| root["storage.dbPath"].as_str()) {
            return Ok(dir.into());
        }
    }
    let old = text.lines().filter_map(|line| line.split('#').next()?.split_once('='));
    for (key, value) in old {
        if key.trim() == "dbpath" {
            return Ok(value.trim().trim_matches('"').into());
        }
    }
    Err("says no storage.dbPath".into())
}

/// Reads a small file as the target sees it: below its root, so that a symlink in a container leads nowhere else.
fn read_as_target(proc: &Path, path: &Path) -> io::Result<String> {
    let root = File::open(proc.join("root"))?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    let file = File::from(openat2(&root, path, how)?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    String::from_utf8(read_limited(file, CONFIG_LIMIT)?).map_err(io::Error::other)
}

fn read_limited(file: File, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn the_lock_files_directory_is_the_dbpath() {
        let links = ["/dev/null", "socket:[123]", "/srv/db/WiredTiger.wt", "/srv/db/mongod.lock"].map(PathBuf::from);
        assert_eq!(lock_dir(&links), Some("/srv/db".into()));
        assert_eq!(lock_dir(&links[..3]), None);
    }

    #[test]
    fn a_lock_file_by_another_name_is_not_taken() {
        let links = ["/srv/db/not-mongod.lock", "/srv/db/mongod.lock (deleted)", "mongod.lock"].map(PathBuf::from);
        assert_eq!(lock_dir(&links), None);
    }

    #[test]
    fn dbpath_is_read_in_every_spelling() {
        for line in ["mongod --dbpath /d", "mongod --fork --dbpath=/d", "mongod -dbpath /d", "mongod -f /c --dbpath /d"]
        {
            assert_eq!(from_args(&args(line)), Told::DbPath("/d".into()), "{line}");
        }
    }

    #[test]
    fn the_configuration_file_is_read_in_every_spelling() {
        for line in ["mongod -f /c", "mongod -f/c", "mongod --config /c", "mongod --config=/c --fork"] {
            assert_eq!(from_args(&args(line)), Told::Config("/c".into()), "{line}");
        }
    }

    #[test]
    fn a_command_line_that_says_nothing_is_told_apart() {
        for line in ["mongod", "mongod --port 27017", "mongod --dbpathology /d", "mongod --dbpath", "--dbpath /d"] {
            let told = from_args(&args(line));
            assert!(matches!(told, Told::Nothing), "{line}: {told:?}");
        }
    }

    #[test]
    fn arguments_keep_blanks_and_bytes_that_are_no_text() {
        assert_eq!(split_args(b"mongod\0--dbpath\0/a b\xff\0")[2].as_bytes(), b"/a b\xff");
    }

    #[test]
    fn a_yaml_configuration_gives_its_db_path() {
        let text = "systemLog:\n  path: /l\nstorage:\n  dbPath: \"/srv/db\" # here\n  journal:\n    enabled: true\n";
        assert_eq!(from_config(text), Ok("/srv/db".into()));
        assert_eq!(from_config("storage.dbPath: /srv/db\n"), Ok("/srv/db".into()));
    }

    #[test]
    fn an_old_configuration_gives_its_db_path() {
        assert_eq!(from_config("# old\nlogpath=/l\ndbpath = /srv/db # here\n"), Ok("/srv/db".into()));
    }

    #[test]
    fn a_configuration_without_a_db_path_is_refused() {
        for text in ["", "storage:\n  journal: {}\n", "net: {port: 1}\n", "{unclosed", "#dbpath=/d\n"] {
            assert!(from_config(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn this_process_is_no_mongod_and_the_message_names_the_remedy() {
        let error = dbpath(std::process::id() as i32).unwrap_err();
        assert!(matches!(error, Error::Unknown { .. }), "{error}");
        assert!(error.to_string().contains("--source"), "{error}");
    }

    #[test]
    fn a_process_that_is_not_there_is_told_apart() {
        assert!(matches!(dbpath(i32::MAX), Err(Error::NoSuchProcess { pid: i32::MAX })));
    }

    #[test]
    fn a_lock_held_open_is_found_in_a_real_process() {
        let dir = tempfile::tempdir().unwrap();
        let lock = File::create(dir.path().join(LOCK_FILE)).unwrap();
        let mut child = std::process::Command::new("sleep").arg("60").stdin(lock).spawn().unwrap();
        let found = dbpath(child.id() as i32);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.unwrap(), dir.path().canonicalize().unwrap());
    }

    #[test]
    fn a_relative_configuration_is_read_from_the_processes_directory() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("mongod.conf"), "storage:\n  dbPath: data\n").unwrap();
        let mut child = std::process::Command::new("sh")
            .args(["-c", "read line", "--config=mongod.conf"])
            .current_dir(dir.path())
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        // exec lets the parent go on before the new command line can be read.
        let line = format!("/proc/{}/cmdline", child.id());
        let begun = std::time::Instant::now();
        while std::fs::read(&line).unwrap().is_empty() && begun.elapsed().as_secs() < 10 {
            std::thread::yield_now();
        }
        let found = dbpath(child.id() as i32);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(found.unwrap(), dir.path().canonicalize().unwrap().join("data"));
    }
}
