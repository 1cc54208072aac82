//! A strict target in a container, or in namespaces of its own, and hotbackup in sidecars of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::cgroup::Group;
use super::runtime::{Container, Spec, unique};
use crate::common::backup::scratch;
use crate::common::guest::{Linked, compile};
use crate::common::names;
use crate::common::process::{path, processes, state};
use crate::faults::page::{Page, Span, Wait};
use crate::faults::target::{Target, WORKERS, goes_on};

const SLOTS: &str = "32";
const PAUSE_US: &str = "300";
/// What it takes to follow a target under the usual profile.
pub const NEEDED: [&str; 3] = ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_SYS_CHROOT"];
/// A target that stands still for so long hangs.
pub const STANDSTILL: Duration = Duration::from_secs(20);

enum Home {
    Runc(Box<Container>),
    /// unshare(1), which waits for its only child.
    Namespaces(Child),
}

/// `every_kind_of_call`, which ends at the first call that fails and times each.
pub struct Boxed {
    home: Home,
    page: Page,
    dir: PathBuf,
    scratch: TempDir,
    /// Cgroups that it was put into by a test.
    homes: Vec<Group>,
    /// What its containers' cgroups lie in. The last to go.
    groups: Group,
    pid: i32,
}

impl Boxed {
    /// One in a container of its own.
    pub fn in_container() -> Self {
        Self::in_container_with(Vec::new())
    }

    /// The same with more rules in its seccomp profile.
    pub fn in_container_with(rules: Vec<serde_json::Value>) -> Self {
        let scratch = scratch();
        let (program, arguments) = command_line(&scratch);
        let mut words = vec![path(&program)];
        words.extend(arguments.iter().map(String::as_str));
        let groups = Group::named(&unique("boxes"));
        groups.make();
        let mut spec = Spec::new(&format!("/{}/target", groups.name()), &words, &[scratch.path(), &program]);
        spec.rules = rules;
        let mut container = Container::start(&spec);
        let line = container.line();
        assert_eq!(line, "ready\n", "{:?}", container.said());
        let (page, pid) = (Page::open(&scratch.path().join("page")), container.pid);
        let dir = scratch.path().join("data");
        Self { home: Home::Runc(Box::new(container)), page, dir, scratch, homes: Vec::new(), groups, pid }
    }

    /// One in PID and mount namespaces of its own, and no more.
    pub fn in_namespaces() -> Self {
        let scratch = scratch();
        let (program, arguments) = command_line(&scratch);
        let said = File::create(scratch.path().join("said")).expect("a file for its last words");
        let mut child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--mount-proc", "--kill-child"])
            .arg(&program)
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(said)
            .process_group(0)
            .spawn()
            .expect("unshare(1) starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("stdout is text");
        assert_eq!(line, "ready\n", "{:?}", fs::read_to_string(scratch.path().join("said")));
        let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).expect("it lives");
        let pid = children.trim().parse().expect("one child");
        let (page, dir) = (Page::open(&scratch.path().join("page")), scratch.path().join("data"));
        let groups = Group::named(&unique("boxes"));
        Self { home: Home::Namespaces(child), page, dir, scratch, homes: Vec::new(), groups, pid }
    }

    /// A sidecar: another container in the target's PID namespace, with a cgroup of its own, allowed what it takes to follow a
    /// target under the usual profile. What runs in it is `arguments`.
    pub fn sidecar(&self, arguments: &[&str]) -> Container {
        self.sidecar_allowed(arguments, &NEEDED, false, &[])
    }

    /// The same, with nothing in it yet.
    pub fn idle_sidecar(&self) -> Container {
        self.sidecar(&[path(&idle())])
    }

