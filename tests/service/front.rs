//! The port in front of mongod: who may back up is mongod's to say, and everything else passes.
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};

use mongodb::bson::{Bson, Document, doc};

use crate::harness::{Place, ask, assert_published, in_progress, let_go, must, until};
use crate::raw;
use crate::servers::{address, client, start, start_guarded, stranger, target};

#[test]
fn who_may_back_up_is_mongods_to_say_and_everything_else_passes() {
    let place = Place::new();
    let mut server = start_guarded(&place);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    let front = service.front();
    for (name, dest) in [("root", "one"), ("backup", "two"), ("inherits", "three")] {
        let client = client(name, &front);
        assert_eq!(must(&client, doc! {"backupThrottle": 1_000_000_000}), doc! {"ok": 1.0});
        assert_eq!(must(&client, doc! {"backupStart": dest}), doc! {"ok": 1.0}, "{name}");
        assert_published(&place.path("backups").join(dest));
        let idle = doc! {"inProgress": false, "bytesCopied": 0_i64, "filesCopied": 0, "ok": 1.0};
        assert_eq!(must(&client, doc! {"backupStatus": 1}), idle);
    }
    let all = [
        doc! {"backupStart": "x"},
        doc! {"backupStatus": 1},
        doc! {"backupThrottle": 0},
        doc! {"createBackup": 1, "backupDir": "x"},
        doc! {"backupCancel": 1},
        doc! {"backupList": 1},
        doc! {"backupVerify": "one"},
    ];
    for who in [client("read", &front), client("cluster", &front), stranger(&front)] {
        for command in &all {
            let (code, words) = ask(&who, command.clone()).expect_err("may not");
            assert!(code == 13, "{command}: {code} {words}");
        }
    }
    assert_eq!(place.left_but(&["one", "two", "three"]), [""; 0]);
    // mongod's own commands, and its own words for ours elsewhere than on admin.
    let root = client("root", &front);
    let collection = root.database("test").collection::<Document>("c");
    let documents = (0..40).map(|n| doc! {"_id": n, "pad": "x".repeat(500_000)});
    collection.insert_many(documents).run().expect("20 MB pass");
    let sum: usize = collection
        .find(doc! {})
        .run()
        .expect("found")
        .map(|one| one.expect("one").get_str("pad").expect("pad").len())
        .sum();
    assert_eq!(sum, 40 * 500_000);
    let elsewhere = root.database("test").run_command(doc! {"backupStart": "x"}).run().expect_err("not on admin");
    assert!(elsewhere.to_string().contains("no such command"), "{elsewhere}");
    let reader = client("read", &front);
    let refused = reader.database("test").collection("c").insert_one(doc! {"_id": 99}).run().expect_err("reads only");
    assert!(refused.to_string().contains("not authorized"), "{refused}");
    server.assert_unharmed();
}

/// An address of this machine's that is not its loopback's.
fn elsewhere() -> std::net::IpAddr {
    // Nothing is sent.
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    socket.connect("192.0.2.1:9").expect("a network: this test needs an address beside 127.0.0.1");
    socket.local_addr().expect("an address").ip()
}

#[test]
fn without_access_control_it_is_for_this_machine_only() {
    let place = Place::new();
    let server = start(&place, &[]);
    let service = place.serve(&place.config(&target(&place, &server, "0.0.0.0:0", "")));
    let port = service.front().rsplit_once(':').expect("a port").1.to_owned();
    let here = stranger(&format!("127.0.0.1:{port}"));
    assert_eq!(must(&here, doc! {"backupStart": "one"}), doc! {"ok": 1.0});
    let hello = raw::command(1, 0, &doc! {"hello": 1, "$db": "admin"});
    let mut there = TcpStream::connect((elsewhere(), port.parse().expect("a port"))).expect("connected");
    raw::ask(&mut there, &hello).expect_err("the connection is closed");
}

#[test]
fn with_access_control_it_is_for_others_too() {
    let place = Place::new();
    let server = start_guarded(&place);
    let service = place.serve(&place.config(&target(&place, &server, "0.0.0.0:0", "")));
    let port = service.front().rsplit_once(':').expect("a port").1.to_owned();
    let there = client("backup", &format!("{}:{port}", elsewhere()));
    assert_eq!(must(&there, doc! {"backupStart": "one"}), doc! {"ok": 1.0});
}

