//! A sidecar that ends in whatever way leaves a target that runs on.

use std::time::Duration;

use crate::bench::{Noise, assert_unharmed, begin, right_or_refused};
use crate::common::backup::{self, HOTBACKUP, alone, number_from, seed};
use crate::faults::processes::wait_for_instant;
use crate::faults::target::Target;
use crate::runtime::Container;
use crate::target::Boxed;

/// What the instant of a kill is counted from.
const PHASES: [&str; 7] = ["attach", "attach", "track", "hold", "drain", "publish", "done"];
/// A target is given to so many sidecars before a new one takes its place.
const SIDECARS: u64 = 2;

/// Sidecars made by `start` are killed, one after the other, each with a backup under way or just over.
fn killed_at_any_instant(start: fn(&Boxed) -> Container) {
    let _alone = alone();
    let mut noise = Noise::new(seed());
    let mut target: Option<Boxed> = None;
    for round in 0..number_from("HOTBACKUP_SIDECARS", 6) {
        if round % SIDECARS == 0 {
            target = None;
        }
        let target = target.get_or_insert_with(Boxed::in_container);
        begin(target);
        let sidecar = start(target);
        let dest = target.beside(&format!("killed{round}"));
        let more = [&target.what()[..], &["--throttle", "4MiB"]].concat();
        let mut running = backup::start_command(sidecar.exec(HOTBACKUP), 1, &dest, &more);
        let phase = PHASES[usize::try_from(noise.next() % PHASES.len() as u64).expect("a few")];
        let came = running.comes_to_phase(phase);
        let delay = noise.below(Duration::from_millis(100));
        wait_for_instant(std::time::Instant::now() + delay);
        sidecar.group.kill();
        let what = format!("round {round}, killed {delay:?} after {phase:?} (came to it: {came})");
        println!("{what}");
        running.kill();
        assert_unharmed(target, &what);
        drop(sidecar);
        assert_unharmed(target, &what);
        // Whoever keeps it now, the next backup is right or refused.
        let dest = target.beside(&format!("next{round}"));
        right_or_refused(&backup::take(target.pid(), &dest, &target.what()), &what);
        assert_unharmed(target, &what);
    }
}

#[test]
fn a_sidecar_that_is_killed_at_any_instant_leaves_a_target_that_runs_on() {
    killed_at_any_instant(Boxed::idle_sidecar);
}

#[test]
fn a_sidecar_with_the_targets_cgroups_that_is_killed_at_any_instant_leaves_a_target_that_runs_on() {
    killed_at_any_instant(Boxed::idle_sidecar_with_cgroups);
}

#[test]
fn a_sidecar_that_ends_with_its_backup_leaves_a_target_that_runs_on() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    begin(&mut target);
    for round in 0..2 {
        let dest = target.beside(&format!("backup{round}"));
        let target_path = dest.to_str().expect("a plain name").to_owned();
        let words = [&[HOTBACKUP, "backup", "--json", "--pid", "1"], &target.what()[..], &[&target_path]].concat();
        let mut sidecar = target.sidecar(&words);
        sidecar.wait();
        drop(sidecar);
        assert_unharmed(&mut target, &format!("sidecar {round} has ended"));
    }
    let dest = target.beside("last");
    assert!(right_or_refused(&backup::take(target.pid(), &dest, &target.what()), "at last"), "the host was refused");
}

#[test]
fn a_sidecar_that_is_killed_beside_the_hosts_keepers_leaves_a_target_that_runs_on() {
    let _alone = alone();
    let mut target = Boxed::in_container();
    begin(&mut target);
    backup::take(target.pid(), &target.beside("first"), &target.what()).report();
    let sidecar = target.idle_sidecar();
    let more = [&target.what()[..], &["--throttle", "1MiB"]].concat();
    let mut running = backup::start_command(sidecar.exec(HOTBACKUP), 1, &target.beside("killed"), &more);
    running.comes_to_phase("track");
    sidecar.group.kill();
    running.kill();
    assert_unharmed(&mut target, "the sidecar was killed");
    let dest = target.beside("last");
    assert!(right_or_refused(&backup::take(target.pid(), &dest, &target.what()), "at last"), "the host was refused");
    assert_unharmed(&mut target, "at last");
}
