//! What the control service needs of the rest, and a backup that can be steered from another process.
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hotbackup_service::control::{Running, Server, Steered, TargetStatus, percent, runtime_directory};
use hotbackup_service::{Host, Selector};

use crate::session::{Control, Monitor, Phase, Progress};

/// The service's host: this program.
#[derive(Debug, Clone, Copy)]
pub struct Here;

impl Host for Here {
    fn find(&self, selector: &Selector) -> Result<i32, String> {
        let pid = crate::select::find(selector).map_err(|error| error.to_string())?;
        // A number alone says nothing about whether the process still runs.
        match Path::new(&format!("/proc/{pid}")).exists() {
            true => Ok(pid),
            false => Err(format!("{selector} has ended")),
        }
    }

    fn bytes(&self, text: &str) -> Result<u64, String> {
        crate::cli::size::bytes(text)
    }
}

/// The rate that is told is that of the last few seconds.
const WINDOW: Duration = Duration::from_secs(5);

/// A backup that can be looked at and steered through a socket, and the monitor that it tells how far it is.
pub struct Steerable<'a> {
    monitor: &'a dyn Monitor,
    live: Arc<Live>,
    _server: Option<Server>,
}

struct Live {
    control: Control,
    fixed: Running,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Phase,
    progress: Progress,
    holding: Option<Instant>,
    held: Duration,
    waited: Duration,
    /// Bytes copied at moments of the last few seconds.
    samples: VecDeque<(Instant, u64)>,
}

impl<'a> Steerable<'a> {
    /// Listens at `socket`; without one in the runtime directory, where that can be: a backup needs nobody to steer it.
    ///
    /// # Errors
    /// The socket that was asked for cannot be had.
    pub fn start(
        pid: i32,
        dest: &Path,
        socket: Option<&Path>,
        monitor: &'a dyn Monitor,
        control: &Control,
    ) -> std::io::Result<Self> {
        let dest = std::path::absolute(dest).unwrap_or_else(|_| dest.to_owned());
        let me = std::process::id();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let fixed = Running {
            dest: dest.to_string_lossy().into_owned(),
            process: pid,
            supervisor: me.cast_signed(),
            started_ms: since.as_millis() as u64,
            ..Running::default()
        };
        let live = Arc::new(Live { control: control.clone(), fixed, began: Instant::now(), state: Mutex::default() });
        let steered = || Arc::clone(&live) as Arc<dyn Steered>;
        let server = match socket {
            Some(path) => Some(Server::start(path, steered())?),
            None => {
                let usual = runtime_directory().map(|directory| directory.join(format!("backup-{me}.sock")));
                let server = usual.and_then(|path| Server::start(&path, steered()));
                server.inspect_err(|error| tracing::debug!("this backup cannot be steered: {error}")).ok()
            }
        };
        Ok(Self { monitor, live, _server: server })
    }
}

impl Live {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Running {
        let state = self.state();
        let progress = &state.progress;
        let rate = state.samples.front().map_or(0, |(when, bytes)| {
            let took = when.elapsed().as_secs_f64().max(0.001);
            (progress.bytes_copied.saturating_sub(*bytes) as f64 / took) as u64
        });
        let held = state.held + state.holding.map_or(Duration::ZERO, |since| since.elapsed());
        let phase = serde_json::to_value(state.phase).ok().and_then(|name| name.as_str().map(str::to_owned));
        Running {
            elapsed_ms: self.began.elapsed().as_millis() as u64,
            phase: phase.unwrap_or_default(),
            percent: percent(progress.bytes_total, progress.bytes_due),
            bytes_copied: progress.bytes_copied,
            bytes_due: progress.bytes_due,
            bytes_total: progress.bytes_total,
            files_copied: progress.files_copied,
            files_total: progress.files_total,
            rate,
            eta_s: progress.bytes_due.checked_div(rate),
            hold_us: held.as_micros() as u64,
            longest_wait_us: state.waited.as_micros() as u64,
            throttle: self.control.throttle(),
            cancelled: self.control.is_cancelled(),
            ..self.fixed.clone()
        }
    }
}

impl Steered for Live {
    fn status(&self) -> Vec<TargetStatus> {
        let running = self.running();
        vec![TargetStatus {
            target: format!("pid {}", running.process),
            process: Some(running.process),
            throttle: running.throttle,
            running: Some(running),
            ..TargetStatus::default()
        }]
    }

    fn throttle(&self, _target: Option<&str>, rate: Option<u64>) -> Result<(), String> {
        self.control.set_throttle(rate);
        Ok(())
    }

    fn cancel(&self, _target: Option<&str>) -> Result<(), String> {
        self.control.cancel();
        Ok(())
    }
}

impl Monitor for Steerable<'_> {
    fn phase(&self, phase: Phase) {
        {
            let mut state = self.live.state();
            state.phase = phase;
            if phase == Phase::Hold {
                state.holding.get_or_insert_with(Instant::now);
            } else if let Some(since) = state.holding.take() {
                state.held += since.elapsed();
            }
        }
        self.monitor.phase(phase);
    }

    fn waited(&self, longest: Duration) {
        self.live.state().waited = longest;
        self.monitor.waited(longest);
    }

    fn progress(&self, progress: &Progress) {
        {
            let mut state = self.live.state();
            let now = Instant::now();
            state.samples.push_back((now, progress.bytes_copied));
            // The oldest that is kept may be a little older: there must be one to measure from.
            while state.samples.get(1).is_some_and(|(when, _)| now - *when > WINDOW) {
                state.samples.pop_front();
            }
            state.progress = progress.clone();
        }
        self.monitor.progress(progress);
    }

    fn released(&self) {
        self.monitor.released();
    }

    fn warning(&self, text: &str) {
        self.monitor.warning(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Silent;
    impl Monitor for Silent {}

    #[test]
    fn what_a_backup_tells_is_what_it_shows() {
        let dir = tempfile::tempdir().unwrap();
        let control = Control::new(Some(5));
        let socket = dir.path().join("a.sock");
        let steerable = Steerable::start(7, Path::new("/b/x"), Some(&socket), &Silent, &control).unwrap();
        steerable.phase(Phase::Track);
        let progress =
            |copied, due| Progress { bytes_copied: copied, bytes_due: due, bytes_total: 1000, ..Progress::default() };
        steerable.progress(&progress(0, 1000));
        steerable.progress(&progress(600, 400));
        steerable.waited(Duration::from_micros(1234));
        steerable.phase(Phase::Hold);
        steerable.phase(Phase::Drain);
        let mut client = hotbackup_service::control::Client::connect(&socket).unwrap();
        let answer = client.ask(&hotbackup_service::control::Request::Status).unwrap();
        let running = answer.targets[0].running.clone().unwrap();
        assert_eq!((running.phase.as_str(), running.percent, running.bytes_due), ("drain", 60.0, 400));
        assert_eq!((running.process, running.dest.as_str(), running.throttle), (7, "/b/x", Some(5)));
        assert_eq!(running.longest_wait_us, 1234);
        assert!(running.rate > 0 && running.eta_s.is_some() && !running.cancelled);
        let rate = hotbackup_service::control::Request::Throttle { target: None, rate: None };
        assert!(client.ask(&rate).unwrap().ok);
        assert_eq!(control.throttle(), None);
        assert!(client.ask(&hotbackup_service::control::Request::Cancel { target: None }).unwrap().ok);
        assert!(control.is_cancelled());
        drop(steerable);
        assert!(!socket.exists());
    }
}
