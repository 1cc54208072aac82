//! Everything on our side is killed, stopped and starved, at every step and at random instants of attach, hand-over, hold
//! and drain: no call of the target fails, none waits longer than was promised, and what a backup publishes is right.
//!
//!     cargo test --test faults                                        a few hundred faults
//!     cargo test --test faults -- --faults 10000 [--seed N] [--jobs N]    a long run
//!     cargo test --test faults -- --mongod [--faults 200]             against a real mongod under load
//!     cargo test --test faults -- --apart [--faults 400]              with the supervisor in another PID namespace and cgroup
//!     cargo test --test faults -- --seed N --only I [--verbose]       fault I of a sequence again
//!     cargo test --test faults -- --kind 'stop twin' --faults 50      faults of one kind
#![forbid(unsafe_code)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[path = "common"]
mod common {
    pub mod acks;
    pub mod backup;
    pub mod guest;
    pub mod load;
    pub mod mongod;
    pub mod names;
    pub mod process;
    pub mod random;
    pub mod validate;
}
#[path = "faults/against_mongod.rs"]
mod against_mongod;
#[path = "faults/apart.rs"]
mod apart;
#[path = "faults/args.rs"]
mod args;
#[path = "containers/cgroup.rs"]
#[allow(dead_code)]
mod cgroup;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/judge.rs"]
mod judge;
#[path = "faults/page.rs"]
mod page;
#[path = "faults/plan.rs"]
mod plan;
#[path = "faults/processes.rs"]
mod processes;
#[path = "faults/self_check.rs"]
mod self_check;
#[path = "faults/strike.rs"]
mod strike;
#[path = "faults/supervisor.rs"]
mod supervisor;
#[path = "faults/tally.rs"]
mod tally;
#[path = "faults/target.rs"]
mod target;

use args::{Args, Wanted};
use judge::Verdict;
use plan::Plan;
use tally::Tally;
use target::Guest;

/// Ctrl-C or SIGTERM: what is under way is brought to its end, so that nothing is left behind.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);
/// A run with so many failures is over: it would only repeat them.
const ENOUGH: u64 = 100;
/// A backup may end before it comes to a step, on a machine that stands still for longer than a hold's lease.
const TRIES: u32 = 3;

fn main() -> ExitCode {
    let args = match args::read(std::env::args().skip(1)) {
        Wanted::List => {
            println!("faults: test");
            return ExitCode::SUCCESS;
        }
        Wanted::Nothing => {
            println!("0 passed, 0 failed");
            return ExitCode::SUCCESS;
        }
        Wanted::Run(args) => args,
    };
    let ending = [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP];
    let mut signals = signal_hook::iterator::Signals::new(ending).expect("signals can be handled");
    std::thread::spawn(move || signals.forever().for_each(|_| INTERRUPTED.store(true, Ordering::SeqCst)));
    let Args { faults, apart, mongod, seed, jobs, .. } = args;
    println!("seed {seed} ({faults} faults, {apart} from apart, {mongod} against mongod, {jobs} jobs)");
    let began = Instant::now();
    let mut tally = Tally::default();
    disk::watch();
    if let Err(wrong) = self_check::run() {
        println!("FAILED: the harness itself: {wrong}");
        tally.one(false);
    } else {
        tally.one(true);
    }
    if args.faults > 0 {
        tally.add(&against_guests(&args, args.faults, false));
    }
    if args.apart > 0 && !INTERRUPTED.load(Ordering::SeqCst) {
        tally.add(&against_guests(&args, args.apart, true));
        apart::clean();
    }
    if args.mongod > 0 && !INTERRUPTED.load(Ordering::SeqCst) {
        tally.add(&against_mongod::run(&args));
    }
    if INTERRUPTED.load(Ordering::SeqCst) {
        println!("FAILED: interrupted");
        tally.one(false);
    }
    println!("\nseed {}, {:.1} s\n{}", args.seed, began.elapsed().as_secs_f64(), tally.result());
    if tally.failed() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn against_guests(args: &Args, faults: u64, apart: bool) -> Tally {
    let title = if apart { "against guests, from apart" } else { "against guests" };
    // Fail points are built in where debug assertions are.
    let steps = cfg!(debug_assertions);
    let wanted = |plan: &Plan| {
        args.kind.as_ref().is_none_or(|kind| plan.kind.to_string().contains(kind.as_str()))
            && args.only.is_none_or(|only| plan.number == only)
    };
    // Whoever is the first to attach has to be where the target's cgroups are.
    let plan = |number| {
        let plan = plan::plan(args.seed, number, steps);
        let fresh = plan.fresh && !(apart && plan.kind.step().is_none());
        Plan { fresh, apart: apart && !fresh, ..plan }
    };
    let numbers = (0..).map(plan).take(1_000_000).filter(wanted);
    let count = if args.only.is_some() { 1 } else { faults };
    let plans: Vec<Plan> = numbers.take(usize::try_from(count).expect("a small number")).collect();
    let tally = Mutex::new(Tally::default());
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| job(args, &plans, &next, &tally, apart));
        }
    });
    let mut tally = tally.into_inner().unwrap_or_else(PoisonError::into_inner);
    tally.print(title);
    if steps && args.kind.is_none() && args.only.is_none() {
        tally.all_steps_were_met(title);
    }
    tally
}

