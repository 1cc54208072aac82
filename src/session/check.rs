//! `check` and `rescue`.

use std::path::PathBuf;
use std::sync::Arc;

use hotbackup_tracer::preflight;
use hotbackup_tracer::{Event, Process, Sink, Ticket, Tracer, outsiders};
use serde::Serialize;

use super::{Error, limits, sources, tracer_options};

/// What `check` found.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// One by one.
    pub items: Vec<CheckItem>,
}

/// One thing looked at.
#[derive(Debug, Clone, Serialize)]
pub struct CheckItem {
    /// What.
    pub name: String,
    /// Fine or not.
    pub ok: bool,
    /// In words.
    pub detail: String,
}

/// What `rescue` did.
#[derive(Debug, Clone, Serialize)]
pub struct RescueReport {
    /// Calls that were answered so far.
    pub answered: u64,
    /// The keeper that answers now.
    pub keeper_pid: i32,
    /// Whether a keeper was there already, so that nothing was to be done.
    pub was_kept: bool,
}

impl CheckReport {
    /// Whether a backup can be taken.
    pub fn is_ok(&self) -> bool {
        self.items.iter().all(|item| item.ok)
    }

    fn add(&mut self, name: &str, ok: bool, detail: impl Into<String>) {
        self.items.push(CheckItem { name: name.into(), ok, detail: detail.into() });
    }
}

/// Looks whether a process can be backed up, and whether every call is seen. It attaches to do so: filter and keeper
/// stay, as after a backup; see [`super::Options::show_all_writes`].
///
/// # Errors
/// Only when there is no such process; everything else is an item of the report.
pub fn check(pid: i32, paths: &[PathBuf], show_all_writes: bool) -> Result<CheckReport, Error> {
    let mut report = CheckReport { items: Vec::new() };
    for (feature, since, there) in preflight::kernel_features() {
        let detail = if there { "there".into() } else { format!("missing: Linux {since} has it") };
        report.add(feature, there, detail);
    }
    let process = Process::open(pid)?;
    match preflight::check(&process) {
        Ok(()) => report.add("permission to trace", true, "granted"),
        Err(error) => report.add("permission to trace", false, error.to_string()),
    }
    match sources::open(&process, paths) {
        Ok(found) => {
            match outsiders::check_children(&process, &sources::places(&found)) {
                Ok(()) => report.add("one process", true, "no child of its can change the source unseen"),
                Err(error) => report.add("one process", false, error.to_string()),
            }
            let names: Vec<String> = found.iter().map(|source| source.path.display().to_string()).collect();
            report.add("source", true, names.join(", "));
        }
        Err(error) => report.add("source", false, error.to_string()),
    }
    if report.is_ok() {
        attach(pid, show_all_writes, &mut report)?;
    }
    Ok(report)
}

fn attach(pid: i32, show_all_writes: bool, report: &mut CheckReport) -> Result<(), Error> {
    let tracer = match Tracer::attach(pid, &tracer_options(limits::LEASE, show_all_writes), Arc::new(Observer)) {
        Ok(tracer) => tracer,
        Err(error) => {
            report.add("attach", false, error.to_string());
            return Ok(());
        }
    };
    let how = match tracer.stopped() {
        Some(stopped) => format!("filter installed, one thread stopped for {} us", stopped.as_micros()),
        None => "through the keeper that was there".into(),
    };
    report.add("attach", true, how);
    let threads = tracer.process().threads().len();
    match tracer.unfiltered_threads().as_slice() {
        [] => report.add("every thread filtered", true, format!("all {threads}")),
        some => report.add("every thread filtered", false, format!("not these: {some:?}")),
    }
    match tracer.probe() {
        Ok(true) => report.add("a call is seen", true, "a harmless one, made for this, was"),
        Ok(false) => report.add("a call is seen", false, "a call made for this was not"),
        Err(error) => report.add("a call is seen", false, error.to_string()),
    }
    report.add("keeper", !tracer.is_revoked(), format!("process {}", tracer.keeper_pid()));
    Ok(())
}

/// Lets everything go.
struct Observer;

impl Sink for Observer {
    fn deliver(&self, _: Event, ticket: Ticket) {
        drop(ticket);
    }
    fn found(&self, _: Event) {}
    fn blind(&self, _: String) {}
    fn wait_until_released(&self) {}
    fn lost(&self, _: hotbackup_tracer::Error) {}
}

/// Sees to it that a process whose supervisor and keeper were killed is answered again.
///
/// # Errors
/// When there is no such process, or it has no listener.
pub fn rescue(pid: i32) -> Result<RescueReport, Error> {
    let rescued = hotbackup_tracer::rescue(pid, &tracer_options(limits::LEASE, false))?;
    Ok(RescueReport { answered: rescued.answered, keeper_pid: rescued.keeper_pid, was_kept: rescued.was_kept })
}
