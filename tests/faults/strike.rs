//! One fault happens.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::page::{Span, now};
use super::plan::{Also, Anchor, Kind, Plan};
use super::processes::{self, Keepers, keepers, send, stop, wait_for_instant, wait_until};
use super::supervisor::{Ended, Supervisor};
use super::target::{Target, goes_on};
use crate::common::guest::{Linked, compile};

/// A processor is taken away from everybody by one fault at a time, and nothing else is measured meanwhile.
static MACHINE: RwLock<()> = RwLock::new(());

/// A stopped keeper or helper must be gone after this long: a lease, and looks on either side of it.
const REPLACED: Duration = Duration::from_secs(3);
/// A keeper that does not start is given up after this long.
const NOT_STARTED: Duration = Duration::from_secs(10);
/// A stopped helper may hold a thread of the target for this long: it is killed after some 100 ms, on a machine that stands
/// still at times.
const HELD: Duration = Duration::from_secs(1);
/// A target whose supervisor is stopped must go on within this: a lease, looks, and a slow machine. The promise itself
/// is held against the longest wait.
const TAKEN_OVER: Duration = Duration::from_secs(10);

/// What happened.
#[derive(Default)]
pub struct Struck {
    /// How the backup ended, where there was one.
    pub ended: Option<Ended>,
    /// Whether the fault came about: a backup may be over before its instant.
    pub met: bool,
    /// When nobody was left to answer: what waited then is excused.
    pub nobody_since: Option<u64>,
    /// From when to when the supervisor was stopped.
    pub stopped: Option<Span>,
    /// The same beginning, in realtime.
    pub stopped_at: u64,
    /// Whatever went wrong on the way.
    pub wrong: Vec<String>,
}

/// One fault that is happening.
pub struct Strike<'a> {
    target: &'a mut dyn Target,
    plan: &'a Plan,
    /// Where the backup is to go.
    pub dest: PathBuf,
    /// Where fail points leave word.
    word: PathBuf,
    struck: Struck,
}

impl<'a> Strike<'a> {
    /// Has `plan` happen to the target.
    pub fn run(target: &'a mut dyn Target, plan: &'a Plan, dest: PathBuf) -> Result<Struck, String> {
        let word = target.scratch().join(format!("word-{}", plan.number));
        fs::create_dir(&word).expect("a directory for the fail points");
        let mut strike = Self { target, plan, dest, word, struck: Struck::default() };
        let done = if plan.kind == Kind::Starve {
            let _alone = MACHINE.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            strike.target.begin();
            strike.go()
        } else {
            let _beside = MACHINE.read().unwrap_or_else(std::sync::PoisonError::into_inner);
            strike.target.begin();
            strike.go()
        };
        fs::remove_dir_all(&strike.word).expect("our own directory");
        done.map(|()| strike.struck)
    }

    fn go(&mut self) -> Result<(), String> {
        if self.plan.anchor == Anchor::Between && self.plan.kind.step().is_none() {
            wait_for_instant(Instant::now() + self.plan.delay);
            return self.strike(None);
        }
        let steps = self.steps();
        let mut supervisor = Supervisor::start(self.target, self.plan, &self.dest, steps.as_deref());
        if steps.is_some() {
            self.at_step(&mut supervisor)?;
        } else if self.plan.kind != Kind::Undisturbed {
            match self.plan.anchor {
                Anchor::Phase(phase) => drop(supervisor.wait_for(phase, || false)),
                Anchor::Start => wait_for_instant(supervisor.started),
                Anchor::Between => {}
            }
            let from = if self.plan.anchor == Anchor::Start { supervisor.started } else { Instant::now() };
            wait_for_instant(from + self.plan.delay);
            self.strike(Some(&mut supervisor))?;
        }
        let ended = supervisor.finish()?;
        match self.plan.kind {
            Kind::KillSupervisor | Kind::KillActingAndSupervisor => self.struck.met = ended.status.code().is_none(),
            Kind::Terminate => self.struck.met = ended.status.code() != Some(0),
            Kind::Undisturbed => self.struck.met = true,
            _ => {}
        }
        self.struck.ended = Some(ended);
        Ok(())
    }

