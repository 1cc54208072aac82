//! Backups that lie beside one another: put there under the time, listed, restored with all that they keep, and removed by
//! rules; never the last good one, never one that is being read.
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

mod common {
    pub mod backup;
    pub mod guest;
    pub mod process;
    pub mod snapshot;
}
use common::backup::{alone, scratch};
use common::guest::{Guest, Linked, check_rings};
use common::process::{path, signal_all, state, wait_until};
use common::snapshot::Snapshot;

const HOTBACKUP: &str = env!("CARGO_BIN_EXE_hotbackup");
/// As names by time are.
const TIMES: [&str; 4] = ["2026-11-01T021500Z", "2026-11-02T021500Z", "2026-11-03T021500Z", "2026-11-04T021500Z"];

fn hotbackup(arguments: &[&str]) -> Output {
    Command::new(HOTBACKUP).args(arguments).stdin(Stdio::null()).output().expect("hotbackup starts")
}

/// Runs a verb that must succeed, and returns its result.
fn result(arguments: &[&str]) -> Value {
    let output = hotbackup(&[arguments, &["--json"]].concat());
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().expect("a result")).expect("JSON")
}

/// Runs a verb that must fail with a code; returns what it says.
fn refused(arguments: &[&str], code: i32) -> String {
    let output = hotbackup(arguments);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn rings() -> Guest {
    Guest::start("rings", Linked::Dynamically, &["2", "16", "1000"])
}

fn shelf_beside(guest: &Guest) -> PathBuf {
    let shelf = guest.beside("shelf");
    fs::create_dir(&shelf).expect("made");
    shelf
}

fn back_up_to(guest: &Guest, dest: &Path) {
    result(&["backup", "--pid", &guest.pid().to_string(), "--source", path(&guest.dir), path(dest)]);
}

fn back_up_into(guest: &Guest, shelf: &Path) -> PathBuf {
    let pid = guest.pid().to_string();
    let done = result(&["backup", "--pid", &pid, "--source", path(&guest.dir), "--into", path(shelf)]);
    done["dest"].as_str().expect("a path").into()
}

/// A guest, and backups of it under all of [`TIMES`].
fn full_shelf() -> (Guest, PathBuf) {
    let guest = rings();
    let shelf = shelf_beside(&guest);
    TIMES.iter().for_each(|time| back_up_to(&guest, &shelf.join(time)));
    (guest, shelf)
}

#[test]
fn a_backup_into_a_shelf_has_a_time_as_its_name_and_latest_leads_to_the_newest() {
    let _alone = alone();
    let guest = rings();
    let shelf = shelf_beside(&guest);
    let first = back_up_into(&guest, &shelf);
    assert_eq!(fs::read_link(shelf.join("latest")).expect("a link"), Path::new(first.file_name().expect("a name")));
    wait_until("another second", || {
        let now = common::backup::now() / 1_000_000_000;
        now > fs::metadata(shelf.join("latest/.hotbackup/manifest.json"))
            .map_or(u64::MAX, |m| m.mtime().cast_unsigned())
    });
    let second = back_up_into(&guest, &shelf);
    assert!(second > first, "{second:?} {first:?}");
    assert_eq!(fs::read_link(shelf.join("latest")).expect("a link"), Path::new(second.file_name().expect("a name")));
    let listed = result(&["list", path(&shelf)]);
    let listed: Vec<PathBuf> = listed["backups"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|b| shelf.join(b["name"].as_str().expect("text")))
        .collect();
    assert_eq!(listed, [first, second], "the oldest first, and the link not once more");
}

#[test]
fn list_tells_what_each_thing_is_and_is_a_list_of_backups_only() {
    let _alone = alone();
    let guest = rings();
    let shelf = shelf_beside(&guest);
    assert_eq!(result(&["list", path(&shelf)])["backups"], serde_json::json!([]));
    back_up_to(&guest, &shelf.join("mine"));
    back_up_to(&guest, &shelf.join("worn"));
    fs::write(shelf.join("worn/.hotbackup/manifest.json"), "{").expect("written");
    fs::create_dir_all(shelf.join(".x.hotbackup-partial-1/.hotbackup")).expect("made");
    fs::create_dir(shelf.join("something else")).expect("made");
    fs::write(shelf.join("file"), "").expect("written");
    let listed = result(&["list", path(&shelf)]);
    let kinds: Vec<(&str, &str)> = listed["backups"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| (entry["name"].as_str().expect("text"), entry["kind"].as_str().expect("text")))
        .collect();
    assert_eq!(kinds, [("mine", "backup"), (".x.hotbackup-partial-1", "partial"), ("worn", "unreadable")]);
    assert_eq!(listed["backups"][0]["pid"], guest.pid());
    let text = String::from_utf8(hotbackup(&["list", path(&shelf)]).stdout).expect("text");
    assert!(text.contains("not checked") && text.contains("UNREADABLE"), "{text}");
    refused(&["list", path(&shelf.join("nowhere"))], 67);
}

/// A source with everything that a restore has to keep.
fn decorate(dir: &Path) {
    fs::write(dir.join("two names"), "content").expect("written");
    fs::hard_link(dir.join("two names"), dir.join("second name")).expect("linked");
    symlink("two names", dir.join("link")).expect("linked");
    fs::create_dir(dir.join("empty")).expect("made");
    fs::File::create(dir.join("hole")).and_then(|file| file.set_len(1 << 30)).expect("a hole");
    std::os::unix::fs::chown(dir.join("two names"), Some(1234), Some(4321)).expect("given");
    let run = Command::new("setfattr").args(["-n", "user.note", "-v", "kept"]).arg(dir.join("hole")).status();
    assert!(run.expect("setfattr starts").success());
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).expect("made");
}

