//! `check` and `rescue`.

use std::path::PathBuf;
use std::sync::Arc;

use hotbackup_copier::Source;
use hotbackup_tracer::outlook::Listeners;
use hotbackup_tracer::{Event, FileId, Process, Sink, Ticket, Tracer, outlook, outsiders, preflight};
use serde::Serialize;

use super::{Error, limits, reach, sources, tracer_options};

/// What `check` found.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// One by one.
    pub items: Vec<CheckItem>,
    /// Whether the process was attached to, and a call made by it. Else nothing of it was touched.
    pub probed: bool,
}

/// One thing looked at.
#[derive(Debug, Clone, Serialize)]
pub struct CheckItem {
    /// What.
    pub name: String,
    /// Fine or not.
    pub ok: bool,
    /// Fine, and yet worth knowing before the first backup.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub warning: bool,
    /// In words.
    pub detail: String,
}

/// What `rescue` did.
#[derive(Debug, Clone, Serialize)]
pub struct RescueReport {
    /// Calls that were waiting, and that go on now; where a keeper was there, those that keepers have answered so far.
    pub answered: u64,
    /// The keeper that answers now.
    pub keeper_pid: i32,
    /// Whether a keeper was there already, so that nothing was to be done.
    pub was_kept: bool,
    /// Whether it stands in the process's cgroups. Else it ends with hotbackup's own, and the process waits again.
    pub outlives: bool,
}

impl CheckReport {
    /// Whether a backup can be taken.
    pub fn is_ok(&self) -> bool {
        self.items.iter().all(|item| item.ok)
    }

    fn add(&mut self, name: &str, ok: bool, detail: impl Into<String>) {
        self.items.push(CheckItem { name: name.into(), ok, warning: false, detail: detail.into() });
    }

    fn warn(&mut self, name: &str, detail: impl Into<String>) {
        self.items.push(CheckItem { name: name.into(), ok: true, warning: true, detail: detail.into() });
    }

    fn add_found(&mut self, name: &str, found: Result<String, String>) {
        match found {
            Ok(fine) => self.add(name, true, fine),
            Err(why) => self.add(name, false, why),
        }
    }
}

/// What to look at.
#[derive(Debug, Clone, Default)]
pub struct CheckOptions {
    /// The target.
    pub pid: i32,
    /// Sources as the target names them; empty: find mongod's dbpath.
    pub sources: Vec<PathBuf>,
    /// As in [`super::Options::mapped`].
    pub mapped: u64,
    /// Whether to attach, as a backup does, and to have a call made that must be seen. Filter and keeper stay.
    pub probe: bool,
    /// See [`super::Options::show_all_writes`]; counts with `probe`.
    pub show_all_writes: bool,
    /// See [`super::Options::accept_unseen`].
    pub accept_unseen: bool,
}

/// Looks whether a process can be backed up, from the outside: nothing of it is touched, unless [`CheckOptions::probe`] asks for
/// it. Whatever a backup would be refused for, and can be known beforehand, is found.
///
/// # Errors
/// Only when there is no such process; everything else is an item of the report.
pub fn check(options: &CheckOptions) -> Result<CheckReport, Error> {
    let mut report = CheckReport { items: Vec::new(), probed: false };
    for (feature, since, there) in preflight::kernel_features() {
        let detail = if there { "there".into() } else { format!("missing: Linux {since} has it") };
        report.add(feature, there, detail);
    }
    let process = Process::open(options.pid)?;
    for outlook::Finding { name, found } in outlook::look(&process) {
        report.add_found(name, found);
    }
    report.add_found("all calls are seen", outlook::all_calls_are_seen(&process, options.accept_unseen));
    match outlook::listeners(&process) {
        Listeners::Fine(words) => report.add("seccomp listeners", true, words),
        Listeners::Warning(words) => report.warn("seccomp listeners", words),
        Listeners::Foreign(words) => report.add("seccomp listeners", false, words),
    }
    report.add("call sites", true, outlook::call_sites(&process));
    match sources::open(&process, &options.sources, true) {
        Ok(found) => {
            let one = outsiders::check_children(&process, &sources::places(&found));
            let one = one.map(|()| "no child of its can change the source unseen".into());
            report.add_found("one process", one.map_err(|error| error.to_string()));
            let names: Vec<String> = found.iter().map(|source| source.path.display().to_string()).collect();
            report.add("source", true, names.join(", "));
            look_below(&process, &found, options.mapped, &mut report);
            report.add(
                "core files",
                true,
                sources::cores_into(&process, &found).unwrap_or_else(|| "none would fall into the source".into()),
            );
        }
        Err(error) => report.add("source", false, error.to_string()),
    }
    if options.probe && report.is_ok() {
        report.probed = true;
        attach(options, &mut report)?;
    }
    Ok(report)
}

