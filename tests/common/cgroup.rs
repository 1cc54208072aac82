//! Control groups of a test's own, on whatever hierarchy the machine has mounted.
// Each test binary uses its own part of this module.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::process::wait_until;

/// A group, removed when dropped; what is in it then goes to the one above.
pub struct Cgroup {
    dir: PathBuf,
    is_unified: bool,
}

/// Where a hierarchy is mounted: of version 1 the one with this controller, else version 2.
fn mount(controller: Option<&str>) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is there");
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let is_it = |words: &[&str]| match controller {
        Some(name) => words[2] == "cgroup" && words[3].split(',').any(|option| option == name),
        None => words[2] == "cgroup2",
    };
    lines.find(|words| is_it(words)).map(|words| PathBuf::from(words[1]))
}

impl Cgroup {
    fn below(top: &Path, is_unified: bool) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = top.join(format!("hotbackup-test-{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("{dir:?}: {error} (these tests need root)"));
        Self { dir, is_unified }
    }

    /// A group with limits of this controller, of whichever version has it.
    pub fn with(controller: &str) -> Self {
        if let Some(top) = mount(Some(controller)) {
            return Self::below(&top, false);
        }
        let top = mount(None).expect("a cgroup file system is mounted on /sys/fs/cgroup");
        fs::write(top.join("cgroup.subtree_control"), format!("+{controller}")).expect("these tests need root");
        Self::below(&top, true)
    }

    /// One for every way that a machine may freeze processes: version 1's freezer, and version 2.
    pub fn freezers() -> Vec<Self> {
        let first = mount(Some("freezer")).map(|top| Self::below(&top, false));
        let second = mount(None).map(|top| Self::below(&top, true));
        let all: Vec<Self> = first.into_iter().chain(second).collect();
        assert!(!all.is_empty(), "no cgroup file system is mounted: mount one on /sys/fs/cgroup");
        all
    }

    /// A group below this one.
    pub fn child(&self) -> Self {
        Self::below(&self.dir, self.is_unified)
    }

    /// Whether it is of version 2.
    pub fn is_unified(&self) -> bool {
        self.is_unified
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Moves a process into it.
    pub fn take_in(&self, pid: i32) {
        self.set("cgroup.procs", &pid.to_string());
    }

    /// Writes one of its files.
    pub fn set(&self, file: &str, value: &str) {
        let file = self.dir.join(file);
        fs::write(&file, value).unwrap_or_else(|error| panic!("{value} > {file:?}: {error}"));
    }

    /// Reads one of its files.
    pub fn get(&self, file: &str) -> String {
        let file = self.dir.join(file);
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}")).trim().to_owned()
    }

    /// A file of its that holds a number.
    pub fn number(&self, file: &str) -> u64 {
        self.get(file).parse().expect("a number")
    }

    /// Freezes all that is in it, and waits until it is. A keeper that is frozen between a call and its answer keeps the
    /// calling thread from being frozen: then all are let go and it is tried again, as container runtimes do.
    pub fn freeze(&self) {
        const LOOKS: u32 = 50;
        let (file, value) = if self.is_unified { ("cgroup.freeze", "1") } else { ("freezer.state", "FROZEN") };
        let is_frozen = || match self.is_unified {
            true => self.get("cgroup.events").contains("frozen 1"),
            false => self.get("freezer.state") == "FROZEN",
        };
        let mut looks = 0;
        wait_until("the group to be frozen", || {
            if looks % LOOKS == 0 {
                self.thaw();
                self.set(file, value);
            }
            looks += 1;
            is_frozen()
        });
    }

    /// Lets all go on.
    pub fn thaw(&self) {
        if self.is_unified {
            self.set("cgroup.freeze", "0");
        } else {
            self.set("freezer.state", "THAWED");
        }
    }

    /// The processes in it.
    pub fn processes(&self) -> Vec<i32> {
        self.get("cgroup.procs").lines().map(|line| line.parse().expect("a number")).collect()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.dir.join("cgroup.freeze").exists() || self.dir.join("freezer.state").exists() {
            self.thaw();
        }
        let above = self.dir.parent().expect("it is below another").join("cgroup.procs");
        wait_until("the cgroup's end", || {
            let inside = fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default();
            for pid in inside.lines() {
                let _ = fs::write(&above, pid);
            }
            fs::remove_dir(&self.dir).is_ok()
        });
    }
}