#[test]
fn what_is_restored_is_the_backup_with_all_that_it_keeps() {
    let _alone = alone();
    let mut guest = rings();
    decorate(&guest.dir);
    let (backup, restored) = (guest.beside("backup"), guest.beside("restored"));
    back_up_to(&guest, &backup);
    guest.kill();
    let done = result(&["restore", path(&backup), path(&restored)]);
    assert!(done["entries"].as_u64() > Some(8), "{done}");
    assert!(!restored.join(".hotbackup").exists(), "a data directory has no manifest");
    fs::remove_dir_all(backup.join(".hotbackup")).expect("removed");
    // Removing the manifest's directory has moved the root's time; the restored one has that of the backup.
    let differences = Snapshot::of(&backup).differences(&Snapshot::of(&restored));
    let differences: Vec<&String> =
        differences.iter().filter(|line| !line.starts_with(". ") && !line.starts_with("\"\"")).collect();
    assert!(differences.is_empty(), "{differences:#?}");
    assert_eq!(fs::metadata(restored.join("hole")).expect("there").blocks(), 0, "the hole was filled");
    check_rings(&restored, 2).expect("a state that existed");
}

#[test]
fn with_an_owner_everything_is_theirs() {
    let _alone = alone();
    let mut guest = rings();
    decorate(&guest.dir);
    let (backup, restored) = (guest.beside("backup"), guest.beside("restored"));
    back_up_to(&guest, &backup);
    guest.kill();
    fs::create_dir(&restored).expect("an empty directory will do");
    result(&["restore", path(&backup), path(&restored), "--owner", "7777:daemon"]);
    let daemon = nix::unistd::Group::from_name("daemon").expect("readable").expect("a group").gid.as_raw();
    let mut open = vec![restored.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).expect("readable").map(|entry| entry.expect("an entry").path()) {
            let found = fs::symlink_metadata(&entry).expect("there");
            assert_eq!((found.uid(), found.gid()), (7777, daemon), "{entry:?}");
            if found.is_dir() {
                open.push(entry);
            }
        }
    }
    assert_eq!(fs::metadata(&restored).expect("there").uid(), 7777);
    let said = refused(&["restore", path(&backup), path(&guest.beside("other")), "--owner", "nobody-of-that-name"], 2);
    assert!(said.contains("there is no user \"nobody-of-that-name\""), "{said}");
    assert!(!guest.beside("other").exists());
}

