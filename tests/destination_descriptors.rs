//! More directories than this process may have files open: with the right to raise the limit the backup succeeds; without it the cause
//! is told, and nothing is left, though no descriptor is left to remove it with.
#![forbid(unsafe_code)]

use std::fs;
use std::process::Command;

mod common {
    pub mod backup;
    pub mod guest;
}
use common::backup::{HOTBACKUP, Outcome, alone, start_command, verify};
use common::guest::{Guest, Linked};

const DIRECTORIES: usize = 1200;

/// Backs up a guest with that many directories where 1,024 files may be open.
fn back_up(guest: &mut Guest, name: &str, before: &[&str]) -> Outcome {
    for number in 0..DIRECTORIES {
        fs::create_dir_all(guest.dir.join(format!("d{number}"))).expect("made");
    }
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -n 1024 && exec \"$@\"", "sh"]).args(before).arg(HOTBACKUP);
    let source = guest.dir.clone();
    let more = ["--source", source.to_str().expect("plain")];
    let outcome = start_command(command, guest.pid(), &guest.beside(name), &more).finish();
    guest.assert_alive();
    outcome
}

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["2", "16", "2000"])
}

/// Whether this machine's root may raise limits (`linux/capability.h`). In some containers he may not.
fn may_raise() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = fs::read_to_string("/proc/self/status").expect("readable");
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:")).expect("it is there");
    u64::from_str_radix(line.trim(), 16).expect("a number") >> CAP_SYS_RESOURCE & 1 == 1
}

#[test]
fn root_raises_the_limit_where_he_may() {
    let _alone = alone();
    let mut guest = rings();
    let outcome = back_up(&mut guest, "backup", &[]);
    if !may_raise() {
        outcome.failure("too_many_open_files");
        return;
    }
    assert!(outcome.report()["directories"].as_u64() > Some(DIRECTORIES as u64));
    verify(&outcome.dest);
}

#[test]
fn without_that_right_the_cause_is_told_and_nothing_is_left() {
    let _alone = alone();
    let mut guest = rings();
    let before = ["setpriv", "--inh-caps=-sys_resource", "--bounding-set=-sys_resource"];
    let said = back_up(&mut guest, "backup", &before).failure("too_many_open_files");
    assert!(said.contains("ulimit"), "{said}");
}
