//! What a backup is, and how the caller's functions steer it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::bench::{Host, LIMIT, names};
use crate::common::backup::{number_from, scratch};
use crate::common::names;
use crate::common::process::wait_until;
use crate::common::snapshot::Snapshot;
use crate::library::{Linked, host, host_with, run};

const WORKERS: usize = 3;

/// A host in whose threads a guest writes by calls of every kind.
fn busy() -> Host {
    let program = host_with("every_kind_of_call");
    let scratch = scratch();
    let mut command = Command::new(program);
    command.arg(scratch.path().join("data")).arg(scratch.path().join("page"));
    command.args([&WORKERS.to_string(), "32", "300", "0"]);
    Host::spawn(scratch, command)
}

#[test]
fn backups_while_threads_write_by_every_kind_of_call_are_states_that_existed() {
    let mut host = busy();
    // Mapped for writing: not to be followed. Its threads make thousands of names, none of which is asked for twice.
    host.tell("set exclude /data/mapped");
    for round in 0..number_from("HOTBACKUP_ROUNDS", 4) {
        let dest = host.dest(&format!("dest-{round}"));
        host.must_back_up(&dest);
        names::check(&dest, WORKERS).unwrap_or_else(|wrong| panic!("round {round}: {wrong}"));
        assert!(!dest.join("mapped").exists());
    }
    host.quit();
}

#[test]
fn the_server_finds_every_backup_of_its_own_right() {
    for (linked, more) in [(Linked::Shared, &[][..]), (Linked::Archive, &[])] {
        let program = host("server.cc", linked, more);
        let scratch = scratch();
        fs::create_dir(scratch.path().join("data")).unwrap();
        let rounds = number_from("HOTBACKUP_ROUNDS", 4).to_string();
        let mut command = Command::new("timeout");
        command.arg("100").arg(program).arg(scratch.path().join("data")).arg(scratch.path().join("dest")).arg(rounds);
        assert_eq!(run(&mut command), "right\n", "{linked:?}");
    }
}

#[test]
fn an_idle_tree_is_copied_whole_and_there_is_nothing_beside_it() {
    let mut host = Host::start();
    let data = host.data();
    fs::create_dir_all(data.join("a/b")).unwrap();
    fs::write(data.join("a/b/file"), vec![3; 100_000]).unwrap();
    fs::hard_link(data.join("a/b/file"), data.join("again")).unwrap();
    std::os::unix::fs::symlink("a/b/file", data.join("link")).unwrap();
    run(Command::new("truncate").args(["-s", "1M"]).arg(data.join("sparse")));
    run(Command::new("chmod").arg("1751").arg(&data));
    run(Command::new("chown").arg("7:8").arg(&data));
    let dest = host.dest("dest");
    let before = names(host.scratch.path());
    host.must_back_up(&dest);
    assert_eq!(names(host.scratch.path()), before);
    assert_eq!(names(&dest), names(&data));
    assert!(Snapshot::of(&dest) == Snapshot::of(&data), "the backup differs");
}

#[test]
fn what_is_written_before_the_first_function_returns_is_in_the_backup_and_what_is_after_the_second_is_not() {
    let mut host = Host::start();
    let (data, dest) = (host.data(), host.dest("dest"));
    fs::write(data.join("file"), "content").unwrap();
    let file = |name: &str| data.join(name).display().to_string();
    // By the functions themselves, and by another thread while they run.
    for setting in ["before-waits 1", "after-waits 1"] {
        host.tell(&format!("set {setting}"));
    }
    host.tell(&format!("set before-file {}", file("functions")));
    host.tell(&format!("set after-file {}", file("functions")));
    host.start_backup("one", &[(&data, &dest)]);
    host.wait_for("before");
    host.ask(&format!("write {} during-the-first", file("other")));
    host.tell("set before-waits 0");
    host.wait_for("after");
    host.ask(&format!("write {} during-the-second", file("other")));
    host.ask(&format!("write {} new", file("new")));
    host.tell("set after-waits 0");
    host.end("one").assert_complete();
    let read = |dir: &Path, name: &str| fs::read_to_string(dir.join(name)).unwrap();
    assert_eq!((read(&dest, "functions"), read(&dest, "other")), ("before\n".into(), "during-the-first".into()));
    assert_eq!(names(&dest), ["file", "functions", "other"]);
    assert_eq!(read(&data, "other"), "during-the-firstduring-the-second");
}

