//! Whatever a thread of ours is stuck in, no call of the target waits longer than the lease, and the backup fails.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

mod common {
    pub mod backup;
    pub mod guest;
    pub mod stuck_disk;
}
use common::backup::{self, alone, scratch};
use common::guest::{Guest, Linked};
use common::stuck_disk::Disk;

/// A call may wait for the lease, a second. The rest is for a busy machine; it is still less than it takes until a keeper
/// would take over and answer.
const BOUND_MS: &str = "3000";
/// What is waited for comes within the bound; who waits this long waits in vain.
const IN_VAIN: Duration = Duration::from_secs(60);

fn text(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

/// The guest, and the file system in its data directory. `path` is below that.
fn guest(how: &str, path: &str) -> (Guest, Disk) {
    let scratch = scratch();
    let beside = |name: &str| scratch.path().join(name);
    let (trigger, done) = (beside("trigger"), beside("done"));
    let (at, path) = (beside("data").join("slow"), beside("data").join("slow").join(path));
    let switches = scratch.path().to_path_buf();
    let arguments = [BOUND_MS, text(&trigger), how, text(&path), text(&done)].map(str::to_owned);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let guest = Guest::start_in(scratch, "bounded_calls", Linked::Dynamically, &arguments);
    let disk = Disk::mount(at, switches);
    (guest, disk)
}

#[test]
fn calls_go_on_within_the_lease_while_a_before_image_cannot_be_read() {
    let _alone = alone();
    let (mut guest, disk) = guest("write", "ballast");
    let dest = guest.beside("backup");
    // Nothing is copied, so that what the guest writes to is still to be saved.
    let more = ["--source", text(&guest.dir), "--point", "start", "--throttle", "0"];
    let mut running = backup::start(guest.pid(), &dest, &more);
    running.wait_for_phase("drain");
    disk.get_stuck();
    fs::write(guest.beside("trigger"), "").expect("written");
    let (began, done) = (Instant::now(), guest.beside("done"));
    while !done.exists() {
        guest.assert_alive();
        assert!(began.elapsed() < IN_VAIN, "the write whose before-image cannot be read never goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
    guest.assert_goes_on();
    assert!(running.is_running(), "its saver is stuck, and yet the backup ended");
    disk.free();
    let said = running.finish().failure("waited_too_long");
    assert!(said.contains("pwrite64 of thread") && said.contains("stand still"), "{said}");
    guest.assert_goes_on();
}

#[test]
fn calls_go_on_within_the_lease_while_a_path_cannot_be_looked_up() {
    let _alone = alone();
    let (mut guest, disk) = guest("mkdir", "hidden/new");
    let dest = guest.beside("backup");
    let mut running = backup::start(guest.pid(), &dest, &["--source", text(&guest.dir), "--throttle", "0"]);
    running.wait_for_only_capturing();
    disk.get_stuck();
    fs::write(guest.beside("trigger"), "").expect("written");
    running.wait_for_error();
    guest.assert_goes_on();
    assert!(running.is_running(), "a thread of it is stuck in the kernel, and yet it ended");
    disk.free();
    let said = running.finish().failure("waited_too_long");
    assert!(said.contains(" of thread "), "{said}");
    guest.assert_goes_on();
}

#[test]
fn what_a_stuck_disk_spoilt_the_next_backup_does_right() {
    let _alone = alone();
    let (mut guest, disk) = guest("mkdir", "hidden/new");
    let (first, second) = (guest.beside("first"), guest.beside("second"));
    let mut running = backup::start(guest.pid(), &first, &["--source", text(&guest.dir), "--throttle", "0"]);
    running.wait_for_only_capturing();
    disk.get_stuck();
    fs::write(guest.beside("trigger"), "").expect("written");
    running.wait_for_error();
    disk.free();
    running.finish().failure("waited_too_long");
    backup::take(guest.pid(), &second, &["--source", text(&guest.dir)]).report();
    backup::verify(&second);
    common::guest::check_rings(&second, 3).expect("a state that existed");
    guest.assert_goes_on();
}
