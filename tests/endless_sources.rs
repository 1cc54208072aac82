//! Sources that have no end, or seem to: a directory that contains itself through a mount, in whatever way, and what the kernel
//! shows of itself below a source. Named and refused before anything is copied.
#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

mod common {
    pub mod backup;
    pub mod guest;
}
use common::backup;
use common::guest::{Guest, Linked};

fn text(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

/// Unmounts what is there when dropped, whatever stands on it.
struct Mounted(PathBuf);

impl Mounted {
    fn new(arguments: &[&str], at: &Path) -> Self {
        fs::create_dir_all(at).expect("made");
        let status = Command::new("mount").args(arguments).arg(at).status().expect("mount starts");
        assert!(status.success(), "mount {arguments:?}: {status} (these tests need root)");
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A backup of the guest fails for `cause`, names the place, copies nothing and leaves nothing; and without the mount, or with
/// what it is on left out, it succeeds.
fn refused(guest: &mut Guest, mounted: Mounted, named: &Path, exclude: &str, cause: &str) {
    let (dest, source) = (guest.beside("backup"), text(&guest.dir).to_owned());
    for point in ["end", "start"] {
        let outcome = backup::take(guest.pid(), &dest, &["--source", &source, "--point", point]);
        let said = outcome.failure(cause);
        assert!(said.contains(text(named)), "{said}");
        assert!(outcome.events.iter().all(|event| event["bytes_copied"].as_u64().unwrap_or(0) == 0));
        guest.assert_alive();
    }
    backup::take(guest.pid(), &dest, &["--source", &source, "--exclude", exclude]).report();
    assert!(dest.join("0").exists());
    fs::remove_dir_all(&dest).expect("our own backup");
    drop(mounted);
    backup::take(guest.pid(), &dest, &["--source", &source]).report();
    backup::verify(&dest);
    guest.assert_goes_on();
}

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["2", "17", "200"])
}

#[test]
fn a_directory_mounted_into_itself() {
    let mut guest = rings();
    let sub = guest.dir.join("sub");
    let mounted = Mounted::new(&["--bind", text(&guest.dir)], &sub);
    refused(&mut guest, mounted, &sub, "sub", "source_contains_itself");
}

/// As name servers have it.
#[test]
fn the_layout_of_a_chroot() {
    let mut guest = rings();
    let inner = guest.dir.join("named/chroot/var/named");
    fs::create_dir_all(guest.dir.join("named")).expect("made");
    let mounted = Mounted::new(&["--bind", text(&guest.dir.join("named"))], &inner);
    refused(&mut guest, mounted, &inner, "named/chroot", "source_contains_itself");
}

/// With all mounts below it, the loop is found some levels further down.
#[test]
fn what_lies_above_the_source_mounted_below_it() {
    let mut guest = rings();
    let above = guest.dir.join("above");
    let mounted = Mounted::new(&["--rbind", text(guest.scratch.path())], &above);
    // The destination is below it, too: it is beside the source.
    let (dest, source) = (guest.beside("backup"), text(&guest.dir).to_owned());
    let outcome = backup::take(guest.pid(), &dest, &["--source", &source]);
    outcome.failure_of(&["source_contains_itself", "dest_inside_source"]);
    outcome.assert_nothing_left();
    let elsewhere = backup::scratch();
    let outcome = backup::take(guest.pid(), &elsewhere.path().join("backup"), &["--source", &source]);
    let said = outcome.failure("source_contains_itself");
    assert!(said.contains(text(&above.join("data"))), "{said}");
    guest.assert_goes_on();
    drop(mounted);
}

/// Two of them that contain one another.
#[test]
fn a_loop_of_two_mounts() {
    let mut guest = rings();
    let (a, b) = (guest.dir.join("x/a"), guest.dir.join("x/b"));
    fs::create_dir_all(&b).expect("made");
    fs::create_dir_all(&a).expect("made");
    let first = Mounted::new(&["--bind", text(&a)], &b.join("a"));
    let second = Mounted::new(&["--bind", text(&b)], &a.join("b"));
    let (dest, source) = (guest.beside("backup"), text(&guest.dir).to_owned());
    let said = backup::take(guest.pid(), &dest, &["--source", &source]).failure("source_contains_itself");
    assert!(said.contains(text(&guest.dir.join("x"))), "{said}");
    drop((second, first));
    guest.assert_goes_on();
}

/// The same directory in two places is no loop: it is copied for each.
#[test]
fn a_directory_mounted_beside_itself_is_copied_twice() {
    let mut guest = rings();
    fs::create_dir(guest.dir.join("one")).expect("made");
    fs::write(guest.dir.join("one/foreign"), b"content").expect("written");
    let _mounted = Mounted::new(&["--bind", text(&guest.dir.join("one"))], &guest.dir.join("two"));
    let (dest, source) = (guest.beside("backup"), text(&guest.dir).to_owned());
    backup::take(guest.pid(), &dest, &["--source", &source]).report();
    assert_eq!(fs::read(dest.join("two/foreign")).expect("there"), b"content");
    backup::verify(&dest);
    guest.assert_goes_on();
}

#[test]
fn proc_and_its_like_below_the_source() {
    for kind in ["proc", "sysfs", "devpts", "cgroup2"] {
        let mut guest = rings();
        let at = guest.dir.join("kernel/here");
        let mounted = Mounted::new(&["-t", kind, "none"], &at);
        refused(&mut guest, mounted, &at, "kernel", "source_unreadable");
    }
}
