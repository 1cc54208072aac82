//! The configuration, a TOML file; see `docs/service.md`.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use hotbackup_archive::{Check, Hook, Policy, Retry, Schedule};
use jiff::SignedDuration;
use serde::Deserialize;

/// What a service is to do.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where it remembers its backups.
    #[serde(default = "state")]
    pub state: PathBuf,
    /// Where `status`, `throttle` and `cancel` find it: a socket in the runtime directory, usually.
    pub control: Option<PathBuf>,
    /// How many clients may be connected, of all ports and sockets together.
    #[serde(default = "connections")]
    pub max_connections: usize,
    /// Where it can be looked at over HTTP; nowhere, usually.
    pub http: Option<SocketAddr>,
    /// The servers it looks after.
    #[serde(rename = "target", default)]
    pub targets: Vec<TargetConfig>,
}

/// One server.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TargetConfig {
    /// What it is called.
    pub name: String,
    /// Its process.
    pub pid: Option<i32>,
    /// `dbpath=DIR`.
    #[serde(rename = "match")]
    pub matches: Option<String>,
    /// A unit of systemd.
    pub unit: Option<String>,
    /// A container.
    pub container: Option<String>,
    /// The directory below which its backups go, of its own.
    pub destination: PathBuf,
    /// What to back up; mongod's dbpath, usually.
    #[serde(default)]
    pub source: Vec<PathBuf>,
    /// What to leave out.
    #[serde(default)]
    pub exclude: Vec<String>,
    /// `end` or `start`.
    pub point: Option<String>,
    /// The rate to begin with.
    pub throttle: Option<String>,
    /// How long a call of the server may wait, whatever hangs, as `--lease` has it.
    pub lease: Option<String>,
    /// A Unix socket for drivers.
    pub socket: Option<PathBuf>,
    /// A port in front of mongod.
    pub front: Option<FrontConfig>,
    /// Backups by schedule.
    pub nightly: Option<Nightly>,
}

/// A port in front of mongod.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontConfig {
    /// Where clients connect to.
    pub listen: SocketAddr,
    /// Where mongod is, `host:port`.
    pub server: String,
    /// TLS towards clients.
    pub tls: Option<Identity>,
    /// TLS towards mongod.
    pub server_tls: Option<ServerTls>,
}

/// Backups by schedule.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nightly {
    /// When: five fields as for cron, in the host's time zone.
    pub schedule: String,
    /// What stays; everything, usually.
    #[serde(default)]
    pub keep: Policy,
    /// How each is checked.
    #[serde(default)]
    pub check: Check,
    /// The server program, for `check = "server"`.
    pub mongod: Option<PathBuf>,
    /// How often one that failed is tried again before the next time.
    #[serde(default = "three")]
    pub retries: u32,
    /// How long after; twice as long after each further failure.
    #[serde(default = "after_ten_minutes")]
    pub retry_after: String,
    /// Run before.
    pub before: Option<HookConfig>,
    /// Run after, however it ended.
    pub after: Option<HookConfig>,
}

/// A command.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookConfig {
    /// Program and arguments.
    pub command: Vec<String>,
    /// The longest that it may take, in seconds.
    #[serde(default = "ten_minutes")]
    pub timeout_s: u64,
}

fn ten_minutes() -> u64 {
    600
}

fn three() -> u32 {
    3
}

fn after_ten_minutes() -> String {
    "10min".into()
}

impl HookConfig {
    pub(crate) fn hook(&self) -> Hook {
        Hook { command: self.command.clone(), timeout: Duration::from_secs(self.timeout_s) }
    }
}

impl Nightly {
    /// How one that failed is tried again.
    ///
    /// # Errors
    /// The time is none.
    pub(crate) fn retry(&self) -> Result<Retry, String> {
        let text = &self.retry_after;
        let after = SignedDuration::from_str(text).ok().and_then(|after| Duration::try_from(after).ok());
        let after = after.filter(|after| *after >= Duration::from_secs(1));
        let after =
            after.ok_or_else(|| format!("retry_after = {text:?} is no time from a second on, such as \"10min\""))?;
        Ok(Retry { times: self.retries, after })
    }

