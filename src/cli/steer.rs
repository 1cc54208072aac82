//! `hotbackup status`, `throttle` and `cancel`: to the service, and to backups that run by themselves.
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use hotbackup_service::control::{Client, Request, TargetStatus, runtime_directory};
use serde::Serialize;
use serde_json::json;

use super::draw::{Event, print_json};
use super::{Failure, Output, size, status_text, verbs};
use crate::exit::Cause;

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Of which target, and where to ask.
#[derive(Debug, Args)]
struct Whom {
    /// A target of the service, by its name
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// The process that is backed up
    #[arg(long, conflicts_with = "target", value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Where to ask (default: all sockets in the runtime directory)
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    whom: Whom,
    /// Go on saying it, once a second, until nobody answers
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
pub(super) struct Throttle {
    /// Bytes a second, such as 64MiB; 0 pauses copying while changes are still seen; none lifts the limit
    #[arg(value_name = "RATE", value_parser = rate)]
    rate: Rate,
    #[command(flatten)]
    whom: Whom,
}

#[derive(Debug, Args)]
pub(super) struct Cancel {
    #[command(flatten)]
    whom: Whom,
}

impl Status {
    pub(super) fn json(&self) -> bool {
        self.whom.output.json
    }
}

impl Throttle {
    pub(super) fn json(&self) -> bool {
        self.whom.output.json
    }
}

impl Cancel {
    pub(super) fn json(&self) -> bool {
        self.whom.output.json
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate(Option<u64>);

fn rate(text: &str) -> Result<Rate, String> {
    match text {
        "none" => Ok(Rate(None)),
        text => size::bytes(text).map(|rate| Rate(Some(rate))),
    }
}

/// Somebody who answers, and what he says.
struct Found {
    socket: PathBuf,
    status: TargetStatus,
}

fn failed(words: impl ToString) -> Failure {
    Failure::new(Cause::NotSteered, words)
}

/// All who are meant.
fn find(whom: &Whom) -> Result<Vec<Found>, Failure> {
    let sockets = match &whom.socket {
        Some(path) => vec![path.clone()],
        None => sockets().map_err(|error| failed(format!("cannot look for a service or a backup: {error}")))?,
    };
    let (mut found, mut refused) = (Vec::new(), None);
    for socket in sockets {
        match ask(&socket, &Request::Status) {
            Ok(answer) => {
                found.extend(answer.targets.into_iter().map(|status| Found { socket: socket.clone(), status }))
            }
            // Of one who was killed the socket is left, and goes now. Of the one that was named it must be said.
            Err(error) => {
                if error.kind() == std::io::ErrorKind::ConnectionRefused && whom.socket.is_none() {
                    let _ = std::fs::remove_file(&socket);
                }
                refused = Some(format!("{}: {error}", socket.display()));
            }
        }
    }
    if found.is_empty() {
        let why = refused.filter(|_| whom.socket.is_some()).map_or(String::new(), |why| format!(" ({why})"));
        return Err(failed(format!("neither a service nor a backup of this user's answers{why}")));
    }
    let all = names(&found);
    found.retain(|one| {
        let process = one.status.running.as_ref().map(|running| running.process).or(one.status.process);
        whom.target.as_ref().is_none_or(|name| one.status.target == *name)
            && whom.pid.is_none_or(|pid| process == Some(pid))
    });
    if found.is_empty() { Err(failed(format!("it is none of those that answer: {all}"))) } else { Ok(found) }
}

fn names(found: &[Found]) -> String {
    found.iter().map(|one| one.status.target.as_str()).collect::<Vec<_>>().join(", ")
}

/// The service's socket, and those of backups.
fn sockets() -> std::io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(runtime_directory()?)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name == "service.sock" || name.starts_with("backup-") && name.ends_with(".sock") {
            all.push(path);
        }
    }
    // The service first.
    all.sort_by_key(|path| (!path.ends_with("service.sock"), path.clone()));
    Ok(all)
}

fn ask(socket: &Path, request: &Request) -> std::io::Result<hotbackup_service::control::Answer> {
    Client::connect(socket)?.ask(request)
}

#[derive(Serialize)]
struct Stand {
    targets: Vec<TargetStatus>,
}

pub(super) fn status(flags: &Status) -> Result<(), Failure> {
    let look = || find(&flags.whom).map(|found| Stand { targets: found.into_iter().map(|one| one.status).collect() });
    let mut stand = look()?;
    if !flags.watch {
        return verbs::show(flags.whom.output, &stand, || status_text::text(&stand.targets));
    }
    let (began, screen) = (Instant::now(), std::io::stdout().is_terminal());
    loop {
        let written = if flags.whom.output.json {
            let elapsed_ms = Some(began.elapsed().as_millis() as u64);
            print_json(&Event { event: "status", elapsed_ms, body: &stand })
        } else {
            let clear = if screen { "\x1b[H\x1b[2J" } else { "" };
            std::io::stdout().lock().write_all(format!("{clear}{}", status_text::text(&stand.targets)).as_bytes())
        };
        written.map_err(|error| Failure::output(&error))?;
        std::thread::sleep(WATCH_EVERY);
        match look() {
            Ok(next) => stand = next,
            // What was watched has ended.
            Err(_) => return Ok(()),
        }
    }
}

pub(super) fn throttle(flags: &Throttle) -> Result<(), Failure> {
    let Rate(rate) = flags.rate;
    let one = only(find(&flags.whom)?)?;
    order(&one, Request::Throttle { target: Some(one.status.target.clone()), rate })?;
    verbs::show(flags.whom.output, &json!({"target": one.status.target, "throttle": rate}), || {
        let rate = rate.map_or("without a limit".into(), |rate| format!("at most {} a second", size::human(rate)));
        format!("{}: copying {rate}\n", one.status.target)
    })
}

pub(super) fn cancel(flags: &Cancel) -> Result<(), Failure> {
    let mut found = find(&flags.whom)?;
    found.retain(|one| one.status.running.is_some());
    if found.is_empty() {
        return Err(failed("no backup is running"));
    }
    let one = only(found)?;
    order(&one, Request::Cancel { target: Some(one.status.target.clone()) })?;
    let dest = one.status.running.as_ref().map(|running| running.dest.clone()).unwrap_or_default();
    verbs::show(flags.whom.output, &json!({"target": one.status.target, "dest": dest}), || {
        format!("{}: the backup to {dest} ends, and leaves nothing\n", one.status.target)
    })
}

fn only(mut found: Vec<Found>) -> Result<Found, Failure> {
    match (found.pop(), found.is_empty()) {
        (Some(one), true) => Ok(one),
        (Some(last), false) => {
            found.push(last);
            Err(failed(format!("there are several, name one with --target or --pid: {}", names(&found))))
        }
        (None, _) => Err(failed("nobody answers")),
    }
}

fn order(one: &Found, request: Request) -> Result<(), Failure> {
    let answer = ask(&one.socket, &request)
        .map_err(|error| failed(format!("{} does not answer: {error}", one.status.target)))?;
    match answer.error {
        None => Ok(()),
        Some(words) => Err(failed(words)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_with_none_for_no_limit() {
        assert_eq!(rate("none"), Ok(Rate(None)));
        assert_eq!(rate("0"), Ok(Rate(Some(0))));
        assert_eq!(rate("1MiB/s"), Ok(Rate(Some(1 << 20))));
        assert!(rate("fast").is_err());
    }
}
