//! Follows a process and prints what its calls may change: `follow PID [SECONDS]`.
use std::sync::Arc;
use std::time::Duration;

use hotbackup_tracer::{Error, Event, LEASE, Options, Sink, Ticket, Tracer, helper_main};

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
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(code) = helper_main(&arguments) {
        std::process::exit(code);
    }
    let pid = arguments.first().ok_or("usage: follow PID [SECONDS]")?.parse()?;
    let seconds = arguments.get(1).map_or(Ok(1), |text| text.parse())?;
    let options = Options { keeper_program: std::env::current_exe()?, lease: LEASE, show_all_writes: false };
    let tracer = Tracer::attach(pid, &options, Arc::new(Print))?;
    println!("stopped: {:?}, keeper {}", tracer.stopped(), tracer.keeper_pid());
    let began = std::time::Instant::now();
    println!("grace: {:?} after {:?}", tracer.grace(), began.elapsed());
    println!("unfiltered: {:?}, probe {:?}", tracer.unfiltered_threads(), tracer.probe());
    std::thread::sleep(Duration::from_secs(seconds));
    println!("received {}, longest wait {:?}", tracer.received(), tracer.longest_wait());
    Ok(())
}
