//! The Rust driver at the Unix socket.
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixStream;

use mongodb::bson::{Bson, Document, doc};

use crate::harness::{
    Place, ask, assert_published, guest, in_progress, let_go, must, newest, running, start_paused, until,
};
use crate::raw;

#[test]
fn a_backup_is_started_watched_throttled_and_complete_when_it_is_answered() {
    let (place, (mut guest, target)) = (Place::new(), guest());
    let _service = place.serve(&place.config(&target));
    assert_eq!(fs::metadata(place.path("main.sock")).expect("a socket").mode() & 0o777, 0o600);
    let client = place.client();
    let idle = doc! {"inProgress": false, "bytesCopied": 0_i64, "filesCopied": 0, "ok": 1.0};
    assert_eq!(must(&client, doc! {"backupStatus": 1}), idle);
    assert_eq!(must(&client, doc! {"backupThrottle": 128_000_000}), doc! {"ok": 1.0});
    // The whole path and the name below the root are the same; the directory may be there, if it is empty.
    fs::create_dir(place.path("backups/one")).expect("a directory");
    for dest in [place.path("backups/one").to_str().expect("text"), "two"] {
        assert_eq!(must(&client, doc! {"backupStart": dest}), doc! {"ok": 1.0});
        assert_published(&place.path("backups").join(dest));
        let newest = newest(&client);
        assert!(
            newest.get_bool("succeeded").expect("a flag") && newest.get_bool("present").expect("a flag"),
            "{newest}"
        );
    }
    assert_eq!(must(&client, doc! {"createBackup": 1, "backupDir": "three"}), doc! {"ok": 1.0});
    assert_published(&place.path("backups/three"));
    let checked = must(&client, doc! {"backupVerify": "three"});
    assert_eq!(checked.get("good"), Some(&Bson::Boolean(true)), "{checked}");
    guest.assert_alive();
}

#[test]
fn a_second_client_sees_the_backup_and_gets_no_second_one() {
    let (place, (_guest, target)) = (Place::new(), guest());
    let _service = place.serve(&place.config(&target));
    let (one, two) = (place.client(), place.client());
    start_paused(&one, "first");
    let status = must(&two, doc! {"backupStatus": 1});
    assert_eq!(status.get("inProgress"), Some(&Bson::Boolean(true)));
    assert_eq!(status.get("bytesCopied"), Some(&Bson::Int64(0)), "it is paused");
    let (code, words) = ask(&two, doc! {"backupStart": "second"}).expect_err("one at a time");
    assert!(code == 117 && words.contains("first"), "{code} {words}");
    let detail = running(&two);
    assert_eq!(detail.get("throttle"), Some(&Bson::Int64(0)), "{detail}");
    let_go(&two);
    assert_published(&place.path("backups/first"));
    assert_eq!(place.left_but(&["first"]), [""; 0]);
}

#[test]
fn a_cancel_ends_the_backup_and_whoever_waits_for_it_hears() {
    let (place, (mut guest, target)) = (Place::new(), guest());
    let _service = place.serve(&place.config(&target));
    let (one, two) = (place.client(), place.client());
    let (code, words) = ask(&one, doc! {"backupCancel": 1}).expect_err("nothing runs");
    assert!(code == 96 && words.contains("no backup"), "{code} {words}");
    must(&one, doc! {"backupThrottle": 0});
    let waiting = std::thread::spawn(move || ask(&one, doc! {"backupStart": "never"}));
    until("the backup runs", || in_progress(&two));
    must(&two, doc! {"backupCancel": 1});
    let (code, words) = waiting.join().expect("a client").expect_err("it was cancelled");
    assert!(code == 11601, "{code} {words}");
    assert_eq!(newest(&two).get_str("kind").ok(), Some("cancelled"));
    assert_eq!(place.left_but(&[]), [""; 0]);
    guest.assert_alive();
}

