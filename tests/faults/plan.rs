//! What is done to whom and when: chosen by the seed and the fault's number alone.

use std::fmt;
use std::time::Duration;

use hotbackup_event::failpoint;

use crate::common::random::Random;

/// Random choices.
pub struct Choices(Random);

impl Choices {
    /// Those of fault `number`.
    pub fn of(seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        random.next();
        Self(random)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.0.below(end)
    }

    /// True once in `times`.
    fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    fn one_of<T: Copy>(&mut self, among: &[T]) -> T {
        self.0.one_of(among)
    }

    /// From `least` to `most`, every order of magnitude as likely as the next.
    fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let share = (self.0.next() >> 11) as f64 / (1_u64 << 53) as f64;
        least.mul_f64((most.as_secs_f64() / least.as_secs_f64()).powf(share))
    }
}

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole backup that nothing happens to.
    Undisturbed,
    /// kill -9 of the supervisor.
    KillSupervisor,
    /// ... of the keeper that acts.
    KillActing,
    /// ... of its twin.
    KillTwin,
    /// ... of the acting keeper and the supervisor in one instant: the twin is left.
    KillActingAndSupervisor,
    /// ... of both keepers in one instant: the supervisor is left.
    KillKeepers,
    /// ... of all three in one instant: nobody is left.
    KillAll,
    /// The supervisor is stopped until somebody else answers.
    StopSupervisor,
    /// The supervisor is stopped for less than its lease.
    StopSupervisorBriefly,
    /// The acting keeper is stopped and not let go on.
    StopActing,
    /// Its twin is.
    StopTwin,
    /// The process that holds threads of the target by ptrace is.
    StopHelper,
    /// The supervisor gets no processor.
    Starve,
    /// SIGTERM to the supervisor.
    Terminate,
    /// The process that reaches a step kills itself there.
    KillAt(&'static str),
    /// ... stops itself there.
    StopAt(&'static str),
}

impl Kind {
    /// Without the step: a line of the table.
    pub fn group(self) -> &'static str {
        match self {
            Self::Undisturbed => "undisturbed",
            Self::KillSupervisor => "kill supervisor",
            Self::KillActing => "kill acting keeper",
            Self::KillTwin => "kill twin",
            Self::KillActingAndSupervisor => "kill keeper+supervisor",
            Self::KillKeepers => "kill both keepers",
            Self::KillAll => "kill all three",
            Self::StopSupervisor => "stop supervisor",
            Self::StopSupervisorBriefly => "stop supervisor briefly",
            Self::StopActing => "stop acting keeper",
            Self::StopTwin => "stop twin",
            Self::StopHelper => "stop helper",
            Self::Starve => "starve supervisor",
            Self::Terminate => "terminate",
            Self::KillAt(_) => "kill at fail point",
            Self::StopAt(_) => "stop at fail point",
        }
    }

    /// The step, for a fault at one.
    pub fn step(self) -> Option<&'static str> {
        match self {
            Self::KillAt(step) | Self::StopAt(step) => Some(step),
            _ => None,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.group())?;
        self.step().map_or(Ok(()), |step| write!(f, " {step}"))
    }
}

/// From when on the instant is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// The start of the supervisor's process.
    Start,
    /// When it says that it enters this phase.
    Phase(&'static str),
    /// There is no supervisor: between backups.
    Between,
}

/// What else must happen for a step of a keeper to be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Also {
    /// Nothing.
    Nothing,
    /// The supervisor is killed while it copies.
    KillSupervisor,
    /// The supervisor is killed at this step.
    SupervisorAt(&'static str),
    /// The acting keeper is killed while the supervisor copies.
    KillActing,
    /// The twin is.
    KillTwin,
}

/// One fault.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Its place in the sequence.
    pub number: u64,
    /// What is done.
    pub kind: Kind,
    /// To a target that was never attached to (else to one with a keeper).
    pub fresh: bool,
    /// With a thread that never leaves its processor.
    pub spins: bool,
    /// `--point`.
    pub point: &'static str,
    /// With the file that it has mapped (else that is left out, and nothing need stand still).
    pub mapped: bool,
    /// `--throttle`.
    pub throttle: Option<&'static str>,
    /// From when on `delay` is counted.
    pub anchor: Anchor,
    /// When.
    pub delay: Duration,
    /// For how long, where it has an end.
    pub length: Duration,
    /// How often a step is passed before the fault strikes there, this time included.
    pub pass: u64,
    /// What else happens.
    pub also: Also,
    /// The supervisor is in another namespace of processes than the keepers, and in a cgroup of its own.
    pub apart: bool,
    /// A target that nobody answers is brought back by a backup (else by a rescue).
    pub by_backup: bool,
}

impl Plan {
    /// A plain backup.
    pub fn plain() -> Self {
        Self {
            number: 0,
            kind: Kind::Undisturbed,
            fresh: false,
            spins: false,
            mapped: false,
            point: "end",
            throttle: None,
            anchor: Anchor::Start,
            delay: Duration::ZERO,
            length: Duration::ZERO,
            pass: 1,
            also: Also::Nothing,
            apart: false,
            by_backup: false,
        }
    }
}

/// Every so many faults a backup is left alone.
const UNDISTURBED_EVERY: u64 = 10;
/// Every so many of the others is at a step.
const STEP_EVERY: u64 = 3;

/// How often each kind comes. What has to wait for a lease comes less often.
const WEIGHTS: &[(Kind, u64)] = &[
    (Kind::KillSupervisor, 30),
    (Kind::KillActing, 15),
    (Kind::KillTwin, 8),
    (Kind::KillActingAndSupervisor, 12),
    (Kind::KillKeepers, 5),
    (Kind::KillAll, 6),
    (Kind::StopSupervisor, 3),
    (Kind::StopSupervisorBriefly, 4),
    (Kind::StopActing, 3),
    (Kind::StopTwin, 2),
    (Kind::StopHelper, 5),
    (Kind::Starve, 2),
    (Kind::Terminate, 8),
];

