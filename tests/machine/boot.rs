//! A new Debian machine: its own root, with systemd as process 1 of namespaces of its own (processes, mounts, names, IPC, network,
//! cgroups), and a mongod that is set up as MongoDB's own package does it.
//!
//! The root is made by debootstrap once, into the target directory, and copied for each machine. The machine shares the host's kernel and
//! clock, and has a cgroup of the host's version 2 hierarchy for its own top. Commands are run in it as by somebody who has logged in:
//! in a cgroup of the machine beside its services.
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::common::backup::scratch;
use crate::common::mongod;
use crate::common::package::{home, run};

/// Bounds everything that the machine is waited for: more than it ever takes where other work goes on.
const LIMIT: Duration = Duration::from_secs(120);

const SUITE: &str = "bookworm";
const MIRROR: &str = "http://deb.debian.org/debian";
/// systemd, and what mongod links against.
const PACKAGES: &str = "systemd,systemd-sysv,dbus,libcurl4,liblzma5,libssl3";
/// Changes with what is done to the root below, so that an older one is not taken.
const ROOT: &str = "debian-12-root-1";

/// What would speak to the host's kernel or the network, and is of no use here.
const MASKED: [&str; 9] = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "systemd-modules-load.service",
    "dev-hugepages.mount",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
];

/// The unit of MongoDB's own package, as far as it counts here.
const MONGOD_SERVICE: &str = "\
[Unit]
Description=MongoDB Database Server
After=network-online.target
Wants=network-online.target

[Service]
User=mongodb
Group=mongodb
EnvironmentFile=-/etc/default/mongod
ExecStart=/usr/bin/mongod --config /etc/mongod.conf
LimitFSIZE=infinity
LimitCPU=infinity
LimitAS=infinity
LimitNOFILE=64000
LimitNPROC=64000
LimitMEMLOCK=infinity
TasksMax=infinity
TasksAccounting=false

[Install]
WantedBy=multi-user.target
";

/// Its configuration; with journal files of 512 KB in place of 100 MB, as there is little to copy otherwise.
const MONGOD_CONF: &str = "\
storage:
  dbPath: /var/lib/mongodb
  wiredTiger:
    engineConfig:
      cacheSizeGB: 0.25
      configString: \"log=(file_max=512KB)\"
systemLog:
  destination: file
  logAppend: true
  path: /var/log/mongodb/mongod.log
net:
  port: 27017
  bindIp: 127.0.0.1
";

