//! What each verb does: call the library, show the result.
use hotbackup_copier::{Mapped, Special};
use serde::Serialize;

use super::draw::{Drawing, Event, Style, print_json};
use super::size::human;
use super::time::rfc3339;
use super::{Backup, Check, Demo, Failure, Output, Rescue, Verify, out, signals, surroundings};
use crate::exit::Cause;
use crate::serve::Steerable;
use crate::session::{self, Control, Monitor, Report, RescueReport};

/// Ctrl-C, SIGTERM and their like cancel; another one does nothing more.
pub(super) fn cancel_on_signals(control: &Control) -> Result<(), Failure> {
    signals::cancel(control).map_err(|error| Failure::new(Cause::Internal, format!("cannot handle signals: {error}")))
}

pub(super) fn backup(flags: Backup) -> Result<(), Failure> {
    surroundings::check()?;
    let (dest, shelf) = match flags.into {
        None => (flags.dest.unwrap_or_default(), None),
        Some(shelf) => (shelf.join(hotbackup_archive::of(jiff::Timestamp::now())), Some(shelf)),
    };
    let control = Control::new(flags.throttle);
    cancel_on_signals(&control)?;
    let pid = flags.which.pid().map_err(|error| Failure::new(Cause::NotOneProcess, error))?;
    let drawing = Drawing::new(Style::choose(flags.output.json, flags.output.quiet));
    let watched = Steerable::start(pid, &dest, flags.control.as_deref(), &drawing, &control).map_err(|error| {
        Failure::new(Cause::NotSteered, format!("the socket to steer this backup by cannot be had: {error}"))
    })?;
    let options = session::Options {
        pid,
        sources: flags.source,
        dest,
        throttle: flags.throttle,
        point: flags.point.into(),
        exclude: flags.exclude,
        before_images: flags.before_images,
        mapped: flags.mapped,
        max_wait: flags.max_wait,
        hold: flags.hold,
        lease: flags.lease,
        show_all_writes: flags.show_all_writes,
        capture: flags.capture.into(),
        accept_unseen: flags.accept_unseen,
        reserve: flags.reserve.unwrap_or_default(),
    };
    let result = session::backup(&options, &watched, &control);
    drawing.finish();
    let report = result.map_err(|error| surroundings::explain(Failure::new(Cause::of(&error), error)))?;
    // Whoever follows the link finds a backup that is complete and on disk.
    let linked = match (shelf, report.copier.dest.file_name()) {
        (Some(shelf), Some(name)) => hotbackup_archive::set_latest(&shelf, name),
        _ => Ok(()),
    };
    if let Err(error) = linked {
        drawing.warning(&format!("the backup is complete, but `latest` does not lead to it: {error}"));
    }
    show(flags.output, &report, || backup_text(&report))
}

pub(super) fn verify(flags: &Verify) -> Result<(), Failure> {
    let drawing = Drawing::new(Style::choose(flags.output.json, flags.output.quiet));
    let result = match &flags.start_with {
        None => hotbackup_copier::verify(&flags.dest, &drawing)
            .map_err(|error| Failure::new(Cause::of_copier(&error), error)),
        Some(mongod) => {
            let control = Control::new(None);
            cancel_on_signals(&control)?;
            crate::trial::verify(&flags.dest, mongod, &drawing, &control)
        }
    };
    drawing.finish();
    let report = result?;
    let dest = flags.dest.display();
    show(flags.output, &report, || {
        let mut text = String::new();
        for problem in &report.problems {
            text += &format!("{}: {}\n", problem.path.display(), problem.what);
        }
        if !report.unseen_calls.is_empty() {
            text +=
                &format!("not seen while it was taken, and able to change files: {}\n", report.unseen_calls.join(", "));
        }
        if report.problems.is_empty() {
            text += &format!(
                "{dest} is what its manifest says: {} entries, {}, of {}\n",
                report.entries,
                human(report.bytes),
                rfc3339(report.point_in_time_ns)
            );
        }
        text
    })?;
    match report.problems.len() {
        0 => Ok(()),
        1 => Err(Failure::new(Cause::VerifyFailed, format!("{dest} is not what its manifest says: 1 problem"))),
        many => {
            Err(Failure::new(Cause::VerifyFailed, format!("{dest} is not what its manifest says: {many} problems")))
        }
    }
}

