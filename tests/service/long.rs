//! A service that has been there for years.
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::time::{Duration, Instant};

use hotbackup_service::control::{Client, Request};
use serde_json::json;

use crate::harness::{Place, guest};

/// Ten years of nights, and as many backups as are remembered.
const NIGHTS: u64 = 3660;
const BACKUPS: u64 = 1000;
const DAY_MS: u64 = 86_400_000;

/// The quickest of many answers: a machine that is busy makes some slow, and none quick.
fn quickest(place: &Place) -> Duration {
    let mut client = Client::connect(&place.path("run/service.sock")).expect("it serves");
    let ask = || {
        let began = Instant::now();
        let answer = client.ask(&Request::Status).expect("an answer");
        assert!(answer.ok && answer.targets.len() == 1);
        began.elapsed()
    };
    std::iter::repeat_with(ask).take(50).min().expect("some")
}

#[test]
fn ten_years_of_history_keep_status_quick() {
    let (place, (_guest, target)) = (Place::new(), guest());
    let target = format!("{target}\n[target.nightly]\nschedule = \"0 0 29 2 *\"\nretries = 0");
    let service = place.serve(&place.config(&target));
    let fresh = quickest(&place);
    service.stop();
    let state = place.path("state/main");
    let _ = DirBuilder::new().mode(0o700).create(&state);
    let began = |number: u64| 1_480_000_000_000 + number * DAY_MS;
    let dest = |number: u64| place.path("backups").join(format!("old-{number}"));
    // As long as lines are: with what was removed, what went wrong beside it, and the words of failures. Every one that
    // was taken has been found bad, so that the last good one is looked for through all of them.
    let nights = (0..NIGHTS).map(|number| {
        let time = |ms: u64| jiff::Timestamp::from_millisecond(ms as i64).expect("a time").to_string();
        json!({
            "begun": time(began(number)), "ended": time(began(number) + 60_000), "dest": dest(number), "good": false,
            "taken": {"bytes": 1_u64 << 40, "duration_us": 60_000_000, "hold_us": 700, "longest_wait_us": 2100},
            "cause": "verify_failed", "message": "the backup is not good: ".repeat(8),
            "warnings": ["what could not be removed was not removed"], "removed": [dest(number.saturating_sub(7))],
        })
        .to_string()
            + "\n"
    });
    fs::write(state.join("history"), nights.collect::<String>()).expect("written");
    for number in NIGHTS - BACKUPS..NIGHTS {
        let id = format!("{}-0", began(number));
        let record = json!({"id": id, "dest": dest(number), "started_ms": began(number), "process": 1,
            "ended_ms": began(number) + 50_000});
        fs::write(state.join(format!("{id}.json")), record.to_string()).expect("written");
        let result = json!({"event": "result", "point_in_time_ns": 1, "bytes_total": 5, "files": 6, "hold_us": 7});
        fs::write(state.join(format!("{id}.out")), format!("{result}\n")).expect("written");
    }
    let service = place.serve(&place.config(&target));
    let old = quickest(&place);
    assert!(old < fresh + Duration::from_millis(50), "{old:?}, and {fresh:?} without a past");
    println!("status: {fresh:?} without a past, {old:?} with ten years of it");
    // It is the past that is told.
    let mut client = Client::connect(&place.path("run/service.sock")).expect("it serves");
    let told = client.ask(&Request::Status).expect("an answer").targets.remove(0);
    assert!(told.last_good.is_none());
    let last = told.last.expect("it has been told");
    assert_eq!(
        (last.dest, last.ok, last.kind.as_deref()),
        (dest(NIGHTS - 1).to_string_lossy().into(), false, Some("verify_failed"))
    );
    service.stop();
}
