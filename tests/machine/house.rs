//! A machine that its owner has set up as docs/operations.md says, and its nights.
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::boot::Machine;
use crate::common::package;
use crate::document::commands;

pub const DOCUMENT: &str = "docs/operations.md";
/// Where that has the backups.
const SHELF: &str = "/var/backups/mongodb";
/// When that has them taken: at quarter past two.
const DUE: i64 = (2 * 60 + 15) * 60;

/// The package, built once for all tests of this program.
pub fn deb() -> &'static Path {
    static DEB: OnceLock<PathBuf> = OnceLock::new();
    DEB.get_or_init(|| {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("machine-package");
        fs::create_dir_all(&directory).expect("made");
        package::package("0.1.0-1", &directory)
    })
}

/// Puts a package where the reader of the document is.
pub fn bring(machine: &Machine, deb: &Path, version: &str) {
    fs::copy(deb, machine.path(&format!("/root/hotbackup_{version}_amd64.deb"))).expect("copied");
}

/// A new machine, and all that the document has its reader do until the first night.
pub fn set_up() -> Machine {
    let deb = deb();
    let machine = Machine::boot();
    crate::common::load::fill(&machine.uri(27017), 4);
    bring(&machine, deb, "0.1.0-1");
    let blocks = commands(DOCUMENT, "## From a new machine to a backup every night");
    for (number, block) in blocks.iter().enumerate() {
        println!("{block}\n{}", machine.run(block));
        if number == 0 {
            // Installed, and not yet told what to do: no failure that somebody would have to look at.
            let said = ["ActiveState", "Result", "UnitFileState"].map(|property| machine.show("hotbackup", property));
            assert_eq!(said, ["inactive", "exec-condition", "enabled"], "{}", machine.journal());
        }
    }
    assert_eq!(machine.show("hotbackup", "ActiveState"), "active");
    machine
}

/// What `hotbackup status` says of the target.
pub fn status(machine: &Machine) -> Value {
    let said = machine.run("hotbackup status --json");
    let status: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).expect("JSON");
    status["targets"].as_array().and_then(|all| all.iter().find(|it| it["target"] == "main")).expect("main").clone()
}

/// The nights that are over.
pub fn history(machine: &Machine) -> Vec<Value> {
    let text = fs::read_to_string(machine.path("/var/lib/hotbackup/main/history")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The backups that are there, oldest first.
pub fn backups(machine: &Machine) -> Vec<String> {
    let entries = fs::read_dir(machine.path(SHELF)).expect("there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with('Z') && !name.starts_with('.'));
    names.sort();
    names
}

/// What `latest` leads to.
pub fn latest(machine: &Machine) -> String {
    let to = fs::read_link(machine.path(&format!("{SHELF}/latest"))).expect("a link");
    to.to_string_lossy().into_owned()
}

/// The point in time of a backup, in nanoseconds, as `hotbackup list` has it.
pub fn listed(machine: &Machine, name: &str) -> Value {
    let said = machine.run(&format!("hotbackup list --json {SHELF}"));
    let result: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).expect("JSON");
    let all = result["backups"].as_array().unwrap_or_else(|| panic!("{result}"));
    all.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("no {name} in {result}")).clone()
}

/// Has it become quarter past two: by the zone of the machine, as the clock is everybody's. The service, which knows the zone from when it
/// was started, is started anew. Returns when the night has begun, or is about to.
pub fn let_night_fall(machine: &Machine) {
    let over = history(machine).len();
    let mut margin = 2;
    loop {
        machine.set_time_of_day(DUE, margin);
        machine.run("systemctl restart hotbackup");
        let mut has_come = None;
        machine.wait_until("the service knows when the next night is due", || {
            let next = status(machine)["next_ms"].as_i64();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("past 1970").as_millis() as i64;
            // Asked in this order, as the next one is known only after this one is noted.
            has_come = next.map(|next| next < now + 60_000 || history(machine).len() > over);
            has_come.is_some()
        });
        if has_come == Some(true) {
            return;
        }
        // A machine so busy that the moment has passed before the service was there, which has had no night yet: so none was missed.
        margin *= 2;
    }
}

/// The night that is over, once it is.
pub fn morning(machine: &Machine, number: usize) -> Value {
    machine.wait_until(&format!("night {number} is over"), || history(machine).len() >= number);
    let night = history(machine).remove(number - 1);
    assert_eq!((&night["good"], &night["message"]), (&true.into(), &Value::Null), "{night}\n{}", machine.journal());
    assert_eq!(night["warnings"], Value::Null, "{night}");
    night
}

/// The name of a night's backup.
pub fn name(night: &Value) -> String {
    let dest = night["dest"].as_str().expect("text");
    dest.strip_prefix(SHELF).and_then(|rest| rest.strip_prefix('/')).expect("on the shelf").to_owned()
}

/// Fails if mongod has written an error into its log.
pub fn assert_no_complaints(machine: &Machine) {
    let log = fs::read_to_string(machine.path("/var/log/mongodb/mongod.log")).expect("there");
    let complaints: Vec<&str> =
        log.lines().filter(|line| line.contains(r#""s":"E""#) || line.contains(r#""s":"F""#)).collect();
    assert!(complaints.is_empty(), "mongod complains: {complaints:#?}");
}
