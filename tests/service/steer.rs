//! `hotbackup status`, `throttle` and `cancel`, to the service and to backups that run by themselves.
use std::process::Output;

use mongodb::bson::doc;
use serde_json::Value;

use crate::common::backup::start_command;
use crate::common::guest::Guest;
use crate::harness::{Place, assert_published, guest, in_progress, let_go, must, newest, start_paused, until};

fn said(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    serde_json::from_str(last)
        .unwrap_or_else(|error| panic!("{error}: {text}\n{}", String::from_utf8_lossy(&output.stderr)))
}

fn good(output: &Output) -> Value {
    let said = said(output);
    assert!(output.status.success(), "{said}");
    said
}

fn refused(output: &Output) -> String {
    let said = said(output);
    assert_eq!((output.status.code(), &said["kind"]), (Some(56), &Value::from("not_steered")), "{said}");
    said["message"].to_string()
}

fn dir(guest: &Guest) -> &str {
    guest.dir.to_str().expect("text")
}

#[test]
fn a_service_is_watched_and_steered() {
    let (place, (_guest, target)) = (Place::new(), guest());
    assert!(refused(&place.run(&["status", "--json"])).contains("neither a service nor a backup"));
    let _service = place.serve(&place.config(&target));
    let idle = good(&place.run(&["status", "--json"]));
    assert_eq!(idle["targets"][0]["target"], "main");
    assert!(idle["targets"][0]["running"].is_null() && idle["targets"][0]["last_good"].is_null(), "{idle}");
    assert!(refused(&place.run(&["cancel", "--json"])).contains("no backup is running"));
    assert!(refused(&place.run(&["throttle", "--json", "--target", "other", "0"])).contains("main"));
    // A rate for what is to come, then one for what runs.
    assert_eq!(good(&place.run(&["throttle", "--json", "0"]))["throttle"], 0);
    let client = place.client();
    must(&client, doc! {"backupStart": "one", "wait": false});
    until("it tracks", || good(&place.run(&["status", "--json"]))["targets"][0]["running"]["phase"] == "track");
    let busy = good(&place.run(&["status", "--json"]));
    let running = &busy["targets"][0]["running"];
    assert_eq!((&running["throttle"], &running["bytes_copied"]), (&Value::from(0), &Value::from(0)), "{busy}");
    let text = place.run(&["status"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("track, 0.0 % of"), "{text:?}");
    assert!(good(&place.run(&["throttle", "--json", "none"]))["throttle"].is_null());
    until("it ends", || !in_progress(&client));
    assert_published(&place.path("backups/one"));
    let idle = good(&place.run(&["status", "--json"]));
    assert!(idle["targets"][0]["last_good"]["dest"].as_str().expect("text").ends_with("/one"), "{idle}");
    start_paused(&client, "two");
    good(&place.run(&["cancel", "--json"]));
    until("it ends", || !in_progress(&client));
    assert_eq!(newest(&client).get_str("kind").ok(), Some("cancelled"));
    assert_eq!(place.left_but(&["one"]), [""; 0]);
    let both = String::from_utf8(place.run(&["status"]).stdout).expect("text");
    assert!(both.contains("last good") && both.contains("failed"), "{both}");
}

#[test]
fn a_backup_that_runs_by_itself_is_watched_and_steered() {
    let (place, (mut guest, _)) = (Place::new(), guest());
    let start = |name: &str| {
        let command = place.command(&[]);
        let mut backup = start_command(
            command,
            guest.pid(),
            &place.path("backups").join(name),
            &["--source", dir(&guest), "--throttle", "0", "--lease", "20s"],
        );
        backup.wait_for_phase("track");
        backup
    };
    let backup = start("one");
    let busy = good(&place.run(&["status", "--json"]));
    let one = &busy["targets"][0];
    assert_eq!(one["target"], format!("pid {}", guest.pid()), "{busy}");
    assert_eq!((&one["service"], &one["running"]["supervisor"]), (&Value::from(false), &Value::from(backup.pid())));
    // It is watched to its end, which is the watcher's, too.
    let watch =
        place.command(&["status", "--watch", "--json"]).stdout(std::process::Stdio::piped()).spawn().expect("starts");
    good(&place.run(&["throttle", "--json", "--pid", &guest.pid().to_string(), "1GiB"]));
    backup.finish().report();
    let watched = watch.wait_with_output().expect("our child");
    assert!(watched.status.success());
    assert_published(&place.path("backups/one"));
    let backup = start("two");
    good(&place.run(&["cancel", "--json"]));
    backup.finish().failure("cancelled");
    assert!(refused(&place.run(&["status", "--json"])).contains("neither"));
    guest.assert_alive();
}

#[test]
fn of_several_backups_one_must_be_named() {
    let (place, (one, _), (two, _)) = (Place::new(), guest(), guest());
    let start = |guest: &Guest, name: &str| {
        let mut backup = start_command(
            place.command(&[]),
            guest.pid(),
            &place.path("backups").join(name),
            &["--source", dir(guest), "--throttle", "0", "--lease", "20s"],
        );
        backup.wait_for_phase("track");
        backup
    };
    let (first, mut second) = (start(&one, "one"), start(&two, "two"));
    let words = refused(&place.run(&["cancel", "--json"]));
    assert!(words.contains("several") && words.contains(&format!("pid {}", one.pid())), "{words}");
    good(&place.run(&["cancel", "--json", "--pid", &one.pid().to_string()]));
    first.finish().failure("cancelled");
    assert!(second.is_running());
    good(&place.run(&["throttle", "--json", "none"]));
    second.finish().report();
}

#[test]
fn the_longest_wait_so_far_is_shown_while_a_backup_runs() {
    let (place, (_guest, target)) = (Place::new(), guest());
    let service = place.serve(&format!("http = \"127.0.0.1:0\"\n{}", place.config(&target)));
    let client = place.client();
    start_paused(&client, "one");
    let waited = |status: &Value| status["targets"][0]["running"]["longest_wait_us"].as_u64().expect("a number");
    // The guest writes all the time, and each of its calls waits for an answer.
    until("a call has waited", || waited(&good(&place.run(&["status", "--json"]))) > 0);
    let text = String::from_utf8(place.run(&["status"]).stdout).expect("text");
    let shown = text.split("longest wait ").nth(1).and_then(|rest| rest.split(' ').next()).expect("it is shown");
    assert!(shown.parse::<f64>().expect("milliseconds") > 0.0, "{text}");
    let told: Value = serde_json::from_str(&service.get("/status.json")).expect("JSON");
    let told = waited(&told);
    assert!(told > 0);
    let metrics = service.get("/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix("hotbackup_waited_seconds{target=\"main\"} "));
    assert!(line.expect("a metric").parse::<f64>().expect("seconds") >= told as f64 / 1e6, "it only grows\n{metrics}");
    let_go(&client);
    let ended = good(&place.run(&["status", "--json"]));
    let longest = ended["targets"][0]["last_good"]["longest_wait_us"].as_u64().expect("a number");
    assert!(longest >= told, "{longest} {told}");
    assert!(service.get("/metrics").contains("hotbackup_waited_seconds{target=\"main\"} 0.0\n"));
}