#[test]
fn a_poll_that_stops_it_is_returned_and_nothing_is_left() {
    let mut host = Host::start();
    fs::write(host.data().join("file"), "content").unwrap();
    let dest = host.dest("dest");
    for poll in ["1", "2", "3", "5"] {
        host.tell(&format!("set stop-at-poll {poll}"));
        // It runs until then, whatever the machine does.
        host.tell("keep 1");
        let end = host.back_up(&dest);
        assert_eq!((end.result, end.number("errors")), (7, 0.0), "{end:?}");
        assert_eq!(end.number("polls").to_string(), poll);
        assert_eq!(end.number("befores"), end.number("afters"), "{end:?}");
        assert_eq!(names(&dest), [""; 0]);
    }
    host.tell("set stop-at-poll 0");
    host.tell("keep 0");
    host.must_back_up(&dest);
}

#[test]
fn the_last_poll_still_stops_it() {
    let mut host = Host::start();
    fs::write(host.data().join("file"), "content").unwrap();
    let dest = host.dest("dest");
    host.tell("set stop-at-the-end 1");
    let end = host.back_up(&dest);
    assert_eq!((end.result, end.number("last"), names(&dest)), (7, 1.0, vec![]), "{end:?}");
    assert_eq!((end.number("befores"), end.number("afters")), (1.0, 1.0), "{end:?}");
    host.tell("set stop-at-the-end 0");
    host.must_back_up(&dest);
}

#[test]
fn it_is_polled_ten_times_a_second_while_it_is_paused_and_goes_on_when_the_rate_is_raised() {
    let mut host = Host::start();
    fs::write(host.data().join("file"), vec![1; 4 << 20]).unwrap();
    let (data, dest) = (host.data(), host.dest("dest"));
    // Before there is a backup.
    host.tell("throttle 0");
    host.tell("set tell-polls 1");
    host.start_backup("one", &[(&data, &dest)]);
    host.wait_until_state("1 0");
    // A busy machine may keep it from some. So: at some time ten come within a second.
    let begun = Instant::now();
    loop {
        let at = Instant::now();
        (0..10).for_each(|_| drop(host.wait_for("poll")));
        if at.elapsed() <= Duration::from_secs(1) {
            break;
        }
        assert!(begun.elapsed() < LIMIT, "it is never polled ten times a second");
    }
    assert_eq!(host.ask("state"), "1 0");
    assert_eq!(host.said("end"), [""; 0]);
    host.tell("set tell-polls 0");
    host.tell(&format!("throttle {}", u64::MAX));
    host.end("one").assert_complete();
    assert_eq!(fs::metadata(dest.join("file")).unwrap().len(), 4 << 20);
}

#[test]
fn functions_may_be_slow_and_may_throttle() {
    let mut host = Host::start();
    fs::write(host.data().join("file"), vec![1; 1 << 20]).unwrap();
    let (data, dest) = (host.data(), host.dest("dest"));
    host.tell("throttle 0");
    host.tell("set poll-sleep-ms 100");
    host.start_backup("one", &[(&data, &dest)]);
    host.wait_until_state("1 0");
    host.tell(&format!("set rate-in-poll {}", 1u64 << 40));
    host.end("one").assert_complete();
    assert_eq!(fs::metadata(dest.join("file")).unwrap().len(), 1 << 20);
    // The rate holds for what follows.
    host.tell("set poll-sleep-ms 0");
    let again = host.dest("again");
    host.must_back_up(&again);
}

#[test]
fn each_path_is_asked_for_once_and_excluded_with_all_below() {
    let mut host = Host::start();
    let data = host.data();
    fs::create_dir_all(data.join("keep/skip-below")).unwrap();
    fs::create_dir_all(data.join("skip-dir/below")).unwrap();
    for name in ["keep/file", "keep/skip-below/file", "skip-dir/below/file", "skip-file", "file"] {
        fs::write(data.join(name), name).unwrap();
    }
    host.tell("set tell-excludes 1");
    host.tell("set exclude skip");
    let dest = host.dest("dest");
    let end = host.must_back_up(&dest);
    let mut asked = host.said("exclude");
    asked.sort();
    let all = ["file", "keep", "keep/file", "keep/skip-below", "skip-dir", "skip-file"];
    let all: Vec<String> = all.iter().map(|name| format!("exclude {}", data.join(name).display())).collect();
    assert_eq!((asked, end.number("excludes")), (all, 6.0));
    assert_eq!((names(&dest), names(&dest.join("keep"))), (vec!["file".into(), "keep".into()], vec!["file".into()]));
}

