//! What other threads may change while a backup runs, and what they may see of it. Nothing here waits, so that it may be called
//! from anywhere, a signal handler or a child after fork among them.
//!
//! A setting is stored, and then sent if there is a backup. Two threads that change it at once may send in the other order than they
//! store; so whoever has sent looks whether it is still what is stored, and sends again if it is not. The last message is then
//! always the last value.
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::SeqCst};

use hotbackup_wire::{Ask, UNLIMITED};

use crate::socket;

static THROTTLE: AtomicU64 = AtomicU64::new(UNLIMITED);
static KEEP: AtomicBool = AtomicBool::new(false);
static WAIT: AtomicBool = AtomicBool::new(false);
static CAPTURING: AtomicBool = AtomicBool::new(false);
static COPIED: AtomicBool = AtomicBool::new(false);

/// The process whose backup runs; 0: there is none.
static OWNER: AtomicI32 = AtomicI32::new(0);
/// Its socket, from when others may use it until they may not; -1: there is none.
static SOCKET: AtomicI32 = AtomicI32::new(-1);
/// Threads that are using the socket.
static USERS: AtomicU32 = AtomicU32::new(0);
/// A setting could not be sent: the backup's own thread does it.
static UNSENT: AtomicBool = AtomicBool::new(false);

pub fn set_throttle(bytes: u64) {
    THROTTLE.store(bytes, SeqCst);
    send(|| Ask::Throttle(throttle()));
}

pub fn set_keep(keep: bool) {
    KEEP.store(keep, SeqCst);
    send(|| Ask::Keep(keeps()));
}

pub fn set_wait(wait: bool) {
    WAIT.store(wait, SeqCst);
    send(|| Ask::Wait(waits()));
}

pub fn throttle() -> u64 {
    THROTTLE.load(SeqCst)
}

pub fn keeps() -> bool {
    KEEP.load(SeqCst)
}

pub fn waits() -> bool {
    WAIT.load(SeqCst)
}

pub fn is_capturing() -> bool {
    CAPTURING.load(SeqCst)
}

pub fn is_copied() -> bool {
    COPIED.load(SeqCst)
}

pub fn set_state(capturing: bool, copied: bool) {
    CAPTURING.store(capturing, SeqCst);
    COPIED.store(copied, SeqCst);
}

fn send(setting: impl Fn() -> Ask) {
    USERS.fetch_add(1, SeqCst);
    let socket = SOCKET.load(SeqCst);
    // A child after fork has the parent's socket, and no backup.
    if socket >= 0 && OWNER.load(SeqCst) == this_process() {
        loop {
            let now = setting();
            if socket::send_now(socket, &now.encode()).is_err() {
                UNSENT.store(true, SeqCst);
                break;
            }
            if setting() == now {
                break;
            }
        }
    }
    USERS.fetch_sub(1, SeqCst);
}

fn this_process() -> i32 {
    std::process::id().cast_signed()
}

/// The right to take a backup: one at a time. Given back when dropped.
pub struct Claim(());

impl Claim {
    pub fn take() -> Option<Self> {
        let this = this_process();
        let other = OWNER.load(SeqCst);
        if other == this || OWNER.compare_exchange(other, this, SeqCst, SeqCst).is_err() {
            return None;
        }
        if other != 0 {
            // A child of a process whose backup was running: none of this is ours.
            SOCKET.store(-1, SeqCst);
            USERS.store(0, SeqCst);
        }
        UNSENT.store(false, SeqCst);
        set_state(false, false);
        Some(Self(()))
    }

    /// From here on, other threads' settings are sent. They were sent once before; what changed since is sent now.
    pub fn open(&self, socket: c_int, sent: (u64, bool, bool)) {
        SOCKET.store(socket, SeqCst);
        if sent != (throttle(), keeps(), waits()) {
            self.send_all();
        }
    }

    /// Sends what could not be sent.
    pub fn send_unsent(&self) {
        if UNSENT.swap(false, SeqCst) {
            self.send_all();
        }
    }

    fn send_all(&self) {
        send(|| Ask::Throttle(throttle()));
        send(|| Ask::Keep(keeps()));
        send(|| Ask::Wait(waits()));
    }

    /// No other thread uses the socket when this returns.
    pub fn close(&self) {
        SOCKET.store(-1, SeqCst);
        // None of them ever waits while it does.
        while USERS.load(SeqCst) != 0 {
            std::thread::yield_now();
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.close();
        CAPTURING.store(false, SeqCst);
        OWNER.store(0, SeqCst);
    }
}
