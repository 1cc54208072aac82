//! The service's life under systemd: whatever becomes of it, of its package or of mongod, backups that run go on, and mongod runs on.
use std::process::Child;
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::boot::Machine;
use crate::common::backup::{alone, seed};
use crate::common::load::{self, Load};
use crate::common::{mongod, package};
use crate::house::{
    assert_no_complaints, backups, bring, deb, history, latest, let_night_fall, morning, name, set_up, status,
};

/// What owners of a mongod harden its unit with: a seccomp filter, and mounts of its own. The document says which call it must allow.
const HARDENED: &str = "\
[Service]
NoNewPrivileges=yes
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
SystemCallFilter=seccomp
SystemCallArchitectures=native
ProtectSystem=strict
ReadWritePaths=/var/lib/mongodb /var/log/mongodb /tmp
ProtectHome=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
ProtectProc=invisible
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
CapabilityBoundingSet=
";

/// The keepers of mongod, as the machine numbers them: they stand in its cgroup.
fn keepers(machine: &Machine) -> Vec<String> {
    let script = "for pid in $(cat /sys/fs/cgroup/system.slice/mongod.service/cgroup.procs); do
            tr '\\0' ' ' </proc/$pid/cmdline | sed \"s/.*/$pid &\\n/\" || true
        done";
    let said = machine.run(script);
    let is_one = |line: &&str| line.split(' ').nth(1) == Some("hotbackup-keep");
    let mut found: Vec<String> = said.lines().filter(is_one).map(str::to_owned).collect();
    found.sort();
    found
}

/// A night whose backup stands still: nothing is copied at a rate of 0. The process that takes it, and where it is to appear.
fn begin_night(machine: &Machine) -> (Value, String) {
    machine.run("hotbackup throttle 0");
    let_night_fall(machine);
    machine.wait_until("the backup copies", || status(machine)["running"]["phase"] == "track");
    let running = status(machine)["running"].clone();
    let dest = running["dest"].as_str().expect("text").to_owned();
    (running["supervisor"].clone(), dest.rsplit('/').next().expect("a name").to_owned())
}

/// Fails unless that backup still runs, and nothing can be taken for it yet.
fn assert_stands(machine: &Machine, supervisor: &Value, its: &str) {
    machine.wait_until("the service follows the backup", || status(machine)["running"]["supervisor"] == *supervisor);
    assert!(!backups(machine).contains(&its.to_owned()), "{its} is there by half");
    assert_ne!(latest(machine), its);
}

/// Lets it go on; it must be good.
fn end_night(machine: &Machine, number: usize, its: &str) {
    machine.run("hotbackup throttle none");
    let night = morning(machine, number);
    assert_eq!((name(&night), latest(machine)), (its.to_owned(), its.to_owned()));
    machine.run(&format!("hotbackup verify --quiet /var/backups/mongodb/{its}"));
}

/// Waits until another process is the service than this one, and serves.
fn wait_for_another(machine: &Machine, than: i32) {
    machine.wait_until("the service is there again", || {
        machine.main_pid("hotbackup") != than && machine.show("hotbackup", "ActiveState") == "active"
    });
}

/// A backup by hand that stands still, until it is cancelled.
fn start_by_hand(machine: &Machine) -> Child {
    let script = "exec hotbackup backup --quiet --throttle 0 --unit mongod /var/backups/by-hand";
    machine.command(script).spawn().expect("sh starts")
}

fn runs_by_hand(machine: &Machine) -> bool {
    let said = machine.run("hotbackup status --json");
    let status: Value = serde_json::from_str(said.lines().last().unwrap_or_default()).expect("JSON");
    let all = status["targets"].as_array().expect("targets");
    all.iter().any(|it| it["service"] == false && it["running"]["phase"] == "track")
}