    fn strike(&mut self, supervisor: Option<&mut Supervisor>) -> Result<(), String> {
        let pid = self.target.pid();
        let supervisor_pid = supervisor.as_ref().map(|supervisor| supervisor.pid());
        let signal_supervisor = |signal| supervisor_pid.is_some_and(|pid| send(pid, signal));
        match self.plan.kind {
            Kind::Undisturbed | Kind::KillAt(_) | Kind::StopAt(_) => {}
            Kind::KillSupervisor => {
                if let Some(supervisor) = supervisor {
                    supervisor.kill();
                }
            }
            Kind::Terminate => drop(signal_supervisor(Signal::SIGTERM)),
            Kind::KillActing => self.struck.met = acting(pid).is_some_and(|keeper| send(keeper, Signal::SIGKILL)),
            Kind::KillTwin => self.struck.met = twin(pid).is_some_and(|keeper| send(keeper, Signal::SIGKILL)),
            Kind::KillActingAndSupervisor => {
                let keeper = acting(pid);
                // In either order: whichever signal comes second, the other is dead by then or as good as dead.
                if self.plan.by_backup {
                    signal_supervisor(Signal::SIGKILL);
                }
                keeper.map(|keeper| send(keeper, Signal::SIGKILL));
                signal_supervisor(Signal::SIGKILL);
            }
            Kind::KillKeepers => {
                let since = now();
                self.kill_together(None);
                // Before the attach and once the backup is done the keepers are all there is.
                let alone =
                    |supervisor: &mut Supervisor| !supervisor.has_come_to("track") || supervisor.has_come_to("done");
                if supervisor.is_none_or(alone) {
                    self.struck.nobody_since = Some(since);
                }
            }
            Kind::KillAll => {
                self.struck.nobody_since = Some(now());
                self.kill_together(supervisor_pid);
            }
            Kind::StopSupervisor => {
                let supervisor = supervisor.expect("this kind is never between");
                self.struck.met = stop(supervisor.pid());
                self.supervisor_is_stopped(supervisor)?;
            }
            Kind::StopSupervisorBriefly => {
                let supervisor = supervisor_pid.expect("this kind is never between");
                let begin = now();
                self.struck.met = stop(supervisor);
                std::thread::sleep(self.plan.length);
                send(supervisor, Signal::SIGCONT);
                self.struck.stopped = Some((begin, now()));
            }
            Kind::StopActing => {
                if let Some(keeper) = acting(pid).filter(|&keeper| stop(keeper)) {
                    self.struck.met = true;
                    self.stopped_is_replaced(keeper, "acting keeper", REPLACED);
                }
            }
            Kind::StopTwin => {
                if let Some(keeper) = twin(pid).filter(|&keeper| stop(keeper)) {
                    self.struck.met = true;
                    self.stopped_is_replaced(keeper, "twin", REPLACED);
                }
            }
            Kind::StopHelper => self.stop_helper(supervisor.expect("this kind is never between")),
            Kind::Starve => self.starve(supervisor_pid.expect("this kind is never between"))?,
        }
        Ok(())
    }

    /// Kills both keepers and whom else is given. All stop before any is killed, or one would bring back another.
    fn kill_together(&mut self, supervisor: Option<i32>) {
        let mut stopped: Vec<i32> = supervisor.into_iter().filter(|&pid| stop(pid)).collect();
        let mut known = Vec::new();
        loop {
            let found = keepers(self.target.pid()).all;
            let new: Vec<i32> = found.into_iter().filter(|pid| !known.contains(pid)).collect();
            if new.is_empty() {
                break;
            }
            stopped.extend(new.iter().filter(|&&pid| stop(pid)));
            known.extend(new);
        }
        for &pid in &stopped {
            send(pid, Signal::SIGKILL);
        }
        self.struck.met = !stopped.is_empty();
    }

