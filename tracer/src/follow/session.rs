//! A target that is followed: from attach, or from taking over its keeper, to handing it back.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hotbackup_event::{Effect, FileId, failpoint};
use nix::fcntl::Flock;

use super::at_sites::{self, AtSites};
use super::begin::{self, Attached};
use super::lock::lock;
use super::mapped::{self, Sharers};
use super::newcomers::Newcomers;
use super::options::Options;
use super::warden::{Wake, Warden};
use super::{blind_spots, outsiders};
use crate::attach::{self, preflight};
use crate::error::Error;
use crate::flight::grace;
use crate::flight::unseen::{Look, Unseen};
use crate::helper::process::{self as helper, PTRACER};
use crate::hot::{Source, Stage};
use crate::ptracer::client::Ptracer;
use crate::receive::answering::Answering;
use crate::receive::listener::Receivers;
use crate::receive::sink::Sink;
use crate::shared::control::{Control, Role};
use crate::shared::roles::Held;
use crate::target::process::{GivenUp, Process};

/// How long a call of the target's own is waited for, where none can be made for the probe.
const PROBE_LIMIT: Duration = Duration::from_secs(3);

/// A target that is followed. Dropping it hands the target to its keeper.
pub struct Tracer {
    shared: Arc<Answering>,
    wake: Arc<Wake>,
    /// Until the target is handed over.
    receivers: Mutex<Option<Receivers>>,
    warden: Warden,
    _sites: Option<AtSites>,
    ptracer: Arc<Mutex<Ptracer>>,
    /// Which processes were looked at for mappings of the target's files.
    sharers: Mutex<Sharers>,
    sink: Arc<dyn Sink>,
    /// Whether blind spots were looked for after the first grace.
    looked_again: AtomicBool,
    newcomers: Newcomers,
    wants_all_writes: bool,
    unseen_calls: Vec<String>,
    stopped: Option<Duration>,
    /// One supervisor a target: held until the end, also by one that hangs.
    _lock: Flock<OwnedFd>,
    /// The same, as everybody can see who can reach the target.
    _part: Held,
}

impl Tracer {
    /// Follows process `pid`: through its keeper when it has one, else by installing the filter. From the return on,
    /// every call that can change a file goes to `sink`; calls from before may still be running ([`Self::grace`]).
    ///
    /// # Errors
    /// See [`Error`]; on an error the target is as it was but for some dead code and memory, or it is answered by its
    /// keeper.
    pub fn attach(pid: i32, options: &Options, sink: Arc<dyn Sink>) -> Result<Self, Error> {
        Self::attach_unless(pid, options, sink, Box::new(|| false))
    }

    /// The same, given up as soon as `given_up` says so, which is asked again and again where it waits.
    ///
    /// # Errors
    /// [`Error::GivenUp`], or as [`Self::attach`].
    pub fn attach_unless(pid: i32, options: &Options, sink: Arc<dyn Sink>, given_up: GivenUp) -> Result<Self, Error> {
        let process = Process::open(pid)?;
        process.ask_whether_given_up(given_up);
        preflight::check(&process)?;
        let lock = lock(&process)?;
        failpoint::hit("attach.locked");
        let attached = begin::attach(&process, options)?;
        process.set_attached();
        attached.memory.set_lease(options.lease);
        Self::start(process, attached, lock, sink, options)
    }

    fn start(
        process: Process,
        attached: Attached,
        lock: Flock<OwnedFd>,
        sink: Arc<dyn Sink>,
        options: &Options,
    ) -> Result<Self, Error> {
        let pid = process.pid();
        let threads = |error: std::io::Error| Error::Os {
            pid,
            operation: "starting threads for",
            errno: crate::error::errno(&error),
        };
        let Attached { memory, listener, generation, wake, part, ptracer, unseen_calls, stopped } = attached;
        memory.supervisor_listener.store(listener.as_raw_fd(), Ordering::SeqCst);
        let generation = Control { role: Role::Supervised, generation };
        let hot = Source::new(&process, &memory, generation, options.at_sites);
        let hot = hot.map_err(Error::os(pid, "mapping the board of"))?;
        let shared = Arc::new(Answering::new(process, memory, listener, generation, hot));
        let ptracer = Arc::new(Mutex::new(ptracer));
        let receivers = Receivers::start(&shared, ptracer.clone(), sink.clone()).map_err(threads)?;
        failpoint::hit("attach.receiving");
        // Whatever a thread is doing now may have begun unseen: before the filter, or answered by the keeper.
        let children = outsiders::followed_children(&shared.process);
        for pid in std::iter::once(pid).chain(children.iter().copied()) {
            for tid in shared.process.list(&format!("{pid}/task")) {
                shared.inflight.begin_unseen(tid);
            }
        }
        let newcomers = Newcomers::new(&shared.process, &children);
        let wake = Wake::new(wake);
        let warden = Warden::start(shared.clone(), options.keeper_program, wake.clone()).map_err(threads)?;
        let sites = AtSites::start(&shared, &ptracer).map_err(threads)?;
        let receivers = Mutex::new(Some(receivers));
        let (sharers, looked_again) = (Mutex::default(), AtomicBool::new(false));
        let wants_all_writes = options.show_all_writes;
        let tracer = Self {
            shared,
            wake,
            receivers,
            warden,
            _sites: sites,
            ptracer,
            sharers,
            sink,
            looked_again,
            newcomers,
            wants_all_writes,
            unseen_calls,
            stopped,
            _lock: lock,
            _part: part,
        };
        blind_spots::find(&tracer.shared.process, &*tracer.sink);
        Ok(tracer)
    }