#[test]
fn restarts_a_hang_an_upgrade_and_a_removal_leave_backups_and_mongod_unharmed() {
    let _alone = alone();
    let machine = set_up();
    let (server, kept) = (machine.main_pid("mongod"), keepers(&machine));
    assert_eq!(kept.len(), 2, "{kept:?}");
    let mut load = Load::start(&machine.uri(27017), seed());

    // By hand: steered through a socket in the service's runtime directory, which outlives the service.
    let mut by_hand = start_by_hand(&machine);
    machine.wait_until("the backup by hand copies", || runs_by_hand(&machine));
    machine.run("systemctl restart hotbackup");
    assert!(runs_by_hand(&machine), "it can no longer be found");
    machine.run("hotbackup cancel --pid $(systemctl show --property=MainPID --value mongod)");
    assert_eq!(by_hand.wait().expect("ours").code(), Some(130));
    machine.run("[ ! -e /var/backups/by-hand ]");

    // A restart, and a hang that the watchdog finds, while a backup runs. With the document's minute it would take one.
    let drop_in = "/run/systemd/system/hotbackup.service.d";
    machine.run(&format!(
        "mkdir -p {drop_in}; printf '[Service]\\nWatchdogSec=3\\nRestartSec=100ms\\n' >{drop_in}/soon.conf; systemctl daemon-reload"
    ));
    let (supervisor, its) = begin_night(&machine);
    load.wait_for(50);
    let first = machine.main_pid("hotbackup");
    machine.run("systemctl restart hotbackup");
    wait_for_another(&machine, first);
    assert_stands(&machine, &supervisor, &its);
    let second = machine.main_pid("hotbackup");
    machine.run(&format!("kill -STOP {second}"));
    wait_for_another(&machine, second);
    assert_ne!(machine.show("hotbackup", "NRestarts"), "0", "systemd has not started it again");
    assert_stands(&machine, &supervisor, &its);
    load.wait_for(50);
    machine.run(&format!("rm {drop_in}/soon.conf; systemctl daemon-reload; systemctl restart hotbackup"));
    end_night(&machine, 1, &its);

    // An upgrade, while a backup runs.
    let (supervisor, its) = begin_night(&machine);
    let before = machine.main_pid("hotbackup");
    let newer = package::as_version(deb(), "0.1.0-2", deb().parent().expect("a directory"));
    bring(&machine, &newer, "0.1.0-2");
    machine.run("dpkg -i hotbackup_0.1.0-2_amd64.deb");
    assert_eq!(machine.run("dpkg-query --show --showformat='${Version}' hotbackup"), "0.1.0-2");
    wait_for_another(&machine, before);
    assert_stands(&machine, &supervisor, &its);
    end_night(&machine, 2, &its);
    load.wait_for(50);
    load.end_schema_changes();
    load.stop();
    assert_eq!((machine.main_pid("mongod"), keepers(&machine)), (server, kept), "mongod and its keepers went on");
    assert_no_complaints(&machine);

    // mongod's own restart, in a hardened unit, which keepers must not hold up: systemd would kill them after 90 s.
    let unit = machine.path("/etc/systemd/system/mongod.service.d");
    std::fs::create_dir(&unit).expect("made");
    std::fs::write(unit.join("hardened.conf"), HARDENED).expect("written");
    machine.run("systemctl daemon-reload");
    let began = Instant::now();
    machine.run("systemctl restart mongod");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    let server = machine.main_pid("mongod");
    machine.wait_until("mongod answers", || {
        std::os::unix::net::UnixStream::connect(machine.path("/tmp/mongodb-27017.sock")).is_ok()
    });
    machine.wait_until("the service finds it again", || status(&machine)["process"] == server);
    machine.run("hotbackup check --unit mongod");
    let_night_fall(&machine);
    let newest = name(&morning(&machine, 3));
    assert_eq!((history(&machine).len(), latest(&machine)), (3, newest));

    // Removed, and purged: what is mongod's, and the backups, stay.
    let (there, kept) = (backups(&machine), keepers(&machine));
    assert_eq!(kept.len(), 2, "{kept:?}");
    for (how, stay) in [("--remove", "-e"), ("--purge", "! -e")] {
        machine.run(&format!(
            "dpkg {how} hotbackup; [ {stay} /etc/hotbackup/hotbackup.toml ]; [ {stay} /var/lib/hotbackup/main ]"
        ));
        assert!(!machine.output("systemctl is-active hotbackup").status.success(), "it runs after {how}");
        machine.run("[ ! -e /usr/bin/hotbackup ]; [ ! -e /run/hotbackup ]");
        assert_eq!((machine.main_pid("mongod"), keepers(&machine)), (server, kept.clone()));
        let client = mongod::client(&machine.uri(27017));
        let stock = client.database(load::DATABASE).collection::<Document>("after");
        stock.insert_one(doc! {"how": how}).run().expect("mongod takes writes");
    }
    assert_eq!(backups(&machine), there);
    machine.run("systemctl stop mongod");
    let left = machine.run("cat /proc/[0-9]*/comm");
    assert!(!left.contains("hotbackup"), "something stayed when mongod has ended:\n{left}");
    assert_no_complaints(&machine);
}