    /// The supervisor stays stopped until every thread of the target has got on, which takes somebody else if the supervisor
    /// was the one to answer; then it may find out.
    fn supervisor_is_stopped(&mut self, supervisor: &mut Supervisor) -> Result<(), String> {
        let begin = now();
        self.struck.stopped_at = crate::common::backup::now();
        let on = if self.struck.met { goes_on(self.target, 10, TAKEN_OVER) } else { Ok(()) };
        if on.is_ok() {
            std::thread::sleep(self.plan.length);
        }
        send(supervisor.pid(), Signal::SIGCONT);
        self.struck.stopped = Some((begin, now()));
        on.map_err(|wrong| format!("while the supervisor is stopped: {wrong}"))
    }

    /// A stopped keeper has to be replaced by a living one.
    fn stopped_is_replaced(&mut self, stopped: i32, who: &str, limit: Duration) {
        if !wait_until(limit, || processes::state(stopped).is_none()) {
            self.struck.wrong.push(format!("a stopped {who} ({stopped}) was still there after {limit:?}"));
            send(stopped, Signal::SIGKILL);
        }
    }

    /// The helper is there only for short times: it is stopped when it is seen.
    fn stop_helper(&mut self, supervisor: &mut Supervisor) {
        let mut found = None;
        while found.is_none() && supervisor.is_running() {
            found = processes::helper(supervisor.pid(), self.target.pid());
        }
        let Some(helper) = found else { return };
        wait_for_instant(Instant::now() + self.plan.length.min(Duration::from_millis(2)));
        self.struck.met = stop(helper);
        if self.struck.met {
            self.helper_is_given_up(helper, supervisor);
        }
    }

    /// A stopped helper holds no thread for long. It is done for as soon as it is missed, and at the latest when its
    /// supervisor ends.
    fn helper_is_given_up(&mut self, helper: i32, supervisor: &mut Supervisor) {
        let pid = self.target.pid();
        if !wait_until(HELD, || processes::stopped_threads(pid).is_empty()) {
            let doing = processes::doing(pid);
            self.struck
                .wrong
                .push(format!("a stopped helper holds a thread of the target for more than {HELD:?}\n{doing}"));
        }
        let began = Instant::now();
        let gone = |_: &()| processes::state(helper).is_none();
        while !gone(&()) && supervisor.is_running() && began.elapsed() < super::supervisor::LIMIT {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !wait_until(REPLACED, || gone(&())) {
            self.struck.wrong.push(format!("a stopped helper ({helper}) outlives its supervisor"));
            send(helper, Signal::SIGKILL);
        }
    }

    /// The supervisor's threads get no processor, while the target and this have one to themselves.
    fn starve(&mut self, supervisor: i32) -> Result<(), String> {
        let all = processes::processors();
        let [taken, free, ..] = all[..] else { return Err("starving a process takes two processors".into()) };
        processes::put_on(0, &[free]);
        processes::put_on(self.target.pid(), &[free]);
        let begin = now();
        processes::put_on(supervisor, &[taken]);
        let mut hog = Hog::start(taken, self.plan.length);
        self.struck.met = hog.end();
        processes::put_on(supervisor, &all);
        processes::put_on(self.target.pid(), &all);
        processes::put_on(0, &all);
        self.struck.stopped = Some((begin, now()));
        Ok(())
    }
}

/// Fail points.
impl Strike<'_> {
    /// What the supervisor and the keeper and helper that it starts are told.
    fn steps(&self) -> Option<String> {
        let (step, action) = match self.plan.kind {
            Kind::KillAt(step) => (step, "kill"),
            Kind::StopAt(step) => (step, "stop"),
            _ => return None,
        };
        let word = self.word.display();
        let mut text = format!("{step}:{action}:{}@{word}/struck", self.plan.pass);
        if let Also::SupervisorAt(other) = self.plan.also {
            let pass = if other.starts_with("receive") { 20 } else { 1 };
            text += &format!(",{other}:kill:{pass}@{word}/also");
        }
        Some(text)
    }

