//! A container that runs out of memory: its OOM killer takes whoever is fattest, which must never be a keeper.

use std::fs;
use std::process::{Command, Stdio};

use crate::cgroup::Group;
use crate::common::backup::{self, HOTBACKUP, alone, scratch};
use crate::common::guest::{Linked, check_rings, compile};
use crate::common::process::{path, wait_until};
use crate::holders::{keepers, memories};
use crate::runtime::{Container, Spec, unique};

const LIMIT: u64 = 48 << 20;
/// The process that fills the memory has more for itself than target and keepers may have.
const BALLAST_MIB: &str = "5";
const RINGS: usize = 2;

#[test]
fn the_oom_killer_of_a_small_container_leaves_the_target_and_its_keepers() {
    let _alone = alone();
    let scratch = scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    let (guest, filler) = (compile("rings", Linked::Statically), compile("fills_memory", Linked::Statically));
    let words = [path(&guest), path(&dir), "2", "64", "200"];
    let above = Group::named(&unique("memory"));
    above.make();
    let mut spec = Spec::new(&format!("/{}/target", above.name()), &words, &[scratch.path(), &guest, &filler]);
    spec.memory = Some(LIMIT);
    let mut target = Container::start(&spec);
    assert_eq!(target.line(), "ready\n", "{:?}", target.said());
    // Without CAP_SYS_RESOURCE, which containers do not have, nobody may be spared by a score of his own.
    let mut hotbackup = Command::new("setpriv");
    hotbackup.args(["--bounding-set", "-sys_resource", HOTBACKUP]);
    let first = scratch.path().join("first");
    backup::start_command(hotbackup, target.pid, &first, &["--source", path(&dir)]).finish().report();
    let mut before = keepers(target.pid);
    for round in 0..3 {
        let killed = target.group.killed_for_memory();
        let mut fill = target.exec(path(&filler));
        let status = fill.args(["/dev/shm/fill", BALLAST_MIB]).stdin(Stdio::null()).status().expect("runc runs");
        assert!(!status.success(), "the memory was never full");
        let killed = target.group.killed_for_memory() - killed;
        assert!(killed > 0, "the OOM killer has killed nobody");
        assert_runs_on(&mut target, &dir, &format!("round {round}"));
        if killed == 1 {
            assert_eq!(keepers(target.pid), before, "round {round}: the OOM killer took a keeper");
        } else {
            // Once more, while the first one's memory was still being freed (its task has none any more by then): that is whoever is
            // fattest of those left, here a keeper, as this target is smaller than any database. Then its twin has its place.
            wait_until("there are two keepers", || keepers(target.pid).len() == 2);
            before = keepers(target.pid);
        }
    }
    assert!(!memories(target.pid).is_empty());
    let last = scratch.path().join("last");
    backup::take(target.pid, &last, &["--source", path(&dir)]).report();
    check_rings(&last, RINGS).unwrap_or_else(|wrong| panic!("{wrong}"));
}

/// Fails unless each ring is written on.
fn assert_runs_on(target: &mut Container, dir: &std::path::Path, what: &str) {
    let written = || -> Vec<_> {
        let ring = |ring: usize| dir.join(format!("{ring}/ring-0"));
        (0..RINGS).map(|number| fs::metadata(ring(number)).expect("there").modified().expect("a time")).collect()
    };
    let before = written();
    wait_until(&format!("{what}: the target's next records"), || {
        let ended = target.ended();
        assert!(ended.is_none(), "{what}: the target ended: {ended:?}");
        before.iter().zip(written()).all(|(before, now)| *before != now)
    });
}