#[test]
fn a_restore_that_is_refused_or_fails_leaves_nothing() {
    let _alone = alone();
    let mut guest = rings();
    let (backup, restored) = (guest.beside("backup"), guest.beside("restored"));
    back_up_to(&guest, &backup);
    fs::create_dir_all(guest.beside("full/of")).expect("made");
    let before = names(guest.beside("x").parent().expect("a parent"));
    let said = refused(&["restore", path(&backup), path(&guest.dir)], 66);
    assert!(said.contains(&guest.pid().to_string()), "{said}");
    refused(&["restore", path(&backup), path(&guest.beside("full"))], 20);
    refused(&["restore", path(&guest.beside("nowhere")), path(&restored)], 50);
    refused(&["restore", path(&guest.dir), path(&restored)], 50);
    refused(&["restore", path(&backup), path(&restored.join("below/nothing"))], 26);
    refused(&["restore", path(&backup), path(&backup.join("inside"))], 21);
    // Content that is not what the manifest says.
    fs::write(backup.join("extra"), "").expect("written");
    let said = refused(&["restore", path(&backup), path(&restored)], 52);
    assert!(said.contains("extra") && said.contains("nothing was restored"), "{said}");
    assert_eq!(names(guest.beside("x").parent().expect("a parent")), before);
    guest.assert_goes_on();
}

#[test]
fn a_directory_that_somebody_works_in_is_not_restored_to() {
    let _alone = alone();
    let guest = rings();
    let (backup, restored) = (guest.beside("backup"), guest.beside("restored"));
    back_up_to(&guest, &backup);
    fs::create_dir(&restored).expect("made");
    let mut there = Command::new("sleep").arg("1000").current_dir(&restored).spawn().expect("sleep starts");
    let said = refused(&["restore", path(&backup), path(&restored)], 66);
    assert!(said.contains(&format!("process {} (", there.id())) && said.contains("stop it first"), "{said}");
    there.kill().and_then(|()| there.wait()).expect("ours");
    result(&["restore", path(&backup), path(&restored)]);
}

#[test]
fn a_restore_that_is_killed_or_cancelled_leaves_no_directory_and_the_next_one_tidies_up() {
    let _alone = alone();
    let mut guest = rings();
    let (backup, restored) = (guest.beside("backup"), guest.beside("restored"));
    back_up_to(&guest, &backup);
    guest.kill();
    let home = backup.parent().expect("a parent").to_owned();
    let before = names(&home);
    for (signal, code) in [(Signal::SIGTERM, Some(130)), (Signal::SIGKILL, None)] {
        // Nothing is copied with a rate of 0: it stands still until the signal.
        let mut running = Command::new(HOTBACKUP)
            .args(["restore", path(&backup), path(&restored), "--throttle", "0"])
            .stderr(Stdio::null())
            .spawn()
            .expect("hotbackup starts");
        wait_until("it has begun", || names(&home).len() > before.len());
        signal_all(&[running.id().cast_signed()], signal);
        assert_eq!(running.wait().expect("ours").code(), code);
        assert!(!restored.exists());
    }
    assert!(names(&home).len() > before.len(), "the killed one left what the next one finds");
    result(&["restore", path(&backup), path(&restored)]);
    let mut after = before;
    after.push("restored".into());
    after.sort();
    assert_eq!(names(&home), after);
}

#[test]
fn prune_keeps_what_a_rule_keeps_and_what_is_not_its_own() {
    let _alone = alone();
    let (guest, shelf) = full_shelf();
    back_up_to(&guest, &shelf.join("mine"));
    let said = result(&["prune", path(&shelf), "--keep-last", "2", "--dry-run"]);
    assert_eq!(said["removed"].as_array().map(Vec::len), Some(2), "{said}");
    assert_eq!(names(&shelf).len(), 5, "--dry-run removes nothing");
    result(&["prune", path(&shelf), "--keep-last", "2"]);
    assert_eq!(names(&shelf), [TIMES[2], TIMES[3], "mine"]);
    result(&["prune", path(&shelf), "--keep-daily", "1"]);
    assert_eq!(names(&shelf), [TIMES[3], "mine"]);
    // Even where a rule keeps none.
    result(&["prune", path(&shelf), "--keep-last", "0", "--keep-yearly", "0"]);
    assert_eq!(names(&shelf).len(), 2, "without a number that keeps anything there is no rule");
    refused(&["prune", path(&shelf)], 2);
}

/// A mount, until this is dropped.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0).status();
    }
}