    /// Who was struck at the step, if somebody was.
    fn word(&self) -> Option<i32> {
        let text = fs::read_to_string(self.word.join("struck")).ok()?;
        let number = text.strip_suffix('\n')?.rsplit_once(' ')?.1.parse().ok()?;
        Some(if self.plan.apart { processes::from_within(self.target.pid(), number) } else { number })
    }

    fn at_step(&mut self, supervisor: &mut Supervisor) -> Result<(), String> {
        let pid = self.target.pid();
        if !matches!(self.plan.also, Also::Nothing | Also::SupervisorAt(_)) {
            supervisor.wait_for("track", || self.word().is_some());
            if self.word().is_none() {
                wait_for_instant(Instant::now() + self.plan.delay.min(Duration::from_millis(50)));
                let victim = match self.plan.also {
                    Also::KillActing => acting(pid),
                    Also::KillTwin => twin(pid),
                    _ => Some(supervisor.pid()),
                };
                victim.map(|victim| send(victim, Signal::SIGKILL));
            }
        }
        let step = self.plan.kind.step().expect("a fault at a step");
        let of_keeper = step.starts_with("keeper") || step.starts_with("twin");
        // A keeper may come to its step only after the backup.
        let after = if of_keeper { Duration::from_secs(2) } else { Duration::ZERO };
        let mut over = None;
        let who = loop {
            if let Some(who) = self.word() {
                break who;
            }
            if over.is_none() && !supervisor.is_running() {
                over = Some(Instant::now());
            } else if over.is_some_and(|over| over.elapsed() > after) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        self.struck.met = true;
        let since = now();
        match self.plan.kind {
            Kind::StopAt(_) if who == supervisor.pid() => {
                // It leaves word first. A second signal from here might come first, too, and stop it once more later.
                if !wait_until(Duration::from_secs(5), || processes::state(who) == Some('T')) {
                    return Err(format!("{step} was reached, but its process does not stop"));
                }
                self.supervisor_is_stopped(supervisor)?;
            }
            // The keeper that was killed and the one that is stopped in its place were a pair: nobody is left but perhaps the
            // supervisor, and somebody has to end the stopped one.
            Kind::StopAt("twin.acting") => {
                if !wait_until(REPLACED, || processes::state(who).is_none()) {
                    send(who, Signal::SIGKILL);
                }
                self.struck.nobody_since = Some(since);
            }
            // It has no twin yet that could end it: its supervisor gives up waiting.
            Kind::StopAt("keeper.executed" | "keeper.started") => self.stopped_is_replaced(who, step, NOT_STARTED),
            Kind::StopAt(_) if keepers(pid).all.contains(&who) => self.stopped_is_replaced(who, step, REPLACED),
            Kind::StopAt(_) => self.helper_is_given_up(who, supervisor),
            // Both keepers may be dead now, one by us and one by itself.
            _ if of_keeper && matches!(self.plan.also, Also::KillActing | Also::KillTwin) => {
                self.struck.nobody_since = Some(since);
            }
            _ => {}
        }
        Ok(())
    }
}

fn acting(pid: i32) -> Option<i32> {
    let Keepers { all, pair } = keepers(pid);
    pair.map(|(acting, _)| acting).or(all.first().copied())
}

fn twin(pid: i32) -> Option<i32> {
    keepers(pid).pair.map(|(_, twin)| twin)
}

/// Takes a processor from everybody; ends when dropped.
struct Hog(Child);

impl Hog {
    fn start(cpu: usize, time: Duration) -> Self {
        let mut command = Command::new(compile("real_time_hog", Linked::Dynamically));
        command.args([cpu.to_string(), time.as_millis().to_string()]);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("the hog starts"))
    }

    /// Waits for its end; `false` when it could not do its work.
    fn end(&mut self) -> bool {
        self.0.wait().expect("our child").success()
    }
}

impl Drop for Hog {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
