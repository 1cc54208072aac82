//! A library inside a process of Python, with a thread for each client: it is told "CLIENT K", does that client's write
//! number K, and answers with the same line.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::load::Client;
use crate::server::Server;

/// The running script.
pub struct Script {
    server: Server,
    input: Arc<Mutex<ChildStdin>>,
    reader: JoinHandle<()>,
}

impl Script {
    /// Starts it, with the Python that Debian's packages are for, and returns once it is ready; and a client for each of
    /// its threads.
    pub fn start(name: &str, arguments: &[&str], clients: usize, log: &Path) -> (Self, Vec<Client>) {
        let mut command = python(name);
        command.args(arguments).arg(clients.to_string()).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(fs::File::create(log).expect("a log file"));
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{error}: apt-get install python3"));
        let input = Arc::new(Mutex::new(child.stdin.take().expect("piped")));
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let server = Server::of(child, log);
        assert_eq!(lines.next().and_then(Result::ok).as_deref(), Some("ready"), "{}", server.said());
        // Each answer goes to the client that waits for it.
        let (answers, waiting): (Vec<Sender<u64>>, Vec<_>) = (0..clients).map(|_| channel()).unzip();
        let reader = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let (client, k) = line.split_once(' ').expect("two numbers");
                let _ = answers[client.parse::<usize>().expect("a client")].send(k.parse().expect("a number"));
            }
        });
        let clients = waiting.into_iter().enumerate().map(|(client, answer)| {
            let input = Arc::clone(&input);
            Box::new(move |k| {
                writeln!(input.lock().expect("no writer panics"), "{client} {k}").expect("the script reads");
                assert_eq!(answer.recv().expect("the script answers"), k);
            }) as Client
        });
        let clients = clients.collect();
        (Self { server, input, reader }, clients)
    }

    /// Its process.
    pub fn pid(&self) -> i32 {
        self.server.pid()
    }

    /// Ends it, once its clients are gone: its input is at its end then.
    pub fn end(mut self) {
        drop(self.input);
        self.server.wait_for_end();
        self.reader.join().expect("every answer was for a client");
    }
}

/// A script beside this file.
pub fn python(name: &str) -> Command {
    let mut command = Command::new("/usr/bin/python3");
    // Nothing is to be left beside the scripts.
    command.arg("-B").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name));
    command
}
