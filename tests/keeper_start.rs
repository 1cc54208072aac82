//! How keepers begin: with nothing of whoever started them, in need of no file, and never a zombie of a process 1 that waits for
//! none.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hotbackup_tracer::{Event, LEASE, Options, Sink, Ticket, Tracer};
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

mod common {
    pub mod backup;
    pub mod guest;
    pub mod process;
}
use common::backup::{self, HOTBACKUP, alone, scratch};
use common::guest::{Guest, Linked, check_rings};
use common::process::{
    assert_keepers_end, back_up, helpers, keepers, kill_one, may_exceed_limits, pair, path, state, status, wait_until,
};

/// The parent of a pair of keepers.
fn parent(pair: &[i32]) -> i32 {
    let parents: Vec<i32> = pair.iter().map(|&keeper| number(keeper, "PPid")).collect();
    *parents.iter().find(|parent| !pair.contains(parent)).expect("two are not each other's parents")
}

fn number(pid: i32, field: &str) -> i32 {
    status(pid, field).expect("it lives").parse().expect("a number")
}

/// What a process has open, without the numbers of inodes.
fn open_files(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    let mut files: Vec<String> =
        entries.filter_map(|entry| Some(fs::read_link(entry.ok()?.path()).ok()?.display().to_string())).collect();
    files.sort_unstable();
    files.dedup();
    files
}

/// A limit of a process, soft and hard.
fn limits(pid: i32, name: &str) -> [String; 2] {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("it lives");
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel knows this limit");
    let mut words = line.split_whitespace().map(str::to_owned);
    [words.next().expect("a soft limit"), words.next().expect("a hard limit")]
}

/// Becomes hotbackup with whatever a process may leave to another. Its first argument is a file, which it has locked.
const WITH_AN_INHERITANCE: &str = "
import fcntl, os, resource, signal, sys
lock = os.open(sys.argv[1], os.O_RDWR)
fcntl.flock(lock, fcntl.LOCK_EX)
for descriptor in (lock, *os.pipe(), os.open('/etc/passwd', os.O_RDONLY)):
    os.set_inheritable(descriptor, True)
for ignored in (signal.SIGCHLD, signal.SIGALRM, signal.SIGUSR1, signal.SIGCONT):
    signal.signal(ignored, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD})
for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_DATA, resource.RLIMIT_CPU):
    resource.setrlimit(limit, (1 << 30, 1 << 31))
os.nice(7)
import ctypes
libc = ctypes.CDLL(None)
PR_SET_TIMERSLACK, IOPRIO_SET, IDLE = 29, 251, 3 << 13
assert libc.prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(1000000000)) == 0
assert libc.syscall(IOPRIO_SET, 1, 0, IDLE) == 0
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.umask(0)
os.chdir(os.path.dirname(sys.argv[1]))
os.environ['HOTBACKUP_TEST_INHERITED'] = 'this'
os.execv(sys.argv[2], sys.argv[2:])
";