#[test]
fn a_file_that_comes_while_the_backup_runs_is_asked_for() {
    let mut host = Host::start();
    let (data, dest) = (host.data(), host.dest("dest"));
    host.tell("set exclude skip");
    host.tell("keep 1");
    host.start_backup("one", &[(&data, &dest)]);
    host.wait_until_state("1 1");
    for name in ["skip-new", "new"] {
        host.ask(&format!("write {} text", data.join(name).display()));
    }
    host.tell("keep 0");
    host.end("one").assert_complete();
    assert_eq!(names(&dest), ["new"]);
    // And one that comes in the last moment, when nobody is asked before the point in time.
    let last = host.dest("last");
    host.tell("set before-waits 1");
    host.start_backup("two", &[(&data, &last)]);
    host.wait_for("before");
    for name in ["skip-last", "at-last"] {
        host.ask(&format!("write {} text", data.join(name).display()));
    }
    host.tell("set before-waits 0");
    host.end("two").assert_complete();
    assert_eq!(names(&last), ["at-last", "new"]);
}

#[test]
fn tests_of_programs_may_have_it_wait_and_ask_where_it_is() {
    let mut host = Host::start();
    let (data, dest) = (host.data(), host.dest("dest"));
    fs::write(data.join("file"), vec![1; 1 << 20]).unwrap();
    assert_eq!(host.ask("state"), "0 0");
    host.tell("start 0");
    host.tell("keep 1");
    host.start_backup("one", &[(&data, &dest)]);
    host.wait_until_state("1 0");
    let staged = |dest: &Path| -> u64 {
        let below = fs::read_dir(dest).unwrap().flatten().flat_map(|entry| {
            let data = entry.path().join(".hotbackup/data");
            fs::read_dir(data).into_iter().flatten().flatten()
        });
        below.map(|entry| entry.metadata().map_or(0, |data| data.len())).sum()
    };
    assert_eq!(staged(&dest), 0, "it copies already");
    host.tell("start 1");
    host.wait_until_state("1 1");
    assert_eq!(staged(&dest), 1 << 20);
    host.ask(&format!("write {} more", data.join("file").display()));
    // It goes on copying what changes.
    wait_until("what changed is copied", || staged(&dest) == (1 << 20) + 4);
    assert_eq!(host.ask("state"), "1 1");
    host.tell("keep 0");
    host.end("one").assert_complete();
    assert_eq!(host.ask("state"), "0 1");
    assert_eq!(fs::metadata(dest.join("file")).unwrap().len(), (1 << 20) + 4);
}

#[test]
fn calls_at_once_are_one_backup_and_busy_else_over_and_over() {
    let mut host = Host::start();
    let data = host.data();
    fs::write(data.join("file"), "content").unwrap();
    for round in 0..3 {
        let dest = host.dest(&format!("dest-{round}"));
        let many = host.ask(&format!("many 8 {} {}", data.display(), dest.display()));
        let counts: Vec<u32> = many.split(' ').map(|word| word.parse().unwrap()).collect();
        // One after the other may come to it: then the destination is not empty.
        assert!(counts[0] == 1 && counts[0] + counts[1] + counts[2] == 8, "{many}");
        assert_eq!(names(&dest), ["file"]);
    }
}

#[test]
fn twelve_thousand_open_files_are_no_more_than_one() {
    const FILES: usize = 12_000;
    let scratch = scratch();
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 20000 && exec \"$0\""]).arg(host("host.c", Linked::Shared, &[]));
    let mut host = Host::spawn(scratch, command);
    host.ask(&format!("open {FILES} {}", host.data().display()));
    let dest = host.dest("dest");
    host.must_back_up(&dest);
    assert_eq!(names(&dest).len(), FILES);
}

#[test]
fn a_helper_that_is_killed_fails_the_backup_and_neither_the_program_nor_the_next_one() {
    let mut host = Host::start();
    let (data, dest) = (host.data(), host.dest("dest"));
    fs::write(data.join("file"), "content").unwrap();
    host.tell("keep 1");
    host.start_backup("one", &[(&data, &dest)]);
    host.wait_until_state("1 1");
    let worker = crate::surroundings::helper_of(&host, "library-work").expect("a worker");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker), nix::sys::signal::Signal::SIGKILL).unwrap();
    host.end("one").assert_failed(Errno::EIO, "helper");
    host.tell("keep 0");
    // What it left is taken for what it is.
    assert!(names(&dest).iter().all(|name| name.starts_with(".hotbackup-partial-")), "{:?}", names(&dest));
    // Its keepers may not have noticed yet.
    let until = Instant::now() + LIMIT;
    loop {
        let end = host.back_up(&dest);
        if end.result == 0 {
            break;
        }
        end.assert_failed(Errno::EBUSY, "");
        assert!(Instant::now() < until, "{end:?}");
    }
    assert_eq!(names(&dest), ["file"]);
}
