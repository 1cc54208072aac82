//! mongod is restarted behind the port in front of it, at the same address, while clients are connected.
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use mongodb::bson::{Bson, doc};
use serde_json::{Value, json};

use crate::clients::pymongo;
use crate::common::mongod::Mongod;
use crate::harness::{Place, ask, assert_published, in_progress, must, newest, running, until};
use crate::raw;
use crate::servers::{address, again, as_user, client, start_guarded, target};

/// Python's driver, on one connection that stays.
struct Session {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Session {
    fn start(uri: &str) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/service/session.py");
        let mut command = Command::new("python3");
        command.arg(script).arg(uri).env("PYTHONPATH", pymongo()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("python3 is there");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, lines }
    }

    fn say(&mut self, command: &Value) {
        writeln!(self.child.stdin.as_ref().expect("piped"), "{command}").expect("it reads");
    }

    fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("text");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn ask(&mut self, command: &Value) -> Value {
        self.say(command);
        self.hear()
    }

    /// Asks until it is not told that the connection was lost.
    fn ask_until_heard(&mut self, command: &Value) -> Value {
        let mut said = json!({"lost": "?"});
        until("the server is heard again", || {
            said = self.ask(command);
            said["lost"].is_null()
        });
        said
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
    }
}

fn connected(to: &str) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(crate::harness::LIMIT)).expect("set");
    raw::ask(&mut stream, &raw::command(1, 0, &doc! {"hello": 1, "$db": "admin"})).expect("an answer");
    stream
}

/// How a connection ends: by an end, without a further word.
fn end(mut stream: TcpStream) -> usize {
    stream.read(&mut [0; 64]).expect("an end, and no error")
}

#[test]
fn through_a_restart_of_mongod_clients_are_cut_off_log_in_again_and_back_the_new_one_up() {
    let place = Place::new();
    let server = start_guarded(&place);
    let at = address(&server);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    let (status, front) = (json!({"backupStatus": 1}), service.front());
    let mut goes_on = Session::start(&as_user("backup", &front));
    let mut shut_out = Session::start(&as_user("inherits", &front));
    for session in [&mut goes_on, &mut shut_out] {
        assert_eq!(session.ask(&status)["answer"]["inProgress"], false);
    }
    assert_eq!(goes_on.ask(&json!({"backupStart": "one"}))["answer"], json!({"ok": 1.0}));
    let (through, straight) = (connected(&front), connected(&at));
    let before = server.pid();
    server.stop();
    // As without the service.
    assert_eq!((end(through), end(straight)), (0, 0));
    assert!(goes_on.ask(&status)["lost"].is_string(), "there is no server, and nobody else answers");
    let server = again(&place, &at);
    assert_ne!(server.pid(), before);
    // mongod is asked anew: what it said of a user before it was restarted counts no more, and nor does that he had logged in.
    let root = client("root", &at);
    must(&root, doc! {"updateUser": "inherits", "pwd": "another"});
    assert_eq!(shut_out.ask_until_heard(&status)["refused"], 18, "he cannot log in");
    must(&root, doc! {"updateUser": "inherits", "pwd": crate::servers::PASSWORD, "roles": ["readAnyDatabase"]});
    assert_eq!(shut_out.ask_until_heard(&status)["refused"], 13, "he may no more");
    let mut stranger = connected(&front);
    let asked = raw::ask(&mut stranger, &raw::command(2, 0, &doc! {"backupStatus": 1, "$db": "admin"}));
    assert_eq!(asked.expect("an answer").body.get_i32("code").ok(), Some(13), "nobody has logged in");
    // Who may still may, on a connection of the same client.
    assert_eq!(goes_on.ask_until_heard(&status)["answer"]["inProgress"], false);
    assert_eq!(goes_on.ask(&json!({"backupStart": "two"}))["answer"], json!({"ok": 1.0}));
    let details = goes_on.ask(&json!({"backupStatus": 1, "details": true}));
    assert_eq!(details["answer"]["details"]["process"], server.pid(), "{details}");
    assert_eq!(goes_on.ask(&json!({"backupVerify": "two"}))["answer"]["good"], true);
    assert_published(&place.path("backups/two"));
    assert_eq!(place.left_but(&["one", "two"]), [""; 0]);
}

/// What a backup that runs through the port comes to when its server ends.
fn under_way(end: fn(Mongod)) {
    let place = Place::new();
    let server = start_guarded(&place);
    let at = address(&server);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    let local = place.client();
    let mut session = Session::start(&as_user("backup", &service.front()));
    // Nothing is copied, so it cannot end by itself.
    assert_eq!(session.ask(&json!({"backupThrottle": 0}))["answer"], json!({"ok": 1.0}));
    session.say(&json!({"backupStart": "never"}));
    until("it tracks", || running(&local).get_str("phase").is_ok_and(|phase| phase == "track"));
    end(server);
    let said = session.hear();
    assert_eq!(said, json!({"refused": 96, "kind": "target_exited"}), "he who waits is told why");
    assert!(!in_progress(&local));
    assert_eq!(newest(&local).get_str("kind").ok(), Some("target_exited"));
    assert_eq!(place.left_but(&[]), [""; 0], "nothing of it is left");
    let (code, words) = ask(&local, doc! {"backupVerify": "never"}).expect_err("there is none");
    assert!(code == 2 && words.contains("no finished backup"), "{code} {words}");
    let mut server = again(&place, &at);
    must(&local, doc! {"backupThrottle": Bson::Null});
    assert_eq!(session.ask_until_heard(&json!({"backupStart": "next"}))["answer"], json!({"ok": 1.0}));
    assert_published(&place.path("backups/next"));
    server.assert_unharmed();
}

#[test]
fn a_backup_under_way_when_mongod_is_restarted_is_an_error_to_who_waits_and_leaves_nothing() {
    under_way(Mongod::stop);
}

#[test]
fn a_backup_under_way_when_mongod_is_killed_is_an_error_to_who_waits_and_leaves_nothing() {
    under_way(Mongod::kill);
}