#[test]
fn keepers_inherit_nothing_from_whoever_started_the_backup() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "32", "100"]);
    let locked = guest.beside("lock");
    fs::write(&locked, "").expect("written");
    let mut command = Command::new("python3");
    command.args(["-c", WITH_AN_INHERITANCE, path(&locked), HOTBACKUP]);
    let dest = guest.beside("backup");
    // At the lowest niceness it may wait long for a processor.
    let more = ["--source", path(&guest.dir), "--lease", "20s"];
    backup::start_command(command, guest.pid(), &dest, &more).finish().report();
    let pair = pair(guest.pid());
    let all = [&pair[..], &[parent(&pair)]].concat();
    // Without CAP_SYS_RESOURCE nobody may go beyond the hard limit.
    let raised = if may_exceed_limits() { "unlimited" } else { "2147483648" };
    let processors = status(std::process::id().cast_signed(), "Cpus_allowed").expect("we live");
    for pid in all {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm")).expect("it lives");
        // One that is real-time is still of the usual niceness.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it lives");
        let nice = stat.rsplit_once(')').expect("a name").1.split_whitespace().nth(16);
        assert_eq!(nice, Some("0"), "{comm}: niceness");
        let slack = fs::read_to_string(format!("/proc/{pid}/timerslack_ns")).expect("these tests need root");
        assert!(slack.trim().parse::<u64>().is_ok_and(|slack| slack <= 50_000), "{comm}: timers come {slack} ns late");
        let ionice = Command::new("ionice").args(["-p", &pid.to_string()]).output().expect("util-linux");
        assert!(!ionice.stdout.starts_with(b"idle"), "{comm}: it reads and writes when nobody else does");
        let known = |file: &str| {
            ["/", "/proc", "/memfd:hotbackup-session (deleted)"].contains(&file) || file.starts_with("anon_inode:")
        };
        let files = open_files(pid);
        assert!(files.iter().all(|file| known(file)), "{comm}: open files: {files:?}");
        assert_eq!(status(pid, "SigBlk").as_deref(), Some("0000000000000000"), "{comm}: blocked signals");
        assert_eq!(status(pid, "SigCgt").as_deref(), Some("0000000000000000"), "{comm}: handled signals");
        let ignored = u64::from_str_radix(&status(pid, "SigIgn").expect("it lives"), 16).expect("a mask");
        let (alarm, cont) = (1 << 13, 1 << 17);
        assert_eq!(ignored & (alarm | cont), 0, "{comm}: ignored signals: {ignored:x}");
        for limit in ["Max file size", "Max data size", "Max cpu time"] {
            assert_eq!(limits(pid, limit), [raised, raised], "{comm}: {limit}");
        }
        assert_eq!(limits(pid, "Max core file size"), ["0", "0"], "{comm}");
        assert_eq!(status(pid, "Umask").as_deref(), Some("0077"), "{comm}");
        assert_eq!(status(pid, "Cpus_allowed").as_ref(), Some(&processors), "{comm}");
        assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("it lives"), Path::new("/"), "{comm}");
        let environment = fs::read_to_string(format!("/proc/{pid}/environ")).expect("it lives");
        assert!(!environment.contains("INHERITED"), "{comm}: {environment}");
    }
    let file = File::options().write(true).open(&locked).expect("it is there");
    assert!(
        Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok(),
        "the lock outlives the backup that inherited it"
    );
    guest.assert_goes_on();
}

#[test]
fn ps_shows_each_by_its_name_with_the_number_of_its_target() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "32", "100"]);
    back_up(&mut guest, 4, "first");
    let pair = pair(guest.pid());
    for (pid, name) in [(pair[0], "hotbackup-keep"), (pair[1], "hotbackup-keep"), (parent(&pair), "hotbackup-reap")] {
        let output =
            Command::new("ps").args(["-o", "comm=,args=", "-p", &pid.to_string()]).output().expect("it starts");
        let said = String::from_utf8(output.stdout).expect("text");
        let words: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(words[..3], [name, name, &guest.pid().to_string()], "{said}");
    }
}

/// Lets everything go.
struct Observer;

impl Sink for Observer {
    fn deliver(&self, _: Event, ticket: Ticket) {
        drop(ticket);
    }
    fn found(&self, _: Event) {}
    fn blind(&self, _: String) {}
    fn wait_until_released(&self) {}
    fn lost(&self, cause: hotbackup_tracer::Error) {
        panic!("{cause}");
    }
}

#[test]
fn keepers_start_and_live_where_there_is_no_file() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "32", "100"]);
    let root = guest.beside("root");
    fs::create_dir_all(root.join("proc")).expect("a root");
    let (target, inside) = (guest.pid(), root.clone());
    // A thread with a root and mounts of its own, where nothing is but /proc.
    let attach = move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("these tests need root");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts of our own");
        mount(Some("proc"), &inside.join("proc"), Some("proc"), MsFlags::empty(), none).expect("procfs");
        nix::unistd::chroot(&inside).expect("these tests need root");
        let options = Options {
            keeper_program: hotbackup::KEEPER_PROGRAM,
            lease: LEASE,
            show_all_writes: false,
            at_sites: false,
            accept_unseen: false,
        };
        let tracer = Tracer::attach(target, &options, Arc::new(Observer)).unwrap_or_else(|error| panic!("{error}"));
        assert!(matches!(tracer.probe(), Ok(true)), "no call is seen");
    };
    std::thread::spawn(attach).join().expect("it attaches there");
    for keeper in pair(target) {
        assert_eq!(fs::read_link(format!("/proc/{keeper}/root")).expect("it lives"), root);
    }
    // So does a twin that takes over, and the one that it makes.
    kill_one(pair(target)[0]);
    wait_until("another twin", || keepers(target).len() == 2);
    guest.assert_goes_on();
    guest.kill();
    assert_keepers_end(target);
}

