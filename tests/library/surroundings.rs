//! What the library is to the program that it is in: nothing until it is used, no child, no thread, and no harm under tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{Host, names};
use crate::common::backup::scratch;
use crate::common::process::{processes, status, wait_until};
use crate::library::{Linked, host, run};

/// The helper of a host that has its scratch directory open, by its verb.
pub fn helper_of(host: &Host, verb: &str) -> Option<i32> {
    let is_verb = |pid: i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == verb.as_bytes())
    };
    let has_open = |pid: i32| links(pid).iter().any(|link| link.starts_with(host.scratch.path()));
    processes().into_iter().find(|pid| is_verb(*pid) && has_open(*pid))
}

fn links(pid: i32) -> Vec<PathBuf> {
    let all = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    all.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

fn parent(pid: i32) -> i32 {
    status(pid, "PPid").and_then(|parent| parent.parse().ok()).expect("it lives")
}

#[test]
fn until_it_is_used_it_is_nothing_and_afterwards_no_thread() {
    let mut host = Host::start();
    let kinds = |pid: i32| {
        let mut kinds: Vec<String> = links(pid)
            .iter()
            .map(|link| {
                link.to_string_lossy()
                    .split(['[', '('])
                    .next()
                    .unwrap_or_default()
                    .trim_end_matches([':', ' '])
                    .to_owned()
            })
            // What it has from whoever started it is another matter.
            .filter(|kind| ["anon_inode", "socket", "/memfd"].iter().any(|ours| kind.starts_with(ours)))
            .collect();
        kinds.sort();
        kinds
    };
    let threads = |pid: i32| fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    assert_eq!((threads(host.pid()), kinds(host.pid())), (1, vec![]));
    assert_eq!(status(host.pid(), "Seccomp").as_deref(), Some("0"));
    let dest = host.dest("dest");
    host.must_back_up(&dest);
    // What a followed process has until it ends, and the line to the launcher.
    wait_until("the backup's thread has ended", || threads(host.pid()) == 1);
    let expected = ["/memfd:hotbackup-session", "anon_inode", "anon_inode:seccomp notify", "socket"];
    assert_eq!(kinds(host.pid()), expected);
    let again = host.dest("again");
    host.must_back_up(&again);
    wait_until("the backup's thread has ended", || threads(host.pid()) == 1);
    assert_eq!(kinds(host.pid()), expected);
}

#[test]
fn the_program_has_no_child_of_it_and_no_signal() {
    let mut host = Host::start();
    host.tell("set raise-on-child 1");
    for name in ["one", "two"] {
        let dest = host.dest(name);
        host.must_back_up(&dest);
        assert_eq!(host.ask("wait"), (Errno::ECHILD as i32).to_string());
    }
    assert_eq!(host.said("SIGCHLD"), [""; 0]);
}

#[test]
fn helpers_end_with_the_program_and_empty_the_destination() {
    let mut host = Host::start();
    fs::write(host.data().join("file"), "content").unwrap();
    let (data, dest) = (host.data(), host.dest("dest"));
    host.tell("keep 1");
    host.start_backup("one", &[(&data, &dest)]);
    host.wait_until_state("1 1");
    let worker = helper_of(&host, "library-work").expect("a worker");
    let launcher = parent(worker);
    assert_ne!(launcher, host.pid());
    assert_ne!(parent(launcher), host.pid());
    assert_eq!(names(&dest).len(), 1);
    kill(Pid::from_raw(host.pid()), Signal::SIGKILL).unwrap();
    wait_until("the worker has ended", || !Path::new(&format!("/proc/{worker}")).exists());
    wait_until("the launcher has ended", || !Path::new(&format!("/proc/{launcher}/exe")).exists());
    assert_eq!(names(&dest), [""; 0]);
}

#[test]
fn a_launcher_that_is_killed_is_told_of_and_harms_nothing() {
    let mut host = Host::start();
    let (data, dest) = (host.data(), host.dest("dest"));
    host.tell("keep 1");
    host.start_backup("one", &[(&data, &dest)]);
    host.wait_until_state("1 1");
    let launcher = parent(helper_of(&host, "library-work").expect("a worker"));
    kill(Pid::from_raw(launcher), Signal::SIGKILL).unwrap();
    wait_until("the launcher has ended", || !Path::new(&format!("/proc/{launcher}/exe")).exists());
    host.tell("keep 0");
    host.end("one").assert_complete();
    // What is started now has the filter, and says so.
    let again = host.dest("again");
    host.back_up(&again).assert_failed(Errno::ENOTSUP, "restart");
    assert_eq!(names(&again), [""; 0]);
}

#[test]
fn fork_in_the_host_concerns_no_backup() {
    let mut host = Host::start();
    fs::write(host.data().join("file"), "content").unwrap();
    let (data, dest) = (host.data(), host.dest("dest"));
    host.tell("keep 1");
    host.start_backup("one", &[(&data, &dest)]);
    host.wait_until_state("1 1");
    // The child's own backup fails, as it must; nothing of it reaches the parent's.
    let childs = host.dest("childs");
    let of_child = format!("fork {} {}", data.display(), childs.display());
    assert_ne!(host.ask(&of_child), "0");
    assert_eq!(host.ask("state"), "1 1");
    host.tell("keep 0");
    host.end("one").assert_complete();
    assert_ne!(host.ask(&of_child), "0");
    assert_eq!(names(&childs), [""; 0]);
    let again = host.dest("again");
    host.must_back_up(&again);
}

#[test]
fn a_static_program_is_backed_up_as_well() {
    let mut host = Host::spawn(scratch(), Command::new(host("host.c", Linked::Statically, &[])));
    fs::write(host.data().join("file"), "content").unwrap();
    for name in ["one", "two"] {
        let dest = host.dest(name);
        host.must_back_up(&dest);
        assert_eq!(names(&dest), ["file"]);
    }
}

#[test]
fn valgrind_finds_nothing_in_the_host() {
    let mut command = Command::new("valgrind");
    command.args([
        "-q",
        "--error-exitcode=9",
        "--track-fds=no",
        "--leak-check=full",
        "--show-leak-kinds=definite",
        "--errors-for-leak-kinds=definite",
    ]);
    command.arg(host("host.c", Linked::Shared, &[]));
    let mut host = Host::spawn(scratch(), command);
    fs::write(host.data().join("file"), "content").unwrap();
    host.tell("set exclude nothing");
    for name in ["one", "two"] {
        let dest = host.dest(name);
        host.must_back_up(&dest);
        assert_eq!(names(&dest), ["file"]);
    }
    let full = host.path("missing");
    host.back_up(&full).assert_failed(Errno::ENOENT, "missing");
    assert_eq!(host.quit(), "");
}

#[test]
fn thread_sanitizer_finds_nothing_in_the_server() {
    let program = host("server.cc", Linked::Archive, &["-fsanitize=thread"]);
    let scratch = scratch();
    fs::create_dir(scratch.path().join("data")).unwrap();
    let mut command = Command::new("timeout");
    // Without random addresses, which some versions of it cannot take.
    command
        .args(["100", "setarch", "-R"])
        .arg(program)
        .arg(scratch.path().join("data"))
        .arg(scratch.path().join("dest"));
    command.arg("2").env("TSAN_OPTIONS", "exitcode=66");
    assert_eq!(run(&mut command), "right\n");
}

/// A helper that leaves a mark, and is none.
fn impostor(dir: &Path) -> (PathBuf, PathBuf) {
    let (program, mark) = (dir.join("impostor"), dir.join("mark"));
    fs::write(&program, format!("#!/bin/sh\ntouch {}\n", mark.display())).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777)).unwrap();
    (program, mark)
}

