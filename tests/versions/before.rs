//! Keepers of the last release before the session's memory lay in the target: they are replaced, and the target runs on. That release is
//! built from git, for another minute, where `HOTBACKUP_VERSIONS=all` asks for it.

use std::fs;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bench::{Bench, Release, patiently};
use crate::common::backup::{HOTBACKUP, alone, start_command};
use crate::common::process::{pair, path, processes, wait_until};
use crate::faults::target::Target;

/// The keepers of that release: `PROGRAM keeper PID START`.
fn keepers_of_before(target: i32) -> Vec<i32> {
    let number = target.to_string();
    let is_one = |pid: &i32| {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = line.split('\0').collect();
        words.get(1..3).is_some_and(|words| words == ["keeper", &number])
    };
    processes().into_iter().filter(is_one).collect()
}

/// A target that the release of before has attached to; nothing where that is not there.
fn attached() -> Option<Bench> {
    if std::env::var("HOTBACKUP_VERSIONS").as_deref() != Ok("all") {
        println!("only with HOTBACKUP_VERSIONS=all");
        return None;
    }
    let program = super::earlier::of_before()?;
    let mut bench = Bench::new();
    let source = bench.target.source();
    let more: Vec<&str> = source.iter().map(String::as_str).chain(["--exclude", "mapped"]).collect();
    let mut tries = 0;
    patiently(|| {
        tries += 1;
        let dest = bench.target.scratch().join(format!("of-before-{tries}"));
        start_command(Command::new(program), bench.pid(), &dest, &more).finish()
    });
    wait_until("its keepers", || keepers_of_before(bench.pid()).len() == 2);
    bench.assert_unharmed("attached");
    Some(bench)
}

fn assert_replaced(bench: &mut Bench) {
    assert_eq!(keepers_of_before(bench.pid()), [0; 0], "keepers of before are left");
    pair(bench.pid());
    bench.back_up_kept(Release::Today);
    bench.back_up_kept(Release::Earlier);
}

#[test]
fn keepers_of_before_are_replaced_by_a_backup() {
    let _alone = alone();
    for _ in 0..3 {
        let Some(mut bench) = attached() else { return };
        bench.back_up_kept(Release::Today);
        assert_replaced(&mut bench);
    }
}

#[test]
fn keepers_of_before_are_replaced_by_a_rescue() {
    let _alone = alone();
    let Some(mut bench) = attached() else { return };
    let output = Command::new(HOTBACKUP).args(["rescue", "--pid", &bench.pid().to_string()]).output();
    assert!(output.as_ref().is_ok_and(|output| output.status.success()), "{output:?}");
    bench.assert_unharmed("rescued");
    assert_replaced(&mut bench);
}

/// One that is stopped has a call in its hand, perhaps, or has not; one that is killed leaves the other.
#[test]
fn a_single_keeper_of_before_is_replaced() {
    let _alone = alone();
    let Some(mut bench) = attached() else { return };
    let first = keepers_of_before(bench.pid())[0];
    kill(Pid::from_raw(first), Signal::SIGKILL).expect("it lives");
    bench.back_up_kept(Release::Today);
    assert_replaced(&mut bench);
}

/// Today's supervisor is killed at any instant of replacing them: the next one finds whatever is left.
#[test]
fn a_replacement_that_is_killed_is_brought_to_its_end_by_the_next() {
    let _alone = alone();
    for delay_ms in [10, 20, 40, 60, 80, 120, 160] {
        let Some(mut bench) = attached() else { return };
        let dest = bench.target.scratch().join("killed");
        let source = bench.target.source();
        let more: Vec<&str> = source.iter().map(String::as_str).chain(["--exclude", "mapped"]).collect();
        let running = start_command(Command::new(HOTBACKUP), bench.pid(), &dest, &more);
        std::thread::sleep(std::time::Duration::from_millis(delay_ms));
        running.kill();
        bench.assert_unharmed(&format!("killed after {delay_ms} ms: {}", path(&dest)));
        bench.back_up_kept(Release::Today);
        assert_replaced(&mut bench);
    }
}
