//! The shell, and Python's driver, at the port in front of a mongod with access control.
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::backup::HOTBACKUP;
use crate::harness::{Place, assert_published};
use crate::servers::{as_user, start_guarded, target};

const MONGOSH: &str = "mongosh@2.12.0";
const PYMONGO: &str = "pymongo==4.16.0";

/// Fetches a client into the target directory, once. Fails, and never skips.
fn fetched(what: &str, fetch: &mut dyn FnMut(&Path) -> Command) -> PathBuf {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(what);
    let lock = File::create(home.with_extension("lock")).expect("the target directory takes a file");
    lock.lock().expect("the lock can be had");
    if !home.exists() {
        let half = home.with_extension("half");
        let _ = fs::remove_dir_all(&half);
        let output = fetch(&half).output().unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(half, &home).expect("a rename inside the target directory");
    }
    home
}

fn mongosh() -> PathBuf {
    let home = fetched(MONGOSH, &mut |to| {
        let mut command = Command::new("npm");
        command.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(to).arg(MONGOSH);
        command
    });
    home.join("node_modules/.bin/mongosh")
}

/// Types lines into the shell, and gives what it shows.
fn type_into_shell(place: &Place, uri: &str, lines: &str) -> String {
    let mut command = Command::new(mongosh());
    command.args([uri, "--quiet", "--norc"]).env("HOME", place.0.path());
    let mut shell = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node.js is there");
    shell.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("typed");
    let output = shell.wait_with_output().expect("our child");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_three_commands_are_typed_into_the_shell() {
    let place = Place::new();
    let mut server = start_guarded(&place);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    let dest = place.path("backups/typed");
    let typed = format!(
        "use admin\n\
         db.runCommand({{backupThrottle: 128000000}})\n\
         db.runCommand({{backupStart: {:?}}})\n\
         db.runCommand({{backupStatus: 1}})\n\
         try {{ db.runCommand({{backupStart: \"\"}}) }} catch (error) {{ error.message }}\n\
         db.runCommand({{connectionStatus: 1}}).authInfo.authenticatedUsers[0].user\n",
        dest.to_str().expect("text")
    );
    let shown = type_into_shell(&place, &as_user("backup", &service.front()), &typed);
    assert_eq!(shown.matches("{ ok: 1 }").count(), 2, "{shown}");
    let flat: String = shown.split_whitespace().collect();
    assert!(flat.contains("{inProgress:false,bytesCopied:Long('0'),filesCopied:0,ok:1}"), "{shown}");
    assert!(shown.contains("invalid destination directory: ''"), "{shown}");
    assert_published(&dest);
    let verified = Command::new(HOTBACKUP).arg("verify").arg(&dest).output().expect("it starts");
    assert!(verified.status.success(), "{verified:?}");
    let shown = type_into_shell(
        &place,
        &as_user("read", &service.front()),
        "use admin\ntry { db.runCommand({backupStart: 'other'}) } catch (error) { error.codeName }\n",
    );
    assert!(shown.contains("Unauthorized"), "{shown}");
    assert_eq!(place.left_but(&["typed"]), [""; 0]);
    server.assert_unharmed();
}

#[test]
fn pythons_driver_starts_watches_throttles_and_cancels() {
    let place = Place::new();
    let mut server = start_guarded(&place);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    let home = fetched(PYMONGO, &mut |to| {
        let mut command = Command::new("python3");
        command
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(to)
            .arg(PYMONGO);
        command
    });
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/client.py");
    let uris = [
        format!("{}&compressors=zlib", as_user("backup", &service.front())),
        as_user("read", &service.front()),
        place.uri(),
    ];
    let output =
        Command::new("python3").arg(script).args(uris).env("PYTHONPATH", home).output().expect("python3 is there");
    let text = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&text));
    assert_published(&place.path("backups/python"));
    assert_published(&place.path("backups/local"));
    assert_eq!(place.left_but(&["python", "local"]), [""; 0]);
    server.assert_unharmed();
}
