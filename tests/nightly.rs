//! Backups of a real mongod by schedule: taken, checked with a server, linked, rotated, told over HTTP; and gone on with by the next
//! service when the first is killed.
#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

mod common {
    pub mod acks;
    pub mod backup;
    pub mod guest;
    pub mod load;
    pub mod mongod;
    pub mod process;
    pub mod random;
}
use common::backup::{HOTBACKUP, alone, scratch};
use common::guest::{Guest, Linked};
use common::mongod::{Mongod, Opts};
use common::process::path;

/// What takes longer hangs.
const LIMIT: Duration = Duration::from_secs(180);
/// Long ago, so that every schedule has a time since.
const LONG_AGO: &str = "2026-01-01T021500Z";

struct House {
    scratch: TempDir,
}

struct Serving {
    child: Child,
    ready: Value,
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl House {
    fn new() -> Self {
        let scratch = scratch();
        for name in ["run", "state", "shelf", "db"] {
            DirBuilder::new().mode(0o700).create(scratch.path().join(name)).expect("made");
        }
        Self { scratch }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A service whose last night was long ago: one is due at once.
    fn serve(&self, target: &str, nightly: &str) -> Serving {
        let state = self.at("state/orders");
        if !state.exists() {
            DirBuilder::new().mode(0o700).create(&state).expect("made");
            let night = json!({"begun": "2026-01-01T02:15:00Z", "ended": "2026-01-01T02:16:00Z", "good": false,
                "dest": self.at("shelf").join(LONG_AGO), "cause": "dest_full", "message": "the disk was full"});
            fs::write(state.join("history"), format!("{night}\n")).expect("written");
        }
        let config = format!(
            "state = {:?}\nhttp = \"127.0.0.1:0\"\n[[target]]\nname = \"orders\"\ndestination = {:?}\n{target}\n[target.nightly]\n{nightly}\n",
            self.at("state"),
            self.at("shelf")
        );
        fs::write(self.at("config.toml"), config).expect("written");
        let mut command = self.command(&["serve", "--json", "--config", path(&self.at("config.toml"))]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("hotbackup starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("text");
        let ready = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"));
        Serving { child, ready }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(HOTBACKUP);
        command.args(arguments).env("HOTBACKUP_RUNTIME_DIR", self.at("run"));
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().expect("hotbackup starts")
    }

    fn status(&self) -> Value {
        let output = self.run(&["status", "--json"]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let last = text.lines().last().unwrap_or_default();
        let status: Value = serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        status["targets"][0].clone()
    }

    fn nights(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.at("state/orders/history")).expect("there");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The backups with a time as their name.
    fn backups(&self) -> Vec<String> {
        let all = fs::read_dir(self.at("shelf")).expect("there").map(|entry| entry.expect("an entry").file_name());
        let mut names: Vec<String> = all.map(|name| name.to_string_lossy().into_owned()).collect();
        names.retain(|name| name.ends_with('Z') && !name.starts_with('.'));
        names.sort();
        names
    }
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < LIMIT, "{what}: not within {LIMIT:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Serving {
    fn get(&self, what: &str) -> String {
        let mut stream = TcpStream::connect(self.ready["http"].as_str().expect("an address")).expect("connected");
        write!(stream, "GET {what} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        answer
    }

    fn kill(mut self) {
        self.child.kill().expect("ours");
        self.child.wait().expect("ours");
    }
}

fn mongod(house: &House) -> Mongod {
    let server = Mongod::start(&Opts { dbpath: house.at("db"), ..Opts::default() });
    common::load::fill(&server.uri(), 4);
    server
}

#[test]
fn a_night_that_was_missed_is_made_up_for_checked_with_a_server_and_rotated() {
    let _alone = alone();
    let house = House::new();
    let mut server = mongod(&house);
    let pid = server.pid().to_string();
    for old in [LONG_AGO, "2026-01-02T021500Z", "2026-01-03T021500Z"] {
        let output = house.run(&["backup", "--quiet", "--pid", &pid, path(&house.at("shelf").join(old))]);
        assert!(output.status.success(), "{output:?}");
    }
    let told = house.at("told");
    let hook = |word: &str| {
        let script = format!("echo {word} $HOTBACKUP_OUTCOME $HOTBACKUP_DEST >> {}", told.display());
        format!("{{ command = [\"sh\", \"-c\", {script:?}], timeout_s = 60 }}")
    };
    let nightly = format!(
        "schedule = \"15 2 * * *\"\nkeep = {{ last = 2 }}\ncheck = \"server\"\nmongod = {:?}\nbefore = {}\nafter = {}",
        common::mongod::program(),
        hook("before"),
        hook("after")
    );
    let serving = house.serve(&format!("match = \"dbpath={}\"", house.at("db").display()), &nightly);
    wait_until("the night is over", || house.nights().len() == 2);
    let night = house.nights().remove(1);
    assert_eq!(
        (&night["good"], &night["message"], &night["warnings"]),
        (&true.into(), &Value::Null, &Value::Null),
        "{night}"
    );
    let dest = night["dest"].as_str().expect("text").to_owned();
    assert_eq!(fs::read_link(house.at("shelf/latest")).expect("a link"), Path::new(&dest).file_name().expect("a name"));
    let name = dest.rsplit('/').next().expect("a name").to_owned();
    assert_eq!(house.backups(), ["2026-01-03T021500Z".to_owned(), name], "the two newest stay");
    assert_eq!(fs::read_to_string(&told).expect("told"), format!("before {dest}\nafter success {dest}\n"));
    let mark: Value =
        serde_json::from_slice(&fs::read(Path::new(&dest).join(".hotbackup/checked.json")).expect("marked"))
            .expect("JSON");
    assert_eq!((&mark["good"], &mark["server_tried"]), (&true.into(), &true.into()));
    // What everybody is told.
    let status = house.status();
    assert_eq!(status["last_good"]["dest"], *dest, "{status}");
    let next = status["next_ms"].as_u64().expect("a time");
    let now = common::backup::now() / 1_000_000;
    assert!(next > now && next <= now + 25 * 3_600_000, "{next} {now}");
    let metrics = serving.get("/metrics");
    for line in [
        "hotbackup_backups_total{target=\"orders\",outcome=\"success\",cause=\"\"} 1",
        "hotbackup_backups_total{target=\"orders\",outcome=\"failure\",cause=\"dest_full\"} 1",
        "hotbackup_target_up{target=\"orders\"} 1",
        "hotbackup_hold_seconds_count{target=\"orders\"} 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line:?} in\n{metrics}");
    }
    assert!(serving.get("/status.json").contains(&dest));
    // The copy that was tried is gone, and the backup is as it was.
    assert!(
        fs::read_dir(house.at("shelf"))
            .expect("there")
            .all(|entry| { !entry.expect("an entry").file_name().to_string_lossy().contains("trial") })
    );
    assert!(house.run(&["verify", "--quiet", &dest]).status.success());
    server.assert_unharmed();
    serving.kill();
    let restored = house.at("restored");
    assert!(house.run(&["restore", "--quiet", path(&house.at("shelf/latest")), path(&restored)]).status.success());
    Mongod::start(&Opts { dbpath: restored, ..Opts::default() }).stop();
}

#[test]
fn a_service_that_is_killed_amid_a_night_is_gone_on_with_by_the_next() {
    let _alone = alone();
    let house = House::new();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["2", "16", "1000"]);
    common::backup::add_ballast(&guest.dir);
    // Nothing is copied with a rate of 0: the backup stands still until that is changed.
    let target = format!("pid = {}\nsource = [{:?}]\nthrottle = \"0\"", guest.pid(), guest.dir);
    let before = house.at("before");
    let nightly = format!(
        "schedule = \"15 2 * * *\"\nbefore = {{ command = [\"sh\", \"-c\", \"echo >> {}\"] }}",
        before.display()
    );
    let first = house.serve(&target, &nightly);
    wait_until("the backup runs", || house.status()["running"]["phase"] == "track");
    let dest = house.status()["running"]["dest"].clone();
    first.kill();
    let second = house.serve(&target, &nightly);
    wait_until("it is followed again", || house.status()["running"]["dest"] == dest);
    let output = house.run(&["throttle", "1GiB"]);
    assert!(output.status.success(), "{output:?}");
    wait_until("the night is over", || house.nights().len() == 2);
    let night = house.nights().remove(1);
    assert_eq!((&night["good"], &night["dest"]), (&true.into(), &dest), "{night}");
    assert!(Path::new(dest.as_str().expect("text")).join(".hotbackup/checked.json").exists(), "it was checked");
    assert!(house.at("shelf/latest").exists());
    assert_eq!(fs::read_to_string(&before).expect("there"), "\n", "the hook before ran once");
    assert_eq!(house.backups().len(), 1, "and no second backup was taken");
    guest.assert_goes_on();
    second.kill();
}

#[test]
fn a_night_whose_server_is_not_there_is_told_by_its_cause() {
    let _alone = alone();
    let house = House::new();
    let target = format!("match = \"dbpath={}\"", house.at("db").display());
    let serving = house.serve(&target, "schedule = \"15 2 * * *\"");
    wait_until("the night is over", || house.nights().len() == 2);
    let night = house.nights().remove(1);
    assert_eq!((&night["good"], &night["cause"]), (&false.into(), &"not_one_process".into()), "{night}");
    assert!(serving.get("/metrics").contains("outcome=\"failure\",cause=\"not_one_process\"} 1"));
    assert_eq!(house.backups(), [""; 0]);
}

#[test]
fn a_night_that_failed_is_tried_again_within_a_bound_and_each_try_is_told() {
    let _alone = alone();
    let house = House::new();
    let target = format!("match = \"dbpath={}\"", house.at("db").display());
    let serving = house.serve(&target, "schedule = \"15 2 * * *\"\nretries = 2\nretry_after = \"1s\"");
    wait_until("the last try is over", || house.nights().len() == 4);
    let time = |value: &Value| value.as_str().expect("a time").parse::<jiff::Timestamp>().expect("a time");
    let nights = house.nights();
    for (night, attempt) in nights[1..].iter().zip(1..) {
        assert_eq!((&night["good"], &night["cause"]), (&false.into(), &"not_one_process".into()), "{night}");
        assert_eq!(night["attempt"].as_u64().unwrap_or(1), attempt, "{night}");
    }
    for (failed, after, seconds) in [(&nights[1], &nights[2], 1), (&nights[2], &nights[3], 2)] {
        let waits = time(&failed["retry"]).duration_since(time(&failed["ended"])).as_millis();
        assert!((1..=seconds * 1000).contains(&waits), "{waits} ms: {failed}");
        assert!(time(&after["begun"]) >= time(&failed["retry"]), "{failed}, then {after}");
    }
    assert!(nights[3]["retry"].is_null(), "that was the last: {}", nights[3]);
    wait_until("the next night is told", || {
        house.status()["next_ms"].is_u64() && house.status()["next_attempt"].is_null()
    });
    let status = house.status();
    assert_eq!(
        (&status["last"]["ok"], &status["last"]["kind"]),
        (&false.into(), &"not_one_process".into()),
        "{status}"
    );
    let text = String::from_utf8(house.run(&["status"]).stdout).expect("text");
    assert!(text.contains("failed") && text.contains("no server has its data in"), "{text}");
    let metrics = serving.get("/metrics");
    for line in [
        "hotbackup_backups_total{target=\"orders\",outcome=\"failure\",cause=\"not_one_process\"} 3",
        "hotbackup_retries_total{target=\"orders\"} 2",
        "hotbackup_retry_pending{target=\"orders\"} 0",
    ] {
        assert!(metrics.lines().any(|found| found == line), "no {line:?} in\n{metrics}");
    }
}

#[test]
fn the_next_service_keeps_to_the_time_of_a_try_and_one_that_succeeds_ends_them() {
    let _alone = alone();
    let house = House::new();
    let guest = Guest::start("rings", Linked::Dynamically, &["1", "16", "1000"]);
    let target = format!("pid = {}\nsource = [{:?}]\nlease = \"20s\"", guest.pid(), guest.dir);
    let ready = house.at("ready");
    let nightly = format!(
        "schedule = \"15 2 * * *\"\nretry_after = \"6h\"\nbefore = {{ command = [\"test\", \"-e\", {ready:?}] }}"
    );
    // The next night is more than six hours away, or this would wait for it: a try later than that is none.
    let hour = jiff::Zoned::now().hour();
    let nightly = nightly.replace("15 2", &format!("15 {}", (hour + 12) % 24));
    let first = house.serve(&target, &nightly);
    wait_until("it has failed", || house.nights().len() == 2);
    let failed = house.nights().remove(1);
    assert_eq!(failed["cause"], "hook_failed", "{failed}");
    let retry: jiff::Timestamp = failed["retry"].as_str().expect("a time").parse().expect("a time");
    let told = || {
        let status = house.status();
        (status["next_ms"].as_i64(), status["next_attempt"].as_u64())
    };
    let expected = (Some(retry.as_millisecond()), Some(2));
    wait_until("it is told when it is tried again", || told() == expected);
    assert!(first.get("/metrics").contains("hotbackup_retry_pending{target=\"orders\"} 1\n"));
    let text = String::from_utf8(house.run(&["status"]).stdout).expect("text");
    assert!(text.contains("try 2 of what failed"), "{text}");
    first.kill();
    let second = house.serve(&target, &nightly);
    wait_until("the next service keeps to it", || told() == expected);
    second.kill();
    // The time has come, and so has what it failed for.
    let history = house.at("state/orders/history");
    let passed = fs::read_to_string(&history).expect("there").replace(&retry.to_string(), "2026-01-02T00:00:00Z");
    fs::write(&history, passed).expect("written");
    fs::write(&ready, "").expect("written");
    let third = house.serve(&target, &nightly);
    wait_until("it has succeeded", || house.nights().len() == 3);
    let good = house.nights().remove(2);
    assert_eq!((&good["good"], &good["attempt"]), (&true.into(), &2.into()), "{good}");
    wait_until("the night after is told", || told().1.is_none() && told().0.is_some());
    assert!(third.get("/metrics").contains("hotbackup_retry_pending{target=\"orders\"} 0\n"));
    assert_eq!(house.backups().len(), 1);
}

#[test]
fn a_night_that_a_person_has_cancelled_is_not_tried_again() {
    let _alone = alone();
    let house = House::new();
    let guest = Guest::start("rings", Linked::Dynamically, &["1", "16", "1000"]);
    // Nothing is copied with a rate of 0: it cannot end by itself.
    let target = format!("pid = {}\nsource = [{:?}]\nthrottle = \"0\"\nlease = \"20s\"", guest.pid(), guest.dir);
    let _serving = house.serve(&target, "schedule = \"15 2 * * *\"\nretry_after = \"1s\"");
    wait_until("the backup runs", || house.status()["running"]["phase"] == "track");
    assert!(house.run(&["cancel"]).status.success());
    wait_until("the night is over", || house.nights().len() == 2);
    let night = house.nights().remove(1);
    assert_eq!((&night["cause"], &night["retry"]), (&"cancelled".into(), &Value::Null), "{night}");
    wait_until("the next night is told", || house.status()["next_ms"].is_u64());
    assert!(house.status()["next_attempt"].is_null());
    assert_eq!(house.backups(), [""; 0]);
}

/// Content that a server finds wrong, and that was so when it was backed up: only a server can tell.
#[test]
fn what_only_a_server_finds_wrong_is_found_by_one() {
    let _alone = alone();
    let house = House::new();
    mongod(&house).stop();
    let largest = fs::read_dir(house.at("db"))
        .expect("there")
        .map(|entry| entry.expect("an entry").path())
        .filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("collection-")))
        .max_by_key(|file| fs::metadata(file).expect("there").len())
        .expect("a collection");
    let guest = Guest::start("rings", Linked::Dynamically, &["1", "16", "1000"]);
    let pid = guest.pid().to_string();
    let (good, bad) = (house.at("good"), house.at("bad"));
    let program = common::mongod::program();
    let back_up =
        |dest: &Path| house.run(&["backup", "--quiet", "--pid", &pid, "--source", path(&house.at("db")), path(dest)]);
    assert!(back_up(&good).status.success());
    let output = house.run(&["verify", "--quiet", path(&good), "--start-with", path(&program)]);
    assert!(output.status.success(), "{output:?}");
    let file = fs::File::options().write(true).open(&largest).expect("there");
    let middle = file.metadata().expect("there").len() / 2;
    file.write_all_at(&[0xa5; 8192], middle / 4096 * 4096).expect("written");
    drop(file);
    assert!(back_up(&bad).status.success());
    assert!(house.run(&["verify", "--quiet", path(&bad)]).status.success(), "it is what its manifest says");
    let output = house.run(&["verify", "--json", path(&bad), "--start-with", path(&program)]);
    assert_eq!(output.status.code(), Some(52), "{output:?}");
    let left: Vec<_> =
        fs::read_dir(house.scratch.path()).expect("there").map(|e| e.expect("an entry").file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("trial")), "{left:?}");
}

#[test]
fn a_server_that_cannot_be_started_is_named() {
    let _alone = alone();
    let house = House::new();
    let guest = Guest::start("rings", Linked::Dynamically, &["1", "16", "1000"]);
    let dest = house.at("backup");
    let output =
        house.run(&["backup", "--quiet", "--pid", &guest.pid().to_string(), "--source", path(&guest.dir), path(&dest)]);
    assert!(output.status.success(), "{output:?}");
    let output = house.run(&["verify", path(&dest), "--start-with", "/no/such/mongod"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("/no/such/mongod") && said.contains("name a mongod"), "{said}");
}
