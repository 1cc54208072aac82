//! The cgroups of a container, or of a process that is put into some: in each hierarchy that the machine has mounted.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::process::wait_until;

/// A mounted hierarchy.
#[derive(Debug, Clone)]
struct Hierarchy {
    mount: PathBuf,
    /// Version 1: its controllers, as /proc/PID/cgroup has them. Version 2: empty.
    controllers: String,
}

/// Version 1's freezer, or version 2's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freezer {
    /// A hierarchy of its own.
    Version1,
    /// A file of each cgroup.
    Version2,
}

impl Freezer {
    /// Those that this machine has.
    pub fn all() -> Vec<Self> {
        let found = hierarchies();
        let has = |controllers: &str| found.iter().any(|hierarchy| hierarchy.controllers == controllers);
        let mut all = Vec::new();
        if has("freezer") {
            all.push(Self::Version1);
        }
        if has("") {
            all.push(Self::Version2);
        }
        assert!(!all.is_empty(), "no cgroup hierarchy with a freezer is mounted: mount one on /sys/fs/cgroup");
        all
    }
}

fn hierarchies() -> Vec<Hierarchy> {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is there");
    let groups = fs::read_to_string("/proc/self/cgroup").expect("/proc is there");
    let mut found = Vec::new();
    for line in groups.lines() {
        let controllers = line.split(':').nth(1).expect("a line of cgroups(7)");
        let is_of = |fields: &[&str]| match controllers {
            "" => fields[2] == "cgroup2",
            names => fields[2] == "cgroup" && names.split(',').all(|name| fields[3].split(',').any(|it| it == name)),
        };
        let mount = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|fields| is_of(fields));
        if let Some(fields) = mount {
            found.push(Hierarchy { mount: fields[1].into(), controllers: controllers.to_owned() });
        }
    }
    assert!(!found.is_empty(), "no cgroup file system is mounted: mount one on /sys/fs/cgroup");
    found
}

/// One cgroup in all hierarchies, thawed, emptied by force and removed when dropped.
#[derive(Debug)]
pub struct Group {
    name: String,
    places: Vec<(String, PathBuf)>,
}

impl Group {
    /// That of this name, which need not be there yet.
    pub fn named(name: &str) -> Self {
        let place = |hierarchy: Hierarchy| (hierarchy.controllers, hierarchy.mount.join(name.trim_start_matches('/')));
        Self { name: name.to_owned(), places: hierarchies().into_iter().map(place).collect() }
    }

    /// Makes it in each hierarchy, and puts a process into it.
    pub fn around(name: &str, pid: i32) -> Self {
        let group = Self::named(name);
        for (controllers, place) in &group.places {
            // Version 1's cpuset takes nobody without settings of its own, and nothing here needs it.
            if controllers == "cpuset" {
                continue;
            }
            fs::create_dir_all(place).expect("these tests need root");
            fs::write(place.join("cgroup.procs"), pid.to_string()).expect("the process can be moved");
        }
        group
    }

    /// Its name, below each mount.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes it where it is not there, with the controllers that tests set limits of.
    pub fn make(&self) {
        for (controllers, place) in &self.places {
            fs::create_dir_all(place).expect("these tests need root");
            if controllers.is_empty() {
                let parent = place.parent().expect("below a mount");
                for directory in [parent, place] {
                    for controller in ["+pids", "+memory"] {
                        // Not there where version 1 has it.
                        let _ = fs::write(directory.join("cgroup.subtree_control"), controller);
                    }
                }
            }
        }
    }

    /// The files by which a process joins it, in each hierarchy that takes anybody.
    pub fn doors(&self) -> Vec<PathBuf> {
        let takes_anybody = |(controllers, _): &&(String, PathBuf)| controllers != "cpuset";
        self.places.iter().filter(takes_anybody).map(|(_, place)| place.join("cgroup.procs")).collect()
    }

