//! Signals that ask the command to end. One that was ignored when it began stays ignored: `nohup` and `trap ''` say so.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGTERM, SIGXCPU, SIGXFSZ};
use signal_hook::iterator::Signals;

use super::out;
use crate::session::Control;

/// These cancel; SIGALRM as well, since `alarm` and exec are a usual way to bound a command's time.
const CANCEL: [i32; 4] = [SIGINT, SIGTERM, SIGHUP, SIGALRM];

/// The kernel has said that the processor time which this process may use is nearly over.
static OUT_OF_TIME: AtomicBool = AtomicBool::new(false);

/// Whether that was why the work was cancelled.
pub fn ran_out_of_time() -> bool {
    OUT_OF_TIME.load(Ordering::SeqCst)
}

/// From the first such signal on the work is cancelled, and nobody's reading is waited for. Another one does nothing more.
///
/// # Errors
/// The kernel's.
pub fn cancel(control: &Control) -> io::Result<()> {
    let ignored = ignored();
    let wanted = CANCEL.into_iter().filter(|signal| ignored & 1 << (signal - 1) == 0);
    let mut signals = Signals::new(wanted.chain([SIGXCPU]))?;
    let control = control.clone();
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        for signal in signals.forever() {
            OUT_OF_TIME.fetch_or(signal == SIGXCPU, Ordering::SeqCst);
            out::end();
            control.cancel();
        }
    })?;
    Ok(())
}

/// Before there is any other thread: what was blocked by whoever started this is heard again; a file that grows too long is an
/// error and no end; and a terminal that wants no output from the background gets it all the same, as that would stop us.
pub(super) fn settle() {
    let mut heard = SigSet::empty();
    for signal in CANCEL.into_iter().chain([SIGXCPU, SIGXFSZ]) {
        heard.extend(Signal::try_from(signal));
    }
    let _ = heard.thread_unblock();
    let _ = SigSet::from(Signal::SIGTTOU).thread_block();
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::default());
}

/// The signals that are ignored, one bit each.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    mask.unwrap_or(0)
}