    /// What cannot be said by types.
    ///
    /// # Errors
    /// What is wrong.
    fn check(&self) -> Result<(), String> {
        Schedule::from_str(&self.schedule).map_err(|error| error.to_string())?;
        self.retry()?;
        if self.check == Check::Server && !self.mongod.as_ref().is_some_and(|path| path.is_absolute()) {
            return Err("check = \"server\" needs mongod = \"/whole/path/of/mongod\", to start it".into());
        }
        match [&self.before, &self.after].into_iter().flatten().any(|hook| hook.command.is_empty()) {
            true => Err("a hook needs command = [\"program\", \"argument\", ...]".into()),
            false => Ok(()),
        }
    }
}

/// A certificate and its key, as PEM.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The certificate, with those that it is signed by.
    pub certificate: PathBuf,
    /// Its key; in the same file, usually.
    pub key: Option<PathBuf>,
}

/// How mongod is told from anybody else.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    /// Who its certificate is signed by, as PEM.
    pub ca: PathBuf,
    /// The name that it must hold: that of `server`, usually.
    pub name: Option<String>,
    /// What the service shows, where mongod asks for it.
    pub identity: Option<Identity>,
}

/// Which process a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// By its number.
    Pid(i32),
    /// The server whose data is in this directory.
    Dbpath(PathBuf),
    /// The main process of a unit of systemd.
    Unit(String),
    /// The first process of a container.
    Container(String),
}

impl Selector {
    /// Reads `dbpath=DIR`.
    ///
    /// # Errors
    /// It is something else.
    pub fn matching(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some(("dbpath", dir)) if Path::new(dir).is_absolute() => Ok(Self::Dbpath(dir.into())),
            _ => {
                Err(format!("{text:?} is not understood: write dbpath=DIR, with the whole path as the server names it"))
            }
        }
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Pid(pid) => write!(f, "process {pid}"),
            Self::Dbpath(dir) => write!(f, "a server with dbpath={}", dir.display()),
            Self::Unit(name) => write!(f, "the unit {name}"),
            Self::Container(name) => write!(f, "the container {name}"),
        }
    }
}

fn state() -> PathBuf {
    "/var/lib/hotbackup".into()
}

