//! Descriptors, masks, directories and variables.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Output};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::common::backup::{self, HOTBACKUP, alone, verify};
use crate::common::guest::{Guest, check_rings};
use crate::common::process::{assert_right, pair, path, wait_until};
use crate::{RINGS, after, quoted, rings};

fn shell(line: &str) -> Output {
    Command::new("bash").args(["-c", line]).output().expect("a shell")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

/// The command line of a backup, as it would stand in a crontab.
fn line(guest: &Guest, dest: &Path) -> String {
    format!("{HOTBACKUP} backup --quiet --pid {} --source {} {}", guest.pid(), quoted(&guest.dir), quoted(dest))
}

#[test]
fn a_crontab_line_with_a_lock_runs_again_the_next_time() {
    let _alone = alone();
    let mut guest = rings();
    let lock = quoted(&guest.beside("lock"));
    let pid = guest.pid();
    let source = quoted(&guest.dir);
    for command in [
        format!("{HOTBACKUP} check --quiet --pid {pid} --source {source} --probe"),
        line(&guest, &guest.beside("first")),
        line(&guest, &guest.beside("second")),
        format!("{HOTBACKUP} rescue --quiet --pid {pid}"),
    ] {
        let output = shell(&format!("flock -n {lock} {command} && flock -n {lock} true"));
        assert!(output.status.success(), "{command}: {}", text(&output));
    }
    // Also with keepers that a rescue had to start.
    crate::common::process::kill_all(pid);
    let output = shell(&format!("flock -n {lock} {HOTBACKUP} rescue --quiet --pid {pid} && flock -n {lock} true"));
    assert!(output.status.success(), "{}", text(&output));
    pair(pid);
    guest.assert_goes_on();
}

#[test]
fn an_inherited_pipe_ends_with_the_command() {
    let _alone = alone();
    let mut guest = rings();
    let dest = guest.beside("backup");
    // cat ends when nobody has the pipe any more.
    let output = shell(&format!("{{ {} 3>&1 4>&1; echo ended; }} | timeout 30 cat", line(&guest, &dest)));
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "ended\n"));
    verify(&dest);
    guest.assert_goes_on();
}

#[test]
fn what_is_closed_at_the_start_is_never_a_file_of_ours() {
    let _alone = alone();
    let mut guest = rings();
    for closed in ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"] {
        let dest = guest.beside("backup");
        let paused = format!("{} --throttle 0 {closed}", line(&guest, &dest));
        let mut child = Command::new("bash").args(["-c", &format!("exec {paused}")]).spawn().expect("a shell");
        let pid = child.id().cast_signed();
        // It has begun to write files when there are some.
        let staged = guest.beside(&format!(".backup.hotbackup-partial-{pid}"));
        wait_until("a staging directory", || staged.join(".hotbackup/data").exists());
        for number in 0..3 {
            let link = fs::read_link(format!("/proc/{pid}/fd/{number}")).expect("it is open");
            let is_stream =
                link == Path::new("/dev/null") || link.to_str().is_some_and(|link| link.starts_with("pipe:"));
            let is_ours =
                link.starts_with(guest.scratch.path()) || link.to_str().is_some_and(|link| link.contains("anon_inode"));
            assert!(is_stream || !is_ours, "{closed}: {number} is {link:?}");
        }
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it lives");
        assert_eq!(child.wait().expect("our child").code(), Some(130), "{closed}");
        assert!(!staged.exists(), "{closed}");
        let output = shell(&format!("{} {closed}", line(&guest, &dest)));
        assert!(output.status.success(), "{closed}: {}", text(&output));
        verify(&dest);
        fs::remove_dir_all(&dest).expect("our own backup");
        guest.assert_goes_on();
    }
}

/// Modes of all that is below a directory, in the order of names.
fn modes(dir: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(at) = todo.pop() {
        for entry in fs::read_dir(&at).expect("readable").flatten() {
            let path = entry.path();
            let metadata = fs::symlink_metadata(&path).expect("there");
            if metadata.is_dir() {
                todo.push(path.clone());
            }
            found.push((path.strip_prefix(dir).expect("below").display().to_string(), metadata.mode()));
        }
    }
    found.sort();
    found
}

