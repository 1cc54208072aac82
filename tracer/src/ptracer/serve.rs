//! The ptracer's life: it answers one request after the other, until its supervisor is gone.

use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

use super::request::{Reply, Request};
use super::{Hold, inject, is_held, pause};
use crate::helper;
use crate::process::Process;
use crate::sys::mapping::Mapping;

/// The ptracer's whole life; the arguments are those after the subcommand: `PID START`.
///
/// Standard input is the shared memory, standard output a socket on which requests come and answers go. Returns the
/// process's exit code.
pub fn main(arguments: &[String]) -> i32 {
    match run(arguments) {
        Ok(()) => 0,
        Err(_) => 1, // there is nobody to tell
    }
}

fn run(arguments: &[String]) -> Result<(), String> {
    let (process, memory) = helper::begin(super::KIND, arguments)?;
    let words = |error: std::io::Error| error.to_string();
    let socket = UnixStream::from(std::io::stdout().as_fd().try_clone_to_owned().map_err(words)?);
    memory.ptracer.store(std::process::id() as i32, Ordering::SeqCst);
    // The one before may have died while it held a thread: that hold ended with it.
    let traced = memory.traced.load(Ordering::SeqCst);
    if is_held(traced) {
        let _ = memory.traced.compare_exchange(traced, traced + 1, Ordering::SeqCst, Ordering::SeqCst);
    }
    let mut requests = BufReader::new(socket.try_clone().map_err(words)?);
    let mut socket = socket;
    let mut line = String::new();
    loop {
        line.clear();
        if requests.read_line(&mut line).map_err(words)? == 0 {
            return Ok(()); // the supervisor is gone
        }
        let request: Request = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        let mut reply = serde_json::to_vec(&answer(&process, &memory, request)).map_err(|error| error.to_string())?;
        reply.push(b'\n');
        socket.write_all(&reply).map_err(words)?;
    }
}

/// Answers in a thread of its own: when that ends, so does every hold that ptrace has on the target, also a request to
/// stop which a thread has not followed yet.
fn answer(process: &Process, memory: &Mapping, request: Request) -> Reply {
    std::thread::scope(|scope| {
        let tracer = scope.spawn(|| {
            let hold = Hold::begin(memory);
            match request {
                Request::Run { calls, store, arm } => match inject::run(process, &hold, &calls, store, arm) {
                    Ok(stopped) => Reply::Ran(stopped.as_nanos() as u64),
                    Err(failure) => Reply::Failed(failure),
                },
                Request::Recognise => Reply::Recognised(inject::carries_our_filter(process, &hold)),
                Request::Pause { tids } => Reply::Paused(pause::pause(process, &hold, tids)),
            }
        });
        tracer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
