//! etcd: a Go program, which makes its calls itself, reads its database through a mapping, and keeps a write-ahead log beside
//! it.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use crate::common::backup::{alone, scratch};
use crate::judge::{Held, back_up, judge, turns};
use crate::load::{Client, Load, noise};
use crate::server::{Server, free_port, must};

const SERVER: &str = "etcd-server";
const TOOL: &str = "etcd-client";
const CLIENTS: usize = 3;

/// A running member.
struct Etcd {
    server: Server,
    port: u16,
}

impl Etcd {
    fn start(dir: &Path, more: &[&str]) -> Self {
        let (port, peers) = (free_port(), free_port());
        let (url, peer) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{peers}"));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(dir).args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}"), "--snapshot-count", "150"]).args(more);
        let mut server = Server::start(command, &dir.with_extension(format!("{port}.log")), SERVER);
        server.wait_until(|| {
            let stream = TcpStream::connect(("127.0.0.1", port));
            stream.is_ok_and(|stream| ask(&mut BufReader::new(stream), "GET", "/health", "").contains("true"))
        });
        Self { server, port }
    }

    /// etcd's own client.
    fn tool(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &format!("http://127.0.0.1:{}", self.port)]);
        must(command.args(arguments), TOOL)
    }

    /// Puts keys and a counter, in turn, through the member's JSON gateway.
    fn client(&self, number: usize) -> Client {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", self.port)).expect("it listens"));
        Box::new(move |k| {
            let turn = k / 2;
            let (key, value) = match k % 2 {
                0 => (format!("sequence:{number}:{turn}"), noise(k, 100 + (k as usize * 37) % 2000)),
                _ => (format!("counter:{number}"), (turn + 1).to_string()),
            };
            let body = format!(r#"{{"key": "{}", "value": "{}"}}"#, base64(&key), base64(&value));
            let answer = ask(&mut stream, "POST", "/v3/kv/put", &body);
            assert!(answer.contains("revision"), "the write failed: {answer}");
        })
    }
}

/// One request of HTTP, and the body of its answer.
fn ask(stream: &mut BufReader<TcpStream>, method: &str, path: &str, body: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: etcd\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.get_mut().write_all(request.as_bytes()).expect("it reads");
    let mut length = None;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).expect("it answers");
        assert!(!line.is_empty(), "it closed the connection");
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().ok();
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut bytes = vec![0; length.expect("an answer of a known length")];
    stream.read_exact(&mut bytes).expect("it answers");
    String::from_utf8(bytes).expect("JSON")
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |group: u32, place: u32| char::from(DIGITS[(group >> (18 - 6 * place)) as usize & 63]);
    let encode = |bytes: &[u8]| {
        let group = (0..3).fold(0, |group, i| group << 8 | u32::from(bytes.get(i).copied().unwrap_or(0)));
        (0..4).map(move |place| if place <= bytes.len() as u32 { digit(group, place) } else { '=' }).collect::<String>()
    };
    text.as_bytes().chunks(3).map(encode).collect()
}

/// What a data directory holds, by etcd's own check and a member started on it, as the only one of a new cluster.
fn held(dir: &Path) -> Held {
    let database = dir.join("member/snap/db");
    let status = must(Command::new("etcdctl").env("ETCDCTL_API", "3").args(["snapshot", "status"]).arg(database), TOOL);
    assert!(status.split(',').count() == 4, "hash, revision, keys and size: {status:?}");
    let etcd = Etcd::start(dir, &["--force-new-cluster"]);
    let said = etcd.tool(&["get", "", "--from-key"]);
    let lines: Vec<&str> = said.lines().collect();
    let keys: BTreeMap<&str, &str> = lines.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
    let held_of = |number: usize| {
        let prefix = format!("sequence:{number}:");
        let mut found = Vec::new();
        for (key, value) in &keys {
            let Some(turn) = key.strip_prefix(&prefix) else { continue };
            let turn: u64 = turn.parse().expect("a number");
            assert_eq!(*value, noise(2 * turn, 100 + (2 * turn as usize * 37) % 2000), "{key} has another value");
            found.push(turn);
        }
        found.sort_unstable();
        let counter =
            keys.get(format!("counter:{number}").as_str()).map_or(0, |value| value.parse().expect("a number"));
        turns(number, &found, counter)
    };
    (0..CLIENTS).map(held_of).collect()
}

#[test]
fn etcd_with_concurrent_writers() {
    let _alone = alone();
    let scratch = scratch();
    let dir = scratch.path().join("data");
    fs::create_dir(&dir).expect("a data directory");
    let mut etcd = Etcd::start(&dir, &[]);
    let load = Load::start((0..CLIENTS).map(|number| etcd.client(number)).collect());
    load.wait_for(100);
    let mut outcomes = back_up(etcd.server.pid(), scratch.path(), &dir, &[], "64MiB", &load);
    // Its database is written anew, to another file that then takes its place.
    etcd.tool(&["defrag"]);
    let again = scratch.path().join("defragmented");
    fs::create_dir(&again).expect("a directory");
    outcomes.extend(back_up(etcd.server.pid(), &again, &dir, &[], "64MiB", &load));
    let acks = load.stop();
    etcd.server.assert_alive();
    judge(&outcomes, &acks, held);
}

#[test]
fn base64_is_right() {
    for (text, encoded) in [("", ""), ("a", "YQ=="), ("ab", "YWI="), ("abc", "YWJj"), ("key:1", "a2V5OjE=")] {
        assert_eq!(base64(text), encoded);
    }
}
