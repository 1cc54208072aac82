//! What the demo shows at its end.
use serde::Serialize;

use super::Window;
use crate::cli::size::human;
use crate::session::Report;

const TITLE: &str = "\n\
    Threads that do little else than write, append and rename, and check that every call does all it was asked.\n\
    Each such call waits some microseconds for its answer; a server does more between them.\n\n";

/// The demo's result.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Bare.
    pub before: Window,
    /// While the backup was taken.
    pub during: Window,
    /// With the keeper alone.
    pub after: Window,
    /// How long the backup took, in milliseconds.
    pub backup_ms: u64,
    /// The backup's own report.
    pub report: Report,
    /// What was checked and found right.
    pub checked: Option<String>,
    /// What is wrong with the backup.
    pub wrong: Option<String>,
}

impl Outcome {
    /// The whole thing on one screen.
    pub fn screen(&self) -> String {
        let copier = &self.report.copier;
        let windows = [&self.before, &self.during, &self.after];
        let rate = windows.map(|window| thousands(window.per_second));
        let ratio = windows.map(|window| format!("{:.2}", window.per_second / self.before.per_second.max(1e-9)));
        let longest = windows.map(|window| millis(window.longest_us));
        let row = |name: &str, [before, during, after]: &[String; 3]| {
            format!("  {name:<26}{before:>12}{during:>12}{after:>12}\n")
        };
        let line = |name: &str, text: String| format!("  {name:<26}{text}\n");
        let stop = match self.report.stop_us {
            Some(us) => format!("{us} us, of one thread"),
            None => "none, a keeper was there".into(),
        };
        let verdict = match (&self.checked, &self.wrong) {
            (_, Some(wrong)) => format!("WRONG: {wrong}"),
            (Some(checked), None) => format!("RIGHT: {checked}"),
            (None, None) => "none".into(),
        };
        [
            TITLE.into(),
            row("", &["before", "during", "after"].map(String::from)),
            row("changing calls per second", &rate),
            row("ratio to before", &ratio),
            row("longest single one", &longest),
            "\n".into(),
            line("process stopped", stop),
            line("writers held", format!("{:.2} ms", copier.hold_us as f64 / 1e3)),
            line("backup took", format!("{:.1} s, throttled; {} passes", self.backup_ms as f64 / 1e3, copier.passes)),
            line("in the backup", format!("{} in {} files", human(copier.bytes_total), copier.files)),
            line("copied", human(copier.bytes_copied)),
            line("before-images", format!("{} ({})", copier.before_images.count, human(copier.before_images.bytes))),
            "\n".into(),
            format!("  {verdict}\n"),
        ]
        .concat()
    }
}

fn millis(us: u64) -> String {
    format!("{:.1} ms", us as f64 / 1e3)
}

/// A whole number in groups of three digits.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!(thousands(0.2), "0");
        assert_eq!(thousands(999.0), "999");
        assert_eq!(thousands(1_000.0), "1,000");
        assert_eq!(thousands(1_234_567.8), "1,234,568");
    }
}
