//! A target whose keepers were all killed is found and answered by a rescue, wherever the keepers came from and wherever the
//! rescue is started.

use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::bench::right_or_refused;
use crate::common::backup::{self, HOTBACKUP, alone};
use crate::common::process::{signal_all, status, threads, wait_until};
use crate::faults::processes::keepers;
use crate::faults::target::{Target, WORKERS};
use crate::holders::{holders, kill_keepers};
use crate::runtime::Container;
use crate::target::Boxed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum From {
    Host,
    Sidecar,
}

impl From {
    /// hotbackup there, and the target's number there.
    fn hotbackup(self, target: &Boxed, sidecar: &Container) -> (Command, i32) {
        match self {
            Self::Host => (Command::new(HOTBACKUP), target.pid()),
            Self::Sidecar => (sidecar.exec(HOTBACKUP), 1),
        }
    }
}

/// Attaches from the host, has all keepers killed, and rescues from here or there.
fn rescued(rescue: From) {
    let _alone = alone();
    let mut target = Boxed::in_container();
    let sidecar = target.idle_sidecar();
    backup::take(target.pid(), &target.beside("first"), &target.what()).report();
    kill_keepers(target.pid());
    let (mut command, pid) = rescue.hotbackup(&target, &sidecar);
    assert_rescues(&mut target, &mut command, pid);
    let dest = target.beside("last");
    assert!(right_or_refused(&backup::take(target.pid(), &dest, &target.what()), "at last"), "the host was refused");
    target.assert_goes_on();
}

/// All that write wait. A rescue has them go on, says how many they were, and which process answers now, if it can be seen.
pub fn assert_rescues(target: &mut Boxed, command: &mut Command, pid: i32) {
    let workers = |target: &Boxed| target.counts()[..WORKERS].to_vec();
    let mut last = workers(target);
    wait_until("a standstill", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = workers(target);
        std::mem::replace(&mut last, now.clone()) == now
    });
    let waits = |tid: &i32| {
        let place = std::fs::read_to_string(format!("/proc/{}/task/{tid}/wchan", target.pid())).unwrap_or_default();
        place.contains("seccomp")
    };
    let waiting = threads(target.pid()).iter().filter(|tid| waits(tid)).count();
    assert!(waiting >= WORKERS, "{waiting} calls wait");
    let output = command.args(["rescue", "--json", "--pid", &pid.to_string()]).output().expect("it starts");
    let said = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned();
    assert!(output.status.success(), "rescue: {}: {said}", output.status);
    let result: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&result["answered"], &result["was_kept"]), (&waiting.into(), &false.into()), "{said}");
    target.assert_goes_on();
    wait_until("two keepers", || keepers(target.pid()).pair.is_some());
    // It counts processes as we do, or not.
    let acting = keepers(target.pid()).pair.expect("just seen").0;
    let numbers = status(acting, "NSpid").expect("it lives");
    let told = result["keeper_pid"].to_string();
    assert!(numbers.split_whitespace().any(|number| number == told), "{told} is none of {numbers}");
}

#[test]
fn a_target_attached_to_from_the_host_is_rescued_from_the_host() {
    rescued(From::Host);
}

#[test]
fn a_target_attached_to_from_the_host_is_rescued_from_a_sidecar() {
    rescued(From::Sidecar);
}

/// The numbers in the memory are then those of the sidecar's namespace.
#[test]
fn a_target_whose_last_keepers_were_started_from_a_sidecar_is_rescued_from_the_host() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    let sidecar = target.idle_sidecar();
    backup::take(target.pid(), &target.beside("first"), &target.what()).report();
    wait_until("two keepers", || keepers(target.pid()).pair.is_some());
    let (acting, twin) = keepers(target.pid()).pair.expect("just seen");
    // It copies a byte a second: it is there until it is killed.
    let more = [&target.what()[..], &["--throttle", "1"]].concat();
    let mut running = backup::start_command(sidecar.exec(HOTBACKUP), 1, &target.beside("killed"), &more);
    running.wait_for_phase("track");
    signal_all(&[acting, twin], Signal::SIGSTOP);
    signal_all(&[acting, twin], Signal::SIGKILL);
    let replaced = |pair: (i32, i32)| ![acting, twin].contains(&pair.0) && ![acting, twin].contains(&pair.1);
    wait_until("the sidecar's keepers", || keepers(target.pid()).pair.is_some_and(replaced));
    sidecar.group.kill();
    running.kill();
    wait_until("the end of all", || holders(target.pid()).is_empty());
    let pid = target.pid();
    assert_rescues(&mut target, &mut Command::new(HOTBACKUP), pid);
    let dest = target.beside("last");
    assert!(right_or_refused(&backup::take(target.pid(), &dest, &target.what()), "at last"), "the host was refused");
}
