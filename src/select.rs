//! Which process is meant: by its number, its data, its unit of systemd or its container. One, or the words why it is none.
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{ArgGroup, Args};
use hotbackup_service::Selector;

use crate::discover;

/// The ways to say which process. Where one must be said, [`required`] is the command's.
#[derive(Debug, Clone, Args)]
#[group(multiple = false)]
pub struct Which {
    /// The process
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// The server that has its data in a directory, as it names it: dbpath=DIR
    #[arg(long = "match", value_name = "dbpath=DIR", value_parser = Selector::matching)]
    matching: Option<Selector>,
    /// The main process of a unit of systemd
    #[arg(long, value_name = "NAME")]
    unit: Option<String>,
    /// The first process of a container of docker's or podman's; its data is named with --source, unless it is a mongod
    #[arg(long, value_name = "NAME")]
    container: Option<String>,
}

/// The group of a command that needs to know which process.
pub fn required() -> ArgGroup {
    ArgGroup::new("process").args(["pid", "matching", "unit", "container"]).required(true)
}

/// No process, or several.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Which {
    /// What was said.
    pub fn selector(&self) -> Selector {
        match self {
            Self { pid: Some(pid), .. } => Selector::Pid(*pid),
            Self { matching: Some(selector), .. } => selector.clone(),
            Self { unit: Some(name), .. } => Selector::Unit(name.clone()),
            // One of them is there: clap sees to that.
            Self { container, .. } => Selector::Container(container.clone().unwrap_or_default()),
        }
    }

    /// The process that was meant.
    ///
    /// # Errors
    /// There is none, or there are several.
    pub fn pid(&self) -> Result<i32, Error> {
        find(&self.selector())
    }
}

/// The process that a selector means. Of a number it is not asked whether there is such a process.
///
/// # Errors
/// None, or several; the words list them.
pub fn find(selector: &Selector) -> Result<i32, Error> {
    match selector {
        Selector::Pid(pid) => Ok(*pid),
        Selector::Dbpath(dir) => by_dbpath(dir),
        Selector::Unit(name) => {
            let arguments = ["show", "--property=MainPID", "--value", "--", name];
            said("systemctl", &arguments).map_err(|words| Error(format!("no process of the unit {name:?}: {words}")))
        }
        Selector::Container(name) => {
            let inspect = ["inspect", "--format", "{{.State.Pid}}", "--", name];
            let found = said("docker", &inspect).or_else(|first| said("podman", &inspect).map_err(|_| first));
            found.map_err(|words| Error(format!("no process of the container {name:?}: {words}")))
        }
    }
}