/// A keeper that has been executed, and has not come to its name, is known by its arguments alone. Nobody waits for a word of it.
#[test]
fn a_keeper_that_hangs_before_it_has_its_name_is_replaced_or_ends_with_its_backup() {
    let _alone = alone();
    for cancelled in [false, true] {
        let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "32", "100"]);
        let met = guest.dir.with_file_name("met");
        let point = format!("keeper.executed:stop@{}", path(&met));
        let dest = guest.beside("backup");
        let running = backup::start_failing(guest.pid(), &dest, &["--source", path(&guest.dir)], &point);
        wait_until("a keeper that hangs", || fs::read_to_string(&met).is_ok_and(|said| said.ends_with('\n')));
        let said = fs::read_to_string(&met).expect("it is there");
        let hung: i32 = said.split_whitespace().next_back().and_then(|pid| pid.parse().ok()).expect("its number");
        wait_until("it to be stopped", || matches!(state(hung), None | Some('T')));
        if cancelled {
            running.signal(nix::sys::signal::Signal::SIGTERM);
            running.finish().failure("cancelled");
            wait_until("the end of all helpers", || {
                ["hotbackup-keep", "hotbackup-reap"].iter().all(|kind| helpers(kind, guest.pid()).is_empty())
            });
            assert!(!guest.is_filtered(), "nobody is there to answer");
        } else {
            running.finish().report();
            check_rings(&dest, 4).unwrap_or_else(|wrong| panic!("{wrong}"));
            assert!(!pair(guest.pid()).contains(&hung));
        }
        wait_until("the end of the one that hung", || matches!(state(hung), None | Some('Z')));
        guest.assert_goes_on();
        back_up(&mut guest, 4, "next");
    }
}

/// A guest that is process 1 of its own, and waits for none of its children; with its number outside.
fn process_1() -> (Guest, i32) {
    let scratch = scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(common::guest::compile("rings", Linked::Dynamically)).arg(&dir).args(["4", "32", "100"]);
    let guest = Guest::spawn(scratch, dir, command);
    let unshare = guest.pid();
    let children = fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).expect("it lives");
    (guest, children.trim().parse().expect("one child"))
}

/// A command that runs among the processes of `pid`, with its mounts.
fn beside(pid: i32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--target", &pid.to_string(), "--pid", "--mount", "--"]);
    command
}

/// The keepers of process 1 among the processes of `pid`.
fn keepers_of_process_1(pid: i32) -> Vec<i32> {
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let all = keepers(1);
    all.into_iter().filter(|&keeper| namespace(keeper) == namespace(pid)).collect()
}

/// How many children of a process are dead, and not waited for.
fn zombies(pid: i32) -> usize {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("it lives");
    children.split_whitespace().filter(|child| state(child.parse().expect("a number")) == Some('Z')).count()
}

#[test]
fn a_keepers_end_leaves_no_zombie_to_a_process_1_that_waits_for_none() {
    let _alone = alone();
    let (mut guest, target) = process_1();
    // It does not: an orphan of another kind stays.
    assert!(beside(target).args(["sh", "-c", "(sleep 0.1 &)"]).status().expect("it starts").success());
    wait_until("a zombie", || zombies(target) == 1);
    for round in 0..6 {
        let dest = guest.beside(&format!("backup{round}"));
        let mut command = beside(target);
        command.arg(HOTBACKUP);
        backup::start_command(command, 1, &dest, &["--source", path(&guest.dir)]).finish().report();
        check_rings(&dest, 4).unwrap_or_else(|wrong| panic!("{wrong}"));
        wait_until("two keepers", || keepers_of_process_1(target).len() == 2);
        // In turn the older and the younger: the one that acts, and its twin.
        let killed = keepers_of_process_1(target)[round % 2];
        kill_one(killed);
        wait_until("two keepers, and none dead", || {
            let now = keepers_of_process_1(target);
            now.len() == 2 && !now.contains(&killed) && state(killed).is_none()
        });
        guest.assert_goes_on();
        assert_eq!(zombies(target), 1, "a zombie beside the one that was there");
    }
}

#[test]
fn where_nothing_may_be_executed_from_memory_a_backup_is_refused_with_the_remedy() {
    let _alone = alone();
    let (mut guest, target) = process_1();
    let dest = guest.beside("backup");
    let mut command = beside(target);
    // This setting is that of its processes alone.
    command.args(["sh", "-c", "echo 2 > /proc/sys/vm/memfd_noexec && exec \"$@\"", "sh", HOTBACKUP]);
    let outcome = backup::start_command(command, 1, &dest, &["--source", path(&guest.dir)]).finish();
    let said = outcome.failure("attach_failed");
    assert!(said.contains("vm.memfd_noexec"), "no remedy: {said}");
    assert_eq!(status(target, "Seccomp").as_deref(), Some("0"), "it was touched");
    guest.assert_goes_on();
}
