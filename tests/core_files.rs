//! The kernel as a writer: a process that carries the target's filter dies, and its core file falls into the source, where
//! no call shows it. It is in the backup, or the backup fails and names it. (What else the kernel writes:
//! `kernel_writers.rs`.)
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use hotbackup_copier::{Error, Phase, Point, Report, Tuning};
use nix::libc::{O_CREAT, O_RDWR};
use std::sync::Mutex;

mod common {
    pub mod backup;
    pub mod core_pattern;
    pub mod driver;
    pub mod guest;
    pub mod moment;
    pub mod snapshot;
}
use common::backup::{HOTBACKUP, scratch, verify};
use common::core_pattern::CorePattern;
use common::driver::Driver;
use common::guest::Linked;
use common::moment::{Failure, How, MOMENTS, Moment, back_up, back_up_as};
use common::snapshot::Snapshot;

/// When the core falls: before anything is copied, and at each moment about the point in time.
#[derive(Debug, Clone, Copy)]
enum When {
    BeforeCopying,
    At(Moment),
}

impl When {
    fn all() -> Vec<Self> {
        std::iter::once(Self::BeforeCopying).chain(MOMENTS.map(Self::At)).collect()
    }

    fn is_before_the_point(self) -> bool {
        match self {
            Self::BeforeCopying => true,
            Self::At(moment) => moment.is_before(),
        }
    }

    fn back_up(self, pid: i32, source: &Path, dest: &Path, change: impl FnOnce() + Send) -> Result<Report, Failure> {
        match self {
            Self::At(moment) => back_up(pid, source, dest, moment, change),
            Self::BeforeCopying => {
                let change = Mutex::new(Some(change));
                let how = How { point: Point::End, tuning: Tuning::default(), rate: None, at_sites: false };
                back_up_as(pid, source, dest, how, |phase| {
                    if phase == Phase::Track
                        && let Some(change) = change.lock().expect("one thread").take()
                    {
                        change();
                    }
                })
            }
        }
    }
}

/// Whether calls of the target change the directories into which the core falls, before and after it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directory {
    /// Then its change time tells.
    Quiet,
    /// Then it proves nothing.
    Busy,
}

/// Where a core falls.
struct Case {
    /// As in core(5); `DATA` is the source.
    pattern: &'static str,
    who: &'static str,
    /// Where it dies, from beside the source.
    cwd: &'static str,
    /// The directory it falls into.
    into: &'static str,
}

const CASES: [Case; 6] = [
    Case { pattern: "core", who: "child", cwd: "data", into: "data" },
    Case { pattern: "core.%e.%s", who: "sibling", cwd: "data/sub", into: "data/sub" },
    Case { pattern: "DATA/sub/core.%p", who: "orphan", cwd: "outside", into: "data/sub" },
    Case { pattern: "sub/core.%p", who: "thread", cwd: "data", into: "data/sub" },
    Case { pattern: "../core.%p", who: "child", cwd: "data/sub", into: "data" },
    // Over one that is there.
    Case { pattern: "old.%s", who: "thread", cwd: "data", into: "data" },
];

struct Bench {
    guest: Driver,
    base: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let base = scratch();
        for name in ["data", "data/sub", "outside"] {
            fs::create_dir(base.path().join(name)).expect("made");
        }
        // What it is called if it is one of SIGILL.
        for name in ["data/file", "data/sub/file", "data/old.4"] {
            fs::write(base.path().join(name), vec![b'o'; 100_000]).expect("written");
        }
        let guest = Driver::start(&base.path().join("data"), Linked::Dynamically);
        Self { guest, base }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.base.path().join(name)
    }

    /// An ordinary change by a call in each directory.
    fn change(&mut self, name: &str) {
        for dir in ["data", "data/sub"] {
            let path = self.at(dir).join(name);
            self.guest.open(&path, O_RDWR | O_CREAT);
        }
    }
}

/// What is in a directory, and which file that is: one in another's place has another time of birth.
fn listed(dir: &Path) -> BTreeSet<(OsString, std::time::SystemTime, u64)> {
    let entries = fs::read_dir(dir).expect("readable").map(|entry| {
        let entry = entry.expect("readable");
        let data = entry.metadata().expect("it is there");
        (entry.file_name(), data.created().expect("births are kept"), data.len())
    });
    entries.collect()
}

