//! The harness finds what it is to find: a directory that the guest left is accepted, one changed by hand is not, and a
//! guest that is stopped is seen to have stood still.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::processes;
use super::target::{Guest, Target, WORKERS, goes_on};
use crate::common::names;

/// What is changed by hand, and how.
type Change = (&'static str, fn(&Path));

/// Fails when it does not.
pub fn run() -> Result<(), String> {
    let mut guest = Guest::start(false);
    // Past two turns of each ring: then every slot tells old from new.
    goes_on(&mut guest, 2_000, Duration::from_secs(60))?;
    let dir = guest.scratch().join("data");
    let changes: [Change; 6] = [
        ("a record of an earlier lap", |dir| {
            let ring = OpenOptions::new().read(true).write(true).open(dir.join("0/ring-1")).expect("a ring");
            let mut record = [0; 4096];
            ring.read_exact_at(&mut record, 8192).expect("a record");
            let old = u64::from_le_bytes(record[..8].try_into().expect("eight bytes")) - 96;
            let record: Vec<u8> = old.to_le_bytes().iter().copied().cycle().take(4096).collect();
            ring.write_all_at(&record, 8192).expect("a record");
        }),
        ("a log without its last lines", |dir| {
            let log = OpenOptions::new().write(true).open(dir.join("1/log")).expect("a log");
            let length = log.metadata().expect("its length").len();
            log.set_len(length.saturating_sub(16)).expect("a shorter log");
            log.write_all_at(&[0], length.saturating_sub(17)).expect("another byte in it");
        }),
        ("a file under another name", |dir| {
            fs::rename(dir.join("2/names/current"), dir.join("2/names/older")).expect("another name");
        }),
        ("a directory too many", |dir| fs::create_dir(dir.join("0/names/more")).expect("a directory")),
        ("a store that did not come yet", |dir| {
            let mapped = OpenOptions::new().read(true).write(true).open(dir.join("mapped")).expect("a file");
            let mut word = [0; 8];
            mapped.read_exact_at(&mut word, 24).expect("a word");
            let later = u64::from_le_bytes(word) + 2;
            mapped.write_all_at(&later.to_le_bytes(), 24).expect("a word");
        }),
        ("other content", |dir| {
            let current = OpenOptions::new().write(true).open(dir.join("1/names/current")).expect("a file");
            current.write_all_at(&[0xff], 3).expect("a byte");
        }),
    ];
    guest.begin();
    if !processes::stop(guest.pid()) {
        return Err(guest.died().unwrap_or_default());
    }
    let copy = guest.scratch().join("copy");
    let check = |dir: &Path| names::check(dir, WORKERS).map(drop);
    let mut found = check(&dir).map_err(|wrong| format!("a state that existed is refused: {wrong}"));
    for (what, change) in changes {
        copy_tree(&dir, &copy);
        change(&copy);
        if found.is_ok() && check(&copy).is_ok() {
            found = Err(format!("{what} is not seen"));
        }
        fs::remove_dir_all(&copy).expect("our own copy");
    }
    processes::send(guest.pid(), Signal::SIGCONT);
    found?;
    goes_on(&mut guest, 5, Duration::from_secs(20))?;
    if guest.stall() < Duration::from_millis(5) {
        return Err("a guest that was stopped as a whole is not seen to have stood still".into());
    }
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) {
    let output = std::process::Command::new("cp").arg("-a").arg(from).arg(to).output().expect("cp runs");
    assert!(output.status.success(), "cp: {}", String::from_utf8_lossy(&output.stderr));
}
