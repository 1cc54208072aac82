//! Calls captured at their sites, by code of ours in the target: they are marked, and nobody is notified of them; whoever is killed,
//! at any step of it, the target goes on; and what is published is right. (What every backup is held against while threads do
//! all that a program can do to descriptors is in `model/`.)
#![forbid(unsafe_code)]

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hotbackup_event::Effect;
use hotbackup_tracer::{Event, Look, Sink, Stage, Ticket, Tracer};
use nix::sys::signal::Signal;

mod common {
    pub mod backup;
    pub mod guest;
    pub mod nobody;
    pub mod process;
    pub mod random;
}
use common::backup::{self, alone, number_from, seed};
use common::guest::{Guest, Linked};
use common::nobody::{follow, options};
use common::process::{path, wait_until};
use common::random::Random;

const RINGS: usize = 4;

/// Threads that write so often, in microseconds.
fn rings(linked: Linked, pause: &str) -> Guest {
    Guest::start("rings", linked, &["4", "64", pause])
}

/// Calls that wrote, by the kernel's own count (proc_pid_io(5)).
fn writes(guest: &Guest) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", guest.pid())).expect("it runs");
    io.lines().find_map(|line| line.strip_prefix("syscw: ")?.parse().ok()).expect("a count")
}

/// Waits until of so many writes none in a thousand is shown, as `shown` counts them.
fn wait_until_unshown(guest: &Guest, of: u64, shown: impl Fn() -> u64) {
    wait_until("its writes go by without being shown", || {
        let (before, shown_before, limit) = (writes(guest), shown(), Instant::now() + Duration::from_secs(60));
        while writes(guest) < before + of {
            assert!(Instant::now() < limit, "it has stopped writing");
            std::thread::yield_now();
        }
        (shown() - shown_before) * 1000 <= writes(guest) - before
    });
}

#[test]
fn writes_at_captured_sites_are_marked_and_not_shown_neither_then_nor_between_backups() {
    let _alone = alone();
    for linked in [Linked::Dynamically, Linked::Statically] {
        let mut guest = rings(linked, "0");
        let tracer = follow(guest.pid(), true);
        wait_until_unshown(&guest, 20_000, || tracer.received());
        assert!(tracer.sites().is_some_and(|sites| sites > 0), "{:?}", tracer.sites());
        // Marks are there, of each of the files, and come again.
        for _ in 0..3 {
            tracer.grace().expect("a grace");
            tracer.unseen(Look::Mark);
            let (mut files, shown) = (HashSet::new(), tracer.received());
            wait_until("each file is marked", || {
                files.extend(tracer.marked().iter().map(|effect| effect.subject().ino));
                files.len() == 3 * RINGS
            });
            assert!(tracer.received() < shown + 1000, "{linked:?}: {} were shown", tracer.received() - shown);
        }
        drop(tracer);
        let answered = || hotbackup_tracer::rescue(guest.pid(), &options(true)).expect("it is kept").answered;
        wait_until_unshown(&guest, 20_000, answered);
        // One that does not want it sees every write.
        let tracer = follow(guest.pid(), false);
        let (before, seen) = (writes(&guest), tracer.received());
        wait_until("it writes", || writes(&guest) > before + 1000);
        assert!(tracer.received() >= seen + (writes(&guest) - before) / 2, "some go by unseen");
        drop(tracer);
        guest.assert_goes_on();
    }
}

/// In the drain: says of some files that they are saved, and counts what is shown of each.
#[derive(Default)]
struct Drained {
    saved: Mutex<HashSet<u64>>,
    shown: Mutex<HashMap<u64, u64>>,
}

impl Drained {
    /// How many calls were shown: on each file that is not saved, and on all others together.
    fn shown(&self) -> (Vec<u64>, u64) {
        let (saved, shown) = (self.saved.lock().expect("no panic"), self.shown.lock().expect("no panic"));
        let others = shown.iter().filter(|(ino, _)| !saved.contains(ino)).map(|(_, shown)| *shown).collect();
        (others, shown.iter().filter(|(ino, _)| saved.contains(ino)).map(|(_, shown)| shown).sum())
    }
}

impl Sink for Drained {
    fn deliver(&self, event: Event, ticket: Ticket) {
        for effect in &event.effects {
            *self.shown.lock().expect("no panic").entry(effect.subject().ino).or_default() += 1;
        }
        drop(ticket);
    }
    fn is_settled(&self, effect: &Effect) -> bool {
        self.saved.lock().expect("no panic").contains(&effect.subject().ino)
    }
    fn found(&self, _: Event) {}
    fn blind(&self, cause: String) {
        panic!("{cause}");
    }
    fn wait_until_released(&self) {}
    fn lost(&self, cause: hotbackup_tracer::Error) {
        panic!("{cause}");
    }
}

