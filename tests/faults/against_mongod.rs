//! The same faults against a real mongod whose clients write: it never exits, logs no error, fails no operation, and the
//! last backup starts and validates.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tempfile::TempDir;

use super::args::Args;
use super::judge::{self, Verdict, undisturbed};
use super::page::{Span, Wait};
use super::plan::{self, Plan};
use super::processes;
use super::tally::Tally;
use super::target::Target;
use super::{INTERRUPTED, guarded, tell};
use crate::common::backup::scratch;
use crate::common::load::{self, Load};
use crate::common::mongod::{Mongod, Opts};
use crate::common::validate;

/// So many faults happen to one server, the first of them at its first attach.
const EACH: u64 = 40;

struct Server {
    load: Load,
    server: Mongod,
    scratch: TempDir,
}

impl Server {
    fn start(seed: u64) -> Self {
        let scratch = scratch();
        let dbpath = scratch.path().join("db");
        fs::create_dir(&dbpath).expect("a data directory");
        let server = Mongod::start(&Opts { dbpath, small_journal: true, ..Opts::default() });
        load::fill(&server.uri(), 4);
        let load = Load::start(&server.uri(), seed);
        load.wait_for(200);
        Self { server, load, scratch }
    }

    /// The last backup, on which a server must start and find everything that was acknowledged before.
    fn end(mut self) -> Verdict {
        let dest = self.scratch.path().join("last");
        let ended = match undisturbed(&mut self, &Plan::plain(), &dest) {
            Ok(ended) => ended,
            Err(wrong) => return Verdict { wrong: vec![wrong], ..Verdict::default() },
        };
        self.load.wait_for(200);
        let acks = self.load.stop();
        self.server.assert_unharmed();
        let point = ended.last["point_in_time_ns"].as_u64().expect("a point in time");
        let wrong = validate::check(&dest, false, &acks, point).err().into_iter().collect();
        Verdict { met: true, wrong, ..Verdict::default() }
    }
}

impl Target for Server {
    fn pid(&self) -> i32 {
        self.server.pid()
    }

    fn source(&self) -> Vec<String> {
        Vec::new() // found from the process
    }

    fn mapped(&self, _: bool) -> &'static [&'static str] {
        &[] // it maps no file for writing
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn died(&mut self) -> Option<String> {
        processes::state(self.pid()).is_none().then(|| "MONGOD DIED".into())
    }

    fn counts(&self) -> Vec<u64> {
        self.load.assert_going();
        vec![self.load.done()]
    }

    fn calls(&self) -> u64 {
        self.load.done()
    }

    fn begin(&mut self) {}

    fn longest(&self, _: &[Span], _: Option<Span>) -> Wait {
        Wait::default() // its calls are not timed one by one
    }

    fn stall(&self) -> Duration {
        Duration::ZERO
    }

    fn judge(&self, dest: &Path) -> Result<(), String> {
        // A server is started on the last one; each has been verified.
        if dest.join("WiredTiger").exists() { Ok(()) } else { Err("there is no WiredTiger file in it".into()) }
    }
}

/// The whole run.
pub fn run(args: &Args) -> Tally {
    let mut tally = Tally::default();
    let mut server: Option<Server> = None;
    for turn in 0..if args.only.is_some() { 1 } else { args.mongod } {
        if INTERRUPTED.load(std::sync::atomic::Ordering::SeqCst) {
            break;
        }
        let plan = plan(args, turn);
        let began = std::time::Instant::now();
        let verdict = guarded(|| judge::fault(server.get_or_insert_with(|| Server::start(args.seed)), &plan));
        let failed = !verdict.wrong.is_empty();
        tell(args, "mongod", &plan, &verdict, began);
        tally.count(&plan, &verdict);
        if failed {
            server = None;
        } else if (turn + 1).is_multiple_of(EACH) || turn + 1 == args.mongod || args.only.is_some() {
            let last = guarded(|| server.take().expect("it runs").end());
            if !last.wrong.is_empty() {
                println!("FAILED: mongod after fault {turn} of seed {}: {}", args.seed, last.wrong.join("\n    "));
            }
            tally.one(last.wrong.is_empty());
        }
    }
    tally.print("against mongod");
    tally
}

/// As for guests, but a server is fresh only once, and there is more to copy.
fn plan(args: &Args, turn: u64) -> Plan {
    // Another part of the sequence, or a short run would see only the first steps.
    let number = args.only.unwrap_or(turn + 1 + args.seed % 1000);
    let mut plan = plan::plan(args.seed, number, cfg!(debug_assertions));
    let at_attach = |step: &str| ["attach", "inject", "keeper", "twin"].iter().any(|part| step.starts_with(part));
    let fresh = turn.is_multiple_of(EACH);
    let at_mapped = |step: &str| ["freeze", "mapped"].iter().any(|part| step.starts_with(part));
    if plan.kind.step().is_some_and(|step| !fresh && at_attach(step) || at_mapped(step)) {
        plan = plan::plan(args.seed, number, false);
    }
    plan.fresh = fresh;
    plan.spins = false;
    plan.throttle = plan.throttle.map(|rate| if rate == "8MiB" { "32MiB" } else { "16MiB" });
    plan
}
