//! What a filter that is there already does not show.

use std::process::Command;

use hotbackup_event::failpoint;
use serde_json::Value;

use crate::bench::{Bench, Release, patiently};
use crate::common::backup::{HOTBACKUP, Outcome, Running, alone, scratch, start_command};
use crate::common::guest::{Guest, Linked};
use crate::common::process::{path, status, wait_until};
use crate::faults::target::Target;

/// Fails unless the filter of another release lets a call go unseen.
const LACKING: &str = "filter.fchmod:leave-out,filter.mknodat:leave-out";

/// Today's command, without the flag.
fn start(bench: &Bench, command: Command, name: &str, more: &[&str]) -> Running {
    let dest = bench.target.scratch().join(name);
    let source = bench.target.source();
    let mut words: Vec<&str> = source.iter().map(String::as_str).collect();
    words.extend(bench.target.mapped(false));
    words.extend(more);
    start_command(command, bench.pid(), &dest, &words)
}

/// A target whose filter was made without some rows of today's table.
fn with_a_filter_that_lacks_calls() -> Bench {
    let mut bench = Bench::new();
    // The first to attach, or the first to find keepers: its filter is there by then.
    let mut tries = 0;
    patiently(|| {
        tries += 1;
        let mut command = Command::new(HOTBACKUP);
        command.env(failpoint::VARIABLE, LACKING);
        start(&bench, command, &format!("attached{tries}"), &[]).finish()
    });
    bench.assert_unharmed("attached");
    bench
}

/// A backup that accepts that calls go unseen. (The guest makes none of these.)
fn accepted(bench: &Bench, command: impl Fn() -> Command) -> Outcome {
    let mut tries = 0;
    patiently(|| {
        tries += 1;
        start(bench, command(), &format!("accepted{tries}"), &["--accept-unseen"]).finish()
    })
}

fn check(bench: &Bench, more: &[&str]) -> (bool, String, Value) {
    let mut command = Command::new(HOTBACKUP);
    command.args(["check", "--json", "--pid", &bench.pid().to_string()]).args(bench.target.source()).args(more);
    let output = command.output().expect("it starts");
    let text = String::from_utf8(output.stdout).expect("JSON is text");
    let result: Value = serde_json::from_str(text.lines().next().expect("a result")).expect("JSON");
    let item = |name: &str| result["items"].as_array()?.iter().find(|item| item["name"] == name).cloned();
    let seen = item("all calls are seen").expect("it is looked at");
    let attach = item("attach").unwrap_or_default();
    let failed = result["items"].as_array().into_iter().flatten().filter(|item| item["ok"] == false);
    failed.for_each(|item| println!("{item}"));
    (seen["ok"] == true, seen["detail"].as_str().expect("words").to_owned(), attach)
}

