//! Metrics in the OpenMetrics text format, made anew from what there is to see whenever they are asked for.
//!
//! Totals and histograms are those of the history that is kept: when its oldest part is dropped they fall, which Prometheus takes for a
//! restart.
use std::fmt;

use hotbackup_archive::{Night, Taken};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::AtomicU64;

use crate::Snapshot;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Of {
    target: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    target: String,
    outcome: &'static str,
    cause: String,
}

type Whole = Family<Of, Gauge>;
type Real = Family<Of, Gauge<f64, AtomicU64>>;
type Spread = Family<Of, Histogram, fn() -> Histogram>;

/// Holds last from a tenth of a millisecond to their bound, 50 ms usually.
fn of_holds() -> Histogram {
    Histogram::new([1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1])
}

/// Calls wait up to the lease, a second usually.
fn of_waits() -> Histogram {
    Histogram::new([1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0])
}

fn of_durations() -> Histogram {
    Histogram::new([1.0, 5.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 36_000.0, 86_400.0])
}

/// All metrics as text.
///
/// # Errors
/// They cannot be put into words; there is nothing that makes that happen.
pub fn metrics(snapshot: &Snapshot) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("hotbackup");
    let mut text = String::new();
    fill(&mut registry, snapshot);
    encode(&mut text, &registry)?;
    Ok(text)
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn whole(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}

fn fill(registry: &mut Registry, snapshot: &Snapshot) {
    let (up, running, due, copied) = (Whole::default(), Whole::default(), Whole::default(), Whole::default());
    let (age, last, next) = (Real::default(), Real::default(), Real::default());
    let (took, bytes) = (Real::default(), Whole::default());
    let (held, waited) = (Real::default(), Real::default());
    let (retries, pending) = (Family::<Of, Counter>::default(), Whole::default());
    let ended = Family::<Ended, Counter>::default();
    let holds = Spread::new_with_constructor(of_holds);
    let waits = Spread::new_with_constructor(of_waits);
    let durations = Spread::new_with_constructor(of_durations);
    for target in &snapshot.targets {
        let of = Of { target: target.name.clone() };
        up.get_or_create(&of).set(target.process.is_some().into());
        running.get_or_create(&of).set(target.running.is_some().into());
        let now = target.running.as_ref();
        due.get_or_create(&of).set(now.map_or(0, |running| whole(running.bytes_due)));
        copied.get_or_create(&of).set(now.map_or(0, |running| whole(running.bytes_copied)));
        held.get_or_create(&of).set(seconds(now.and_then(|running| running.hold_us).unwrap_or_default()));
        waited.get_or_create(&of).set(seconds(now.and_then(|running| running.longest_wait_us).unwrap_or_default()));
        pending.get_or_create(&of).set(target.next_attempt.is_some().into());
        retries.get_or_create(&of).inc_by(target.history.iter().filter(|night| night.attempt > 1).count() as u64);
        if let Some(good) = target.last_good() {
            last.get_or_create(&of).set(good.begun.as_duration().as_secs_f64());
            age.get_or_create(&of).set(snapshot.time.duration_since(good.begun).as_secs_f64());
            if let Some(taken) = good.taken {
                took.get_or_create(&of).set(seconds(taken.duration_us));
                bytes.get_or_create(&of).set(whole(taken.bytes));
            }
        }
        if let Some(time) = target.next {
            next.get_or_create(&of).set(time.as_duration().as_secs_f64());
        }
        for night in &target.history {
            ended.get_or_create(&outcome(&target.name, night)).inc();
            let Some(Taken { duration_us, hold_us, longest_wait_us, .. }) = night.taken else { continue };
            holds.get_or_create(&of).observe(seconds(hold_us));
            waits.get_or_create(&of).observe(seconds(longest_wait_us));
            durations.get_or_create(&of).observe(seconds(duration_us));
        }
    }
    registry.register("target_up", "Whether the server runs", up);
    registry.register("backup_running", "Whether a backup is being taken", running);
    registry.register_with_unit("due", "What the backup that is being taken still has to copy", Unit::Bytes, due);
    registry.register_with_unit("copied", "What the backup that is being taken has copied", Unit::Bytes, copied);
    registry.register_with_unit(
        "held",
        "How long the backup that is being taken has held writers",
        Unit::Seconds,
        held,
    );
    let words = "The longest that a call has waited during the backup that is being taken";
    registry.register_with_unit("waited", words, Unit::Seconds, waited);
    registry.register("retries", "Backups by schedule that were tried again, each try counted", retries);
    registry.register("retry_pending", "Whether the next backup is another try of one that failed", pending);
    registry.register_with_unit(
        "last_good_backup_timestamp",
        "When the last good backup was begun",
        Unit::Seconds,
        last,
    );
    registry.register_with_unit("last_good_backup_age", "How long ago that was", Unit::Seconds, age);
    registry.register_with_unit("last_good_backup_duration", "How long it took", Unit::Seconds, took);
    registry.register_with_unit("last_good_backup_size", "Its content", Unit::Bytes, bytes);
    registry.register_with_unit("next_backup_timestamp", "When the next one is due", Unit::Seconds, next);
    registry.register("backups", "Backups that ended, by outcome, and by the cause of a failure", ended);
    registry.register_with_unit("hold", "How long writers were held at the point in time", Unit::Seconds, holds);
    registry.register_with_unit("longest_wait", "The longest wait of a call, of each backup", Unit::Seconds, waits);
    registry.register_with_unit("backup_duration", "How long backups took", Unit::Seconds, durations);
}

fn outcome(target: &str, night: &Night) -> Ended {
    let outcome = if night.good { "success" } else { "failure" };
    Ended { target: target.into(), outcome, cause: night.cause.clone().unwrap_or_default() }
}
