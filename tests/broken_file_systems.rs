//! File systems that are not as they should be, as sources and as destinations: what they list and do not find is never left out in
//! silence, and what they say is told by its own cause, with what to do.
#![forbid(unsafe_code)]

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;

mod common {
    pub mod backup;
    pub mod broken_fs;
    pub mod guest;
}
use common::backup::{Outcome, alone, take, verify};
use common::broken_fs::{Broken, CONTENT};
use common::guest::{Guest, Linked};

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["2", "16", "2000"])
}

fn text(path: &Path) -> &str {
    path.to_str().expect("test directories have plain names")
}

fn back_up(guest: &mut Guest, dest: &Path, more: &[&str]) -> Outcome {
    let source = guest.dir.clone();
    let outcome = take(guest.pid(), dest, &[&["--source", text(&source)], more].concat());
    guest.assert_alive();
    outcome
}

/// As the error of the system is told.
fn number(errno: Errno) -> String {
    format!("(os error {})", errno as i32)
}

fn set(error: &AtomicI32, errno: Errno) {
    error.store(errno as i32, Ordering::SeqCst);
}

fn mend(error: &AtomicI32) {
    error.store(0, Ordering::SeqCst);
}

/// A server that forgot it, another character set than names are in, layers that do not fit together: `ls` lists the name, and finds
/// nothing under it.
#[test]
fn what_is_listed_and_not_found_is_not_left_out_in_silence() {
    let _alone = alone();
    let mut guest = rings();
    let broken = Broken::mount(&guest.dir.join("sub/broken"));
    let dest = guest.beside("backup");
    for errno in [Errno::ENOENT, Errno::ESTALE, Errno::EINVAL, Errno::ENAMETOOLONG] {
        set(&broken.errors.listed, errno);
        for point in ["end", "start"] {
            let said = back_up(&mut guest, &dest, &["--point", point]).failure("source_unreadable");
            let named = format!("{} in the source: it is listed", broken.at.join("listed").display());
            assert!(said.contains(&named) && said.contains(&number(errno)), "{errno} {point}: {said}");
        }
    }
    back_up(&mut guest, &dest, &["--exclude", "listed"]).report();
    assert_eq!(fs::read(dest.join("sub/broken/file")).expect("there"), CONTENT);
    fs::remove_dir_all(&dest).expect("our own backup");
    mend(&broken.errors.listed);
    back_up(&mut guest, &dest, &[]).report();
    assert_eq!(fs::read(dest.join("sub/broken/listed")).expect("there"), CONTENT);
    verify(&dest);
}

/// The place of a mount whose server knows it no more (restic/restic#21786).
#[test]
fn a_stale_mount_in_the_source_is_not_left_out_in_silence() {
    let _alone = alone();
    let mut guest = rings();
    let broken = Broken::mount(&guest.dir.join("broken"));
    let dest = guest.beside("backup");
    set(&broken.errors.top, Errno::ESTALE);
    for point in ["end", "start"] {
        let said = back_up(&mut guest, &dest, &["--point", point]).failure("source_unreadable");
        assert!(said.contains(text(&broken.at)) && said.contains("mount again"), "{said}");
    }
    back_up(&mut guest, &dest, &["--exclude", "broken"]).report();
    assert!(!dest.join("broken").exists());
    verify(&dest);
}

/// It is there, nobody moves it, and it cannot be opened, which is said in the words of a name that is gone.
#[test]
fn what_cannot_be_opened_is_not_called_somebody_elses_change() {
    let _alone = alone();
    let mut guest = rings();
    let broken = Broken::mount(&guest.dir.join("broken"));
    let dest = guest.beside("backup");
    for errno in [Errno::ENOENT, Errno::ESTALE, Errno::ENXIO, Errno::EIO, Errno::EINVAL] {
        for (error, named) in
            [(&broken.errors.open, broken.at.join("file")), (&broken.errors.opendir, broken.at.clone())]
        {
            set(error, errno);
            let said = back_up(&mut guest, &dest, &[]).failure("source_unreadable");
            mend(error);
            assert!(said.contains(text(&named)) && said.contains(&number(errno)), "{errno} {named:?}: {said}");
        }
    }
    back_up(&mut guest, &dest, &[]).report();
    verify(&dest);
}

/// tar makes zeros of what is missing ("file shrank by ... bytes; padding with zeros").
#[test]
fn a_file_that_ends_before_it_says_is_not_filled_up_with_zeros() {
    let _alone = alone();
    let mut guest = rings();
    let broken = Broken::mount(&guest.dir.join("broken"));
    let dest = guest.beside("backup");
    broken.errors.missing.store(3, Ordering::SeqCst);
    for point in ["end", "start"] {
        let said = back_up(&mut guest, &dest, &["--point", point]).failure("source_unreadable");
        assert!(said.contains("longer than the 4 bytes") && said.contains(text(&broken.at)), "{said}");
    }
    mend(&broken.errors.missing);
    back_up(&mut guest, &dest, &[]).report();
    assert_eq!(fs::read(dest.join("broken/file")).expect("there"), CONTENT);
}

/// What each of them says, and what is said of it.
const CAUSES: [(Errno, &str); 6] = [
    (Errno::ESTALE, "mount it again"),
    (Errno::ENOTCONN, "mount it again"),
    (Errno::EUCLEAN, "fsck"),
    (Errno::ENODEV, "attach it"),
    (Errno::EIO, "dmesg"),
    (Errno::ETIMEDOUT, "network"),
];

#[test]
fn a_broken_destination_is_told_by_its_cause_and_not_as_missing() {
    let _alone = alone();
    let mut guest = rings();
    let broken = Broken::mount(&guest.beside("broken"));
    for (errno, words) in CAUSES {
        // Below it, and itself.
        for (error, dest) in [(&broken.errors.names, broken.at.join("backup")), (&broken.errors.top, broken.at.clone())]
        {
            set(error, errno);
            let outcome = back_up(&mut guest, &dest, &[]);
            mend(error);
            let said = outcome.failure_of(&["dest_io"]);
            assert!(said.contains(&number(errno)) && said.contains(words), "{errno} {dest:?}: {said}");
            outcome.assert_nothing_left();
            assert!(!guest.is_filtered(), "{errno} {dest:?}: it was touched");
        }
    }
}
