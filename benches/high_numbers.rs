//! What a descriptor with a high number costs a program: the kernel copies its table of descriptors, up to the highest open one,
//! at each fork. `cargo bench --bench high_numbers`
//!
//! Measured is `unshare(CLONE_FILES)`, which does that copy and nothing else. Interleaved, medians, ratios.
#![forbid(unsafe_code)]

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

const ROUNDS: usize = 501;
/// Where hotbackup's descriptors stand in a program with few of its own.
const OURS: RawFd = 1016;

/// How long the copy takes that a fork would make.
fn copy() -> Duration {
    let copying = std::thread::spawn(|| {
        let began = Instant::now();
        unshare(CloneFlags::CLONE_FILES).expect("always permitted");
        began.elapsed()
    });
    copying.join().expect("it does not panic")
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all[all.len() / 2]
}

fn main() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be asked");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    let highest = RawFd::try_from(most).unwrap_or(RawFd::MAX) - 8;
    let mut taken = [Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (taken, number) in taken.iter_mut().zip([None, Some(OURS), Some(highest)]) {
            let open = number.map(|number| {
                fcntl(std::io::stdin(), FcntlArg::F_DUPFD_CLOEXEC(number)).expect("a free number up there")
            });
            taken.push(copy());
            if let Some(number) = open {
                nix::unistd::close(number).expect("it is open");
            }
        }
    }
    let [none, ours, high] = taken.map(median);
    let ratio = |of: Duration| of.as_secs_f64() / none.as_secs_f64();
    println!("copying the table of descriptors, {ROUNDS} times each, medians; 1 is {none:?}, with few descriptors");
    println!("  with one at {OURS}: {:.2}", ratio(ours));
    println!("  with one at {highest}, the highest that the limits allow here: {:.2}", ratio(high));
}