#[test]
fn the_environment_names_the_helper_unless_somebody_else_may_have_set_it() {
    let program = host("host.c", Linked::Archive, &[]);
    let plain = |_: &Path| Command::new(&program);
    let real_user = |_: &Path| {
        let mut command = Command::new("setpriv");
        command.args(["--ruid=65534", "--clear-groups"]).arg(&program);
        command
    };
    let setuid = |dir: &Path| {
        let copy = dir.join("setuid");
        fs::copy(&program, &copy).unwrap();
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o4755)).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy);
        command
    };
    type Way<'a> = &'a dyn Fn(&Path) -> Command;
    let ways: [(Way<'_>, bool); 3] = [(&plain, true), (&real_user, false), (&setuid, false)];
    for (way, (command, is_taken)) in ways.iter().enumerate() {
        let scratch = scratch();
        let (impostor, mark) = impostor(scratch.path());
        let mut command = command(scratch.path());
        command.env("HOTBACKUP_HELPER", &impostor);
        let mut host = Host::spawn(scratch, command);
        let dest = host.dest("dest");
        let end = host.back_up(&dest);
        // Whether the backup succeeds is another matter. An impostor that was started ends at once, and so the call fails.
        if *is_taken {
            end.assert_failed(Errno::EIO, "helper");
            wait_until("the impostor has run", || mark.exists());
        }
        assert_eq!(mark.exists(), *is_taken, "way {way}: {end:?}");
    }
    // One that is named and not there is no reason to take another.
    let scratch = scratch();
    let mut command = Command::new(&program);
    command.env("HOTBACKUP_HELPER", scratch.path().join("nowhere"));
    let mut host = Host::spawn(scratch, command);
    let dest = host.dest("dest");
    host.back_up(&dest).assert_failed(Errno::ENOENT, "HOTBACKUP_HELPER");
}
