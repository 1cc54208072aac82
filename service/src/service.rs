//! All of it together.
use std::fs::DirBuilder;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::control::{Bound, Server, Steered, TargetStatus, runtime_directory};
use crate::front::{Seats, listen_front, listen_local};
use crate::jobs::Target;
use crate::{Config, Host, nightly};

/// The name of the service's control socket in the runtime directory.
const SOCKET: &str = "service.sock";

/// Why a service cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

/// A service that runs, until it is dropped. Backups that run then go on.
pub struct Service {
    _control: Server,
    _sockets: Vec<Bound>,
    targets: Vec<Arc<Target>>,
    ready: Ready,
}

/// Where it is to be found: what `serve --json` says first.
#[derive(Debug, Clone, Serialize)]
pub struct Ready {
    /// The process.
    pub pid: u32,
    /// Where `status`, `throttle` and `cancel` find it.
    pub control: PathBuf,
    /// Where it can be looked at.
    pub http: Option<SocketAddr>,
    /// Its targets.
    pub targets: Vec<Doors>,
}

/// Where clients find a target.
#[derive(Debug, Clone, Serialize)]
pub struct Doors {
    /// Its name.
    pub target: String,
    /// Its Unix socket.
    pub socket: Option<PathBuf>,
    /// Its port in front of mongod.
    pub listen: Option<SocketAddr>,
}

impl Service {
    /// Starts it.
    ///
    /// # Errors
    /// The configuration is not right, or something that it names cannot be used.
    pub fn start(config: &Config, host: &Arc<dyn Host>) -> Result<Self, Error> {
        config.check().map_err(Error)?;
        make_room();
        let cannot = |what: &str, path: &std::path::Path, error: std::io::Error| {
            Error(format!("cannot {what} {}: {error}", path.display()))
        };
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&config.state);
        made.map_err(|error| cannot("make the directory", &config.state, error))?;
        let control = match &config.control {
            Some(path) => path.clone(),
            None => runtime_directory().map_err(|error| Error(format!("no runtime directory: {error}")))?.join(SOCKET),
        };
        let mut targets = Vec::new();
        // The control socket is the lock, too: a second service ends here, before it touches any record.
        let steer = Arc::new(Steer::default());
        let server = Server::start(&control, Arc::clone(&steer) as Arc<dyn Steered>);
        let server = server.map_err(|error| cannot("listen at", &control, error))?;
        for target in &config.targets {
            targets.push(Target::open(target, &config.state, host).map_err(Error)?);
        }
        steer.set(targets.clone());
        let seats = Seats::new(config.max_connections);
        let (mut sockets, mut doors) = (Vec::new(), Vec::new());
        for target in &targets {
            let config = target.config();
            if let Some(path) = &config.socket {
                let bound = listen_local(path, target, &seats);
                sockets.push(bound.map_err(|error| cannot("listen at", path, error))?);
            }
            let listen = config.front.as_ref().map(|front| listen_front(front, target, &seats)).transpose();
            let listen = listen.map_err(|words| Error(format!("target {}: {words}", config.name)))?;
            doors.push(Doors { target: config.name.clone(), socket: config.socket.clone(), listen });
        }
        let http = config.http.map(|address| hotbackup_web::serve(address, steer)).transpose();
        let http = http.map_err(|error| Error(error.to_string()))?.map(|server| server.address);
        for target in &targets {
            let started = nightly::start(target);
            started.map_err(|error| Error(format!("target {}: no thread for its schedule: {error}", target.name())))?;
        }
        let ready = Ready { pid: std::process::id(), control, http, targets: doors };
        Ok(Self { _control: server, _sockets: sockets, targets, ready })
    }

    /// Looks at every target, as `status` does: it returns only if none of them is stuck.
    pub fn look(&self) {
        self.targets.iter().for_each(|target| drop(target.status()));
    }

    /// Where it is to be found.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Where `status`, `throttle` and `cancel` find the service of this user.
    ///
    /// # Errors
    /// There is no runtime directory.
    pub fn usual_control() -> std::io::Result<PathBuf> {
        Ok(runtime_directory()?.join(SOCKET))
    }
}

/// Two descriptors a client are more than the usual limit.
fn make_room() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let made = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(65_536)), hard));
    if let Err(errno) = made {
        tracing::warn!("the limit of open files cannot be raised: {errno}");
    }
}

/// What the control socket steers.
#[derive(Default)]
pub(crate) struct Steer(std::sync::OnceLock<Vec<Arc<Target>>>);

impl Steer {
    fn set(&self, targets: Vec<Arc<Target>>) {
        // Set once: there is one start.
        let _ = self.0.set(targets);
    }

    pub(crate) fn all(&self) -> &[Arc<Target>] {
        self.0.get().map_or(&[], Vec::as_slice)
    }

    fn find(&self, name: Option<&str>) -> Result<&Arc<Target>, String> {
        let names = || self.all().iter().map(|target| target.name()).collect::<Vec<_>>().join(", ");
        match (name, self.all()) {
            (None, [only]) => Ok(only),
            (None, []) => Err("the service is being started".into()),
            (None, _) => Err(format!("there are several targets, name one with --target: {}", names())),
            (Some(name), all) => all
                .iter()
                .find(|target| target.name() == name)
                .ok_or_else(|| format!("there is no target {name:?}; there are: {}", names())),
        }
    }
}

impl Steered for Steer {
    fn status(&self) -> Vec<TargetStatus> {
        self.all().iter().map(|target| target.status()).collect()
    }

    fn throttle(&self, target: Option<&str>, rate: Option<u64>) -> Result<(), String> {
        self.find(target)?.throttle(rate);
        Ok(())
    }

    fn cancel(&self, target: Option<&str>) -> Result<(), String> {
        self.find(target)?.cancel().map_err(|error| error.to_string())
    }
}
