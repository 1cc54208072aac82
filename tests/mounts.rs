//! Mounts that somebody else makes, or takes away, while a backup runs: one on the way to the source or below it fails the
//! backup, which names the place.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

mod common {
    pub mod backup;
    pub mod guest;
}
use common::backup::{self, scratch};
use common::guest::{Guest, Linked, compile};

fn path(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(status.success(), "{program} {arguments:?}: {status} (these tests need root)");
}

/// Unmounts what is there when dropped, whatever stands on it.
struct Mounted<'a>(&'a Path);

impl<'a> Mounted<'a> {
    fn tmpfs(at: &'a Path) -> Self {
        run("mount", &["-t", "tmpfs", "none", path(at)]);
        Self(at)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").args(["--lazy", path(self.0)]).status();
    }
}

/// A backup of a guest, during which `change` is made.
fn backed_up(guest: &mut Guest, change: impl FnOnce()) -> backup::Outcome {
    let dest = guest.beside("backup");
    let more = ["--source", path(&guest.dir), "--throttle", "8MiB"];
    let mut running = backup::start(guest.pid(), &dest, &more);
    running.wait_for_copying();
    change();
    let outcome = running.finish();
    guest.assert_alive();
    outcome
}

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "171", "200"])
}

fn assert_names(outcome: &backup::Outcome, place: &Path) {
    let said = outcome.failure("blind");
    assert!(said.contains(&format!("at {} something was mounted", place.display())), "{said}");
}

#[test]
fn one_that_comes_below_the_source_fails_the_backup() {
    let mut guest = rings();
    let below = guest.dir.join("below it");
    fs::create_dir(&below).expect("made");
    let mut mounted = None;
    let outcome = backed_up(&mut guest, || mounted = Some(Mounted::tmpfs(&below)));
    assert_names(&outcome, &below);
}

#[test]
fn one_that_goes_below_the_source_fails_the_backup() {
    let mut guest = rings();
    let below = guest.dir.join("below");
    fs::create_dir(&below).expect("made");
    let mounted = Mounted::tmpfs(&below);
    let outcome = backed_up(&mut guest, || drop(mounted));
    assert_names(&outcome, &below);
}

#[test]
fn one_that_hides_the_source_fails_the_backup() {
    let mut guest = rings();
    let dir = guest.dir.clone();
    let mut mounted = None;
    let outcome = backed_up(&mut guest, || mounted = Some(Mounted::tmpfs(&dir)));
    assert_names(&outcome, &dir);
}

#[test]
fn one_beside_the_source_does_not_matter() {
    let mut guest = rings();
    let beside = guest.beside("beside");
    fs::create_dir(&beside).expect("made");
    let mut mounted = None;
    backed_up(&mut guest, || mounted = Some(Mounted::tmpfs(&beside))).report();
}

/// The guest has mounts of its own, into which those of others propagate.
#[test]
fn one_that_propagates_from_another_namespace_fails_the_backup() {
    let scratch = scratch();
    let all = scratch.path().to_owned();
    run("mount", &["--bind", path(&all), path(&all)]);
    let _all = Mounted(&all);
    run("mount", &["--make-shared", path(&all)]);
    let dir = all.join("data");
    let below = dir.join("below");
    fs::create_dir_all(&below).expect("made");
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave"]).arg(compile("rings", Linked::Dynamically)).arg(&dir);
    command.args(["4", "171", "200"]);
    let mut guest = Guest::spawn(scratch, dir, command);
    let mut mounted = None;
    let outcome = backed_up(&mut guest, || mounted = Some(Mounted::tmpfs(&below)));
    assert_names(&outcome, &below);
    drop((mounted, guest));
}