    fn with(&self, controller: &str) -> &Path {
        let version1 = self.places.iter().find(|(names, _)| names.split(',').any(|name| name == controller));
        let found = version1.or_else(|| self.places.iter().find(|(names, _)| names.is_empty()));
        &found.unwrap_or_else(|| panic!("no hierarchy has the controller {controller}")).1
    }

    /// Sets the most tasks that it may hold.
    pub fn set_most_tasks(&self, most: &str) {
        fs::write(self.with("pids").join("pids.max"), most).expect("the cgroup has a limit of tasks");
    }

    /// Tasks in it and below.
    pub fn tasks(&self) -> u64 {
        let text = fs::read_to_string(self.with("pids").join("pids.current")).expect("the cgroup counts tasks");
        text.trim().parse().expect("a number")
    }

    /// How often the OOM killer has killed in it.
    pub fn killed_for_memory(&self) -> u64 {
        let place = self.with("memory");
        let read = |file: &str| fs::read_to_string(place.join(file)).ok();
        let text = read("memory.oom_control").or_else(|| read("memory.events")).expect("the cgroup counts");
        let line = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        line.expect("a count of kills").trim().parse().expect("a number")
    }

    /// The processes in it, in whatever hierarchy.
    pub fn processes(&self) -> Vec<i32> {
        let read = |(_, place): &(String, PathBuf)| fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
        let lines: String = self.places.iter().map(read).collect();
        let mut found: Vec<i32> = lines.lines().filter_map(|line| line.parse().ok()).filter(|&pid| pid > 0).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn freezer(&self, freezer: Freezer) -> PathBuf {
        let (controllers, file) = match freezer {
            Freezer::Version1 => ("freezer", "freezer.state"),
            Freezer::Version2 => ("", "cgroup.freeze"),
        };
        let place = self.places.iter().find(|(names, _)| names == controllers);
        place.unwrap_or_else(|| panic!("this machine has no {freezer:?}")).1.join(file)
    }

    /// Freezes it; returns once all in it stand.
    pub fn freeze(&self, freezer: Freezer) {
        let file = self.freezer(freezer);
        match freezer {
            Freezer::Version1 => {
                fs::write(&file, "FROZEN").expect("the cgroup can be frozen");
                wait_until("the freeze", || fs::read_to_string(&file).is_ok_and(|state| state.trim() == "FROZEN"));
            }
            Freezer::Version2 => {
                fs::write(&file, "1").expect("the cgroup can be frozen");
                let events = file.with_file_name("cgroup.events");
                wait_until("the freeze", || {
                    fs::read_to_string(&events).is_ok_and(|text| text.lines().any(|line| line == "frozen 1"))
                });
            }
        }
    }

    /// Lets it go on.
    pub fn thaw(&self, freezer: Freezer) {
        let words = if freezer == Freezer::Version1 { "THAWED" } else { "0" };
        fs::write(self.freezer(freezer), words).expect("the cgroup can be thawed");
    }

    /// Kills all in it in one instant, as a container runtime does: frozen first, so that none can start another.
    pub fn kill(&self) {
        let freezer = *Freezer::all().first().expect("at least one");
        if !self.freezer(freezer).exists() {
            return;
        }
        // A cgroup that is emptied meanwhile, or has one stuck in it, is not waited for.
        let words = if freezer == Freezer::Version1 { "FROZEN" } else { "1" };
        let _ = fs::write(self.freezer(freezer), words);
        for pid in self.processes() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let words = if freezer == Freezer::Version1 { "THAWED" } else { "0" };
        let _ = fs::write(self.freezer(freezer), words);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for freezer in Freezer::all() {
            let words = if freezer == Freezer::Version1 { "THAWED" } else { "0" };
            let _ = fs::write(self.freezer(freezer), words);
        }
        // What is left in it, such as keepers whose target has just ended, goes with it.
        let began = std::time::Instant::now();
        while self.places.iter().any(|(_, place)| place.exists()) && began.elapsed().as_secs() < 5 {
            self.kill();
            for (_, place) in &self.places {
                let _ = fs::remove_dir(place);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}