/// What is below the sources and cannot be followed, or not be read.
fn look_below(process: &Process, sources: &[Source], most: u64, report: &mut CheckReport) {
    let mapped = match outlook::mapped(process) {
        Ok(mapped) => mapped,
        Err(cause) => return report.add("nothing mapped for writing", false, cause),
    };
    let elsewhere = outlook::written_elsewhere(process);
    let by_kernel = outlook::written_by_kernel(process);
    let wanted: Vec<FileId> =
        mapped.iter().chain(&elsewhere).copied().chain(by_kernel.iter().map(|(file, _)| *file)).collect();
    let found = reach::walk(process, sources, &wanted, !reads_all());
    let names = |all: &[FileId]| -> Vec<String> {
        let of = found.files.iter().filter(|(file, _)| all.contains(file));
        of.map(|(_, name)| name.display().to_string()).collect()
    };
    let (mapped, elsewhere) = (names(&mapped), names(&elsewhere));
    let in_source = found
        .files
        .iter()
        .find_map(|(file, name)| by_kernel.iter().find(|(written, _)| written == file).map(|(_, how)| (name, *how)));
    report.add_found(
        "nothing mapped for writing",
        match (&mapped[..], most) {
            ([], _) => Ok("no file of the source is".into()),
            (some, 0) => Err(format!("{}: a backup takes --mapped SIZE, or --exclude", some.join(", "))),
            (some, _) => Ok(format!("{}: copied while the process stands still", some.join(", "))),
        },
    );
    report.add_found(
        "nobody else writes",
        match (&elsewhere[..], in_source) {
            (_, Some((name, how))) => Err(format!("{} may be written to by {how}", name.display())),
            ([], None) => Ok("no other process has a file of the source open for writing".into()),
            (some, None) => {
                Err(format!("{} is open for writing by another process, which is not followed", some.join(", ")))
            }
        },
    );
    report.add_found(
        "all can be read",
        match &found.unreadable {
            None => Ok("by this user".into()),
            Some(name) => Err(format!("{} cannot: run as root, or give hotbackup CAP_DAC_READ_SEARCH", name.display())),
        },
    );
}

/// Whether this process may read any file (capabilities(7)).
fn reads_all() -> bool {
    const DAC_OVERRIDE_OR_READ_SEARCH: u64 = 0b110;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let set = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    set.is_some_and(|set| set & DAC_OVERRIDE_OR_READ_SEARCH != 0)
}

fn attach(options: &CheckOptions, report: &mut CheckReport) -> Result<(), Error> {
    let mut tracer_options = tracer_options(limits::LEASE, options.show_all_writes);
    tracer_options.accept_unseen = options.accept_unseen;
    let tracer = match Tracer::attach(options.pid, &tracer_options, Arc::new(Observer)) {
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
    Ok(RescueReport {
        answered: rescued.answered,
        keeper_pid: rescued.keeper_pid,
        was_kept: rescued.was_kept,
        outlives: rescued.outlives_us,
    })
}