/// What is removed while somebody has it open keeps a name (`.fuse_hidden...`, `.nfs...`), and its directory is not empty.
#[test]
fn prune_leaves_nothing_on_a_file_system_by_fuse() {
    let _alone = alone();
    let guest = rings();
    let (served, shelf) = (guest.beside("served"), shelf_beside(&guest));
    fs::create_dir(&served).expect("made");
    assert!(Command::new("bindfs").args([&served, &shelf]).status().expect("bindfs is installed").success());
    let mounted = Mounted(&shelf);
    TIMES.iter().for_each(|time| back_up_to(&guest, &shelf.join(time)));
    let said = result(&["prune", path(&shelf), "--keep-last", "1"]);
    let left = names(&served);
    drop(mounted);
    assert_eq!((said["stayed"].as_array().map_or(0, Vec::len), left), (0, vec![TIMES[3].to_owned()]), "{said}");
}

#[test]
fn the_last_good_backup_stays_whatever_the_rules() {
    let _alone = alone();
    let (_guest, shelf) = full_shelf();
    for bad in [TIMES[2], TIMES[3]] {
        let mark = r#"{"checked":"2026-11-05T00:00:00Z","good":false,"problems":["content"]}"#;
        fs::write(shelf.join(bad).join(".hotbackup/checked.json"), mark).expect("written");
    }
    result(&["prune", path(&shelf), "--keep-last", "1"]);
    assert_eq!(names(&shelf), [TIMES[1], TIMES[2], TIMES[3]], "the bad ones are newer than it");
    let text = String::from_utf8(hotbackup(&["list", path(&shelf)]).stdout).expect("text");
    assert_eq!(text.matches("BAD").count(), 2, "{text}");
}

#[test]
fn a_backup_that_is_being_read_is_not_removed() {
    let _alone = alone();
    let (guest, shelf) = full_shelf();
    // It stands still with the backup open.
    let restored = guest.beside("restored");
    let mut running = Command::new(HOTBACKUP)
        .args(["restore", path(&shelf.join(TIMES[0])), path(&restored), "--throttle", "0"])
        .stderr(Stdio::null())
        .spawn()
        .expect("hotbackup starts");
    let manifest = fs::File::open(shelf.join(TIMES[0]).join(".hotbackup/manifest.json")).expect("there");
    let is_held = || match Flock::lock(manifest.try_clone().expect("cloned"), FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock.unlock().map_or(true, |_| false),
        Err(_) => true,
    };
    wait_until("the restore holds its backup", is_held);
    drop(manifest);
    let said = refused(&["prune", path(&shelf), "--keep-last", "1"], 27);
    assert!(said.contains("in use") && said.contains(TIMES[0]), "{said}");
    assert_eq!(names(&shelf), [TIMES[0], TIMES[3]], "the others went");
    signal_all(&[running.id().cast_signed()], Signal::SIGTERM);
    running.wait().expect("ours");
    result(&["prune", path(&shelf), "--keep-last", "1"]);
    assert_eq!(names(&shelf), [TIMES[3]]);
}

#[test]
fn a_backup_that_a_server_was_started_on_is_not_removed() {
    let _alone = alone();
    let (_guest, shelf) = full_shelf();
    let mut there = Command::new("sleep").arg("1000").current_dir(shelf.join(TIMES[0])).spawn().expect("sleep starts");
    let said = refused(&["prune", path(&shelf), "--keep-last", "1"], 27);
    assert!(said.contains(&format!("process {} (", there.id())), "{said}");
    assert_eq!(names(&shelf), [TIMES[0], TIMES[3]]);
    result(&["verify", path(&shelf.join(TIMES[0]))]);
    there.kill().and_then(|()| there.wait()).expect("ours");
    result(&["prune", path(&shelf), "--keep-last", "1"]);
    assert_eq!(names(&shelf), [TIMES[3]]);
}

#[test]
fn what_is_mounted_below_a_backup_is_nobodys_to_remove() {
    let _alone = alone();
    let (guest, shelf) = full_shelf();
    let (at, elsewhere) = (shelf.join(TIMES[0]).join("journal"), guest.beside("elsewhere"));
    fs::create_dir(&at).and_then(|()| fs::create_dir(&elsewhere)).expect("made");
    fs::write(elsewhere.join("precious"), "content").expect("written");
    let mount =
        |arguments: &[&str]| assert!(Command::new("mount").args(arguments).status().expect("mount starts").success());
    mount(&["--bind", path(&elsewhere), path(&at)]);
    refused(&["prune", path(&shelf), "--keep-last", "1"], 27);
    let left = names(&shelf).into_iter().find(|name| name.starts_with('.')).expect("what could not be removed");
    assert!(Command::new("umount").arg(shelf.join(left).join("journal")).status().expect("umount starts").success());
    assert_eq!(names(&elsewhere), ["precious"]);
    result(&["prune", path(&shelf), "--keep-last", "1"]);
    assert_eq!(names(&shelf), [TIMES[3]]);
}

