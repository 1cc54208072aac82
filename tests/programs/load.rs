//! Clients that write one after the other, numbered, and log when each write was sent and acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::common::acks::{Ack, Acks};
use crate::common::backup::now;
use crate::common::random::Random;

/// Longer than any program here takes for a few writes on a busy machine.
const STANDSTILL: Duration = Duration::from_secs(120);

/// Each client rests so long after each write: a source that grows as fast as it can is not the point here.
const REST: Duration = Duration::from_millis(2);

/// One client: performs write number `k` and returns once it is acknowledged; panics when it fails.
pub type Client = Box<dyn FnMut(u64) + Send>;

/// Clients at work, each in a thread. A write that fails panics there, and `stop` passes that on.
pub struct Load {
    end: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<Ack>>>,
}

impl Load {
    /// Starts them.
    pub fn start(clients: Vec<Client>) -> Self {
        let (end, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let spawn = |mut client: Client| {
            let (end, done) = (Arc::clone(&end), Arc::clone(&done));
            std::thread::spawn(move || {
                let mut log = Vec::new();
                while !end.load(Ordering::Relaxed) {
                    let sent = now();
                    client(log.len() as u64);
                    log.push(Ack { sent, acked: now() });
                    done.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(REST);
                }
                log
            })
        };
        let clients = clients.into_iter().map(spawn).collect();
        Self { end, done, clients }
    }

    /// Waits until `more` further writes were acknowledged.
    pub fn wait_for(&self, more: u64) {
        let (goal, began) = (self.done.load(Ordering::Relaxed) + more, Instant::now());
        while self.done.load(Ordering::Relaxed) < goal {
            assert!(!self.clients.iter().any(JoinHandle::is_finished), "a write failed: see the panic above");
            assert!(began.elapsed() < STANDSTILL, "the clients stand still");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Ends the load; fails when any write failed.
    pub fn stop(mut self) -> Acks {
        self.end.store(true, Ordering::Relaxed);
        Acks(self.clients.drain(..).map(|thread| thread.join().expect("no write failed")).collect())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A failing test must not leave clients behind that wait for a killed server.
        self.end.store(true, Ordering::Relaxed);
    }
}

/// Text that does not compress, the same for the same number.
pub fn noise(number: u64, length: usize) -> String {
    let mut random = Random::new(number);
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        text += &format!("{:016x}", random.next());
    }
    text.truncate(length);
    text
}
