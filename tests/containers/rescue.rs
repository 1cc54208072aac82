//! A target whose keepers were all killed is found and answered by a rescue, wherever the keepers came from and wherever the
//! rescue is started.

use std::process::Command;

use crate::bench::right_or_refused;
use crate::common::backup::{self, HOTBACKUP, alone};
use crate::common::process::wait_until;
use crate::faults::target::Target;
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
    // All that write wait now.
    let workers = |target: &Boxed| target.counts()[..crate::faults::target::WORKERS].to_vec();
    let mut last = workers(&target);
    wait_until("a standstill", || {
        std::thread::sleep(std::time::Duration::from_millis(100));
        let now = workers(&target);
        std::mem::replace(&mut last, now.clone()) == now
    });
    let (mut command, pid) = rescue.hotbackup(&target, &sidecar);
    let output = command.args(["rescue", "--json", "--pid", &pid.to_string()]).output().expect("it starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success(), "rescue from {rescue:?}: {}: {said}", output.status);
    target.assert_goes_on();
    wait_until("two keepers", || holders(target.pid()).len() == 2);
    let dest = target.beside("last");
    assert!(right_or_refused(&backup::take(target.pid(), &dest, &target.what()), "at last"), "the host was refused");
    target.assert_goes_on();
}

#[test]
fn a_target_attached_to_from_the_host_is_rescued_from_the_host() {
    rescued(From::Host);
}

#[test]
fn a_target_attached_to_from_the_host_is_rescued_from_a_sidecar() {
    rescued(From::Sidecar);
}
