//! The log of a service of systemd's: entries of the journal with a priority and fields, by its native protocol
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).
//!
//! Nobody who reads the log may hold anything up, the journal neither: an entry that it does not take at once is written to stderr
//! as any line is.
use std::fmt::{Debug, Write as _};
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::draw;

const SOCKET: &str = "/run/systemd/journal/socket";
/// What is longer is cut: a datagram has an end.
const LONGEST: usize = 16 << 10;

/// Whether stderr leads to the journal: systemd says of which file that is so (systemd.exec(5)), as ours may be another by now.
pub(super) fn is_ours() -> bool {
    let said = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let Ok(stderr) = nix::sys::stat::fstat(std::io::stderr()) else { return false };
    said == format!("{}:{}", stderr.st_dev, stderr.st_ino)
}

/// Where entries go.
#[derive(Debug)]
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// The journal, if stderr leads there.
    pub(super) fn find() -> Option<Self> {
        let socket = UnixDatagram::unbound().ok().filter(|_| is_ours())?;
        socket.set_nonblocking(true).ok()?;
        Some(Self(socket))
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut entry = Entry::default();
        entry.add("PRIORITY", &priority(level).to_string());
        entry.add("SYSLOG_IDENTIFIER", "hotbackup");
        entry.add("HOTBACKUP_MODULE", event.metadata().target());
        event.record(&mut entry);
        if self.0.send_to(&entry.bytes, SOCKET).is_err() {
            draw::say(&format!("<{}>{}", priority(level), entry.message));
        }
    }
}

/// As syslog(3) counts.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[derive(Default)]
struct Entry {
    bytes: Vec<u8>,
    message: String,
}

impl Entry {
    fn add(&mut self, name: &str, value: &str) {
        let end = (0..=value.len().min(LONGEST)).rfind(|end| value.is_char_boundary(*end)).unwrap_or(0);
        let value = &value[..end];
        self.bytes.extend(name.as_bytes());
        if value.contains('\n') {
            self.bytes.push(b'\n');
            self.bytes.extend((value.len() as u64).to_le_bytes());
        } else {
            self.bytes.push(b'=');
        }
        self.bytes.extend(value.as_bytes());
        self.bytes.push(b'\n');
    }
}

impl Visit for Entry {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = String::new();
        let _ = write!(text, "{value:?}");
        self.record_str(field, &text);
    }

    fn record_str(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            self.add("MESSAGE", text);
            text.clone_into(&mut self.message);
        } else {
            let name = field.name().to_ascii_uppercase().replace(|letter: char| !letter.is_ascii_alphanumeric(), "_");
            self.add(&format!("HOTBACKUP_{name}"), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_of_several_lines_says_how_long_it_is() {
        let mut entry = Entry::default();
        entry.add("MESSAGE", "a\nb");
        entry.add("PRIORITY", "3");
        assert_eq!(entry.bytes, b"MESSAGE\n\x03\0\0\0\0\0\0\0a\nb\nPRIORITY=3\n");
    }

    #[test]
    fn a_value_that_is_too_long_is_cut_between_letters() {
        let mut entry = Entry::default();
        entry.add("A", &"\u{e4}".repeat(LONGEST));
        assert_eq!(entry.bytes.len(), "A=\n".len() + LONGEST);
        assert!(String::from_utf8(entry.bytes).is_ok());
    }
}
