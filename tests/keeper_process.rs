//! What the keepers are as processes: bystanders on the operator's machine that cost next to nothing and that nobody ends by
//! accident.
#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use nix::unistd::{Pid, getsid};

mod common {
    pub mod backup;
    pub mod guest;
    pub mod process;
}
use common::backup::alone;
use common::guest::{Guest, Linked};
use common::process::{assert_keepers_end, back_up, may_exceed_limits, pair, status, wait_until};

fn read(pid: i32, file: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_else(|error| panic!("/proc/{pid}/{file}: {error}"))
}

/// A size in a process's status, in KiB.
fn kibibytes(pid: i32, field: &str) -> u64 {
    let size = status(pid, field).expect("it lives");
    size.strip_suffix(" kB").expect("a size").parse().expect("a number")
}

/// A cgroup of its own with the guest in it, removed when dropped.
struct Cgroup(Vec<PathBuf>);

impl Cgroup {
    /// One on each hierarchy that the machine has mounted: version 1's freezer and pids, and version 2.
    fn around(guest: &Guest) -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is there");
        let mut made = Self(Vec::new());
        for mount in mounts.lines() {
            let words: Vec<_> = mount.split(' ').collect();
            let wanted = match words[2] {
                "cgroup" => ["freezer", "pids"].iter().any(|controller| words[3].split(',').any(|o| o == *controller)),
                "cgroup2" => true,
                _ => false,
            };
            if wanted {
                let directory = PathBuf::from(words[1]).join(format!("hotbackup-test-{}", guest.pid()));
                fs::create_dir(&directory).expect("these tests need root");
                made.0.push(directory.clone());
                fs::write(directory.join("cgroup.procs"), guest.pid().to_string()).expect("the guest can be moved");
            }
        }
        assert!(!made.0.is_empty(), "no cgroup file system is mounted: mount one on /sys/fs/cgroup");
        made
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for directory in &self.0 {
            let _ = fs::remove_dir(directory);
        }
    }
}

/// What must be true of a keeper at any time.
fn assert_keeper_is_a_good_bystander(keeper: i32, target: &Guest) {
    assert_eq!(read(keeper, "comm").trim(), "hotbackup-keep", "its name");
    assert_eq!(getsid(Some(Pid::from_raw(keeper))), Ok(Pid::from_raw(keeper)), "a session of its own");
    assert_eq!(read(keeper, "cgroup"), read(target.pid(), "cgroup"), "the target's cgroups");
    // Without CAP_SYS_RESOURCE nobody may lower it: then it stays as it is.
    let score = if may_exceed_limits() { "-1000" } else { "0" };
    assert_eq!(read(keeper, "oom_score_adj").trim(), score, "spared by the OOM killer");
    let locked = status(keeper, "VmLck").expect("it lives");
    assert_ne!(locked, "0 kB", "its memory is locked");
    let ignored = u64::from_str_radix(&status(keeper, "SigIgn").expect("it lives"), 16).expect("a mask");
    for (name, number) in [("HUP", 1), ("INT", 2), ("QUIT", 3), ("USR1", 10), ("USR2", 12), ("PIPE", 13), ("TERM", 15)]
    {
        assert!(ignored & 1 << (number - 1) != 0, "it does not ignore SIG{name}: {ignored:x}");
    }
    let resident = kibibytes(keeper, "VmRSS");
    assert!(resident <= 1280, "keeper {keeper} has {resident} KiB in memory");
    let own = kibibytes(keeper, "RssAnon");
    assert!(own <= 256, "keeper {keeper} has {own} KiB for itself");
    assert_eq!(status(keeper, "Threads").as_deref(), Some("1"), "threads");
    assert_eq!(
        fs::read_link(format!("/proc/{keeper}/cwd")).expect("it lives"),
        PathBuf::from("/"),
        "no directory is kept busy"
    );
}

#[test]
fn both_keepers_are_good_bystanders_after_a_backup_and_after_a_thousand_calls() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "32", "100"]);
    let _cgroup = Cgroup::around(&guest);
    back_up(&mut guest, 4, "first");
    let before = pair(guest.pid());
    for &keeper in &before {
        assert_keeper_is_a_good_bystander(keeper, &guest);
    }
    let answered = || {
        let output = Command::new(common::backup::HOTBACKUP)
            .args(["rescue", "--json", "--pid", &guest.pid().to_string()])
            .output()
            .expect("it starts");
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        said["answered"].as_u64().expect("a number")
    };
    let so_far = answered();
    wait_until("a thousand answers", || answered() > so_far + 1000);
    assert_eq!(pair(guest.pid()), before, "a keeper was replaced");
    for &keeper in &before {
        assert_keeper_is_a_good_bystander(keeper, &guest);
    }
    guest.assert_goes_on();
    // A twin that had to take over is one as well, and so is the one that it makes.
    nix::sys::signal::kill(Pid::from_raw(before[0]), nix::sys::signal::Signal::SIGKILL).expect("the keeper lives");
    wait_until("another pair", || {
        let now = pair(guest.pid());
        now != before && now.len() == 2
    });
    guest.assert_goes_on();
    for keeper in pair(guest.pid()) {
        wait_until("its memory to be locked", || status(keeper, "VmLck").is_some_and(|locked| locked != "0 kB"));
        assert_keeper_is_a_good_bystander(keeper, &guest);
    }
    guest.kill();
    assert_keepers_end(guest.pid());
}