/// The root that machines are copies of, made by whoever asks first.
fn first_root() -> PathBuf {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let root = tmp.join(ROOT);
    let lock = File::create(tmp.join(format!("{ROOT}.lock"))).expect("the target directory takes a file");
    lock.lock().expect("locked");
    if !root.exists() {
        let partial = tmp.join(format!("{ROOT}.partial"));
        let _ = fs::remove_dir_all(&partial);
        let mut debootstrap = Command::new("debootstrap");
        debootstrap.args(["--variant=minbase", &format!("--include={PACKAGES}"), SUITE]);
        run(debootstrap.arg(&partial).arg(MIRROR));
        let script = "useradd --system --home-dir /var/lib/mongodb --shell /usr/sbin/nologin --user-group mongodb
            install -d -o mongodb -g mongodb /var/lib/mongodb /var/log/mongodb
            rm -rf /var/cache/apt/archives/*.deb /var/lib/apt/lists/*";
        run(Command::new("chroot").arg(&partial).args(["/bin/sh", "-ec", script]));
        // Last, so that a half-made root is never found.
        fs::rename(&partial, &root).expect("a rename inside the target directory");
    }
    root
}

/// A machine that runs, switched off when dropped.
pub struct Machine {
    scratch: TempDir,
    /// `unshare`, whose only child is process 1 of the machine, and dies with it.
    outside: Child,
    /// Process 1, as the host numbers it.
    init: i32,
    cgroup: PathBuf,
}

impl Machine {
    /// Boots one, on which mongod runs.
    pub fn boot() -> Self {
        let scratch = scratch();
        let root = scratch.path().join("root");
        run(Command::new("cp").args(["-a", "--one-file-system"]).args([&first_root(), &root]));
        furnish(&root);
        let cgroup = cgroup(scratch.path());
        let log = File::create(scratch.path().join("console")).expect("written");
        // Whatever becomes of this test, the machine does not outlive it.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "sh", "-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(&cgroup);
        command.args(["unshare", "--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--net", "--cgroup"]);
        command.args(["--propagation", "private", "sh"]).arg(home().join("tests/machine/boot.sh")).arg(&root);
        command.stdin(Stdio::null()).stderr(log.try_clone().expect("another")).stdout(log);
        let outside = command.spawn().expect("setpriv is there (util-linux)");
        let mut machine = Self { scratch, outside, init: 0, cgroup };
        machine.wait_for_boot();
        machine
    }

    fn wait_for_boot(&mut self) {
        let outside = self.outside.id();
        let children = format!("/proc/{outside}/task/{outside}/children");
        let began = Instant::now();
        loop {
            let ended = self.outside.try_wait().expect("ours");
            assert!(ended.is_none() && began.elapsed() < LIMIT, "the machine does not boot:\n{}", self.console());
            if self.init == 0 {
                let child = fs::read_to_string(&children).unwrap_or_default();
                self.init = child.trim().parse().unwrap_or(0);
            } else if fs::read_to_string(format!("/proc/{}/comm", self.init)).is_ok_and(|name| name == "systemd\n") {
                let output = self.command("systemctl is-active multi-user.target mongod").output().expect("sh starts");
                if output.status.success() && self.answers() {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self) -> bool {
        std::os::unix::net::UnixStream::connect(self.path("/tmp/mongodb-27017.sock")).is_ok()
    }

    fn console(&self) -> String {
        fs::read_to_string(self.scratch.path().join("console")).unwrap_or_default()
    }

    /// A file of the machine, as the host names it.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.init))
    }

    /// Where the host's clients find a mongod of the machine, by its Unix socket.
    pub fn uri(&self, port: u16) -> String {
        let socket = self.path(&format!("/tmp/mongodb-{port}.sock")).to_string_lossy().replace('/', "%2F");
        format!("mongodb://{socket}/?directConnection=true&retryWrites=false&retryReads=false")
    }

    /// A command of somebody who has logged in as root.
    pub fn command(&self, script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""]).arg(self.cgroup.join("operator"));
        command.args(["nsenter", "--target", &self.init.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root", "--wdns=/root"]);
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8"]);
        command.args(["sh", "-ec", script]).stdin(Stdio::null());
        command
    }

    /// Runs a command in it; what came of it.
    pub fn output(&self, script: &str) -> Output {
        self.command(script).output().expect("sh starts")
    }

    /// Runs commands in it, which must succeed; what they say.
    pub fn run(&self, script: &str) -> String {
        let output = self.output(script);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "in the machine: {script}\n{}\n{out}\n{err}\n{}",
            output.status,
            self.journal()
        );
        out
    }

    /// The last words of its services.
    pub fn journal(&self) -> String {
        String::from_utf8_lossy(&self.output("journalctl --no-pager --lines=60").stdout).into_owned()
    }

    /// A property of a unit.
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.run(&format!("systemctl show --property={property} --value {unit}")).trim().to_owned()
    }

    /// The main process of a unit, as the machine numbers it.
    pub fn main_pid(&self, unit: &str) -> i32 {
        self.show(unit, "MainPID").parse().expect("a number")
    }

    /// Waits until something is so.
    pub fn wait_until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let began = Instant::now();
        while !done() {
            assert!(began.elapsed() < LIMIT, "{what}: not within {LIMIT:?}\n{}", self.journal());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Moves the machine's time zone, so that it is `clock` seconds after midnight there in `seconds`. The clock itself is the host's.
    pub fn set_time_of_day(&self, clock: i64, seconds: i64) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs().cast_signed();
        let offset = (clock - now - seconds).rem_euclid(86_400);
        let offset = if offset > 43_200 { offset - 86_400 } else { offset };
        let place = self.path("/etc/localtime");
        let new = self.path("/etc/localtime.new");
        fs::write(&new, zone(offset)).expect("written");
        fs::rename(&new, &place).expect("renamed");
    }
}

/// A time zone, as in tzfile(5): so many seconds east of Greenwich, always.
fn zone(offset: i64) -> Vec<u8> {
    let mut part = b"TZif2".to_vec();
    part.extend([0; 15]);
    for count in [0_u32, 0, 0, 0, 1, 4] {
        part.extend(count.to_be_bytes());
    }
    part.extend(i32::try_from(offset).expect("half a day at most").to_be_bytes());
    part.extend([0, 0]);
    part.extend(b"HBT\0");
    let (west, seconds) = (if offset > 0 { "-" } else { "" }, offset.abs());
    let mut rule = String::new();
    let _ = write!(rule, "\n<HBT>{west}{}:{:02}:{:02}\n", seconds / 3600, seconds / 60 % 60, seconds % 60);
    [&part[..], &part, rule.as_bytes()].concat()
}

fn furnish(root: &Path) {
    let server = root.join("usr/bin/mongod");
    if fs::hard_link(mongod::program(), &server).is_err() {
        fs::copy(mongod::program(), &server).expect("copied");
    }
    fs::write(root.join("etc/mongod.conf"), MONGOD_CONF).expect("written");
    fs::write(root.join("usr/lib/systemd/system/mongod.service"), MONGOD_SERVICE).expect("written");
    let units = root.join("etc/systemd/system");
    symlink("/usr/lib/systemd/system/mongod.service", units.join("multi-user.target.wants/mongod.service"))
        .expect("linked");
    for unit in MASKED {
        symlink("/dev/null", units.join(unit)).expect("linked");
    }
    for name in ["etc/hostname", "etc/machine-id"] {
        let _ = fs::remove_file(root.join(name));
    }
    fs::write(root.join("etc/hostname"), "new\n").expect("written");
    fs::write(root.join("etc/machine-id"), "").expect("written");
}

/// A cgroup of version 2 for the machine, and in it one for whoever logs in.
fn cgroup(scratch: &Path) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is there");
    let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let top = lines.find(|words| words[2] == "cgroup2").map(|words| PathBuf::from(words[1]));
    let top = top.expect("cgroups of version 2 are mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)");
    let group = top.join(scratch.file_name().expect("a name"));
    fs::create_dir_all(group.join("operator")).expect("these tests need root");
    group
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the machine's console:\n{}", self.console());
        }
        // Process 1 dies with it, and takes all others of the machine along.
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        let began = Instant::now();
        while remove_groups(&self.cgroup).is_err() && began.elapsed() < LIMIT {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn remove_groups(group: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_groups(&entry.path())?;
        }
    }
    fs::remove_dir(group)
}
