//! The shell, and Python's driver, at the port in front of a mongod with access control.
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use mongodb::bson::doc;

use crate::common::backup::HOTBACKUP;
use crate::harness::{LIMIT, Place, assert_published, must, running, until};
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

/// Python's driver.
pub fn pymongo() -> PathBuf {
    fetched(PYMONGO, &mut |to| {
        let mut command = Command::new("python3");
        command
            .args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target"])
            .arg(to)
            .arg(PYMONGO);
        command
    })
}

/// The shell, into which lines are typed one after the other.
struct Shell {
    child: Child,
    lines: Receiver<String>,
    typed: u32,
}

impl Shell {
    fn open(place: &Place, uri: &str) -> Self {
        let mut command = Command::new(mongosh());
        command.args([uri, "--quiet", "--norc"]).env("HOME", place.0.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node.js is there");
        let out = BufReader::new(child.stdout.take().expect("piped"));
        let (to, lines) = channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Self { child, lines, typed: 0 }
    }

    /// Types a line.
    fn begin(&mut self, line: &str) {
        self.typed += 1;
        let typed = format!("{line}\nprint('that was ' + {})\n", self.typed);
        self.child.stdin.as_ref().expect("piped").write_all(typed.as_bytes()).expect("typed");
    }

    /// What it shows to the line that was typed last: without the prompts, and as one line however it was broken.
    fn shown(&mut self) -> String {
        let mut shown = Vec::new();
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap_or_else(|error| panic!("{error}; until then {shown:?}"));
            let mut line = line.trim();
            while let Some(rest) =
                line.strip_prefix("admin>").or_else(|| line.strip_prefix("test>")).or_else(|| line.strip_prefix('>'))
            {
                line = rest.trim();
            }
            if line == format!("that was {}", self.typed) {
                return shown.join(" ");
            }
            if !line.is_empty() {
                shown.extend(line.split_whitespace().map(str::to_owned));
            }
        }
    }

    fn show(&mut self, line: &str) -> String {
        self.begin(line);
        self.shown()
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

/// What the documents of the system that is replaced show of each of its three commands: before, during and after a backup.
#[test]
fn the_seeds_session_of_three_commands_gives_what_the_seeds_documents_show() {
    let place = Place::new();
    let mut server = start_guarded(&place);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    let uri = as_user("backup", &service.front());
    let (mut shell, mut second) = (Shell::open(&place, &uri), Shell::open(&place, &uri));
    for shell in [&mut shell, &mut second] {
        assert_eq!(shell.show("use admin"), "switched to db admin");
    }
    let idle = "{ inProgress: false, bytesCopied: Long('0'), filesCopied: 0, ok: 1 }";
    assert_eq!(shell.show("db.runCommand({backupStatus: 1})"), idle);
    assert_eq!(shell.show("db.runCommand({backupThrottle: 128000})"), "{ ok: 1 }");
    let local = place.client();
    let rate = || {
        let status = must(&local, doc! {"backupStatus": 1, "details": true});
        status.get_document("details").expect("details").get_i64("throttle").expect("a rate")
    };
    assert_eq!(rate(), 128_000);
    // Nothing is copied, so that it cannot end before it is looked at.
    assert_eq!(shell.show("db.runCommand({backupThrottle: NumberLong('0')})"), "{ ok: 1 }");
    let dest = place.path("backups/typed");
    shell.begin(&format!("db.runCommand({{backupStart: {:?}}})", dest.to_str().expect("text")));
    until("it tracks", || running(&local).get_str("phase").is_ok_and(|phase| phase == "track"));
    let during = second.show("db.runCommand({backupStatus: 1})");
    let files = during.strip_prefix("{ inProgress: true, bytesCopied: Long('0'), filesCopied: ");
    let files = files.and_then(|rest| rest.strip_suffix(", ok: 1 }")).and_then(|number| number.parse::<u32>().ok());
    assert!(files.is_some(), "{during}");
    let typed = "print(EJSON.stringify(db.runCommand({backupStatus: 1}), {relaxed: false}))";
    let types = second.show(typed);
    let expected = format!(
        r#"{{"inProgress":true,"bytesCopied":{{"$numberLong":"0"}},"filesCopied":{{"$numberInt":"{}"}},"ok":{{"$numberInt":"1"}}}}"#,
        files.unwrap_or_default()
    );
    assert_eq!(types, expected);
    // A throttle during it: the backup that runs goes on at this rate.
    assert_eq!(second.show("db.runCommand({backupThrottle: 1000000000})"), "{ ok: 1 }");
    assert_eq!(shell.shown(), "{ ok: 1 }", "when it is complete, and not before");
    assert_published(&dest);
    assert_eq!(shell.show("db.runCommand({backupStatus: 1})"), idle);
    let empty = "db.runCommand({backupStart: ''})";
    assert_eq!(shell.show(empty), "Uncaught MongoServerError[BadValue]: invalid destination directory: ''");
    let answer = format!("try {{ {empty} }} catch (error) {{ print(EJSON.stringify(error.errorResponse)) }}");
    let expected = r#"{"ok":0,"errmsg":"invalid destination directory: ''","code":2,"codeName":"BadValue"}"#;
    assert_eq!(shell.show(&answer), expected);
    // The same session speaks to mongod itself.
    assert_eq!(shell.show("db.runCommand({connectionStatus: 1}).authInfo.authenticatedUsers[0].user"), "backup");
    let verified = Command::new(HOTBACKUP).arg("verify").arg(&dest).output().expect("it starts");
    assert!(verified.status.success(), "{verified:?}");
    let mut reader = Shell::open(&place, &as_user("read", &service.front()));
    assert_eq!(reader.show("use admin"), "switched to db admin");
    let refused = reader.show("db.runCommand({backupStart: 'other'})");
    assert!(
        refused.starts_with("Uncaught MongoServerError[Unauthorized]: not authorized on admin to take backups"),
        "{refused}"
    );
    // The same at the Unix socket, where mongod is not asked.
    let mut local = Shell::open(&place, &place.uri());
    assert_eq!(local.show("use admin"), "switched to db admin");
    assert_eq!(local.show("db.runCommand({backupStatus: 1})"), idle);
    assert_eq!(local.show("db.runCommand({backupStart: 'local'})"), "{ ok: 1 }");
    assert_published(&place.path("backups/local"));
    assert_eq!(place.left_but(&["typed", "local"]), [""; 0]);
    server.assert_unharmed();
}

#[test]
fn pythons_driver_starts_watches_throttles_and_cancels() {
    let place = Place::new();
    let mut server = start_guarded(&place);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    let home = pymongo();
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
