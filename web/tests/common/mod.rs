//! A service to look at, whose state a test sets; and asking it as a client does.
#![allow(dead_code)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use hotbackup_archive::{Night, Taken};
use hotbackup_web::{Running, Snapshot, Target, Watch, serve};
use jiff::{Timestamp, ToSpan};

pub struct Service {
    pub address: SocketAddr,
    pub state: Arc<State>,
}

pub struct State(pub Mutex<Vec<Target>>);

impl Watch for State {
    fn snapshot(&self) -> Snapshot {
        Snapshot { time: now(), version: "0.1.0".into(), targets: self.0.lock().expect("not poisoned").clone() }
    }
}

pub fn now() -> Timestamp {
    "2026-11-29T12:00:00Z".parse().expect("a time")
}

impl Service {
    pub fn start(targets: Vec<Target>) -> Self {
        let state = Arc::new(State(Mutex::new(targets)));
        let server = serve("127.0.0.1:0".parse().expect("an address"), state.clone()).expect("listens");
        Self { address: server.address, state }
    }

    /// Head and body of what it answers to a request.
    pub fn send(&self, request: &[u8]) -> (String, String) {
        let mut stream = TcpStream::connect(self.address).expect("connected");
        stream.write_all(request).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("text");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.to_owned(), body.to_owned())
    }

    pub fn get(&self, path: &str) -> (String, String) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address).as_bytes())
    }
}

fn night(hours_ago: i64, message: Option<&str>) -> Night {
    let begun = now().checked_sub(hours_ago.hours()).expect("a time");
    Night {
        begun,
        ended: begun.checked_add(90.seconds()).expect("a time"),
        dest: "/backup/orders/x".into(),
        good: message.is_none(),
        taken: message.is_none().then_some(Taken {
            bytes: 3 << 30,
            duration_us: 85_000_000,
            hold_us: 700,
            longest_wait_us: 2100,
        }),
        cause: message.map(|_| "dest_full".into()),
        message: message.map(str::to_owned),
        warnings: Vec::new(),
        removed: Vec::new(),
        attempt: 1,
        retry: None,
    }
}

/// One that is being backed up, one whose last backup failed, one that does not run.
pub fn targets() -> Vec<Target> {
    let running = Running {
        phase: "track".into(),
        elapsed_ms: 12_000,
        bytes_total: 3 << 30,
        bytes_due: 3 << 29,
        bytes_copied: 3 << 29,
        rate: Some(100 << 20),
        eta_s: Some(15),
        throttle: Some(128 << 20),
        hold_us: None,
        longest_wait_us: Some(900),
    };
    let next = now().checked_add(14.hours()).ok();
    let mut history = vec![night(58, None), night(34, Some("the destination is full")), night(10, None)];
    history[2].attempt = 2;
    vec![
        Target { name: "orders".into(), process: Some(4711), running: Some(running), next, next_attempt: Some(2), history: history.clone() },
        Target {
            name: "a-name-that-is-so-long-that-it-has-to-be-broken-somewhere-or-else-the-page-grows-wider-than-a-telephone <b>&".into(),
            process: Some(4712),
            running: None,
            next: None,
            next_attempt: None,
            history: history[..2].to_vec(),
        },
        Target { name: "archive".into(), ..Target::default() },
    ]
}