pub(super) fn check(flags: &Check) -> Result<(), Failure> {
    let pid = flags.which.pid().map_err(|error| Failure::new(Cause::NotOneProcess, error))?;
    let options = session::CheckOptions {
        pid,
        sources: flags.source.clone(),
        mapped: flags.mapped,
        probe: flags.probe,
        show_all_writes: flags.show_all_writes,
        accept_unseen: flags.accept_unseen,
    };
    let report = session::check(&options).map_err(|error| Failure::new(Cause::of(&error), error))?;
    show(flags.output, &report, || {
        let width = report.items.iter().map(|item| item.name.len()).max().unwrap_or(0);
        let line = |item: &session::CheckItem| {
            let how = match (item.ok, item.warning) {
                (false, _) => "FAIL",
                (true, true) => "warn",
                (true, false) => "ok  ",
            };
            format!("{how} {:<width$}  {}\n", item.name, item.detail)
        };
        report.items.iter().map(line).collect()
    })?;
    let failed: Vec<&str> = report.items.iter().filter(|item| !item.ok).map(|item| item.name.as_str()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!("process {pid} cannot be backed up as it is: {}", failed.join(", "));
    Err(Failure::new(Cause::CheckFailed, message))
}

pub(super) fn rescue(flags: &Rescue) -> Result<(), Failure> {
    surroundings::check()?;
    let report = session::rescue(flags.pid).map_err(|error| Failure::new(Cause::of(&error), error))?;
    show(flags.output, &report, || {
        let but = if report.outlives {
            ""
        } else {
            ", as long as hotbackup's own cgroup: it could not be put into the process's, so take a backup on the host, or rescue \
             it there"
        };
        let RescueReport { answered, keeper_pid, was_kept, .. } = report;
        if was_kept {
            return format!("nothing waits: keeper {keeper_pid} answers, {answered} calls so far{but}\n");
        }
        format!("{answered} waiting calls answered; keeper {keeper_pid} goes on answering{but}\n")
    })
}

pub(super) fn demo(flags: &Demo) -> Result<(), Failure> {
    surroundings::check()?;
    let control = Control::new(None);
    cancel_on_signals(&control)?;
    let style = Style::choose(flags.output.json, flags.output.quiet);
    let outcome = crate::demo::run(&flags.options, style, &control);
    let outcome = outcome.map_err(|error| surroundings::explain(Failure::new(error.cause(), error)))?;
    show(flags.output, &outcome, || outcome.screen())?;
    match &outcome.wrong {
        None => Ok(()),
        Some(wrong) => Err(Failure::new(Cause::DemoWrong, format!("the backup is wrong: {wrong}"))),
    }
}

pub(super) fn demo_writer(options: &crate::demo::writer::Options) -> Result<(), Failure> {
    crate::demo::writer::run(options).map_err(|error| Failure::new(Cause::DemoFailed, format!("demo-writer: {error}")))
}

pub(super) fn library(serve: fn() -> std::io::Result<()>) -> Result<(), Failure> {
    serve().map_err(|error| Failure::new(Cause::Usage, format!("only libHotBackup starts this: {error}")))
}

/// The result: text for people unless they asked for none, or its JSON event.
pub(super) fn show(output: Output, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let written = if output.json {
        print_json(&Event { event: "result", elapsed_ms: None, body: report })
    } else if output.quiet {
        Ok(())
    } else {
        out::OUT.deliver(text().into())
    };
    written.map_err(|error| Failure::output(&error))
}

fn backup_text(report: &Report) -> String {
    let copier = &report.copier;
    let stop = match report.stop_us {
        Some(us) => format!("{us} us for one thread"),
        None => "none: through the keeper that was there".into(),
    };
    let seconds: f64 = copier.phases.iter().map(|phase| phase.duration_us as f64 / 1e6).sum();
    let mapped = match copier.mapped {
        Mapped { files: 0, .. } => String::new(),
        Mapped { files, bytes, frozen_us } => format!(
            "mapped           {} in {files} files, copied while the process stood still for {:.2} ms\n",
            human(bytes),
            frozen_us as f64 / 1e3
        ),
    };
    format!(
        "backup complete: {}\n\
         point in time    {}\n\
         content          {} in {} files, {} directories\n\
         copied           {} in {} passes, {seconds:.1} s\n\
         attach stop      {stop}\n\
         hold             {:.2} ms\n\
         {mapped}\
         before-images    {} ({}), longest wait {:.2} ms\n\
         {}\
         keeper           process {} stays until process {} ends\n",
        copier.dest.display(),
        rfc3339(copier.point_in_time_ns),
        human(copier.bytes_total),
        copier.files,
        copier.directories,
        human(copier.bytes_copied),
        copier.passes,
        copier.hold_us as f64 / 1e3,
        copier.before_images.count,
        human(copier.before_images.bytes),
        copier.max_wait_us as f64 / 1e3,
        left_out_text(report),
        report.keeper_pid,
        report.pid,
    )
}

/// What is not in the backup, or in it without content; and which source is where, if that is not plain.
fn left_out_text(report: &Report) -> String {
    let Special { devices, sockets, fifos, outside_links } = &report.copier.special;
    let first: Vec<_> = outside_links.first.iter().map(|path| path.display().to_string()).collect();
    let some = |count: u64, what: &str| (count > 0).then(|| format!("{count} {what}"));
    let without = [
        some(report.copier.excluded, "names left out by --exclude"),
        some(*devices, "devices left out"),
        some(*sockets, "sockets left out"),
        some(*fifos, "fifos, empty"),
        some(outside_links.count, &format!("links that lead out of the source, kept as links ({})", first.join(", "))),
    ];
    let without: Vec<String> = without.into_iter().flatten().collect();
    let mut text = String::new();
    if !without.is_empty() {
        text += &format!("without content  {}\n", without.join("; "));
    }
    for source in &report.sources {
        if let Some(name) = &source.name {
            text += &format!("source           {} is in {name}\n", source.path);
        }
    }
    text
}