fn verify(dest: &std::path::Path) -> String {
    let output = Command::new(HOTBACKUP).arg("verify").arg(dest).output().expect("it starts");
    assert!(output.status.success(), "verify: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn a_filter_that_lacks_calls_is_refused_and_the_calls_are_named() {
    let _alone = alone();
    let mut bench = with_a_filter_that_lacks_calls();
    let outcome = start(&bench, Command::new(HOTBACKUP), "refused", &[]).finish();
    let said = outcome.failure("unseen_calls");
    assert_eq!(outcome.status.code(), Some(58));
    assert!(said.contains("fchmod, mknodat:") && said.contains("--accept-unseen"), "{said}");
    bench.assert_unharmed("refused");
    let mut attach = Value::Null;
    // It probes only where nothing else is in the way; on a busy machine the last ptracer may not be gone yet.
    wait_until("a probe", || {
        attach = check(&bench, &["--probe", "--mapped", "1MiB"]).2;
        !attach.is_null()
    });
    assert!(
        attach["ok"] == false && attach["detail"].as_str().is_some_and(|words| words.contains("fchmod")),
        "{attach}"
    );
    bench.assert_unharmed("probed");
}

#[test]
fn unseen_calls_that_are_accepted_are_named_by_the_backup_and_by_verify() {
    let _alone = alone();
    let mut bench = with_a_filter_that_lacks_calls();
    let outcome = accepted(&bench, || Command::new(HOTBACKUP));
    assert_eq!(outcome.report()["unseen_calls"], serde_json::json!(["fchmod", "mknodat"]));
    let manifest = std::fs::read_to_string(outcome.dest.join(".hotbackup/manifest.json")).expect("a manifest");
    assert!(manifest.contains(r#""unseen_calls":["fchmod","mknodat"]"#));
    assert!(verify(&outcome.dest).contains("fchmod, mknodat"));
    bench.assert_unharmed("accepted");
}

#[test]
fn a_filter_that_cannot_be_read_is_refused_unless_that_is_accepted() {
    let _alone = alone();
    let mut bench = with_a_filter_that_lacks_calls();
    let without_sys_admin = || {
        let mut command = Command::new("setpriv");
        command.args(["--bounding-set", "-sys_admin", "--", HOTBACKUP]);
        command
    };
    let outcome = start(&bench, without_sys_admin(), "refused", &[]).finish();
    assert!(outcome.failure("unseen_calls").contains("CAP_SYS_ADMIN"));
    let outcome = accepted(&bench, without_sys_admin);
    assert_eq!(outcome.report()["unseen_calls"], serde_json::json!(["unknown"]));
    bench.assert_unharmed("accepted");
}

/// What of today's table the earlier release's filter lacks depends on what has been added since; all must tell the same.
#[test]
fn what_the_earlier_releases_filter_lacks_is_told_beforehand() {
    let _alone = alone();
    let mut bench = Bench::attached_by(Release::Earlier);
    let (is_fine, words, _) = check(&bench, &["--mapped", "1MiB"]);
    if is_fine {
        let mut tries = 0;
        let outcome = patiently(|| {
            tries += 1;
            start(&bench, Command::new(HOTBACKUP), &format!("plain{tries}"), &[]).finish()
        });
        assert_eq!(outcome.report()["unseen_calls"], serde_json::json!([]));
    } else {
        let said = start(&bench, Command::new(HOTBACKUP), "plain", &[]).finish().failure("unseen_calls");
        let calls = words.split("change files: ").nth(1).and_then(|rest| rest.split(": a backup").next());
        assert!(said.contains(calls.expect("they are named")), "{words}\n{said}");
        let outcome = accepted(&bench, || Command::new(HOTBACKUP));
        let named = outcome.report()["unseen_calls"].as_array().expect("a list").clone();
        let named: Vec<&str> = named.iter().filter_map(Value::as_str).collect();
        assert_eq!(Some(&*named.join(", ")), calls);
        assert!(check(&bench, &["--mapped", "1MiB", "--accept-unseen"]).0);
    }
    bench.assert_unharmed("told");
}

/// What a thread forbids itself afterwards others may do, and those that were started before: to take it for what the process may not do
/// would be to call a backup right that has not seen all.
#[test]
fn what_a_thread_has_forbidden_itself_after_the_filter_is_unseen_all_the_same() {
    let _alone = alone();
    let scratch = scratch();
    let [go, done] = ["go", "done"].map(|name| scratch.path().join(name));
    let mut guest = Guest::start_in(scratch, "sandboxes_itself", Linked::Dynamically, &[path(&go), path(&done)]);
    let take = |guest: &Guest, name: &str, lacking: bool| {
        let mut command = Command::new(HOTBACKUP);
        command.envs(lacking.then_some((failpoint::VARIABLE, LACKING)));
        start_command(command, guest.pid(), &guest.beside(name), &["--source", path(&guest.dir)]).finish()
    };
    take(&guest, "attached", true).report();
    std::fs::write(go, "").expect("written");
    wait_until("its sandbox", || done.exists());
    assert_eq!(status(guest.pid(), "Seccomp_filters").as_deref(), Some("2"));
    let said = take(&guest, "refused", false).failure("unseen_calls");
    assert!(said.contains("fchmod, mknodat:"), "{said}");
    guest.assert_goes_on();
}
