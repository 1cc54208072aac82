//! How it stands, for people.
use hotbackup_service::control::{Ended, Running, TargetStatus};

use super::size::human;
use super::time::rfc3339;

/// All targets, a few lines each.
pub(super) fn text(targets: &[TargetStatus]) -> String {
    targets.iter().map(target).collect()
}

fn target(status: &TargetStatus) -> String {
    let mut text = format!("{}\n", status.target);
    let mut line = |name: &str, words: String| text += &format!("  {name:<10} {words}\n");
    match (&status.process, &status.problem) {
        (Some(pid), _) => line("process", pid.to_string()),
        (None, Some(why)) => line("process", format!("none: {why}")),
        (None, None) => line("process", "none".into()),
    }
    match &status.running {
        None => line("backup", "idle".into()),
        Some(backup) => {
            line("backup", format!("to {}, for {}", backup.dest, span(backup.elapsed_ms / 1000)));
            line("progress", progress(backup));
        }
    }
    line(
        "rate",
        status.throttle.map_or("no limit".into(), |rate| match rate {
            0 => "paused".into(),
            rate => format!("at most {} a second", human(rate)),
        }),
    );
    // A backup that runs by itself knows of no others.
    if status.service {
        line("last good", status.last_good.as_ref().map_or("none".into(), good));
        if let Some(failed) = status.last.as_ref().filter(|last| !last.ok) {
            let why = failed.message.as_deref().unwrap_or("for an unknown reason");
            line("last", format!("failed {} ago: {why}", span(failed.age_s)));
        }
        let again = status.next_attempt.map_or(String::new(), |attempt| format!(", try {attempt} of what failed"));
        line("next", status.next_ms.map_or("not planned".into(), |ms| rfc3339(ms * 1_000_000) + &again));
    }
    text
}

fn progress(backup: &Running) -> String {
    let eta = backup.eta_s.map_or(String::new(), |seconds| format!(", {} left", span(seconds)));
    let cancelled = if backup.cancelled { ", cancelled" } else { "" };
    format!(
        "{}{cancelled}, {:.1} % of {}, {} due, {} a second{eta}, writers held {:.2} ms so far, longest wait {:.2} ms",
        backup.phase,
        backup.percent,
        human(backup.bytes_total),
        human(backup.bytes_due),
        human(backup.rate),
        backup.hold_us as f64 / 1e3,
        backup.longest_wait_us as f64 / 1e3,
    )
}

fn good(ended: &Ended) -> String {
    let point = ended.point_in_time_ns.map_or(String::new(), |ns| format!(" of {}", rfc3339(ns)));
    format!(
        "{}{point}, {} ago: {} in {} files, writers held {:.2} ms",
        ended.dest,
        span(ended.age_s),
        human(ended.bytes),
        ended.files,
        ended.hold_us as f64 / 1e3,
    )
}

/// A number of seconds for people.
fn span(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_target_shows_its_last_backups() {
        let status = TargetStatus {
            target: "main".into(),
            service: true,
            process: Some(7),
            throttle: Some(1 << 20),
            next_ms: Some(1000),
            next_attempt: Some(2),
            last: Some(Ended { message: Some("the disk is full".into()), age_s: 60, ..Ended::default() }),
            last_good: Some(Ended {
                dest: "/b/x".into(),
                ok: true,
                point_in_time_ns: Some(0),
                age_s: 7200,
                bytes: 1 << 30,
                files: 3,
                hold_us: 1500,
                ..Ended::default()
            }),
            ..TargetStatus::default()
        };
        let expected = "main\n  process    7\n  backup     idle\n  rate       at most 1.0 MiB a second\n  \
                        last good  /b/x of 1970-01-01T00:00:00.000000Z, 2 h ago: 1.0 GiB in 3 files, writers held 1.50 ms\n  \
                        last       failed 60 s ago: the disk is full\n  next       1970-01-01T00:00:01.000000Z, try 2 of what failed\n";
        assert_eq!(text(&[status]), expected);
    }

    #[test]
    fn a_backup_that_runs_shows_how_far_it_is() {
        let running = Running {
            dest: "/b/x".into(),
            elapsed_ms: 5000,
            phase: "track".into(),
            percent: 43.1,
            bytes_total: 2 << 30,
            bytes_due: 1 << 30,
            rate: 64 << 20,
            eta_s: Some(16),
            longest_wait_us: 2100,
            ..Running::default()
        };
        let status = TargetStatus { target: "pid 7".into(), running: Some(running), ..TargetStatus::default() };
        let expected = "pid 7\n  process    none\n  backup     to /b/x, for 5 s\n  \
                        progress   track, 43.1 % of 2.0 GiB, 1.0 GiB due, 64.0 MiB a second, 16 s left, writers held 0.00 ms so far, longest wait 2.10 ms\n  \
                        rate       no limit\n";
        assert_eq!(text(&[status]), expected);
    }
}
