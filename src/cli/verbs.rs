//! What each verb does: call the library, show the result.
use std::io::{self, Write};

use hotbackup_copier::Mapped;
use serde::Serialize;

use super::draw::{Drawing, Event, Style, print_json};
use super::size::human;
use super::time::rfc3339;
use super::{Backup, Check, Demo, Failure, Output, Rescue, Verify};
use crate::exit::Cause;
use crate::session::{self, Control, Report};

/// Ctrl-C, SIGTERM and SIGHUP cancel; another one does nothing more.
fn cancel_on_signals(control: &Control) -> Result<(), Failure> {
    let control = control.clone();
    ctrlc::set_handler(move || control.cancel())
        .map_err(|error| Failure::new(Cause::Internal, format!("cannot handle signals: {error}")))
}

/// Does work in a thread of its own. A signal to the process is given to its first thread if that does not block it, and
/// stays there unseen while the thread is stuck in a call on a destination that stands still.
fn beside_signals<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T, Failure> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("backup".into()).spawn_scoped(scope, work);
        let thread =
            thread.map_err(|error| Failure::new(Cause::Internal, format!("cannot start a thread: {error}")))?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

pub(super) fn backup(flags: Backup) -> Result<(), Failure> {
    let control = Control::new(flags.throttle);
    cancel_on_signals(&control)?;
    let drawing = Drawing::new(Style::choose(flags.output.json, flags.output.quiet));
    let options = session::Options {
        pid: flags.pid,
        sources: flags.source,
        dest: flags.dest,
        throttle: flags.throttle,
        point: flags.point.into(),
        exclude: flags.exclude,
        before_images: flags.before_images,
        mapped: flags.mapped,
        max_wait: flags.max_wait,
        hold: flags.hold,
        lease: flags.lease,
        show_all_writes: flags.show_all_writes,
        reserve: flags.reserve.unwrap_or_default(),
    };
    let result = beside_signals(|| session::backup(&options, &drawing, &control))?;
    drawing.finish();
    let report = result.map_err(|error| Failure::new(Cause::of(&error), error))?;
    show(flags.output, &report, || backup_text(&report))
}

pub(super) fn verify(flags: &Verify) -> Result<(), Failure> {
    let drawing = Drawing::new(Style::choose(flags.output.json, flags.output.quiet));
    let result = hotbackup_copier::verify(&flags.dest, &drawing);
    drawing.finish();
    let report = result.map_err(|error| Failure::new(Cause::of_copier(&error), error))?;
    let dest = flags.dest.display();
    show(flags.output, &report, || {
        let mut text = String::new();
        for problem in &report.problems {
            text += &format!("{}: {}\n", problem.path.display(), problem.what);
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
    let options = session::CheckOptions {
        pid: flags.pid,
        sources: flags.source.clone(),
        mapped: flags.mapped,
        probe: flags.probe,
        show_all_writes: flags.show_all_writes,
    };
    let report = session::check(&options).map_err(|error| Failure::new(Cause::of(&error), error))?;
    show(flags.output, &report, || {
        let width = report.items.iter().map(|item| item.name.len()).max().unwrap_or(0);
        let line = |item: &session::CheckItem| {
            format!("{} {:<width$}  {}\n", if item.ok { "ok  " } else { "FAIL" }, item.name, item.detail)
        };
        report.items.iter().map(line).collect()
    })?;
    let failed: Vec<&str> = report.items.iter().filter(|item| !item.ok).map(|item| item.name.as_str()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    let message = format!("process {} cannot be backed up as it is: {}", flags.pid, failed.join(", "));
    Err(Failure::new(Cause::CheckFailed, message))
}

pub(super) fn rescue(flags: &Rescue) -> Result<(), Failure> {
    let report = session::rescue(flags.pid).map_err(|error| Failure::new(Cause::of(&error), error))?;
    show(flags.output, &report, || {
        let but = if report.outlives {
            ""
        } else {
            ", as long as hotbackup's own cgroup: it could not be put into the process's, so take a backup on the host, or rescue \
             it there"
        };
        format!("{} waiting calls answered; keeper {} goes on answering{but}\n", report.answered, report.keeper_pid)
    })
}

pub(super) fn demo(flags: &Demo) -> Result<(), Failure> {
    let control = Control::new(None);
    cancel_on_signals(&control)?;
    let style = Style::choose(flags.output.json, flags.output.quiet);
    let outcome =
        crate::demo::run(&flags.options, style, &control).map_err(|error| Failure::new(error.cause(), error))?;
    show(flags.output, &outcome, || outcome.screen())?;
    match &outcome.wrong {
        None => Ok(()),
        Some(wrong) => Err(Failure::new(Cause::DemoWrong, format!("the backup is wrong: {wrong}"))),
    }
}

pub(super) fn demo_writer(options: &crate::demo::writer::Options) -> Result<(), Failure> {
    crate::demo::writer::run(options).map_err(|error| Failure::new(Cause::DemoFailed, format!("demo-writer: {error}")))
}

/// The result: text for people unless they asked for none, or its JSON event.
fn show(output: Output, report: &impl Serialize, text: impl FnOnce() -> String) -> Result<(), Failure> {
    let written = if output.json {
        print_json(&Event { event: "result", elapsed_ms: None, body: report })
    } else if output.quiet {
        Ok(())
    } else {
        io::stdout().lock().write_all(text().as_bytes())
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
        report.keeper_pid,
        report.pid,
    )
}
