//! What cannot be backed up right fails with a clear reason, leaves nothing behind, and does the target no harm.
#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

mod common {
    pub mod backup;
    pub mod guest;
}
use common::backup::{self, alone, scratch, verify};
use common::guest::{Guest, Linked, check_rings, compile};

fn path(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

/// Threads that write rings of 8 MiB in all.
fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["4", "171", "200"])
}

/// A backup of a guest that must fail for `cause`; returns what it says.
fn refused(guest: &mut Guest, cause: &str) -> String {
    let dest = guest.beside("backup");
    let said = backup::take(guest.pid(), &dest, &["--source", path(&guest.dir)]).failure(cause);
    println!("{said}");
    assert!(!dest.exists(), "a failed backup left {dest:?}");
    guest.assert_alive();
    said
}

fn assert_names(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.to_lowercase().contains(word), "{word:?} is missing in: {said}");
    }
}

#[test]
fn a_writable_mapping_at_the_attach_fails_the_backup_and_is_named() {
    let _alone = alone();
    let scratch = scratch();
    let trigger = scratch.path().join("trigger");
    fs::write(&trigger, "").expect("written");
    let mut guest = Guest::start_in(scratch, "writable_mapping", Linked::Dynamically, &[path(&trigger), "mmap"]);
    let said = refused(&mut guest, "untraceable");
    assert_names(&said, &["data/mapped", "mapping"]);
}

fn mapped_during_the_backup(how: &str, point: &str) {
    let _alone = alone();
    let scratch = scratch();
    let trigger = scratch.path().join("trigger");
    let mut guest = Guest::start_in(scratch, "writable_mapping", Linked::Dynamically, &[path(&trigger), how]);
    let dest = guest.beside("backup");
    let source = ["--source", path(&guest.dir), "--throttle", "8MiB", "--point", point];
    let mut running = backup::start(guest.pid(), &dest, &source);
    running.wait_for_copying();
    fs::write(&trigger, "").expect("written");
    let outcome = running.finish();
    if point == "end" {
        assert_names(&outcome.failure("untraceable"), &["mapped", "mapping"]);
    } else if outcome.status.success() {
        // T came before the mapping, and what the file held then could be saved before the call was let go.
        verify(&dest);
        let held = fs::read(dest.join("mapped")).expect("in the backup");
        assert!(held == [0; 4096], "a store after T is in the backup");
    } else {
        assert_names(&outcome.failure("untraceable"), &["mapped", "mapping"]);
    }
    guest.assert_alive();
}

#[test]
fn a_writable_mapping_made_before_the_point_fails_the_backup() {
    mapped_during_the_backup("mmap", "end");
}

#[test]
fn a_mapping_made_writable_before_the_point_fails_the_backup() {
    mapped_during_the_backup("mprotect", "end");
}

#[test]
fn no_store_of_a_writable_mapping_made_after_the_point_is_in_the_backup() {
    mapped_during_the_backup("mmap", "start");
}

#[test]
fn no_store_of_a_mapping_made_writable_after_the_point_is_in_the_backup() {
    mapped_during_the_backup("mprotect", "start");
}

/// As Wine does: a call that is made for hotbackup would come to the program itself, as a signal.
#[test]
fn a_program_that_has_its_calls_handed_to_itself_is_refused_and_lives() {
    let _alone = alone();
    let mut guest = Guest::start("dispatches", Linked::Statically, &[]);
    assert_names(&refused(&mut guest, "attach_failed"), &["wine", "pr_set_syscall_user_dispatch"]);
    assert!(!guest.is_filtered(), "it has a filter");
}

#[test]
fn an_io_uring_at_the_attach_fails_the_backup() {
    let _alone = alone();
    let scratch = scratch();
    let trigger = scratch.path().join("trigger");
    fs::write(&trigger, "").expect("written");
    let mut guest = Guest::start_in(scratch, "io_uring", Linked::Dynamically, &[path(&trigger)]);
    assert_names(&refused(&mut guest, "blind"), &["io_uring"]);
}

#[test]
fn an_io_uring_made_during_the_backup_fails_it() {
    let _alone = alone();
    let scratch = scratch();
    let trigger = scratch.path().join("trigger");
    let mut guest = Guest::start_in(scratch, "io_uring", Linked::Dynamically, &[path(&trigger)]);
    let dest = guest.beside("backup");
    let mut running = backup::start(guest.pid(), &dest, &["--source", path(&guest.dir), "--throttle", "8MiB"]);
    running.wait_for_copying();
    fs::write(&trigger, "").expect("written");
    assert_names(&running.finish().failure("blind"), &["io_uring"]);
    guest.assert_alive();
}

#[test]
fn writes_by_32_bit_calls_are_backed_up_right_or_fail_the_backup() {
    let _alone = alone();
    for point in ["end", "start"] {
        let mut guest = Guest::start("calls_of_32_bits", Linked::Dynamically, &[]);
        let dest = guest.beside("backup");
        let more = ["--source", path(&guest.dir), "--throttle", "8MiB", "--point", point];
        let outcome = backup::take(guest.pid(), &dest, &more);
        if outcome.status.success() {
            verify(&dest);
            check_rings(&dest, 1).expect("a state that existed");
        } else {
            outcome.failure("blind");
        }
        guest.assert_goes_on();
    }
}

