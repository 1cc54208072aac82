//! The check finds what it is to find: backups that were damaged by hand are refused, and the failure is made small.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::backup::{alone, seed};
use crate::disks::Disk;
use crate::replay;
use crate::run::{Damage, run};
use crate::settings::Settings;
use crate::shrink::shrink;

/// The first below a directory for which something is true.
fn first(dir: &Path, wanted: &impl Fn(&Path) -> bool) -> Option<PathBuf> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").path()).collect();
    paths.sort();
    paths.into_iter().find_map(|path| {
        if wanted(&path) {
            return Some(path);
        }
        (path.is_dir() && !path.is_symlink()).then(|| first(&path, wanted)).flatten()
    })
}

fn lose_a_symlink(backup: &Path) {
    if let Some(link) = first(backup, &Path::is_symlink) {
        fs::remove_file(link).expect("our own backup");
    }
}

fn is_full(path: &Path) -> bool {
    let is_ours = !["counter", "log", "manifest.json"].iter().any(|name| path.ends_with(name));
    is_ours && path.is_file() && !path.is_symlink() && fs::read(path).is_ok_and(|content| content.len() > 1)
}

fn damage_a_byte(backup: &Path) {
    let path = first(backup, &is_full).expect("a file with content");
    let file = OpenOptions::new().read(true).write(true).open(path).expect("our own backup");
    let mut last = [0];
    let at = file.metadata().expect("its size").len() - 1;
    file.read_exact_at(&mut last, at).expect("a byte");
    file.write_all_at(&[!last[0]], at).expect("our own backup");
}

fn count_a_step_more(backup: &Path) {
    let file = OpenOptions::new().write(true).open(backup.join("t1/counter")).expect("our own backup");
    file.write_all_at(&(replay::steps(backup, 1) + 1).to_ne_bytes(), 0).expect("our own backup");
}

fn lose_the_end_of_the_log(backup: &Path) {
    let log = OpenOptions::new().write(true).open(backup.join("shared/log")).expect("our own backup");
    log.set_len(log.metadata().expect("its size").len() - 16).expect("our own backup");
}

fn small(backups: u64) -> Settings {
    Settings { threads: 2, ..Settings::new(seed(), Disk::Here, backups) }
}

#[test]
fn damaged_backups_are_found_out() {
    let _alone = alone();
    let damages: [(&str, Damage); 4] = [
        ("a symbolic link less", lose_a_symlink),
        ("another byte", damage_a_byte),
        ("a step more", count_a_step_more),
        ("a record less", lose_the_end_of_the_log),
    ];
    for (what, damage) in damages {
        let found = run(&small(3), Some(damage));
        assert!(found.is_err_and(|wrong| wrong.contains("thread ")), "{what} is not found out");
    }
}

#[test]
fn a_wrong_backup_is_traced_to_the_kind_of_call_it_takes() {
    let _alone = alone();
    let kinds = replay::kinds();
    let smallest =
        shrink(&small(2), &kinds, Duration::from_secs(300), |tried| run(tried, Some(lose_a_symlink)).is_err());
    let left: Vec<&str> = kinds.iter().map(String::as_str).filter(|kind| !smallest.without.contains(*kind)).collect();
    // Which others it takes to get that far depends on the moment of the backup.
    assert!(left.contains(&"symlink") && left.len() <= 6, "{left:?} are left of {}: {smallest}", kinds.len());
}