#[test]
fn a_client_that_vanishes_in_mid_command_leaves_its_backup_going_on() {
    let (place, (_guest, target)) = (Place::new(), guest());
    let _service = place.serve(&place.config(&target));
    let client = place.client();
    must(&client, doc! {"backupThrottle": 0});
    let mut lost = UnixStream::connect(place.path("main.sock")).expect("a socket");
    let start = doc! {"backupStart": "kept", "$db": "admin"};
    lost.write_all(&hotbackup_service::wire::encode(1, 0, false, &start).expect("short")).expect("sent");
    until("the backup runs", || in_progress(&client));
    // When the service has noticed that nobody listens any more, it closes its end.
    lost.shutdown(std::net::Shutdown::Write).expect("closed");
    assert_eq!(lost.read(&mut [0]).expect("the end"), 0);
    assert!(in_progress(&client));
    let_go(&client);
    assert_published(&place.path("backups/kept"));
    assert!(newest(&client).get_bool("succeeded").expect("a flag"));
}

#[test]
fn max_time_ends_the_waiting_and_not_the_backup() {
    let (place, (_guest, target)) = (Place::new(), guest());
    let _service = place.serve(&place.config(&target));
    let client = place.client();
    must(&client, doc! {"backupThrottle": 0});
    let (code, _) = ask(&client, doc! {"backupStart": "slow", "maxTimeMS": 1}).expect_err("the time is over");
    assert_eq!(code, 50);
    assert!(in_progress(&client));
    let_go(&client);
    assert_published(&place.path("backups/slow"));
}

#[test]
fn every_error_has_its_code_and_leaves_nothing() {
    let (place, (_guest, target)) = (Place::new(), guest());
    let _service = place.serve(&place.config(&target));
    let client = place.client();
    fs::create_dir_all(place.path("backups/full/inside")).expect("a directory");
    fs::create_dir(place.path("outside")).expect("a directory");
    symlink("../outside", place.path("backups/out")).expect("a link");
    fs::write(place.path("backups/file"), "").expect("a file");
    let elsewhere = place.path("outside/x");
    let start = |dest: &str| doc! {"backupStart": dest};
    let table: [(Document, i32, &str); 15] = [
        (start(""), 2, "invalid destination directory: ''"),
        (start("full"), 2, "not empty"),
        (start("file"), 2, "not a directory"),
        (start("../outside/x"), 2, "does not lie below"),
        (start("out/x"), 2, "symbolic link"),
        (start("out"), 2, "symbolic link"),
        (start(elsewhere.to_str().expect("text")), 2, "does not lie below"),
        (start("none/x"), 2, "does not exist"),
        (start(".x"), 2, "dot"),
        (doc! {"backupStart": 1}, 14, "a text"),
        (doc! {"backupStart": "x", "weit": false}, 40415, "unknown field"),
        (doc! {"createBackup": 1}, 40414, "backupDir"),
        (doc! {"backupThrottle": -1}, 2, "bytes per second"),
        (doc! {"backupVerify": "full"}, 2, "no finished backup"),
        (doc! {"find": "x"}, 59, "no such command: 'find'"),
    ];
    for (command, code, words) in table {
        let (found, said) = ask(&client, command.clone()).expect_err("an error");
        assert!(found == code && said.contains(words), "{command}: {found} {said}");
    }
    let elsewhere = client.database("test").run_command(doc! {"backupStatus": 1}).run().expect_err("not on admin");
    assert!(elsewhere.to_string().contains("admin"), "{elsewhere}");
    assert!(fs::read_dir(place.path("outside")).expect("readable").next().is_none());
    assert_eq!(place.left_but(&["full", "out", "file"]), [""; 0]);
    assert!(!in_progress(&client));
}

