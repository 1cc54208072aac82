//! Shows a backup: a bar on a terminal, a line now and then elsewhere, one JSON object a line with `--json`. People's
//! words go to stderr; stdout carries the result, or the JSON.
use std::io::{self, IsTerminal};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::bar::Frame;
use super::out::{ERR, Keep, OUT};
use super::size::human;
use crate::session::{Monitor, Phase, Progress};

/// Where nothing moves by itself, a line comes this often.
const LINE_EVERY: Duration = Duration::from_secs(2);
/// JSON progress comes at most this often.
const EVENT_EVERY: Duration = Duration::from_millis(100);

/// How to show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A bar that moves.
    Bar,
    /// A line on stderr every two seconds and at each phase.
    Lines,
    /// Events on stdout.
    Json,
    /// Errors only.
    Quiet,
}

impl Style {
    /// The style that the flags ask for, on the stderr there is. In JSON, `--quiet` leaves the result and errors.
    pub fn choose(json: bool, quiet: bool) -> Self {
        match (json, quiet) {
            (_, true) => Self::Quiet,
            (true, false) => Self::Json,
            (false, false) if io::stderr().is_terminal() => Self::Bar,
            (false, false) => Self::Lines,
        }
    }
}

/// A [`Monitor`] that draws.
pub struct Drawing {
    style: Style,
    start: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    phase: Option<Phase>,
    shown: Option<Instant>,
    copied: bool,
    /// Bytes in place, and of how many.
    bar: (u64, u64),
    message: String,
}

impl Drawing {
    /// Starts to draw.
    pub fn new(style: Style) -> Self {
        Self { style, start: Instant::now(), state: Mutex::default() }
    }

    /// Takes the bar off the screen.
    pub fn finish(&self) {
        ERR.clear_bar();
    }

    /// A reader that is gone, or does not read, does not stop a backup; that the result cannot be written is told at the end.
    fn event(&self, value: &impl Serialize, keep: Keep) {
        if let Ok(line) = json_line(value) {
            OUT.say(line, keep);
        }
    }

    fn draw(&self, state: &State) {
        let frame = Frame {
            prefix: state.phase.map_or("", word),
            done: state.bar.0,
            total: state.bar.1,
            message: state.message.clone(),
        };
        ERR.draw(frame);
    }

    fn elapsed_ms(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

impl Monitor for Drawing {
    fn phase(&self, phase: Phase) {
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.phase.replace(phase) == Some(phase) {
                return;
            }
            state.shown = None;
            if self.style == Style::Bar {
                return self.draw(&state);
            }
        }
        match self.style {
            Style::Lines => say(&format!("{:>6.1} s  {}", self.start.elapsed().as_secs_f64(), sentence(phase))),
            Style::Json => {
                self.event(&json!({"event": "phase", "phase": phase, "elapsed_ms": self.elapsed_ms()}), Keep::Queued)
            }
            Style::Bar | Style::Quiet => {}
        }
    }

    fn progress(&self, progress: &Progress) {
        let done = progress.bytes_total.saturating_sub(progress.bytes_due);
        let every = match self.style {
            Style::Quiet => return,
            Style::Bar => {
                let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
                state.bar = (done, progress.bytes_total);
                state.message = format!("{} files, pass {}", progress.files_total, progress.pass);
                return self.draw(&state);
            }
            Style::Lines => LINE_EVERY,
            Style::Json => EVENT_EVERY,
        };
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            // That copying has begun is worth an event at once.
            let news = self.style == Style::Json && progress.bytes_copied > 0 && !state.copied;
            if !news && state.shown.is_some_and(|shown| shown.elapsed() < every) {
                return;
            }
            state.copied |= progress.bytes_copied > 0;
            state.shown = Some(Instant::now());
        }
        if self.style == Style::Json {
            let event = Event { event: "progress", elapsed_ms: Some(self.elapsed_ms()), body: progress };
            self.event(&event, Keep::Passing);
        } else {
            let line = format!(
                "{:>6.1} s  {:<8} {} of {} in place, {} copied, pass {}\n",
                self.start.elapsed().as_secs_f64(),
                word(progress.phase),
                human(done),
                human(progress.bytes_total),
                human(progress.bytes_copied),
                progress.pass
            );
            ERR.say(line.into(), Keep::Passing);
        }
    }

    fn warning(&self, text: &str) {
        if self.style == Style::Json {
            self.event(&json!({"event": "warning", "message": text}), Keep::Queued);
        }
        say(&format!("hotbackup: warning: {text}"));
    }
}

/// A line for people. That nobody reads stderr is no reason to stop.
pub fn say(line: &str) {
    ERR.say(format!("{line}\n").into(), Keep::Queued);
}

/// One JSON event with the fields of a report.
#[derive(Serialize)]
pub struct Event<'a, T: Serialize> {
    /// What happened.
    pub event: &'a str,
    /// Milliseconds since the command began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
    /// Further fields.
    #[serde(flatten)]
    pub body: &'a T,
}

/// Prints one line of JSON that must not be lost.
///
/// # Errors
/// Standard output cannot be written, or nobody reads it.
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    OUT.deliver(json_line(value)?)
}

fn json_line(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

fn word(phase: Phase) -> &'static str {
    match phase {
        Phase::Attach => "attach",
        Phase::Track => "track",
        Phase::Hold => "hold",
        Phase::Drain => "drain",
        Phase::Publish => "publish",
        Phase::Done => "done",
    }
}

fn sentence(phase: Phase) -> &'static str {
    match phase {
        Phase::Attach => "attach: the process is being attached to",
        Phase::Track => "track: copying, while every change is seen",
        Phase::Hold => "hold: writers wait a moment, the point in time is fixed",
        Phase::Drain => "drain: copying what is left of the point in time",
        Phase::Publish => "publish: the process is free; putting the backup in place and on disk",
        Phase::Done => "done",
    }
}
