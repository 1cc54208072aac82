//! Follows a process and prints what its calls may change: `follow PID [SECONDS]`.
use std::sync::Arc;
use std::time::Duration;

use hotbackup_tracer::{Error, Event, LEASE, Options, Program, Sink, Ticket, Tracer, helper_main};

struct Print;

impl Sink for Print {
    fn deliver(&self, event: Event, ticket: Ticket) {
        drop(ticket);
        println!("{} {} {:?} {:?}", event.tid, event.call, event.effects, event.blind);
    }
    fn found(&self, event: Event) {
        println!("found: {event:?}");
    }
    fn blind(&self, cause: String) {
        println!("blind: {cause}");
    }
    fn wait_until_released(&self) {}
    fn lost(&self, cause: Error) {
        println!("lost: {cause}");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(code) = helper_main(&arguments) {
        std::process::exit(code);
    }
    let pid = arguments.get(1).ok_or("usage: follow PID [SECONDS]")?.parse()?;
    let seconds = arguments.get(2).map_or(Ok(1), |text| text.parse())?;
    // This very program calls `helper_main`, too.
    let keeper_program = Program::new(std::fs::read(std::env::current_exe()?)?.leak());
    let options =
        Options { keeper_program, lease: LEASE, show_all_writes: false, at_sites: false, accept_unseen: false };
    let tracer = Tracer::attach(pid, &options, Arc::new(Print))?;
    println!("stopped: {:?}, keeper {}", tracer.stopped(), tracer.keeper_pid());
    let began = std::time::Instant::now();
    println!("grace: {:?} after {:?}", tracer.grace(), began.elapsed());
    println!("unfiltered: {:?}, probe {:?}", tracer.unfiltered_threads(), tracer.probe());
    std::thread::sleep(Duration::from_secs(seconds));
    println!("received {}, longest wait {:?}", tracer.received(), tracer.longest_wait());
    Ok(())
}
