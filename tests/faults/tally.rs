//! The table at the end.

use std::collections::BTreeMap;
use std::time::Duration;

use hotbackup_event::failpoint;

use super::judge::{BOUND, Verdict};
use super::plan::{Kind, Plan, enough_for_every_step};

/// One line of the table.
#[derive(Default)]
struct Line {
    faults: u64,
    missed: u64,
    deaths: u64,
    failed: u64,
    waits: Vec<Duration>,
    raw: Duration,
    stall: Duration,
    ended: BTreeMap<String, u64>,
}

/// What all faults did.
#[derive(Default)]
pub struct Tally {
    lines: BTreeMap<&'static str, Line>,
    /// Of each step: killed there, stopped there, not come to.
    steps: BTreeMap<&'static str, [u64; 3]>,
    calls: u64,
    passed: u64,
    failed: u64,
}

impl Tally {
    /// Counts one fault.
    pub fn count(&mut self, plan: &Plan, verdict: &Verdict) {
        let line = self.lines.entry(plan.kind.group()).or_default();
        line.faults += 1;
        line.missed += u64::from(!verdict.met);
        line.deaths += u64::from(verdict.wrong.iter().any(|wrong| wrong.contains("THE GUEST DIED")));
        line.failed += u64::from(!verdict.wrong.is_empty());
        if !verdict.wait.what.is_empty() {
            line.waits.push(verdict.wait.net);
        }
        line.raw = line.raw.max(verdict.wait.raw);
        line.stall = line.stall.max(verdict.stall);
        if !verdict.ended.is_empty() {
            *line.ended.entry(verdict.ended.clone()).or_default() += 1;
        }
        if let Some(step) = plan.kind.step() {
            let met = match (verdict.met, plan.kind) {
                (false, _) => 2,
                (true, Kind::KillAt(_)) => 0,
                (true, _) => 1,
            };
            self.steps.entry(step).or_default()[met] += 1;
        }
        self.calls += verdict.calls;
        self.one(verdict.wrong.is_empty());
    }

    /// Counts one more check.
    pub fn one(&mut self, good: bool) {
        *(if good { &mut self.passed } else { &mut self.failed }) += 1;
    }

    /// How many checks failed so far.
    pub fn failed(&self) -> u64 {
        self.failed
    }

    /// Fails, in a run with enough faults, for each step that was never met.
    pub fn all_steps_were_met(&mut self, title: &str) {
        let met = |step: &&str| self.steps.get(*step).is_some_and(|[killed, stopped, _]| killed + stopped > 0);
        let never: Vec<_> = failpoint::NAMES.iter().filter(|step| !met(step)).copied().collect();
        let faults: u64 = self.lines.values().map(|line| line.faults).sum();
        if faults < enough_for_every_step() {
            println!("{title}: {} steps not met, in too few faults to meet all", never.len());
            return;
        }
        if !never.is_empty() {
            println!("FAILED: {title}: steps that were never met: {}", never.join(" "));
        }
        self.one(never.is_empty());
    }

    /// Prints all.
    pub fn print(&mut self, title: &str) {
        println!("\n{title}: {} calls of the target; no wait may exceed {BOUND:?}", self.calls);
        println!(
            "{:<24} {:>6} {:>6} {:>6} {:>6}  {:>9} {:>9} {:>9} {:>9} {:>9}  backups ended",
            "fault", "count", "missed", "deaths", "failed", "wait p50", "p99", "max", "max raw", "stall"
        );
        for (name, line) in &mut self.lines {
            line.waits.sort_unstable();
            let at = |share: f64| {
                let place = (line.waits.len().saturating_sub(1) as f64 * share) as usize;
                line.waits.get(place).copied().unwrap_or_default()
            };
            let ended: Vec<_> = line.ended.iter().map(|(how, count)| format!("{how}: {count}")).collect();
            println!(
                "{name:<24} {:>6} {:>6} {:>6} {:>6}  {:>9} {:>9} {:>9} {:>9} {:>9}  {}",
                line.faults,
                line.missed,
                line.deaths,
                line.failed,
                ms(at(0.5)),
                ms(at(0.99)),
                ms(at(1.0)),
                ms(line.raw),
                ms(line.stall),
                ended.join(", ")
            );
        }
        if !self.steps.is_empty() {
            println!("{:<24} {:>6} {:>7} {:>6}", "fail point", "killed", "stopped", "missed");
        }
        for step in failpoint::NAMES {
            if let Some([killed, stopped, missed]) = self.steps.get(step) {
                println!("{step:<24} {killed:>6} {stopped:>7} {missed:>6}");
            }
        }
    }

    /// Adds another's counts to the last line.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }

    /// The last line.
    pub fn result(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed)
    }
}

fn ms(time: Duration) -> String {
    if time.is_zero() {
        return "-".into(); // never timed
    }
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}