/// How many faults it takes for each step to be met with both signals.
pub fn enough_for_every_step() -> u64 {
    // Nine of ten are faults, a third of them at a step.
    failpoint::NAMES.len() as u64 * 2 * STEP_EVERY * UNDISTURBED_EVERY / (UNDISTURBED_EVERY - 1) + 2 * UNDISTURBED_EVERY
}

/// Fault `number` of the sequence of `seed`. `steps` says whether fail points are built in.
pub fn plan(seed: u64, number: u64, steps: bool) -> Plan {
    let mut choices = Choices::of(seed, number);
    let of_faults = number - number / UNDISTURBED_EVERY;
    let kind = if number % UNDISTURBED_EVERY == UNDISTURBED_EVERY - 1 {
        Kind::Undisturbed
    } else if steps && of_faults.is_multiple_of(STEP_EVERY) {
        at_step(of_faults / STEP_EVERY)
    } else {
        by_weight(&mut choices)
    };
    let mut plan = Plan {
        number,
        kind,
        fresh: choices.once_in(4),
        spins: false,
        mapped: choices.once_in(3),
        point: choices.one_of(&["end", "start"]),
        throttle: choices.one_of(&[None, None, Some("8MiB"), Some("3MiB")]),
        anchor: choices.one_of(&[
            Anchor::Start,
            Anchor::Start,
            Anchor::Phase("attach"),
            Anchor::Phase("track"),
            Anchor::Phase("hold"),
            Anchor::Phase("drain"),
            Anchor::Phase("publish"),
        ]),
        delay: Duration::ZERO,
        length: Duration::ZERO,
        pass: if choices.once_in(2) { 1 } else { 1 + choices.below(4) },
        also: Also::Nothing,
        apart: false,
        by_backup: choices.once_in(2),
    };
    if matches!(kind, Kind::KillActing | Kind::KillTwin | Kind::StopActing | Kind::StopTwin | Kind::KillAll)
        && choices.once_in(3)
    {
        (plan.anchor, plan.fresh) = (Anchor::Between, false);
    }
    if kind == Kind::StopHelper {
        // Most of what it does is to attach.
        plan.fresh = !choices.once_in(4);
    }
    let longest = match plan.anchor {
        Anchor::Start => 400,
        Anchor::Phase("attach") => 50,
        Anchor::Phase("hold") => 4,
        Anchor::Phase("publish") => 30,
        Anchor::Phase(_) | Anchor::Between => 200,
    };
    plan.delay = choices.between(Duration::from_micros(10), Duration::from_millis(longest));
    plan.length = match kind {
        Kind::StopSupervisorBriefly => choices.between(Duration::from_millis(1), Duration::from_millis(600)),
        Kind::Starve => choices.between(Duration::from_millis(200), Duration::from_millis(1500)),
        _ => choices.between(Duration::from_micros(10), Duration::from_millis(300)),
    };
    if let Some(step) = kind.step() {
        setting(&mut plan, step);
    }
    plan
}

/// The steps in their order, first each with a kill, then each with a stop; later three kills for a stop.
fn at_step(turn: u64) -> Kind {
    let steps = failpoint::NAMES.len() as u64;
    let step = failpoint::NAMES[(turn % steps) as usize];
    let lap = turn / steps;
    if lap == 1 || (lap > 1 && lap % 4 == 1) { Kind::StopAt(step) } else { Kind::KillAt(step) }
}

fn by_weight(choices: &mut Choices) -> Kind {
    let mut left = choices.below(WEIGHTS.iter().map(|(_, weight)| weight).sum());
    for &(kind, weight) in WEIGHTS {
        if left < weight {
            return kind;
        }
        left -= weight;
    }
    unreachable!("less than the sum")
}

/// What it takes for a step to be reached.
fn setting(plan: &mut Plan, step: &'static str) {
    let part = step.split('.').next().unwrap_or_default();
    match part {
        "attach" | "inject" => (plan.fresh, plan.pass) = (true, 1),
        "takeover" => (plan.fresh, plan.pass) = (false, 1),
        // A thread that does not leave its processor by itself is stopped for an instant.
        "grace" => (plan.fresh, plan.spins, plan.pass) = (true, true, 1),
        // Something has to be due still when it is written to.
        "drain" => {
            (plan.point, plan.throttle) = ("start", Some("3MiB"));
            if matches!(step, "drain.complete" | "drain.released") {
                plan.pass = 1;
            }
        }
        // All threads stand still, for what is mapped.
        "freeze" | "mapped" => (plan.mapped, plan.pass) = (true, 1),
        "publish" | "handover" | "hold" => plan.pass = 1,
        // Only a keeper that is started now knows of the step.
        "keeper" | "twin" => (plan.fresh, plan.pass) = (true, 1),
        _ => {}
    }
    match step {
        "keeper.took-over" => plan.also = Also::KillSupervisor,
        "keeper.slot-answered" => plan.also = Also::SupervisorAt("receive.before-answer"),
        "keeper.found-listener" => plan.also = Also::SupervisorAt("attach.installed"),
        // The first twin, or one that takes another's place.
        "keeper.twin-made" if plan.by_backup => (plan.also, plan.pass) = (Also::KillTwin, 2),
        "twin.acting" => plan.also = Also::KillActing,
        _ => {}
    }
    if plan.also != Also::Nothing && plan.throttle.is_none() {
        plan.throttle = Some("8MiB");
    }
}
