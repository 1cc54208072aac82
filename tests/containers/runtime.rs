//! Containers from scratch on runc: an empty root with /proc, and what is named bound into it at its own path.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::cgroup::Group;
use super::profile::{USUAL, seccomp};
use crate::common::backup::{HOTBACKUP, scratch};
use crate::common::process::{path, wait_until};

/// How a container is made.
#[derive(Debug, Clone)]
pub struct Spec {
    /// What runs in it.
    pub arguments: Vec<String>,
    /// Files and directories that it sees, at the same paths as the host.
    pub sees: Vec<PathBuf>,
    /// Its cgroup, below each mount.
    pub group: String,
    /// A process whose PID namespace it shares.
    pub beside: Option<i32>,
    /// Its capabilities.
    pub capabilities: Vec<&'static str>,
    /// Whether it has the usual seccomp profile.
    pub profile: bool,
    /// More rules of it.
    pub rules: Vec<Value>,
    /// Most bytes of memory.
    pub memory: Option<u64>,
}

impl Spec {
    /// An ordinary container.
    pub fn new(group: &str, arguments: &[&str], sees: &[&Path]) -> Self {
        let mut sees: Vec<PathBuf> = sees.iter().map(|&path| path.to_owned()).collect();
        sees.extend(program_files().iter().cloned());
        Self {
            arguments: arguments.iter().map(|&word| word.to_owned()).collect(),
            sees,
            group: group.to_owned(),
            beside: None,
            capabilities: USUAL.to_vec(),
            profile: true,
            rules: Vec::new(),
            memory: None,
        }
    }

    fn config(&self) -> Value {
        let capabilities = &self.capabilities;
        let bind =
            |seen: &PathBuf| json!({"destination": seen, "source": seen, "type": "bind", "options": ["rbind", "rw"]});
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc"}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=64m"]}),
            json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "nodev", "mode=1777"]}),
        ];
        mounts.extend(self.sees.iter().map(bind));
        let pid = match self.beside {
            Some(pid) => json!({"type": "pid", "path": format!("/proc/{pid}/ns/pid")}),
            None => json!({"type": "pid"}),
        };
        let mut linux = json!({
            "cgroupsPath": self.group,
            "namespaces": [pid, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}, {"type": "network"}],
            "resources": {"devices": [{"allow": true, "access": "rwm"}]},
        });
        if let Some(bytes) = self.memory {
            linux["resources"]["memory"] = json!({"limit": bytes});
        }
        if self.profile {
            linux["seccomp"] = seccomp(capabilities, &self.rules);
        }
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "rootfs"},
            "process": {
                "user": {"uid": 0, "gid": 0},
                "cwd": "/",
                "args": self.arguments,
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "mounts": mounts,
            "linux": linux,
        })
    }
}

/// The command under test and the libraries that it is linked against.
fn program_files() -> &'static [PathBuf] {
    static FILES: OnceLock<Vec<PathBuf>> = OnceLock::new();
    FILES.get_or_init(|| {
        let output = Command::new("ldd").arg(HOTBACKUP).output().expect("ldd is part of libc");
        let text = String::from_utf8(output.stdout).expect("plain names");
        let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        libraries.chain([HOTBACKUP.into()]).collect()
    })
}

/// A name that no other container or cgroup has.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("hotbackup-{}-{}-{what}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst))
}

/// A running container, ended with all that is in it when dropped.
pub struct Container {
    name: String,
    home: TempDir,
    runc: Child,
    out: Option<BufReader<ChildStdout>>,
    /// Its first process, by the host's number.
    pub pid: i32,
    /// Its cgroup.
    pub group: Group,
}

impl Container {
    /// Starts one. What its first process says on stdout is for [`Self::line`].
    pub fn start(spec: &Spec) -> Self {
        let (home, name) = (scratch(), unique("box"));
        fs::create_dir(home.path().join("rootfs")).expect("an empty root");
        fs::write(home.path().join("config.json"), spec.config().to_string()).expect("a configuration");
        let said = File::create(home.path().join("said")).expect("a file for its last words");
        let pid_file = home.path().join("pid");
        let mut runc = Self::runc(home.path())
            .args(["run", "--bundle", path(home.path()), "--pid-file", path(&pid_file), &name])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(said)
            .process_group(0)
            .spawn()
            .expect("these tests need runc: apt-get install runc");
        let group = Group::named(&spec.group);
        let out = runc.stdout.take().map(BufReader::new);
        let mut container = Self { name, home, runc, out, pid: 0, group };
        wait_until("the container's start", || {
            let text = fs::read_to_string(&pid_file).unwrap_or_default();
            container.pid = text.parse().unwrap_or(0);
            let ended = container.ended();
            assert!(container.pid > 0 || ended.is_none(), "no container: {ended:?}");
            container.pid > 0
        });
        container
    }

    fn runc(home: &Path) -> Command {
        let mut command = Command::new("runc");
        command.arg("--root").arg(home.join("state"));
        command
    }

    /// The next line on its stdout; empty at its end.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.out.as_mut().expect("piped").read_line(&mut line).expect("stdout is text");
        line
    }

    /// How it ended and what it said, once its first process has.
    pub fn ended(&mut self) -> Option<String> {
        let status = self.runc.try_wait().expect("our child")?;
        Some(format!("{status}: {}", self.said().trim()))
    }

    /// What it and runc have said on stderr.
    pub fn said(&self) -> String {
        fs::read_to_string(self.home.path().join("said")).unwrap_or_default()
    }

    /// A command that runs `program` in it, beside what runs there.
    pub fn exec(&self, program: &str) -> Command {
        let mut command = Self::runc(self.home.path());
        command.args(["exec", &self.name, program]);
        command
    }

    /// Pauses it, as `docker pause` does.
    pub fn pause(&self) {
        assert!(Self::runc(self.home.path()).args(["pause", &self.name]).status().expect("runc runs").success());
    }

    /// Ends the pause.
    pub fn resume(&self) {
        assert!(Self::runc(self.home.path()).args(["resume", &self.name]).status().expect("runc runs").success());
    }

    /// Waits until its first process has ended by itself, and runc has removed the container: with all that is in it.
    pub fn wait(&mut self) {
        wait_until("the container's end", || self.ended().is_some());
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.group.kill();
        let delete =
            Self::runc(self.home.path()).args(["delete", "--force", &self.name]).stderr(Stdio::null()).status();
        drop(delete);
        let _ = self.runc.kill();
        let _ = self.runc.wait();
    }
}
