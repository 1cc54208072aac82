//! A destination that becomes the backup, and belongs to another user: its own owner, mode and time cannot be set. That is told before
//! anything is copied, and noted, so that a verification right after finds content and nothing else. And one that is replaced, in a
//! directory in which only its owner may do that.
#![forbid(unsafe_code)]
mod common;

use common::{AtPhase, Bench, Permit, Quiet, target_of};
use hotbackup_copier::io::Direct;
use hotbackup_copier::{Backup, Control, Error, Monitor, Phase, Placing, Point, verify};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;
use std::sync::{Arc, Mutex};

const NAME: &str = "what_a_destination_of_another_user_does_not_keep_is_told_and_noted";
const STRANGER: u32 = 54_321;

#[derive(Default)]
struct Warned(Mutex<Vec<String>>);

impl Monitor for Warned {
    fn warning(&self, text: &str) {
        self.0.lock().unwrap().push(text.into());
    }
}

/// Where the test works that runs as another user; `None` in the test itself.
fn inside() -> Option<std::path::PathBuf> {
    std::env::var_os("HOTBACKUP_TEST_INSIDE").map(Into::into)
}

/// Runs a test again as another user, to whom the source belongs.
fn again_as_another(name: &str, bench: &Bench) {
    // A program cannot be executed while a child of another thread's, on its way to a program of its own, has it open for writing.
    static ONE_AT_A_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for path in [bench.source.join("file"), bench.source.clone()] {
        chown(path, Some(STRANGER), Some(STRANGER)).expect("this test needs root");
    }
    let program = bench.dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}"), "--clear-groups".into()]);
    command.arg(program).args([name, "--exact", "--nocapture"]).env("HOTBACKUP_TEST_INSIDE", bench.dir.path());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

fn bench() -> Bench {
    let bench = Bench::new();
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(bench.source.join("file"), "content").unwrap();
    fs::set_permissions(&bench.source, fs::Permissions::from_mode(0o750)).unwrap();
    bench
}

#[test]
fn what_a_destination_of_another_user_does_not_keep_is_told_and_noted() {
    if let Some(dir) = inside() {
        return as_another(&dir);
    }
    let bench = bench();
    fs::create_dir(&bench.dest).unwrap();
    fs::set_permissions(&bench.dest, fs::Permissions::from_mode(0o777)).unwrap();
    again_as_another(NAME, &bench);
}

/// As `/tmp` is.
#[test]
fn what_only_its_owner_may_replace_is_refused_before_anything_is_copied() {
    if let Some(dir) = inside() {
        return in_a_sticky_directory(&dir);
    }
    let bench = bench();
    let shared = bench.dir.path().join("shared");
    for (dir, mode) in [(shared.clone(), 0o1777), (shared.join("theirs"), 0o777)] {
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(mode)).unwrap();
    }
    again_as_another("what_only_its_owner_may_replace_is_refused_before_anything_is_copied", &bench);
    // Root may do it all the same.
    let root = Bench { dest: shared.join("theirs"), source: bench.source.clone(), ..Bench::new() };
    root.back_up(Point::End).unwrap();
}

fn in_a_sticky_directory(dir: &std::path::Path) {
    let shared = dir.join("shared");
    fs::create_dir(shared.join("ours")).unwrap();
    let bench = |name: &str| Bench { source: dir.join("source"), dest: shared.join(name), ..Bench::new() };
    let error = Backup::<Permit>::prepare(bench("theirs").spec(Point::End)).unwrap_err();
    let said = error.to_string();
    assert!(matches!(error, Error::DestIo { .. }), "{said}");
    assert!(said.contains("sticky bit") && said.contains("belongs to user 0") && said.contains("remove it"), "{said}");
    for name in ["ours", "new"] {
        let bench = bench(name);
        bench.back_up(Point::End).unwrap();
        assert_eq!(verify(&bench.dest, &Quiet).unwrap().problems, []);
    }
    // One that comes to be there while it is copied is not replaced, and nothing is left.
    let late = bench("late");
    let (backup, target) = late.prepare(Point::End);
    let makes = AtPhase::new(|phase| {
        if phase == Phase::Publish {
            fs::write(&late.dest, "somebody else's").unwrap();
        }
    });
    backup.run(&*target.calls, &makes, &Control::default()).unwrap_err();
    let mut left: Vec<_> = fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["late", "new", "ours", "theirs"]);
}

fn as_another(dir: &std::path::Path) {
    let bench = Bench { source: dir.join("source"), dest: dir.join("dest"), ..Bench::new() };
    let placing = Placing { into: vec![bench.dest.clone()], ..Placing::default() };
    let (backup, target) =
        target_of(Backup::<Permit>::prepare_placed(bench.spec(Point::End), &placing, Arc::new(Direct)).unwrap());
    let warned = Warned::default();
    let report = backup.run(&*target.calls, &warned, &Control::default()).unwrap();
    let words = warned.0.into_inner().unwrap();
    assert!(words.len() == 1 && words[0].contains("belongs to another user"), "{words:?}");
    assert!(report.not_kept.iter().any(|lost| lost.what == "mode" && lost.first.as_os_str() == "."), "{report:?}");
    assert_eq!(verify(&bench.dest, &Quiet).unwrap().problems, []);
    assert_eq!(fs::read(bench.dest.join("file")).unwrap(), b"content");
}
