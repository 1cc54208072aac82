//! Names by time: `2026-11-29T021500Z`. No colons, which some file systems do not take; in the order of time when sorted.
use std::ffi::OsStr;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const FORMAT: &str = "%Y-%m-%dT%H%M%SZ";

/// The name of a backup that is begun at a time, to the second.
pub fn of(time: Timestamp) -> String {
    time.strftime(FORMAT).to_string()
}

/// The time that a name says; `None` if it is another kind of name.
pub fn at(name: &OsStr) -> Option<Timestamp> {
    let text = name.to_str()?;
    let time = DateTime::strptime(FORMAT, text).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    // As we write it, and no other way.
    (of(time) == text).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_its_time() {
        let time = Timestamp::from_second(1_795_420_799).unwrap();
        assert_eq!(of(time), "2026-11-23T075959Z");
        assert_eq!(at(OsStr::new("2026-11-23T075959Z")), Some(time));
    }

    #[test]
    fn other_names_say_none() {
        for name in [
            "latest",
            "2026-11-23",
            "2026-11-23T075959",
            "2026-13-23T075959Z",
            "2026-11-3T075959Z",
            " 2026-11-23T075959Z",
            "",
        ] {
            assert_eq!(at(OsStr::new(name)), None, "{name:?}");
        }
    }
}
