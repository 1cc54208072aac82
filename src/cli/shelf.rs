//! The verbs on backups that are there: `list`, `restore`, `prune`.
use std::path::{Path, PathBuf};

use clap::Args;
use hotbackup_archive::{Entry, Error, Fate, Kind, Owner, Policy, list, restore, tidy};
use jiff::tz::TimeZone;
use serde::Serialize;

use super::draw::{Drawing, Style};
use super::size::{self, human};
use super::time::rfc3339;
use super::verbs::{cancel_on_signals, show};
use super::{Failure, Output};
use crate::exit::Cause;
use crate::session::Control;

#[derive(Debug, Args)]
pub(super) struct List {
    /// The directory that the backups are in
    dir: PathBuf,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup
    backup: PathBuf,
    /// Where it goes: a new directory, or an empty one
    dir: PathBuf,
    /// Who is to own everything that is restored: a user, with that user's group, or USER:GROUP (default: as in the backup)
    #[arg(long, value_name = "USER[:GROUP]")]
    owner: Option<String>,
    /// Copy at most so many bytes a second, such as 64MiB
    #[arg(long, value_name = "BYTES/S", value_parser = size::bytes)]
    throttle: Option<u64>,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Prune {
    /// The directory that the backups are in; only those with a time as their name are touched
    dir: PathBuf,
    #[command(flatten)]
    keep: Keep,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

#[derive(Debug, Clone, Copy, Args)]
#[group(required = true, multiple = true)]
struct Keep {
    /// Keep the newest so many
    #[arg(long, value_name = "N")]
    keep_last: Option<usize>,
    /// Keep the newest of each of the last so many days that have one
    #[arg(long, value_name = "N")]
    keep_daily: Option<usize>,
    /// The same of weeks, which begin on Monday
    #[arg(long, value_name = "N")]
    keep_weekly: Option<usize>,
    /// The same of months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<usize>,
    /// The same of years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<usize>,
}

impl From<Keep> for Policy {
    fn from(keep: Keep) -> Self {
        Self {
            last: keep.keep_last.unwrap_or(0),
            daily: keep.keep_daily.unwrap_or(0),
            weekly: keep.keep_weekly.unwrap_or(0),
            monthly: keep.keep_monthly.unwrap_or(0),
            yearly: keep.keep_yearly.unwrap_or(0),
        }
    }
}

fn failure(error: Error) -> Failure {
    Failure::new(Cause::of_archive(&error), error)
}

pub(super) fn run_list(flags: &List) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Report {
        backups: Vec<Entry>,
    }
    let report = Report { backups: list(&flags.dir).map_err(failure)? };
    show(flags.output, &report, || match report.backups.as_slice() {
        [] => format!("{} holds no backups\n", flags.dir.display()),
        all => all.iter().map(line).collect(),
    })
}

fn line(entry: &Entry) -> String {
    let name = entry.name.to_string_lossy();
    match &entry.kind {
        Kind::Backup { summary, check, .. } => {
            let check = match check {
                None => "not checked",
                Some(mark) if !mark.good => "BAD",
                Some(mark) if mark.server_tried => "good, a server started from it",
                Some(_) => "good",
            };
            let (bytes, files) = (human(summary.bytes), summary.files);
            format!("{name:<24} {}  {bytes:>10}  {files:>8} files  {check}\n", rfc3339(summary.point_in_time_ns))
        }
        Kind::Partial => format!("{name:<24} being taken, or left by one that was broken off\n"),
        Kind::Unreadable { why } => format!("{name:<24} UNREADABLE: {why}\n"),
    }
}

pub(super) fn run_restore(flags: &Restore) -> Result<(), Failure> {
    let owner = flags.owner.as_deref().map(str::parse::<Owner>).transpose().map_err(failure)?;
    let control = Control::new(flags.throttle);
    cancel_on_signals(&control)?;
    let drawing = Drawing::new(Style::choose(flags.output.json, flags.output.quiet));
    let result = restore(&flags.backup, &flags.dir, owner, &drawing, &control);
    drawing.finish();
    let done = result.map_err(failure)?;
    show(flags.output, &done, || {
        format!(
            "restored: {}, {} entries, {}, as of {}\n",
            done.dir.display(),
            done.entries,
            human(done.bytes),
            rfc3339(done.point_in_time_ns)
        )
    })
}

pub(super) fn run_prune(flags: &Prune) -> Result<(), Failure> {
    let done = tidy(&flags.dir, &flags.keep.into(), &TimeZone::system(), flags.dry_run).map_err(failure)?;
    show(flags.output, &done, || {
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut text = String::new();
        for (path, fate) in &done.fates {
            match fate {
                Fate::Keep(why) => text += &format!("keep    {}  ({})\n", name(path), words(why)),
                Fate::Remove if flags.dry_run => text += &format!("would be removed  {}\n", name(path)),
                Fate::Remove if done.removed.contains(path) => text += &format!("removed {}\n", name(path)),
                Fate::Remove => {}
            }
        }
        text += &done.leftovers.iter().map(|path| format!("removed {}\n", name(path))).collect::<String>();
        text
    })?;
    match done.stayed.first() {
        None => Ok(()),
        Some((path, why)) => {
            let others = match done.stayed.len() {
                1 => String::new(),
                many => format!(", nor could {} others", many - 1),
            };
            Err(Failure::new(Cause::DestIo, format!("{} could not be removed{others}: {why}", path.display())))
        }
    }
}

fn words(why: &[hotbackup_archive::Reason]) -> String {
    let word = |reason| serde_json::to_value(reason).ok()?.as_str().map(|word| word.replace('_', " "));
    why.iter().filter_map(word).collect::<Vec<_>>().join(", ")
}