/// Takes one fault after the other, with a guest of its own.
fn job(args: &Args, plans: &[Plan], next: &AtomicU64, tally: &Mutex<Tally>, apart: bool) {
    let start = if apart { Guest::start_apart } else { Guest::start };
    let mut guest: Option<Guest> = None;
    loop {
        let place = usize::try_from(next.fetch_add(1, Ordering::SeqCst)).expect("a small number");
        let Some(plan) = plans.get(place) else { return };
        let lock = || tally.lock().unwrap_or_else(PoisonError::into_inner);
        if INTERRUPTED.load(Ordering::SeqCst) || lock().failed() >= ENOUGH {
            return;
        }
        for _ in 0..TRIES {
            let began = Instant::now();
            let verdict = guarded(|| {
                if plan.fresh || plan.spins {
                    guest = None;
                    apart::clean();
                }
                judge::fault(guest.get_or_insert_with(|| start(plan.spins)), plan)
            });
            if plan.spins || !verdict.wrong.is_empty() {
                guest = None;
            }
            tell(args, "guest", plan, &verdict, began);
            lock().count(plan, &verdict);
            if verdict.met || !verdict.wrong.is_empty() || plan.kind.step().is_none() {
                break;
            }
        }
    }
}

/// A panic is a failure like any other.
fn guarded(fault: impl FnOnce() -> Verdict) -> Verdict {
    catch_unwind(AssertUnwindSafe(fault)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        Verdict { wrong: vec![format!("panicked: {}", text.unwrap_or("?"))], ..Verdict::default() }
    })
}

fn tell(args: &Args, whom: &str, plan: &Plan, verdict: &Verdict, began: Instant) {
    if args.verbose {
        println!(
            "{:>5} {:<36} {} {:>5} {:>6} {:?}+{:?} -> {} {}, wait {:?} (raw {:?}: {}), stall {:?}, {:?}",
            plan.number,
            plan.kind.to_string(),
            if plan.fresh { "fresh" } else { "kept " },
            plan.point,
            plan.throttle.unwrap_or("-"),
            plan.anchor,
            plan.delay,
            verdict.ended,
            if verdict.met { "" } else { "(missed)" },
            verdict.wait.net,
            verdict.wait.raw,
            verdict.wait.what,
            verdict.stall,
            began.elapsed()
        );
    }
    if !verdict.wrong.is_empty() {
        println!("FAILED: {whom}, fault {} of seed {}: {}: {plan:?}", plan.number, args.seed, plan.kind);
        for wrong in &verdict.wrong {
            println!("    {wrong}");
        }
    }
}
