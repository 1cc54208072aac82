//! Messages that are none, and clients that say nothing: an error or a closed connection, in bounded memory.
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use mongodb::bson::{Bson, Document, doc};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::harness::{Place, Serving, guest, must, until};
use crate::raw::{COMPRESSED, ask, command, message, read};
use crate::servers::{start, stranger, target};

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// What is wrong, and the code that is answered, if anything is.
fn wrong() -> Vec<(&'static str, Vec<u8>, Option<i32>)> {
    let good = doc! {"backupStatus": 1, "$db": "admin"};
    let bytes = good.to_vec().expect("short");
    let mut lies = bytes.clone();
    lies[0] += 1;
    let mut inner = doc! {"backupStatus": 1, "a": {"b": 1}, "$db": "admin"}.to_vec().expect("short");
    let at = inner.windows(3).position(|part| part == b"\x03a\0").expect("there");
    inner[at + 3] = 0xff;
    let deep = (0..150).fold(doc! {}, |inner, _| doc! {"a": inner});
    let deep = doc! {"backupStatus": 1, "a": deep, "$db": "admin"}.to_vec().expect("short");
    let msg = |parts: &[&[u8]]| message(None, 1, 2013, parts);
    vec![
        ("a length of 15", message(Some(15), 1, 2013, &[]), Some(17)),
        ("a negative length", message(Some(-1), 1, 2013, &[]), Some(17)),
        ("48 MB and one byte", message(Some(48_000_001), 1, 2013, &[]), Some(17)),
        ("2 GiB", message(Some(i32::MAX), 1, 2013, &[]), Some(17)),
        ("a document's length that lies", msg(&[&[0; 5], &lies]), Some(17)),
        ("an inner length that lies", msg(&[&[0; 5], &inner]), Some(17)),
        ("deep nesting", msg(&[&[0; 5], &deep]), Some(17)),
        ("a compressed one", message(None, 1, COMPRESSED, &[&[0xdd, 7, 0, 0, 0, 0, 0, 0, 2], &bytes]), Some(17)),
        ("flags that nobody knows", msg(&[&[4, 0, 0, 0, 0], &bytes]), Some(17)),
        ("a checksum that does not match", msg(&[&[1, 0, 0, 0, 0], &bytes, &[0; 4]]), Some(17)),
    ]
}

/// Sends it all, each on a connection of its own.
fn each_is_refused(connect: &dyn Fn() -> Box<dyn Stream>) {
    for (what, bytes, code) in wrong() {
        let mut stream = connect();
        let answer = ask(&mut stream, &bytes).unwrap_or_else(|error| panic!("{what}: {error}")).body;
        assert_eq!(answer.get_i32("code").ok(), code, "{what}: {answer}");
        assert_eq!(stream.read(&mut [0]).unwrap_or(0), 0, "{what}: the connection is closed");
    }
    // One that is as long as may be is read to its end, kept nowhere, and the connection goes on.
    let mut stream = connect();
    let body = doc! {"backupStatus": 1, "$db": "admin", "comment": "x".repeat(47_999_800)};
    let answer = ask(&mut stream, &command(3, 0, &body)).expect("an answer");
    assert_eq!((answer.header.response_to, answer.body.get_i32("code").ok()), (3, Some(10334)));
    let ping = command(4, 0, &doc! {"ping": 1, "$db": "admin"});
    assert_eq!(ask(&mut stream, &ping).expect("an answer").body.get("ok"), Some(&Bson::Double(1.0)));
    // What wants no answer is not done, and what comes next is answered.
    stream.write_all(&command(5, 2, &doc! {"backupThrottle": 77, "$db": "admin"})).expect("sent");
    assert_eq!(
        ask(&mut stream, &command(6, 0, &doc! {"ping": 1, "$db": "admin"})).expect("an answer").header.response_to,
        6
    );
    // Half a message is no end of anything else.
    stream.write_all(&command(7, 0, &doc! {"ping": 1, "$db": "admin"})[..20]).expect("sent");
}

fn resident(service: &Serving) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.pid())).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}

fn throttle(client: &mongodb::sync::Client) -> Option<Bson> {
    let status: Document = must(client, doc! {"backupStatus": 1, "details": true});
    status.get_document("details").expect("details").get("throttle").cloned()
}

#[test]
fn what_is_malformed_is_refused_at_the_socket_and_at_the_port() {
    let place = Place::new();
    let mut server = start(&place, &[]);
    let service = place.serve(&place.config(&target(&place, &server, "127.0.0.1:0", "")));
    each_is_refused(&|| Box::new(UnixStream::connect(place.path("main.sock")).expect("connected")));
    let front = service.front();
    each_is_refused(&|| Box::new(TcpStream::connect(&front).expect("connected")));
    assert_eq!(throttle(&place.client()), Some(Bson::Null), "nothing of it was done");
    must(&stranger(&front), doc! {"ping": 1});
    assert!(resident(&service) < 100 << 10, "{} KiB", resident(&service));
    server.assert_unharmed();
}

/// Clients that say nothing at each of the two doors, or half a header.
const SILENT: usize = 1000;

#[test]
fn a_thousand_clients_that_say_nothing_keep_nobody_out() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(8192), hard).expect("room for all of them");
    let (place, (_guest, guests)) = (Place::new(), guest());
    // Nobody is behind the port, and nobody is asked for.
    let config = format!("{guests}\nfront = {{ listen = \"127.0.0.1:0\", server = \"127.0.0.1:1\" }}");
    let service = place.serve(&place.config(&config));
    let mut silent: Vec<Box<dyn Stream>> = Vec::new();
    for number in 0..SILENT {
        let mut stream: Box<dyn Stream> = match number % 2 {
            0 => Box::new(UnixStream::connect(place.path("main.sock")).expect("connected")),
            _ => Box::new(TcpStream::connect(service.front()).expect("connected")),
        };
        stream.write_all(&[0; 8][..number % 8]).expect("sent");
        silent.push(stream);
    }
    let threads = || fs::read_dir(format!("/proc/{}/task", service.pid())).expect("it runs").count();
    until("all have been let in", || threads() > SILENT);
    let client = place.client();
    assert_eq!(must(&client, doc! {"backupStart": "one"}), doc! {"ok": 1.0});
    assert!(resident(&service) < 150 << 10, "{} KiB", resident(&service));
    drop(silent);
    until("all have gone", || threads() < 50);
    must(&client, doc! {"ping": 1});
}

#[test]
fn more_clients_than_there_are_seats_are_turned_away() {
    let (place, (_guest, guests)) = (Place::new(), guest());
    let service = place.serve(&format!("max_connections = 2\n{}", place.config(&guests)));
    let mut seated: Vec<UnixStream> =
        (0..2).map(|_| UnixStream::connect(place.path("main.sock")).expect("connected")).collect();
    let ping = command(1, 0, &doc! {"ping": 1, "$db": "admin"});
    for stream in &mut seated {
        ask(stream, &ping).expect("an answer");
    }
    let mut third = UnixStream::connect(place.path("main.sock")).expect("connected");
    assert!(read(&mut third).is_err(), "it is closed");
    drop(seated.pop());
    until("the seat is free", || {
        let mut next = UnixStream::connect(place.path("main.sock")).expect("connected");
        ask(&mut next, &ping).is_ok()
    });
    assert!(service.pid() > 0);
}