/// The process number that a command prints.
fn said(program: &str, arguments: &[&str]) -> Result<i32, String> {
    let output = Command::new(program).args(arguments).output().map_err(|error| format!("{program}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().parse() {
        Ok(pid) if pid > 0 && output.status.success() => Ok(pid),
        Ok(0) => Err("it is not running".into()),
        _ => Err(format!("{program} says {:?}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

/// A server that was found.
struct Server {
    pid: i32,
    dbpath: PathBuf,
    /// It holds the lock on its data; others only have a command line that says so, as `timeout mongod ...` does.
    holds: bool,
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {} with dbpath={}", self.pid, self.dbpath.display())
    }
}

fn by_dbpath(dir: &Path) -> Result<i32, Error> {
    let servers = servers();
    let theirs: Vec<&Server> = servers.iter().filter(|server| is_same(server, dir)).collect();
    // The lock tells the server from what has started it.
    let holders: Vec<&Server> = theirs.iter().copied().filter(|server| server.holds).collect();
    let list = |servers: &[&Server]| servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match (if holders.is_empty() { &theirs } else { &holders })[..] {
        [one] => Ok(one.pid),
        [] if servers.is_empty() => {
            Err(Error(format!("no server has its data in {}: none is running that can be looked at", dir.display())))
        }
        [] => {
            let all = list(&servers.iter().collect::<Vec<_>>());
            Err(Error(format!("no server has its data in {}; there are: {all}", dir.display())))
        }
        ref several => {
            let words =
                format!("several servers have their data in {}: {}; name one with --pid", dir.display(), list(several));
            Err(Error(words))
        }
    }
}

/// All servers that tell where their data is.
fn servers() -> Vec<Server> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let mut all: Vec<Server> =
        numbers.filter(|pid| *pid != std::process::id().cast_signed()).filter_map(look).collect();
    all.sort_by_key(|server| server.pid);
    all
}

fn look(pid: i32) -> Option<Server> {
    let holds = discover::locked(pid).is_some();
    if !holds {
        // Only of a server itself: a shell or an editor may have the same words on its command line.
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let program = Path::new(OsStr::from_bytes(line.split(|byte| *byte == 0).next()?)).file_name()?;
        if program != "mongod" {
            return None;
        }
    }
    Some(Server { pid, dbpath: discover::dbpath(pid).ok()?, holds })
}

/// Whether a server's data is in `dir`, which may be another name for the same directory: as the server names it, or as we do.
fn is_same(server: &Server, dir: &Path) -> bool {
    if server.dbpath == dir {
        return true;
    }
    let id = |path: &Path| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let root = PathBuf::from(format!("/proc/{}/root", server.pid));
    let seen_by_it = |path: &Path| id(&root.join(path.strip_prefix("/").unwrap_or(path)));
    seen_by_it(&server.dbpath).is_some_and(|its| seen_by_it(dir) == Some(its) || id(dir) == Some(its))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::process::{Child, Stdio};

    /// A process that holds a lock file, as mongod does.
    struct Holder(Child);

    impl Holder {
        fn of(dir: &Path) -> Self {
            let lock = File::create(dir.join("mongod.lock")).unwrap();
            Self(Command::new("sleep").arg("60").stdin(Stdio::null()).stdout(lock).spawn().unwrap())
        }

        fn pid(&self) -> i32 {
            self.0.id().cast_signed()
        }
    }

    impl Drop for Holder {
        fn drop(&mut self) {
            let _ = (self.0.kill(), self.0.wait());
        }
    }

    fn find_in(dir: &Path) -> Result<i32, String> {
        find(&Selector::Dbpath(dir.to_owned())).map_err(|error| error.to_string())
    }

    #[test]
    fn a_server_is_found_by_its_data_and_not_beside_another() {
        let dir = tempfile::tempdir().unwrap();
        let [one, two, link] = ["one", "two", "link"].map(|name| dir.path().join(name));
        for data in [&one, &two] {
            std::fs::create_dir(data).unwrap();
        }
        std::os::unix::fs::symlink("one", &link).unwrap();
        let (first, second) = (Holder::of(&one), Holder::of(&two));
        assert_eq!(find_in(&one), Ok(first.pid()));
        assert_eq!(find_in(&two), Ok(second.pid()));
        assert_eq!(find_in(&link), Ok(first.pid()), "by another name");
        let words = find_in(dir.path()).unwrap_err();
        assert!(words.contains(&format!("process {} with dbpath={}", first.pid(), one.display())), "{words}");
        assert!(words.contains(&format!("process {}", second.pid())), "{words}");
        let third = Holder::of(&one);
        let words = find_in(&one).unwrap_err();
        for pid in [first.pid(), third.pid()] {
            assert!(words.contains(&format!("process {pid} ")) && words.contains("--pid"), "{words}");
        }
    }

    #[test]
    fn what_cannot_be_asked_is_told() {
        let error = find(&Selector::Unit("hotbackup-no-such-unit".into())).unwrap_err().to_string();
        assert!(error.contains("hotbackup-no-such-unit"), "{error}");
        assert_eq!(said("echo", &["12"]), Ok(12));
        assert!(said("echo", &["0"]).unwrap_err().contains("not running"));
        assert!(said("false", &[]).is_err());
    }
}
