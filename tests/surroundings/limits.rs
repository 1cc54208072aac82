//! Limits of the command's own: raised where that is permitted, else an error that names them.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::common::backup::{self, HOTBACKUP, alone};
use crate::common::guest::Guest;
use crate::common::process::{assert_right, may_exceed_limits, path};
use crate::{RINGS, rings};

/// hotbackup with this limit, and without the right to go beyond it.
fn limited(limit: &str) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(limit);
    if may_exceed_limits() {
        command.args(["setpriv", "--bounding-set", "-sys_resource", "--inh-caps", "-sys_resource"]);
    }
    command.arg(HOTBACKUP);
    command
}

fn back_up(command: Command, guest: &Guest) -> backup::Outcome {
    let (dest, source) = (guest.beside("backup"), guest.dir.clone());
    backup::start_command(command, guest.pid(), &dest, &["--source", path(&source)]).finish()
}

#[test]
fn a_limit_that_leaves_no_room_is_an_error_that_names_it() {
    let _alone = alone();
    let mut guest = rings();
    for (limit, name) in [
        ("--as=300000000", "RLIMIT_AS"),
        ("--data=50000000", "RLIMIT_DATA"),
        ("--fsize=1000", "RLIMIT_FSIZE"),
        ("--fsize=1000000", "RLIMIT_FSIZE"),
        ("--nofile=20", "RLIMIT_NOFILE"),
        ("--stack=65536", "RLIMIT_STACK"),
    ] {
        let said = back_up(limited(limit), &guest).failure("own_limit");
        assert!(said.contains(name) && said.contains("ulimit"), "{limit}: {said}");
        assert!(!guest.is_filtered(), "{limit}: it was touched");
        guest.assert_goes_on();
    }
}

#[test]
fn a_file_that_is_longer_than_the_command_may_make_is_an_error_that_names_the_limit() {
    let _alone = alone();
    let mut guest = rings();
    fs::write(guest.dir.join("foreign"), vec![1; 3 << 20]).expect("written");
    let said = back_up(limited("--fsize=2097152"), &guest).failure("own_limit");
    assert!(said.contains("2097152 bytes (RLIMIT_FSIZE)"), "{said}");
    guest.assert_goes_on();
    // Without data, only by its length.
    let file = fs::File::options().write(true).open(guest.dir.join("foreign")).expect("there");
    file.set_len(0).and_then(|()| file.set_len(3 << 20)).expect("a hole");
    drop(file);
    let said = back_up(limited("--fsize=2097152"), &guest).failure("own_limit");
    assert!(said.contains("RLIMIT_FSIZE"), "{said}");
    guest.assert_goes_on();
}

#[test]
fn a_soft_limit_is_raised_and_for_root_a_hard_one() {
    let _alone = alone();
    let mut guest = rings();
    fs::write(guest.dir.join("foreign"), vec![1; 3 << 20]).expect("written");
    let mut limits =
        vec!["--fsize=1000:unlimited", "--nofile=20:4096", "--as=300000000:unlimited", "--stack=65536:unlimited"];
    if may_exceed_limits() {
        limits.extend(["--fsize=1000", "--nofile=20", "--as=300000000"]);
    }
    for limit in limits {
        // What starts it must be able to live with the limit, too.
        let mut command = Command::new("prlimit");
        command.args([limit, HOTBACKUP]);
        let outcome = back_up(command, &guest);
        assert_right(&outcome, RINGS);
        fs::remove_dir_all(&outcome.dest).expect("our own backup");
        guest.assert_goes_on();
    }
}

#[test]
fn limits_that_concern_nothing_here_are_in_nobodys_way() {
    let _alone = alone();
    let mut guest = rings();
    for limit in ["--memlock=0", "--core=0", "--sigpending=0", "--rttime=1", "--rtprio=0", "--msgqueue=0", "--rss=1000"]
    {
        let outcome = back_up(limited(limit), &guest);
        assert_right(&outcome, RINGS);
        fs::remove_dir_all(&outcome.dest).expect("our own backup");
        guest.assert_goes_on();
    }
}

#[test]
fn the_end_of_its_processor_time_cancels_before_the_kernel_kills() {
    let _alone = alone();
    let mut guest = rings();
    let (dest, source) = (guest.beside("backup"), guest.dir.clone());
    let more = ["--source", path(&source), "--throttle", "0"];
    let mut running = backup::start_command(limited("--cpu=600"), guest.pid(), &dest, &more);
    running.wait_for_phase("track");
    let limits = fs::read_to_string(format!("/proc/{}/limits", running.pid())).expect("it lives");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max cpu time")).expect("a limit");
    assert_eq!(line.split_whitespace().take(2).collect::<Vec<_>>(), ["598", "600"], "nothing is left for the end");
    // As the kernel does at the soft limit.
    running.signal(Signal::SIGXCPU);
    let said = running.finish().failure("own_limit");
    assert!(said.contains("RLIMIT_CPU"), "{said}");
    guest.assert_goes_on();
}
