//! Clients that write one after the other, numbered, and log when each write was sent and acknowledged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Longer than any program here takes for a few writes on a busy machine.
const STANDSTILL: Duration = Duration::from_secs(120);

/// Each client rests so long after each write: a source that grows as fast as it can is not the point here.
const REST: Duration = Duration::from_millis(2);

/// When one write was sent and when its acknowledgement had arrived, in realtime nanoseconds.
#[derive(Debug, Clone, Copy)]
pub struct Ack {
    /// Just before it was sent.
    pub sent: u64,
    /// Just after it was acknowledged.
    pub acked: u64,
}

/// Every client's writes in order.
pub struct Acks(pub Vec<Vec<Ack>>);

impl Acks {
    /// How many of a client's writes were acknowledged before `point`, and how many had been sent: a state at `point`
    /// holds at least the first and at most the second.
    pub fn bounds(&self, client: usize, point: u64) -> (u64, u64) {
        let log = &self.0[client];
        (log.partition_point(|op| op.acked < point) as u64, log.partition_point(|op| op.sent <= point) as u64)
    }

    /// How many clients there are.
    pub fn clients(&self) -> usize {
        self.0.len()
    }
}

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

/// Realtime now, in nanoseconds since the epoch.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    u64::try_from(since.as_nanos()).expect("the clock is before 2554")
}

/// Text that does not compress, the same for the same number (xorshift64).
pub fn noise(number: u64, length: usize) -> String {
    let mut state = (number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut text = String::with_capacity(length + 16);
    while text.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        text += &format!("{state:016x}");
    }
    text.truncate(length);
    text
}