fn connections() -> usize {
    2000
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// In words: it cannot be read, or is not right.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Self::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Reads its text.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let config: Self = toml::from_str(text).map_err(|error| error.to_string().trim().to_owned())?;
        config.check()?;
        Ok(config)
    }

    /// What cannot be said by types.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self) -> Result<(), String> {
        if self.targets.is_empty() {
            return Err("there is no [[target]]".into());
        }
        if !self.state.is_absolute() {
            return Err(format!("state = {:?} must be a whole path", self.state));
        }
        for (index, target) in self.targets.iter().enumerate() {
            let name = &target.name;
            let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
            if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.chars().all(allowed) {
                return Err(format!("the name {name:?} of a target must be of letters, digits, '-', '_' and '.'"));
            }
            target.selector().map_err(|words| format!("target {name}: {words}"))?;
            if !matches!(target.point.as_deref(), None | Some("end" | "start")) {
                return Err(format!("target {name}: point is \"end\" or \"start\""));
            }
            if let Some(Err(words)) = target.nightly.as_ref().map(Nightly::check) {
                return Err(format!("target {name}: {words}"));
            }
            if !target.destination.is_absolute() {
                return Err(format!("target {name}: destination = {:?} must be a whole path", target.destination));
            }
            for other in &self.targets[..index] {
                let (a, b) = (real(&target.destination), real(&other.destination));
                if other.name == *name || a.starts_with(&b) || b.starts_with(&a) {
                    return Err(format!(
                        "targets {name} and {}: each needs a name and a destination of its own, not one within the other",
                        other.name
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Without links, as far as it is there.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

impl TargetConfig {
    /// Which process it is.
    ///
    /// # Errors
    /// None of the ways to say it, or several.
    pub fn selector(&self) -> Result<Selector, String> {
        let all = [
            self.pid.map(|pid| Ok(Selector::Pid(pid))),
            self.matches.as_deref().map(Selector::matching),
            self.unit.clone().map(|unit| Ok(Selector::Unit(unit))),
            self.container.clone().map(|name| Ok(Selector::Container(name))),
        ];
        let mut said = all.into_iter().flatten();
        match (said.next(), said.next()) {
            (Some(selector), None) => selector,
            _ => Err("say which process it is, by one of pid, match, unit and container".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "[[target]]\nname = \"a\"\nmatch = \"dbpath=/db\"\ndestination = \"/backup/a\"\n";

    #[test]
    fn a_whole_configuration_is_read() {
        let text = format!(
            "state = \"/s\"\nmax_connections = 5\n{TARGET}throttle = \"64MiB\"\npoint = \"start\"\nexclude = [\"x\"]\n\
             socket = \"/run/a.sock\"\nfront = {{ listen = \"127.0.0.1:1\", server = \"localhost:2\", \
             tls = {{ certificate = \"/c\" }}, server_tls = {{ ca = \"/ca\", name = \"db\" }} }}\n"
        );
        let config = Config::parse(&text).unwrap();
        assert_eq!(config.targets[0].selector(), Ok(Selector::Dbpath("/db".into())));
        assert_eq!((config.max_connections, config.state.as_path()), (5, Path::new("/s")));
        assert_eq!(config.targets[0].front.as_ref().unwrap().server, "localhost:2");
    }

    #[test]
    fn a_night_that_failed_is_tried_again_unless_it_is_said_otherwise() {
        let read = |more: &str| {
            let text = format!("{TARGET}nightly = {{ schedule = \"@daily\"{more} }}\n");
            Config::parse(&text).unwrap().targets.remove(0).nightly.unwrap().retry().unwrap()
        };
        assert_eq!(read(""), Retry { times: 3, after: Duration::from_secs(600) });
        let other = read(", retries = 1, retry_after = \"1h 30m\"");
        assert_eq!(other, Retry { times: 1, after: Duration::from_secs(5400) });
        assert_eq!(read(", retries = 0").times, 0);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let two = |more: &str| format!("{TARGET}[[target]]\nname = \"b\"\npid = 1\ndestination = \"{more}\"\n");
        for (text, words) in [
            (String::new(), "no [[target]]"),
            (format!("{TARGET}typo = 1\n"), "typo"),
            (format!("{TARGET}pid = 1\n"), "one of pid"),
            (TARGET.replace("dbpath=/db", "port=1"), "dbpath=DIR"),
            (TARGET.replace("dbpath=/db", "dbpath=db"), "whole path"),
            (TARGET.replace("\"a\"", "\"../a\""), "letters"),
            (TARGET.replace("/backup/a", "backup"), "whole path"),
            (format!("{TARGET}point = \"middle\"\n"), "point"),
            (format!("{TARGET}nightly = {{ schedule = \"often\" }}\n"), "is not a schedule"),
            (format!("{TARGET}nightly = {{ schedule = \"@daily\", check = \"server\" }}\n"), "needs mongod"),
            (format!("{TARGET}nightly = {{ schedule = \"@daily\", keep = {{ nights = 3 }} }}\n"), "nights"),
            (format!("{TARGET}nightly = {{ schedule = \"@daily\", before = {{ command = [] }} }}\n"), "a hook needs"),
            (format!("{TARGET}nightly = {{ schedule = \"@daily\", retry_after = \"soon\" }}\n"), "retry_after"),
            (format!("{TARGET}nightly = {{ schedule = \"@daily\", retry_after = \"0s\" }}\n"), "from a second on"),
            (format!("{TARGET}nightly = {{ schedule = \"@daily\", retries = -1 }}\n"), "retries"),
            (two("/backup/a"), "of its own"),
            (two("/backup/a/b"), "of its own"),
            (two("/backup"), "of its own"),
        ] {
            let error = Config::parse(&text).expect_err(&text);
            assert!(error.contains(words), "{error}");
        }
        assert!(Config::parse(&two("/backup/ab")).is_ok());
    }
}