#[test]
fn compression_is_taken_out_of_every_hello_and_nothing_else_is() {
    let place = Place::new();
    let server = start(&place, &[]);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    let body = doc! {"hello": 1, "helloOk": true, "compression": ["zlib", "snappy"], "$db": "admin"};
    let query = doc! {"isMaster": 1, "compression": ["zlib"]}.to_vec().expect("short");
    let old = raw::message(None, 7, raw::QUERY, &[&[0; 4], b"admin.$cmd\0", &[0; 4], &(-1_i32).to_le_bytes(), &query]);
    for hello in [raw::command(7, 0, &body), old] {
        let answers = [address(&server), service.front()].map(|address| {
            let mut stream = TcpStream::connect(address).expect("connected");
            let message = raw::ask(&mut stream, &hello).expect("an answer");
            assert_eq!(message.header.response_to, 7);
            // The connection goes on.
            let ping = raw::command(8, 0, &doc! {"ping": 1, "$db": "admin"});
            assert_eq!(raw::ask(&mut stream, &ping).expect("an answer").body.get("ok"), Some(&Bson::Double(1.0)));
            message.body
        });
        let keys = |answer: &Document| answer.keys().cloned().collect::<Vec<_>>();
        assert!(answers[0].contains_key("compression"), "{}", answers[0]);
        let without: Vec<_> = keys(&answers[0]).into_iter().filter(|key| key != "compression").collect();
        assert_eq!(keys(&answers[1]), without);
    }
}

#[test]
fn a_hello_that_streams_goes_on_streaming() {
    let place = Place::new();
    let server = start(&place, &[]);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    let mut stream = TcpStream::connect(service.front()).expect("connected");
    let hello = raw::command(1, 0, &doc! {"hello": 1, "$db": "admin"});
    let first = raw::ask(&mut stream, &hello).expect("an answer").body;
    let version = first.get_document("topologyVersion").expect("a version").clone();
    let body = doc! {
        "hello": 1, "topologyVersion": version, "maxAwaitTimeMS": 50_i64, "compression": ["zlib"], "$db": "admin",
    };
    let mut last = raw::ask(&mut stream, &raw::command(2, 1 << 16, &body)).expect("an answer");
    assert_eq!(last.header.response_to, 2);
    for _ in 0..3 {
        assert!(last.more_to_come && !last.body.contains_key("compression"), "{last:?}");
        let next = raw::read(&mut stream).expect("another answer by itself");
        assert_eq!(next.header.response_to, last.header.id);
        last = next;
    }
}

#[test]
fn a_client_whose_own_question_has_the_number_of_his_command_does_not_answer_ours_by_it() {
    let place = Place::new();
    let mut server = start_guarded(&place);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    // Nobody has logged in. mongod says so in answer to the first, which is not to be taken for an answer about the second; nor what
    // it answers then for its word that there is no access control.
    for before in [
        vec![doc! {"connectionStatus": 1, "$db": "admin"}],
        vec![doc! {"connectionStatus": 1, "showPrivileges": true, "$db": "admin"}, doc! {"ping": 1, "$db": "admin"}],
        vec![doc! {"ping": 1, "$db": "admin"}, doc! {"connectionStatus": 1, "$db": "admin"}],
    ] {
        let mut stream = TcpStream::connect(service.front()).expect("connected");
        stream.set_read_timeout(Some(crate::harness::LIMIT)).expect("set");
        let throttle = doc! {"backupThrottle": 77, "$db": "admin"};
        let all = before.iter().chain([&throttle]).flat_map(|body| raw::command(7, 0, body));
        stream.write_all(&all.collect::<Vec<_>>()).expect("sent");
        for body in &before {
            let answer = raw::read(&mut stream).expect("an answer").body;
            assert_eq!(answer.get("ok"), Some(&Bson::Double(1.0)), "{body}: {answer}");
            assert_eq!(answer.contains_key("authInfo"), body.contains_key("connectionStatus"), "{body}: {answer}");
        }
        let answer = raw::read(&mut stream).expect("an answer").body;
        assert_eq!(answer.get_i32("code").ok(), Some(13), "{answer}");
    }
    let status = must(&place.client(), doc! {"backupStatus": 1, "details": true});
    assert_eq!(status.get_document("details").expect("details").get("throttle"), Some(&Bson::Null), "nothing was done");
    server.assert_unharmed();
}

#[test]
fn a_client_that_vanishes_from_the_port_leaves_its_backup_going_on() {
    let place = Place::new();
    let server = start(&place, &[]);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    let client = place.client();
    must(&client, doc! {"backupThrottle": 0});
    let mut lost = TcpStream::connect(service.front()).expect("connected");
    lost.write_all(&raw::command(1, 0, &doc! {"backupStart": "kept", "$db": "admin"})).expect("sent");
    until("the backup runs", || in_progress(&client));
    // When the service has noticed that nobody listens any more, it closes its end.
    lost.shutdown(std::net::Shutdown::Write).expect("closed");
    assert_eq!(lost.read(&mut [0]).expect("the end"), 0);
    assert!(in_progress(&client));
    let_go(&client);
    assert_published(&place.path("backups/kept"));
}