#[test]
fn in_the_drain_what_is_saved_is_written_unshown_and_all_else_is_shown() {
    let _alone = alone();
    for linked in [Linked::Dynamically, Linked::Statically] {
        let mut guest = rings(linked, "0");
        let sink = Arc::new(Drained::default());
        let tracer = Tracer::attach(guest.pid(), &options(true), sink.clone()).expect("attached");
        tracer.grace().expect("a first grace");
        wait_until_unshown(&guest, 20_000, || tracer.received());
        let mut files = HashSet::new();
        wait_until("each file is marked", || {
            files.extend(tracer.marked().iter().map(|effect| effect.subject().ino));
            files.len() == 3 * RINGS
        });
        tracer.set_stage(Stage::Hold);
        tracer.grace().expect("a grace");
        let _point_in_time = tracer.marked();
        sink.saved.lock().expect("no panic").extend(files.iter().take(3 * RINGS / 2));
        tracer.set_stage(Stage::Drain);
        wait_until("what is saved is not shown any more", || {
            let ((others, saved), before) = (sink.shown(), writes(&guest));
            wait_until("much is written elsewhere", || {
                let now = sink.shown().0;
                others.len() == now.len() && others.iter().zip(&now).all(|(before, now)| *now > before + 50)
            });
            (sink.shown().1 - saved) * 100 <= writes(&guest) - before
        });
        assert_eq!(tracer.marked(), [], "what is saved was taken for a mark");
        drop(tracer);
        guest.assert_goes_on();
        let dir = guest.dir.clone();
        back_up(&mut guest, "next", &["--source", path(&dir), "--capture", "auto"]);
    }
}

#[test]
fn whoever_is_killed_at_any_step_of_it_the_target_goes_on_and_the_next_backup_is_right() {
    let _alone = alone();
    let steps = ["hold.parked", "hold.quiet", "hold.fixed", "drain.claimed", "handover.deaf", "handover.kept"];
    let steps = hotbackup_event::failpoint::NAMES_OF_SITES.iter().chain(&steps);
    for (round, step) in steps.enumerate() {
        let mut guest = rings(if round % 2 == 0 { Linked::Dynamically } else { Linked::Statically }, "50");
        let dir = guest.dir.clone();
        let source = ["--source", path(&dir), "--capture", "auto"];
        // A backup that is over before a site is patched does not come to it: nothing is copied until then.
        let is_while_tracking = step.starts_with("site.") && *step != "site.draining";
        // At the beginning all blocks are still to be saved, so that the next call is one that waits for it.
        let waits = match *step {
            "drain.claimed" => &["--throttle", "0", "--point", "start"][..],
            _ if is_while_tracking => &["--throttle", "0"],
            _ => &[],
        };
        let met = guest.beside("met");
        let point = format!("{step}:kill@{}", met.display());
        backup::start_failing(guest.pid(), &guest.beside("killed"), &[&source[..], waits].concat(), &point).finish();
        assert!(met.exists(), "{step} was not come to");
        guest.assert_goes_on();
        back_up(&mut guest, "next", &source);
        guest.assert_goes_on();
    }
}

#[test]
fn it_is_killed_at_random_instants_and_the_target_goes_on_and_later_backups_are_right() {
    let _alone = alone();
    let mut random = Random::new(seed());
    let mut guest = rings(Linked::Dynamically, "50");
    for round in 0..number_from("HOTBACKUP_FAULTS", 60) / 3 {
        let way = random.one_of(&["auto", "auto", "notify"]);
        let point = random.one_of(&["end", "start"]);
        let dir = guest.dir.clone();
        let source = ["--source", path(&dir), "--capture", way, "--point", point];
        let running = backup::start(guest.pid(), &guest.beside(&format!("killed{round}")), &source);
        std::thread::sleep(Duration::from_micros(random.below(900_000)));
        running.signal(Signal::SIGKILL);
        let _ = running.finish();
        guest.assert_goes_on();
        if round % 4 == 3 {
            back_up(&mut guest, &format!("right{round}"), &source);
        }
    }
}

fn back_up(guest: &mut Guest, name: &str, source: &[&str]) {
    let outcome = backup::take(guest.pid(), &guest.beside(name), source);
    common::process::assert_right(&outcome, RINGS);
    fs::remove_dir_all(guest.beside(name)).expect("the backup can be removed");
}