/// Has a core fall, and takes a backup; says whether it succeeded.
fn fall(case: &Case, directory: Directory, when: When) -> bool {
    let mut bench = Bench::new();
    let (pid, data, dest) = (bench.guest.pid(), bench.at("data"), bench.at("backup"));
    let (cwd, into) = (bench.at(case.cwd), bench.at(case.into));
    let _pattern = CorePattern::set(&case.pattern.replace("DATA", data.to_str().expect("a plain name")));
    let mut seen = None;
    let result = when.back_up(pid, &data, &dest, || {
        let before = Snapshot::of(&data);
        if directory == Directory::Busy {
            bench.change("ordinary before it");
        }
        let listed_before = listed(&into);
        bench.guest.dump(case.who, &cwd);
        let core: Vec<_> = listed(&into).difference(&listed_before).map(|(name, ..)| into.join(name)).collect();
        if directory == Directory::Busy {
            bench.change("ordinary after it");
        }
        seen = Some((core, before, Snapshot::of(&data)));
    });
    bench.guest.assert_alive();
    let what = format!("{} by a {} in a {directory:?} directory, {when:?}", case.pattern, case.who);
    let Some((core, before, after)) = seen else { panic!("{what}: failed too soon: {:?}", result.err()) };
    let [core] = &core[..] else { panic!("{what}: no core fell: {core:?}") };
    assert!(core.metadata().is_ok_and(|data| data.len() > 1000), "{what}: {core:?} is empty");
    match result {
        Ok(report) => {
            let expected = if when.is_before_the_point() { after } else { before };
            let differences = expected.differences(&Snapshot::of(&dest));
            assert!(differences.is_empty(), "{what}: the backup is wrong:\n{}\n{report:?}", differences.join("\n"));
            verify(&dest);
            true
        }
        Err(Failure(Error::ForeignChange { path, .. })) => {
            // A quiet directory is named itself.
            let named = if directory == Directory::Quiet { vec![core, &into] } else { vec![core] };
            assert!(named.contains(&&path), "{what}: {path:?} is named, not {core:?}");
            assert!(!dest.exists(), "{what}: a failed backup left {dest:?}");
            false
        }
        Err(failure) => panic!("{what}: {}", failure.0),
    }
}

fn falls_into(directory: Directory) {
    for case in CASES {
        for when in When::all() {
            let succeeded = fall(&case, directory, when);
            // One that is there before anything is looked at is a file like others.
            assert!(succeeded || !matches!(when, When::BeforeCopying), "{} {directory:?}", case.pattern);
        }
    }
}

#[test]
fn a_core_that_falls_into_a_quiet_directory_is_in_the_backup_or_fails_it() {
    falls_into(Directory::Quiet);
}

#[test]
fn a_core_that_falls_into_a_directory_changed_all_the_time_is_in_the_backup_or_fails_it() {
    falls_into(Directory::Busy);
}

#[test]
fn a_core_that_falls_beside_the_source_does_not_matter() {
    let case = Case { pattern: "core.%p", who: "child", cwd: "outside", into: "outside" };
    for when in When::all() {
        assert!(fall(&case, Directory::Busy, when), "{when:?}");
    }
}

/// `check` says where a core would fall.
#[test]
fn check_tells_that_a_core_would_fall_into_the_source() {
    let bench = Bench::new();
    let said = |more: &[&str]| {
        let limited = std::process::Command::new("prlimit")
            .args(["--pid", &bench.guest.pid().to_string()])
            .args(more)
            .status()
            .expect("prlimit starts");
        assert!(limited.success());
        let output = std::process::Command::new(HOTBACKUP)
            .args(["check", "--json", "--pid", &bench.guest.pid().to_string(), "--source"])
            .arg(bench.at("data"))
            .output()
            .expect("it starts");
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let items = report["items"].as_array().expect("items");
        let item = items.iter().find(|item| item["name"] == "core files").unwrap_or_else(|| panic!("{report:#}"));
        assert_eq!(item["ok"], true);
        item["detail"].as_str().expect("text").to_owned()
    };
    let (none, some) = (["--core=0:unlimited"], ["--core=unlimited"]);
    let data = bench.at("data").display().to_string();
    let patterns: [(&str, &[&str], Option<String>); 6] = [
        ("core.%p", &none, None),
        ("core.%p", &some, Some(data.clone())),
        ("sub/core.%p", &some, Some(format!("{data}/sub"))),
        ("|/bin/cat", &some, None),
        ("DATA/sub/%e", &some, Some(format!("{data}/sub"))),
        ("/tmp/%e", &some, None),
    ];
    for (pattern, limit, expected) in patterns {
        let _pattern = CorePattern::set(&pattern.replace("DATA", &data));
        let said = said(limit);
        match expected {
            Some(dir) => assert!(said.contains(&format!("{dir},")), "{pattern}: {said}"),
            None => assert!(said.starts_with("none would fall"), "{pattern}: {said}"),
        }
    }
}
