//! Target and hotbackup as one ordinary user: all of it works, but for what the kernel keeps for root, and that is said.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::bench::{POINTS, assert_names, assert_right, back_up_by, refused_by};
use crate::common::backup::{self, HOTBACKUP, alone};
use crate::common::guest::{Guest, Linked, check_rings, compile};
use crate::common::process::{kill_all, kill_one, pair, path, status};
use crate::surroundings::Slow;

/// Nobody's number but of these tests.
const USER: u32 = 54_321;

/// A place that the user owns, outside of the target directory, which may lie where others may not look; with a copy of
/// hotbackup.
struct Home(TempDir);

impl Home {
    fn new() -> Self {
        let home = TempDir::with_prefix("hotbackup-").expect("a scratch directory");
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).expect("ours");
        chown(home.path(), Some(USER), Some(USER)).expect("these tests need root");
        fs::copy(HOTBACKUP, home.path().join("hotbackup")).expect("room for a copy of hotbackup");
        Self(home)
    }

    /// The user's hotbackup.
    fn hotbackup(&self) -> PathBuf {
        self.0.path().join("hotbackup")
    }

    /// A guest's program, for the user.
    fn program(&self, name: &str) -> PathBuf {
        let program = self.0.path().join(name);
        fs::copy(compile(name, Linked::Dynamically), &program).expect("room for a guest");
        program
    }

    /// A guest of the user, and the user's hotbackup.
    fn start(self, name: &str, arguments: &[&str]) -> (Guest, PathBuf) {
        let (program, hotbackup) = (self.program(name), self.hotbackup());
        let dir = self.0.path().join("data");
        fs::create_dir(&dir).expect("a data directory");
        chown(&dir, Some(USER), Some(USER)).expect("these tests need root");
        let mut command = user(&program);
        command.arg(&dir).args(arguments);
        (Guest::spawn(self.0, dir, command), hotbackup)
    }
}

/// A program, run by the user.
fn user(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.uid(USER).gid(USER);
    command
}

fn rings() -> (Guest, PathBuf) {
    Home::new().start("rings", &["4", "64", "200"])
}

fn back_up(guest: &mut Guest, hotbackup: &Path) {
    back_up_by(|| user(hotbackup), guest, 4);
}

#[test]
fn a_user_backs_up_a_program_of_their_own() {
    let _alone = alone();
    let (mut guest, hotbackup) = rings();
    back_up(&mut guest, &hotbackup);
    let keepers = pair(guest.pid());
    assert!(keepers.iter().all(|&keeper| status(keeper, "Uid").is_some_and(|uid| uid.starts_with("54321"))));
    for round in 0..2 {
        kill_one(pair(guest.pid())[round]);
        guest.assert_goes_on();
    }
    let check =
        user(&hotbackup).args(["check", "--pid", &guest.pid().to_string(), "--source"]).arg(&guest.dir).output();
    let check = check.expect("it starts");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
    guest.assert_goes_on();
    back_up(&mut guest, &hotbackup);
}

#[test]
fn root_backs_up_by_a_users_keepers_and_the_user_again() {
    let _alone = alone();
    let (mut guest, hotbackup) = rings();
    let (target, source) = (guest.pid(), guest.dir.clone());
    let mut keepers = Vec::new();
    for (round, command) in [user(&hotbackup), Command::new(HOTBACKUP), user(&hotbackup)].into_iter().enumerate() {
        let dest = guest.beside(&format!("backup{round}"));
        assert_right(&backup::start_command(command, target, &dest, &["--source", path(&source)]).finish(), 4);
        guest.assert_goes_on();
        keepers.push(pair(target));
    }
    assert!(keepers.iter().all(|pair| *pair == keepers[0]), "a keeper was replaced: {keepers:?}");
}

#[test]
fn a_program_of_the_user_that_roots_keepers_keep_is_backed_up_beside_them() {
    let _alone = alone();
    let (mut guest, hotbackup) = rings();
    let dest = guest.beside("roots");
    let source = guest.dir.clone();
    assert_right(&backup::take(guest.pid(), &dest, &["--source", path(&source)]), 4);
    let before = pair(guest.pid());
    let dest = guest.beside("users");
    let outcome = backup::start_command(user(&hotbackup), guest.pid(), &dest, &["--source", path(&source)]).finish();
    assert_right(&outcome, 4);
    guest.assert_goes_on();
    assert_eq!(pair(guest.pid()), before, "a keeper was replaced");
}

#[test]
fn a_users_backup_killed_at_any_moment_harms_nothing() {
    let _alone = alone();
    let (mut guest, hotbackup) = rings();
    let source = guest.dir.clone();
    for round in 0..8 {
        let dest = guest.beside(&format!("killed{round}"));
        let more = ["--source", path(&source), "--throttle", "4MiB", "--point", POINTS[round % 4]];
        let mut running = backup::start_command(user(&hotbackup), guest.pid(), &dest, &more);
        if round % 2 == 0 {
            running.wait_for_copying();
        } else {
            std::thread::sleep(Duration::from_millis(15 * round as u64));
        }
        running.kill();
        assert!(!dest.exists() || check_rings(&dest, 4).is_ok());
        guest.assert_goes_on();
    }
    kill_all(guest.pid());
    guest.wait_for_standstill();
    guest.assert_alive();
    let rescue = user(&hotbackup).args(["rescue", "--pid", &guest.pid().to_string()]).output().expect("it starts");
    assert!(rescue.status.success(), "{}", String::from_utf8_lossy(&rescue.stderr));
    guest.assert_goes_on();
    back_up(&mut guest, &hotbackup);
}

