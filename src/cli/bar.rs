//! The bar on a terminal. It belongs to the thread that writes to standard error: a terminal may be stopped.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What a bar shows.
#[derive(Debug, Clone)]
pub struct Frame {
    /// The phase, in a word.
    pub prefix: &'static str,
    /// Bytes in place, and of how many.
    pub done: u64,
    /// See `done`.
    pub total: u64,
    /// What else there is to say.
    pub message: String,
}

/// A bar that moves.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let template = "{prefix:>8} {bar:32} {binary_bytes:>10} of {binary_total_bytes}  {elapsed}  {msg}";
        // The template is fixed: should it ever be wrong, the plain bar does.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self(bar)
    }

    pub fn draw(&self, frame: &Frame) {
        self.0.set_prefix(frame.prefix);
        self.0.set_length(frame.total);
        self.0.set_position(frame.done);
        self.0.set_message(frame.message.clone());
        self.0.tick();
    }

    /// Writes a line in the bar's place.
    pub fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.0.suspend(write)
    }

    pub fn clear(self) {
        self.0.finish_and_clear();
    }
}