#[test]
fn a_service_that_is_killed_finds_its_backup_again() {
    let (place, (mut guest, target)) = (Place::new(), guest());
    let service = place.serve(&place.config(&target));
    let client = place.client();
    start_paused(&client, "kept");
    let before = running(&client);
    service.kill();
    let service = place.serve(&place.config(&target));
    let client = place.client();
    until("it is heard again", || running(&client).get_str("phase").is_ok_and(|phase| phase == "track"));
    let after = running(&client);
    for field in ["id", "dest", "process", "supervisor", "started_ms", "throttle"] {
        assert_eq!(before.get(field), after.get(field), "{field}");
    }
    assert_eq!(after.get_i64("process").ok(), Some(guest.pid().into()));
    let (code, _) = ask(&client, doc! {"backupStart": "second"}).expect_err("one at a time");
    assert_eq!(code, 117);
    let_go(&client);
    assert_published(&place.path("backups/kept"));
    assert!(newest(&client).get_bool("succeeded").expect("a flag"));
    // One that ends while nobody looks is known afterwards, and so is the rate.
    must(&client, doc! {"backupThrottle": 5_000_000_000_i64});
    start_paused(&client, "alone");
    let supervisor = running(&client).get_i64("supervisor").expect("a number");
    service.stop();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor as i32), nix::sys::signal::Signal::SIGTERM)
        .expect("ours");
    until("it ends", || !fs::exists(format!("/proc/{supervisor}")).unwrap_or(false));
    let _service = place.serve(&place.config(&target));
    let client = place.client();
    assert!(!in_progress(&client));
    assert_eq!(newest(&client).get_str("kind").ok(), Some("cancelled"));
    assert_eq!(place.left_but(&["kept"]), [""; 0]);
    let status = must(&client, doc! {"backupStatus": 1, "details": true});
    assert_eq!(status.get_document("details").expect("details").get("throttle"), Some(&Bson::Int64(0)));
    guest.assert_alive();
}

#[test]
fn a_hello_of_an_older_client_is_answered_as_it_was_asked() {
    let (place, (_guest, target)) = (Place::new(), guest());
    let _service = place.serve(&place.config(&target));
    let mut stream = UnixStream::connect(place.path("main.sock")).expect("a socket");
    let query = doc! {"isMaster": 1, "client": {"driver": {"name": "old", "version": "1"}}}.to_vec().expect("short");
    let parts: [&[u8]; 5] = [&[0; 4], b"admin.$cmd\0", &[0; 4], &(-1_i32).to_le_bytes(), &query];
    let answer = raw::ask(&mut stream, &raw::message(None, 9, raw::QUERY, &parts)).expect("an answer");
    assert!(answer.legacy, "by OP_REPLY");
    assert_eq!((answer.header.response_to, answer.body.get_bool("ismaster").ok()), (9, Some(true)), "{}", answer.body);
    assert!(answer.body.get_i32("maxWireVersion").is_ok_and(|version| version >= 13), "{}", answer.body);
    // And the connection goes on as one of today.
    let status = raw::command(10, 0, &doc! {"backupStatus": 1, "$db": "admin"});
    let answer = raw::ask(&mut stream, &status).expect("an answer");
    assert_eq!((answer.legacy, answer.body.get_bool("inProgress").ok()), (false, Some(false)));
}

#[test]
fn of_a_backup_that_is_killed_nothing_is_left_when_its_end_is_told() {
    let (place, (mut guest, target)) = (Place::new(), guest());
    let _service = place.serve(&place.config(&target));
    let (one, two) = (place.client(), place.client());
    must(&one, doc! {"backupThrottle": 0});
    let waiting = std::thread::spawn(move || ask(&one, doc! {"backupStart": "never"}));
    until("it tracks", || running(&two).get_str("phase").is_ok_and(|phase| phase == "track"));
    assert_ne!(place.left_but(&[]), [""; 0], "it has begun to write");
    let supervisor = running(&two).get_i64("supervisor").expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor as i32), nix::sys::signal::Signal::SIGKILL)
        .expect("ours");
    let (code, words) = waiting.join().expect("a client").expect_err("it was killed");
    assert!(code == 96 && words.contains("was it killed?"), "{code} {words}");
    assert_eq!(place.left_but(&[]), [""; 0]);
    assert_eq!(newest(&two).get_str("kind").ok(), Some("died"));
    must(&two, doc! {"backupThrottle": Bson::Null});
    must(&two, doc! {"backupStart": "next"});
    assert_published(&place.path("backups/next"));
    guest.assert_goes_on();
}