    /// An idle sidecar with the usual capabilities and these, or under the usual profile.
    pub fn idle_sidecar_allowed(&self, capabilities: &[&'static str], profile: bool) -> Container {
        self.sidecar_allowed(&[path(&idle())], capabilities, profile, &[])
    }

    /// An idle sidecar that may put its processes into the target's cgroups.
    pub fn idle_sidecar_with_cgroups(&self) -> Container {
        self.sidecar_allowed(&[path(&idle())], &NEEDED, false, &[Path::new("/sys/fs/cgroup")])
    }

    fn sidecar_allowed(
        &self,
        arguments: &[&str],
        capabilities: &[&'static str],
        profile: bool,
        more: &[&Path],
    ) -> Container {
        let (idle, group) = (idle(), format!("/{}/{}", self.groups.name(), unique("sidecar")));
        let sees = [&[self.scratch.path(), &idle], more].concat();
        let mut spec = Spec::new(&group, arguments, &sees);
        spec.beside = Some(self.pid);
        spec.capabilities.retain(|capability| *capability != "CAP_SYS_CHROOT");
        spec.capabilities.extend(capabilities);
        spec.profile = profile;
        Container::start(&spec)
    }

    /// Keeps a cgroup that it is in for as long as it lives.
    pub fn hold(&mut self, home: Group) {
        self.homes.push(home);
    }

    /// All processes in its namespace of processes but itself, whatever they are.
    pub fn helpers(&self) -> Vec<i32> {
        let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let own = namespace(self.pid);
        let lives = |pid: &i32| !matches!(state(*pid), None | Some('Z' | 'X'));
        let others = processes().into_iter().filter(|&pid| pid != self.pid && namespace(pid) == own);
        others.filter(lives).collect()
    }

    /// Its container.
    pub fn container(&self) -> &Container {
        match &self.home {
            Home::Runc(container) => container,
            Home::Namespaces(_) => panic!("it is in no container"),
        }
    }

    /// A path beside its data.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The arguments that name what is backed up.
    pub fn what(&self) -> [&str; 4] {
        ["--source", path(&self.dir), "--exclude", "mapped"]
    }

    /// Fails unless each thread goes on.
    pub fn assert_goes_on(&mut self) {
        if let Err(still) = goes_on(self, 5, STANDSTILL) {
            panic!("{still}");
        }
    }
}

fn idle() -> PathBuf {
    compile("waits_for_ever", Linked::Statically)
}

fn command_line(scratch: &TempDir) -> (PathBuf, Vec<String>) {
    let (dir, page) = (scratch.path().join("data"), scratch.path().join("page"));
    fs::create_dir(&dir).expect("a data directory");
    let program = compile("every_kind_of_call", Linked::Statically);
    let workers = WORKERS.to_string();
    let words = [path(&dir), path(&page), &workers, SLOTS, PAUSE_US, "0"].map(str::to_owned);
    (program, words.to_vec())
}

impl Drop for Boxed {
    fn drop(&mut self) {
        if let Home::Namespaces(child) = &mut self.home {
            // unshare kills its child when it is killed.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Target for Boxed {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn source(&self) -> Vec<String> {
        vec!["--source".into(), path(&self.dir).into()]
    }

    fn mapped(&self, taken: bool) -> &'static [&'static str] {
        if taken { &["--mapped", "1MiB"] } else { &["--exclude", "mapped"] }
    }

    fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    fn died(&mut self) -> Option<String> {
        let said = match &mut self.home {
            Home::Runc(container) => container.ended()?,
            Home::Namespaces(child) => {
                let status = child.try_wait().expect("our child")?;
                format!("{status}: {}", fs::read_to_string(self.scratch.path().join("said")).unwrap_or_default())
            }
        };
        Some(format!("THE GUEST DIED ({})", said.trim()))
    }

    fn counts(&self) -> Vec<u64> {
        self.page.counts()
    }

    fn calls(&self) -> u64 {
        self.page.counts()[..WORKERS].iter().sum()
    }

    fn begin(&mut self) {
        self.page.begin();
    }

    fn longest(&self, excused: &[Span], span: Option<Span>) -> Wait {
        self.page.longest(excused, span)
    }

    fn stall(&self) -> Duration {
        self.page.stall()
    }

    fn judge(&self, dest: &Path) -> Result<(), String> {
        names::check(dest, WORKERS).map(drop)
    }
}
