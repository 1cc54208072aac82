//! `hotbackup serve`.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use hotbackup_service::config::{FrontConfig, TargetConfig};
use hotbackup_service::{Config, Host, Selector, Service};
use sd_notify::NotifyState;

use super::draw::{Event, print_json, say};
use super::verbs::cancel_on_signals;
use super::{Failure, Output};
use crate::exit::Cause;
use crate::select::Which;
use crate::serve::Here;
use crate::session::Control;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// What to look after: a TOML file; or one server, by what follows
    #[arg(long, value_name = "FILE", conflicts_with_all = ["Which", "dest", "listen", "server", "socket", "throttle"])]
    config: Option<PathBuf>,
    #[command(flatten)]
    which: Option<Which>,
    /// The directory below which backups go
    #[arg(long, value_name = "DIR")]
    dest: Option<PathBuf>,
    /// A Unix socket for drivers
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// A port in front of mongod, such as 127.0.0.1:27018
    #[arg(long, value_name = "ADDRESS", requires = "server")]
    listen: Option<SocketAddr>,
    /// Where mongod is, for that port
    #[arg(long, value_name = "HOST:PORT", requires = "listen")]
    server: Option<String>,
    /// The rate to begin with, as for a backup
    #[arg(long, value_name = "BYTES/S")]
    throttle: Option<String>,
    /// Where it remembers its backups
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hotbackup", conflicts_with = "config")]
    state: PathBuf,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Serve {
    fn config(&self) -> Result<Config, String> {
        if let Some(file) = &self.config {
            return Config::read(file);
        }
        let (Some(which), Some(dest)) = (&self.which, &self.dest) else {
            return Err(
                "say what to look after: --config FILE; or one of --pid, --match, --unit and --container, and --dest"
                    .into(),
            );
        };
        let mut target = TargetConfig {
            name: "main".into(),
            destination: absolute(dest),
            socket: self.socket.as_deref().map(absolute),
            throttle: self.throttle.clone(),
            ..TargetConfig::default()
        };
        match which.selector() {
            Selector::Pid(pid) => target.pid = Some(pid),
            Selector::Dbpath(dir) => target.matches = Some(format!("dbpath={}", dir.display())),
            Selector::Unit(name) => target.unit = Some(name),
            Selector::Container(name) => target.container = Some(name),
        }
        if let (Some(listen), Some(server)) = (self.listen, &self.server) {
            target.front = Some(FrontConfig { listen, server: server.clone(), tls: None, server_tls: None });
        }
        Ok(Config {
            state: absolute(&self.state),
            control: None,
            max_connections: 2000,
            http: None,
            targets: vec![target],
        })
    }
}

fn absolute(path: impl AsRef<std::path::Path>) -> PathBuf {
    std::path::absolute(&path).unwrap_or_else(|_| path.as_ref().to_owned())
}

pub(super) fn serve(flags: &Serve) -> Result<(), Failure> {
    let failed = |words: &dyn ToString| Failure::new(Cause::ServiceFailed, words.to_string());
    let config = flags.config().map_err(|words| failed(&words))?;
    // The end of a service is no cancel: what runs goes on.
    let end = Control::new(None);
    cancel_on_signals(&end)?;
    let host: Arc<dyn Host> = Arc::new(Here);
    let service = Service::start(&config, &host).map_err(|error| failed(&error))?;
    let ready = service.ready();
    if flags.output.json {
        let event = Event { event: "ready", elapsed_ms: None, body: ready };
        print_json(&event).map_err(|error| Failure::output(&error))?;
    } else if !flags.output.quiet {
        for doors in &ready.targets {
            let socket = doors.socket.as_ref().map_or(String::new(), |path| format!(", socket {}", path.display()));
            let listen = doors.listen.map_or(String::new(), |address| format!(", port {address}"));
            say(&format!("hotbackup: serving {}{socket}{listen}", doors.target));
        }
        if let Some(http) = ready.http {
            say(&format!("hotbackup: to be looked at: http://{http}/"));
        }
    }
    // Without a service manager nobody listens, and nothing is said.
    let told =
        |state| sd_notify::notify(&[state]).unwrap_or_else(|error| tracing::warn!("systemd is not told: {error}"));
    told(NotifyState::Ready);
    let watchdog = sd_notify::watchdog_enabled().map(|limit| limit / 3);
    let mut last = Instant::now();
    while !end.is_cancelled() {
        std::thread::park_timeout(Duration::from_millis(100));
        if watchdog.is_some_and(|every| last.elapsed() >= every) {
            // Not from a thread that does nothing else: the targets are looked at, whose locks all the rest needs.
            service.look();
            told(NotifyState::Watchdog);
            last = Instant::now();
        }
    }
    told(NotifyState::Stopping);
    Ok(())
}