#[test]
fn what_the_user_may_not_read_is_refused_by_name() {
    let _alone = alone();
    let (mut guest, hotbackup) = rings();
    let secret = guest.dir.join("foreign");
    fs::write(&secret, "secret").expect("written");
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("ours");
    let said = refused_by(user(&hotbackup), &mut guest, "source_unreadable");
    assert_names(&said, &["data/foreign", "denied"]);
    // Without it, all is well.
    fs::remove_file(&secret).expect("ours");
    back_up(&mut guest, &hotbackup);
}

#[test]
fn another_users_program_is_refused() {
    let _alone = alone();
    let home = Home::new();
    let hotbackup = home.hotbackup();
    let mut guest = Guest::start_in(home.0, "rings", Linked::Dynamically, &["4", "64", "200"]);
    let said = refused_by(user(&hotbackup), &mut guest, "not_permitted");
    assert_names(&said, &["run as root", "CAP_SYS_PTRACE"]);
    assert!(!guest.is_filtered(), "a refused attach left a filter");
}

/// The user's hotbackup, with capabilities.
fn capable(hotbackup: &Path, capabilities: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={USER}"), format!("--regid={USER}")]).arg("--clear-groups");
    command.args(["--inh-caps", capabilities, "--ambient-caps", capabilities]).arg(hotbackup);
    command
}

#[test]
fn roots_program_is_backed_up_with_two_capabilities_and_refused_with_one() {
    let _alone = alone();
    let home = Home::new();
    let hotbackup = home.hotbackup();
    let mut guest = Guest::start_in(home.0, "rings", Linked::Dynamically, &["4", "64", "200"]);
    let said = refused_by(capable(&hotbackup, "+sys_ptrace"), &mut guest, "not_permitted");
    assert_names(&said, &["CAP_SYS_PTRACE and CAP_DAC_OVERRIDE"]);
    assert!(!guest.is_filtered(), "a refused attach left a filter");
    let (dest, source) = (guest.beside("backup"), guest.dir.clone());
    let command = capable(&hotbackup, "+sys_ptrace,+dac_override");
    let outcome = backup::start_command(command, guest.pid(), &dest, &["--source", path(&source)]).finish();
    outcome.report();
    check_rings(&dest, 4).expect("a state that existed");
    guest.assert_goes_on();
}

#[test]
fn a_program_of_the_user_that_is_not_dumpable_is_refused() {
    let _alone = alone();
    let home = Home::new();
    let trigger = home.0.path().join("trigger");
    fs::write(&trigger, "").expect("written");
    let (mut guest, hotbackup) = home.start("gives_up", &["dumpable", path(&trigger)]);
    let said = refused_by(user(&hotbackup), &mut guest, "not_permitted");
    assert_names(&said, &["run as root", "not dumpable"]);
    assert!(!guest.is_filtered(), "a refused attach left a filter");
}

#[test]
fn a_program_of_the_user_with_a_filter_of_its_own_is_refused() {
    let _alone = alone();
    let (mut guest, hotbackup) = Home::new().start("harmless_filter", &[]);
    let said = refused_by(user(&hotbackup), &mut guest, "cannot_follow");
    assert_names(&said, &["seccomp filter of its own", "CAP_SYS_ADMIN", "root"]);
}

#[test]
fn a_user_who_may_start_hardly_any_process_is_refused_and_the_next_backup_succeeds() {
    let _alone = alone();
    let (mut guest, hotbackup) = rings();
    // The guest's five threads count, too; it takes some for hotbackup to come so far as to look.
    let mut command = Command::new("prlimit");
    command.arg("--nproc=20").arg(&hotbackup).uid(USER).gid(USER);
    let (dest, source) = (guest.beside("refused"), guest.dir.clone());
    let outcome = backup::start_command(command, guest.pid(), &dest, &["--source", path(&source)]).finish();
    assert_names(&outcome.failure("no_room"), &["RLIMIT_NPROC", "raise that limit", "ulimit -u"]);
    assert!(!guest.is_filtered(), "a refused attach left a filter");
    guest.assert_goes_on();
    back_up(&mut guest, &hotbackup);
}

#[test]
fn files_of_others_are_backed_up_with_a_warning_that_names_one() {
    let _alone = alone();
    let (guest, hotbackup) = rings();
    let others = guest.dir.join("foreign");
    fs::write(&others, "of root, for all to read").expect("written");
    let (dest, source) = (guest.beside("backup"), guest.dir.clone());
    let outcome = backup::start_command(user(&hotbackup), guest.pid(), &dest, &["--source", path(&source)]).finish();
    outcome.report();
    let warnings = outcome.events.iter().filter(|event| event["event"] == "warning");
    let warnings: Vec<String> = warnings.map(|event| event["message"].to_string()).collect();
    assert!(warnings.iter().any(|words| words.contains("owner") && words.contains("foreign")), "{warnings:?}");
    assert_eq!(fs::read(dest.join("foreign")).expect("in the backup"), b"of root, for all to read");
    check_rings(&dest, 4).expect("a state that existed");
}

#[test]
fn a_program_in_a_cgroup_that_keepers_may_not_join_starts_them_itself() {
    let _alone = alone();
    let group = Slow::new();
    let (mut guest, hotbackup) = rings();
    group.take_in(&guest);
    back_up(&mut guest, &hotbackup);
    assert_eq!(pair(guest.pid()).len(), 2, "its keepers");
    guest.assert_goes_on();
}