#[test]
fn no_mask_of_new_files_changes_what_a_backup_is_or_who_can_look_at_it() {
    let _alone = alone();
    let mut guest = rings();
    let mut first = None;
    for mask in ["0777", "077", "022", "000"] {
        let dest = guest.beside("backup");
        let more = ["--source".to_owned(), path(&guest.dir).to_owned()];
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        let outcome = backup::start_command(after(&format!("umask {mask}")), guest.pid(), &dest, &more).finish();
        assert_right(&outcome, RINGS);
        let found = modes(&dest);
        let own = found.iter().filter(|(name, _)| name.starts_with(".hotbackup"));
        assert!(own.clone().count() >= 2 && own.clone().all(|(_, mode)| mode & 0o077 == 0), "{mask}: {found:?}");
        assert_eq!(*first.get_or_insert(found.clone()), found, "umask {mask}");
        fs::remove_dir_all(&dest).expect("our own backup");
        guest.assert_goes_on();
    }
}

#[test]
fn a_directory_that_is_gone_is_missed_only_by_relative_paths() {
    let _alone = alone();
    let guest = rings();
    let gone = guest.beside("gone");
    let gone = format!("mkdir -p {0} && cd {0} && rmdir {0}", quoted(&gone));
    let dest = guest.beside("backup");
    let output = shell(&format!("{gone} && {}", line(&guest, &dest)));
    assert!(output.status.success(), "{}", text(&output));
    verify(&dest);
    let output = shell(&format!("{gone} && {}", line(&guest, Path::new("relative"))));
    assert_eq!(output.status.code(), Some(26), "{}", text(&output));
}

#[test]
fn whatever_the_environment_says_a_backup_is_the_same() {
    let _alone = alone();
    let mut guest = rings();
    for variables in [
        "env -i",
        "env LD_LIBRARY_PATH=/nonexistent LD_BIND_NOW=1 MALLOC_ARENA_MAX=1 MALLOC_PERTURB_=85 MALLOC_TOP_PAD_=1 \
         GLIBC_TUNABLES=glibc.malloc.perturb=7 LANG=tr_TR LC_ALL=C TZ=:/nonexistent",
        "env LD_PRELOAD=/nonexistent.so",
        "env TMPDIR=/nonexistent HOME=/nonexistent PATH= TERM=nonsense COLUMNS=-1 NO_COLOR=1",
        "env RUST_LOG==,[ RUST_BACKTRACE=full RUST_MIN_STACK=1 RUST_LIB_BACKTRACE=x",
        "env HOTBACKUP_LOG==,[ HOTBACKUP_PID=1 HOTBACKUP_JSON=1 HOTBACKUP_THROTTLE=0 HOTBACKUP_SOURCE=/nonexistent",
        "env HOTBACKUP_LOG=$'\\xff'",
    ] {
        let dest = guest.beside("backup");
        let output = shell(&format!("{variables} {}", line(&guest, &dest)));
        assert!(output.status.success() && output.stdout.is_empty(), "{variables}: {}", text(&output));
        verify(&dest);
        check_rings(&dest, RINGS).unwrap_or_else(|wrong| panic!("{variables}: {wrong}"));
        fs::remove_dir_all(&dest).expect("our own backup");
        guest.assert_goes_on();
    }
}

/// What answers the process is not to be the first that the kernel kills, whatever was said of the backup.
#[test]
fn a_backup_that_may_be_killed_first_leaves_no_keepers_that_are() {
    let _alone = alone();
    let mut guest = rings();
    let output = shell(&format!("choom -n 1000 -- {}", line(&guest, &guest.beside("backup"))));
    assert!(output.status.success(), "{}", text(&output));
    for keeper in pair(guest.pid()) {
        let score = fs::read_to_string(format!("/proc/{keeper}/oom_score_adj")).expect("it lives");
        assert!(score.trim().parse::<i32>().expect("a number") <= 0, "{keeper}: {score}");
    }
    guest.assert_goes_on();
}

#[test]
fn a_demo_without_a_place_for_temporary_files_says_so() {
    let output = shell(&format!("TMPDIR=/nonexistent {HOTBACKUP} demo --quiet --data 1MiB --seconds 0.1"));
    assert_eq!(output.status.code(), Some(60));
    assert!(text(&output).contains("/nonexistent"), "{}", text(&output));
}