    /// Waits until every call that was let go, or began unseen, has finished.
    ///
    /// # Errors
    /// Says which thread has been in which call for how long.
    pub fn grace(&self) -> Result<(), String> {
        let process = &self.shared.process;
        grace::wait(process, &self.shared.inflight, &self.ptracer)?;
        if let Some(hot) = &self.shared.hot {
            hot.begin_or_wait(process, &self.ptracer, grace::LIMIT, || at_sites::others(process))?;
        }
        self.tell_missed_look();
        // Once more after the first one: a call may have been on its way, unseen, when we attached.
        if !self.looked_again.swap(true, Ordering::SeqCst) {
            blind_spots::find_own(&self.shared.process, &*self.sink);
        }
        Ok(())
    }

    /// Looks at all other processes: none may have a file mapped for writing that has been mapped so by the target or its
    /// children. `files` tells which, of those that matter. To be called before calls are held for [`Self::while_frozen`].
    ///
    /// # Errors
    /// Names the process that has, or says why calls under way cannot be waited for.
    pub fn look_for_sharers(&self, files: &dyn Fn() -> Vec<FileId>) -> Result<(), String> {
        let elsewhere = self.shared.mapped_elsewhere.load(Ordering::SeqCst);
        // What was counted by then is to be seen below.
        self.grace()?;
        *self.sharers() = Sharers::look(&self.shared.process, elsewhere, &files())?;
        Ok(())
    }

    /// Has all threads of the target stand still, for at most `limit`, while `work` runs with the files that it has mapped
    /// for writing. `known` are those that have been, and matter: no other process may have mapped them.
    ///
    /// # Errors
    /// Why they could not, or that they went on before `work` had ended: then what it did does not count.
    pub fn while_frozen(
        &self,
        limit: Duration,
        known: &[FileId],
        work: &mut dyn FnMut(&[FileId]),
    ) -> Result<(), String> {
        mapped::while_frozen(&self.shared, &self.ptracer, &self.sharers, limit, known, work)
    }

    /// What may have been written in the one way that no call shows (see `flight/unseen.rs`), since the last look. After the hold,
    /// also what others may have written since they were last looked at (see `outsiders.rs`, `kernel_writers.rs`).
    pub fn unseen(&self, look: Look) -> Vec<Effect> {
        if self.shared.unseen.is_some() && self.shared.process.first_thread_ended() {
            self.sink.blind("its first thread has ended, so that its descriptors cannot be looked at".into());
        }
        self.tell_missed_look();
        let (process, inflight) = (&self.shared.process, &self.shared.inflight);
        let look_at = |unseen: &Mutex<Unseen>| {
            unseen.lock().unwrap_or_else(PoisonError::into_inner).look(process, inflight, look)
        };
        let mut effects = self.shared.unseen.as_ref().map(look_at).unwrap_or_default();
        effects.extend(self.marked());
        if look == Look::Unexplained {
            effects.extend(blind_spots::others(process));
        }
        effects
    }