#[test]
fn a_file_that_another_process_writes_fails_the_backup_and_is_named() {
    let _alone = alone();
    let mut guest = rings();
    // The guest has this file only as content of its directory, and never touches it.
    let foreign = guest.dir.join("foreign");
    fs::write(&foreign, vec![1; 1 << 20]).expect("written");
    let dest = guest.beside("backup");
    let mut running = backup::start(guest.pid(), &dest, &["--source", path(&guest.dir), "--throttle", "4MiB"]);
    running.wait_for_copying();
    let file = fs::File::options().write(true).open(&foreign).expect("there");
    file.write_all_at(&[2; 4096], 4096).expect("written");
    // Else that would be the cause, and not the file's change time.
    drop(file);
    assert_names(&running.finish().failure("foreign_change"), &["foreign"]);
    guest.assert_goes_on();
}

#[test]
fn a_target_that_dies_during_the_backup_fails_it() {
    let _alone = alone();
    for point in ["end", "start"] {
        let mut guest = rings();
        let dest = guest.beside("backup");
        let mut running =
            backup::start(guest.pid(), &dest, &["--source", path(&guest.dir), "--throttle", "2MiB", "--point", point]);
        running.wait_for_copying();
        guest.kill();
        let outcome = running.finish();
        // After T everything still due can be read from the source: then a dead target may do no harm.
        if outcome.status.success() {
            assert_eq!(point, "start", "the backup ended well, though its point lay after the target's death");
            verify(&dest);
            check_rings(&dest, 4).expect("a state that existed");
        } else {
            outcome.failure("target_exited");
        }
    }
}

#[test]
fn ctrl_c_and_sigterm_remove_what_was_half_written() {
    let _alone = alone();
    let mut guest = rings();
    backup::add_ballast(&guest.dir);
    for (point, signal) in [("end", Signal::SIGINT), ("start", Signal::SIGTERM)] {
        let dest = guest.beside("backup");
        let mut running =
            backup::start(guest.pid(), &dest, &["--source", path(&guest.dir), "--throttle", "2MiB", "--point", point]);
        running.wait_for_copying();
        running.signal(signal);
        let outcome = running.finish();
        outcome.failure("cancelled");
        assert!(!dest.exists());
        guest.assert_goes_on();
    }
}

/// A small file system in memory, unmounted when dropped.
struct Mount(PathBuf);

impl Mount {
    fn new(at: PathBuf, options: &str) -> Self {
        fs::create_dir(&at).expect("a mount point");
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", path(&at)]);
        Self(at)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn run(program: &str, arguments: &[&str]) {
    let status = Command::new(program).args(arguments).status().expect("it starts");
    assert!(status.success(), "{program} {arguments:?}: {status} (these tests need root)");
}

#[test]
fn a_destination_that_fills_up_fails_the_backup_and_the_next_one_restores() {
    let _alone = alone();
    let mut guest = rings();
    let mount = Mount::new(guest.beside("small"), "size=3m");
    let dest = mount.0.join("backup");
    let source = guest.dir.clone();
    // Else it is refused before it is full.
    let source = ["--source", path(&source), "--reserve", "off"];
    let said = backup::take(guest.pid(), &dest, &source).failure("dest_full");
    assert_names(&said, &["small"]);
    guest.assert_goes_on();
    assert_eq!(fs::read_dir(&mount.0).expect("readable").count(), 0, "something was left behind");
    run("mount", &["-o", "remount,size=64m", path(&mount.0)]);
    let outcome = backup::take(guest.pid(), &dest, &source);
    outcome.report();
    verify(&dest);
    check_rings(&dest, 4).expect("a state that existed");
    guest.assert_goes_on();
}

#[test]
fn a_destination_on_a_read_only_file_system_is_refused() {
    let _alone = alone();
    let mut guest = rings();
    let mount = Mount::new(guest.beside("fixed"), "ro");
    let said =
        backup::take(guest.pid(), &mount.0.join("backup"), &["--source", path(&guest.dir)]).failure("dest_read_only");
    assert_names(&said, &["read-only"]);
    guest.assert_goes_on();
}

#[test]
fn a_program_under_another_tracer_is_refused() {
    let _alone = alone();
    let mut guest = rings();
    let mut tracer = Command::new(compile("another_tracer", Linked::Dynamically))
        .arg(guest.pid().to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the tracer starts");
    let mut line = String::new();
    BufReader::new(tracer.stdout.take().expect("piped")).read_line(&mut line).expect("text");
    assert_eq!(line, "ready\n", "the tracer could not attach");
    let said = refused(&mut guest, "already_traced");
    assert_names(&said, &[&tracer.id().to_string()]);
    tracer.kill().expect("our child");
    tracer.wait().expect("our child");
    guest.assert_goes_on();
}

#[test]
fn a_program_whose_own_filter_forbids_ours_is_refused_and_lives() {
    let _alone = alone();
    let mut guest = Guest::start("own_filter", Linked::Dynamically, &[]);
    let said = refused(&mut guest, "cannot_follow");
    assert_names(&said, &["seccomp filter of its own"]);
    guest.assert_goes_on();
}