#[test]
fn the_last_that_was_checked_and_what_latest_leads_to_stay() {
    let _alone = alone();
    let (_guest, shelf) = full_shelf();
    let mark = r#"{"checked":"2026-11-05T00:00:00Z","good":true}"#;
    fs::write(shelf.join(TIMES[1]).join(".hotbackup/checked.json"), mark).expect("written");
    symlink(TIMES[2], shelf.join("latest")).expect("linked");
    result(&["prune", path(&shelf), "--keep-last", "1"]);
    assert_eq!(names(&shelf), [TIMES[1], TIMES[2], TIMES[3], "latest"]);
}

#[test]
fn prune_removes_what_broken_off_backups_left_and_not_one_that_is_being_taken() {
    let _alone = alone();
    let mut guest = rings();
    common::backup::add_ballast(&guest.dir);
    let shelf = shelf_beside(&guest);
    let source = ["--source", path(&guest.dir), "--throttle", "100KiB"];
    let mut killed = common::backup::start(guest.pid(), &shelf.join("killed"), &source);
    killed.wait_for_copying();
    killed.kill();
    let mut running = common::backup::start(guest.pid(), &shelf.join("running"), &source);
    running.wait_for_copying();
    assert_eq!(names(&shelf).len(), 2);
    let done = result(&["prune", path(&shelf), "--keep-last", "1"]);
    assert_eq!(done["leftovers"].as_array().map(Vec::len), Some(1), "{done}");
    let left = names(&shelf);
    assert!(left.len() == 1 && left[0].starts_with(".running."), "{left:?}");
    running.signal(Signal::SIGTERM);
    running.finish().failure("cancelled");
    guest.assert_goes_on();
}

#[test]
fn a_prune_that_is_killed_leaves_no_half_backup_under_its_name() {
    let _alone = alone();
    let (_guest, shelf) = full_shelf();
    for step in ["discard.renamed:kill", "discard.renamed:stop"] {
        let mut child = Command::new(HOTBACKUP)
            .args(["prune", path(&shelf), "--keep-last", "1"])
            .env("HOTBACKUP_FAILPOINT", step)
            .spawn()
            .expect("hotbackup starts");
        let pid = child.id().cast_signed();
        if step.ends_with("stop") {
            wait_until("it stands still", || state(pid) == Some('T'));
            // Another prune meanwhile leaves alone what this one removes.
            result(&["prune", path(&shelf), "--keep-last", "4"]);
            signal_all(&[pid], Signal::SIGKILL);
        }
        assert!(!child.wait().expect("ours").success());
        for name in names(&shelf).iter().filter(|name| !name.starts_with('.')) {
            result(&["verify", path(&shelf.join(name))]);
        }
    }
    assert!(names(&shelf).iter().any(|name| name.starts_with('.')), "{:?}", names(&shelf));
    result(&["prune", path(&shelf), "--keep-last", "1"]);
    assert_eq!(names(&shelf), [TIMES[3]]);
}

#[test]
fn a_shelf_in_which_latest_is_something_else_keeps_it() {
    let _alone = alone();
    let guest = rings();
    let shelf = shelf_beside(&guest);
    fs::create_dir(shelf.join("latest")).expect("made");
    let pid = guest.pid().to_string();
    let output = hotbackup(&["backup", "--pid", &pid, "--source", path(&guest.dir), "--into", path(&shelf)]);
    assert!(output.status.success(), "the backup itself is good: {output:?}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("warning") && said.contains("latest"), "{said}");
    assert!(shelf.join("latest").is_dir());
}

#[test]
fn an_empty_shelf_is_pruned_to_itself() {
    let scratch: TempDir = scratch();
    let done = result(&["prune", path(scratch.path()), "--keep-last", "1"]);
    assert_eq!((done["removed"].as_array().map(Vec::len), done["stayed"].as_array().map(Vec::len)), (Some(0), Some(0)));
}