    /// Something was taken for not there that could not be looked at, or somebody was not known.
    fn tell_missed_look(&self) {
        if let Some(errno) = self.shared.process.take_missed_look() {
            self.sink.blind(format!("processes, threads or descriptors could not be listed: {errno}"));
        }
        let threads = std::mem::take(&mut *self.shared.newcomers.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(cause) = self.newcomers.look(&self.shared.process, threads) {
            self.sink.blind(cause);
        }
    }

    /// Says that a hold begins or ends. While one is on, the keeper gives this supervisor up sooner.
    pub fn set_holding(&self, holding: bool) {
        self.shared.memory.holding.store(u32::from(holding), Ordering::SeqCst);
        if holding {
            self.wake.rouse();
        }
    }

    /// Says what becomes of calls that are captured at their sites. What has been by the beginning of a hold is known after the next
    /// grace, and must have been asked for before the drain.
    pub fn set_stage(&self, stage: Stage) {
        if let Some(hot) = &self.shared.hot {
            hot.set_stage(stage);
        }
    }

    /// How many call sites are captured in the target itself; `None` where that is not done.
    pub fn sites(&self) -> Option<u64> {
        self.shared.hot.as_ref().map(Source::patched)
    }

    /// What was marked in the target since this was asked last.
    pub fn marked(&self) -> Vec<Effect> {
        self.shared.hot.as_ref().map(Source::collect).unwrap_or_default()
    }

    /// Hands the target to its keeper, when nothing more is to be seen: first nothing more is received, then the keeper
    /// answers. In between a call waits for some microseconds. Also done by dropping.
    pub fn hand_over(&self) {
        let receivers = self.receivers.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut receivers) = receivers else { return };
        let shared = &self.shared;
        self.warden.hand_over(|| {
            shared.stop.store(true, Ordering::SeqCst);
            receivers.join();
            failpoint::hit("handover.deaf");
            // It is closed soon after, and its number another file's.
            shared.memory.supervisor_listener.store(-1, Ordering::SeqCst);
            let control = shared.generation;
            control.change(&shared.memory.control, control.with(Role::Kept));
            failpoint::hit("handover.kept");
        });
        // A ptracer ends by itself when we do, unless it is stopped. Whoever still asks it is not waited for.
        match self.ptracer.try_lock() {
            Ok(mut ptracer) => ptracer.end(),
            Err(_) => helper::end_all(PTRACER, &shared.process),
        }
    }

    fn ptracer(&self) -> MutexGuard<'_, Ptracer> {
        self.ptracer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sharers(&self) -> MutexGuard<'_, Sharers> {
        self.sharers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The target.
    pub fn process(&self) -> &Process {
        &self.shared.process
    }

    /// The keeper's process id.
    pub fn keeper_pid(&self) -> i32 {
        self.shared.memory.keeper.load(Ordering::SeqCst)
    }

    /// How long the injected thread was kept from its work; `None` when the keeper was there already.
    pub fn stopped(&self) -> Option<Duration> {
        self.stopped
    }

    /// The calls that can change files and go unseen, as the filter is an earlier release's; only where that was accepted.
    /// `unknown` where they cannot be told.
    pub fn unseen_calls(&self) -> &[String] {
        &self.unseen_calls
    }

    /// What is less safe than usual, in words for the operator.
    pub fn warnings(&self) -> Vec<String> {
        let process = &self.shared.process;
        let mut warnings = Vec::new();
        if self.wants_all_writes && self.shared.unseen.is_some() {
            warnings.push(format!(
                "the filter that process {} has already does not show writes of 8 bytes: only one that is started anew can \
                 be followed in another way",
                process.pid()
            ));
        }
        if !self.unseen_calls.is_empty() {
            let calls = self.unseen_calls.join(", ");
            warnings.push(format!("the filter of process {} does not show all calls: {calls}", process.pid()));
        }
        warnings
    }

    /// Calls received so far.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }

    /// The longest time that a call waited for its answer.
    pub fn longest_wait(&self) -> Duration {
        Duration::from_nanos(self.shared.longest.load(Ordering::Relaxed))
    }

    /// Whether the keeper took over because we did not answer in time.
    pub fn is_revoked(&self) -> bool {
        let is_following = self.receivers.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        is_following && self.shared.is_revoked()
    }

    /// A live probe: has a thread of the target make a call that changes nothing, and says whether it was seen.
    ///
    /// # Errors
    /// As injecting.
    pub fn probe(&self) -> Result<bool, Error> {
        self.shared.probed.store(false, Ordering::SeqCst);
        let received = self.received();
        let mut ptracer = self.ptracer();
        match attach::probe(&self.shared.process, &mut ptracer, || self.shared.probed.load(Ordering::SeqCst)) {
            // No thread can make the call just now, or no room is left for code: then any call of its own will do.
            Err(Error::NoThread(..) | Error::OwnFilter { .. }) => {
                let limit = std::time::Instant::now() + PROBE_LIMIT;
                while self.received() == received && std::time::Instant::now() < limit {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Ok(self.received() > received)
            }
            other => other,
        }
    }

    /// The threads of the target that carry no filter.
    pub fn unfiltered_threads(&self) -> Vec<i32> {
        const FILTER: &str = "2"; // SECCOMP_MODE_FILTER
        let process = &self.shared.process;
        let unfiltered = |tid: &i32| process.status_field(*tid, "Seccomp").is_some_and(|mode| mode != FILTER);
        process.threads().into_iter().filter(unfiltered).collect()
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        self.hand_over();
    }
}
