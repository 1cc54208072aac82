//! Where the target runs: in a root, mounts and process numbers of its own, and with hardly any processor.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::bench::{POINTS, back_up, run};
use crate::common::backup::{self, alone, scratch};
use crate::common::guest::{Guest, Linked};
use crate::common::process::{assert_not_stopped, assert_right_or_failed, path, wait_until};
use crate::go;

/// The Go guest, which names its files by path, started by a command in front of it. `inside` is its data directory as it
/// sees that itself.
fn start(scratch: tempfile::TempDir, dir: PathBuf, program: &Path, inside: &Path, front: &[&str]) -> Guest {
    let guest = go::command(program, inside);
    let (first, rest) = front.split_first().expect("a command");
    let mut command = Command::new(first);
    command.args(rest).arg(guest.get_program()).args(guest.get_args());
    Guest::spawn(scratch, dir, command)
}

/// Backs up `target`, by its own name of the source.
fn back_up_go(guest: &mut Guest, target: i32, source: &Path) {
    for (round, point) in POINTS.into_iter().enumerate() {
        let dest = guest.beside(&format!("backup{round}"));
        let more = ["--source", path(source), "--point", point, "--throttle", "32MiB"];
        go::assert_state(&backup::take(target, &dest, &more));
        guest.assert_goes_on();
        assert_not_stopped(target);
    }
}

/// The only thread of an idle filter or shell.
#[test]
fn a_program_that_only_waits_for_its_input_is_backed_up() {
    let _alone = alone();
    let scratch = scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    fs::write(dir.join("file"), "content").expect("written");
    let mut command = Command::new("cat");
    let mut cat = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("cat starts");
    for (round, point) in POINTS.into_iter().enumerate() {
        let dest = scratch.path().join(format!("backup{round}"));
        backup::take(cat.id().cast_signed(), &dest, &["--source", path(&dir), "--point", point]).report();
        assert_eq!(fs::read(dest.join("file")).expect("in the backup"), b"content");
        // Its call goes on as if nothing had been.
        cat.stdin.as_mut().expect("piped").write_all(b"line\n").expect("it reads on");
        let mut line = [0; 5];
        cat.stdout.as_mut().expect("piped").read_exact(&mut line).expect("it writes on");
        assert_eq!(&line, b"line\n");
    }
    drop(cat.stdin.take());
    assert!(cat.wait().expect("our child").success());
}

#[test]
fn a_program_with_a_root_of_its_own_is_backed_up() {
    let _alone = alone();
    let scratch = scratch();
    let root = scratch.path().join("root");
    let dir = root.join("data");
    fs::create_dir_all(&dir).expect("a root");
    fs::copy(go::build(), root.join("guest")).expect("room for the guest");
    let mut guest = start(scratch, dir, Path::new("/guest"), Path::new("/data"), &["chroot", path(&root)]);
    let target = guest.pid();
    back_up_go(&mut guest, target, Path::new("/data"));
}

#[test]
fn a_program_with_mounts_of_its_own_is_backed_up() {
    let _alone = alone();
    let scratch = scratch();
    let (seen, dir) = (scratch.path().join("seen"), scratch.path().join("data"));
    for made in [&seen, &dir] {
        fs::create_dir(made).expect("a directory");
    }
    // Only the guest sees its data there.
    let line = format!("mount --bind '{}' '{}' && exec \"$@\"", path(&dir), path(&seen));
    let front = ["unshare", "--mount", "sh", "-c", &line, "sh"];
    let mut guest = start(scratch, dir, &go::build(), &seen, &front);
    assert_eq!(fs::read_dir(&seen).expect("there").count(), 0, "the mount is the guest's own");
    let target = guest.pid();
    back_up_go(&mut guest, target, &seen);
}

#[test]
fn a_program_with_process_numbers_of_its_own_is_backed_up() {
    let _alone = alone();
    let scratch = scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    let front = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"];
    let mut guest = start(scratch, dir.clone(), &go::build(), &dir, &front);
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", guest.pid())).expect("it lives");
    let target = children.trim().parse().expect("one child");
    back_up_go(&mut guest, target, &dir);
}

/// Processes that use all processors there are, ended when dropped.
struct Hogs(Vec<Child>);

impl Hogs {
    fn start() -> Self {
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        let hog = |_| Command::new("sh").args(["-c", "while :; do :; done"]).spawn().expect("a shell");
        Self((0..processors).map(hog).collect())
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            let _ = hog.kill();
            let _ = hog.wait();
        }
    }
}

/// What may be in the way of a target that hardly ever runs.
const STARVED: [&str; 5] = ["attach_failed", "hold_too_long", "quiesce", "waited_too_long", "revoked"];

/// Backups of a target that hardly ever runs are right, or refused for that reason.
fn back_up_starved(guest: &mut Guest) {
    let mut succeeded = 0;
    for (round, point) in POINTS.into_iter().enumerate() {
        let dest = guest.beside(&format!("starved{round}"));
        let source = guest.dir.clone();
        let outcome = backup::take(guest.pid(), &dest, &["--source", path(&source), "--point", point]);
        succeeded += u32::from(assert_right_or_failed(&outcome, 4, &STARVED));
        guest.assert_goes_on();
        assert_not_stopped(guest.pid());
    }
    println!("{succeeded} of {} succeeded", POINTS.len());
}

#[test]
fn a_program_that_runs_when_nobody_else_does_is_backed_up_right_or_refused() {
    let _alone = alone();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "64", "200"]);
    run("chrt", &["--idle", "--all-tasks", "--pid", "0", &guest.pid().to_string()]);
    let hogs = Hogs::start();
    back_up_starved(&mut guest);
    drop(hogs);
    back_up(&mut guest, 4);
}

/// A cgroup with 5 % of one processor, removed when dropped.
pub struct Slow(PathBuf);

impl Slow {
    pub fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is there");
        let find = |kind: &str, option: &str| {
            let mut lines = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
            let line = lines.find(|line| line[2] == kind && line[3].split(',').any(|word| word == option));
            line.map(|line| PathBuf::from(line[1]))
        };
        let name = format!("hotbackup-{}", std::process::id());
        let set =
            |group: &Path, file: &str, value: &str| fs::write(group.join(file), value).expect("the cgroup has a quota");
        if let Some(first) = find("cgroup", "cpu") {
            let group = first.join(name);
            fs::create_dir(&group).expect("these tests need root");
            set(&group, "cpu.cfs_quota_us", "5000");
            return Self(group);
        }
        let second = find("cgroup2", "rw").expect("a cgroup hierarchy is mounted");
        set(&second, "cgroup.subtree_control", "+cpu");
        let group = second.join(name);
        fs::create_dir(&group).expect("these tests need root");
        set(&group, "cpu.max", "5000 100000");
        Self(group)
    }

    pub fn take_in(&self, guest: &Guest) {
        fs::write(self.0.join("cgroup.procs"), guest.pid().to_string()).expect("these tests need root");
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        wait_until("the cgroup's end", || fs::remove_dir(&self.0).is_ok());
    }
}

#[test]
fn a_program_with_a_twentieth_of_a_processor_is_backed_up_right_or_refused() {
    let _alone = alone();
    let slow = Slow::new();
    let mut guest = Guest::start("rings", Linked::Dynamically, &["4", "64", "200"]);
    slow.take_in(&guest);
    back_up_starved(&mut guest);
    guest.kill();
}
