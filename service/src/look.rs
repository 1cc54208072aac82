//! What there is to see of the service over HTTP.
use hotbackup_web::{Running, Snapshot, Target, Watch};
use jiff::Timestamp;

use crate::service::Steer;

impl Watch for Steer {
    fn snapshot(&self) -> Snapshot {
        let targets = self.all().iter().map(|target| {
            let status = target.status();
            let (history, next) = target.nights();
            let running = status.running.map(|running| Running {
                phase: running.phase,
                elapsed_ms: running.elapsed_ms,
                bytes_total: running.bytes_total,
                bytes_due: running.bytes_due,
                bytes_copied: running.bytes_copied,
                rate: Some(running.rate),
                eta_s: running.eta_s,
                throttle: running.throttle,
                hold_us: Some(running.hold_us).filter(|held| *held > 0),
                longest_wait_us: Some(running.longest_wait_us).filter(|waited| *waited > 0),
            });
            Target {
                name: status.target,
                process: status.process,
                running,
                next: next.map(|(at, _)| at),
                next_attempt: status.next_attempt,
                history,
            }
        });
        Snapshot { time: Timestamp::now(), version: env!("CARGO_PKG_VERSION").into(), targets: targets.collect() }
    }
}
