//! A destination that becomes the backup, and belongs to another user: its own owner, mode and time cannot be set. That is told before
//! anything is copied, and noted, so that a verification right after finds content and nothing else.
#![forbid(unsafe_code)]
mod common;

use common::{Bench, Permit, Quiet, target_of};
use hotbackup_copier::io::Direct;
use hotbackup_copier::{Backup, Control, Monitor, Placing, Point, verify};
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

#[test]
fn what_a_destination_of_another_user_does_not_keep_is_told_and_noted() {
    if let Some(dir) = std::env::var_os("HOTBACKUP_TEST_INSIDE") {
        return as_another(dir.as_ref());
    }
    let bench = Bench::new();
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(&bench.dest).unwrap();
    fs::set_permissions(&bench.dest, fs::Permissions::from_mode(0o777)).unwrap();
    fs::write(bench.source.join("file"), "content").unwrap();
    fs::set_permissions(&bench.source, fs::Permissions::from_mode(0o750)).unwrap();
    for path in [bench.source.join("file"), bench.source.clone()] {
        chown(path, Some(STRANGER), Some(STRANGER)).expect("this test needs root");
    }
    // The test itself, as another user.
    let program = bench.dir.path().join("test");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={STRANGER}"), format!("--regid={STRANGER}"), "--clear-groups".into()]);
    command.arg(program).args([NAME, "--exact", "--nocapture"]).env("HOTBACKUP_TEST_INSIDE", bench.dir.path());
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
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
