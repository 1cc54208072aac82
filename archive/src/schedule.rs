//! When the next backup is due: five fields as for cron, read by the `croner` crate, in a time zone.
use std::str::FromStr;

use croner::Cron;
use jiff::Zoned;

use crate::Error;

/// A schedule, such as `15 2 * * *` or `@daily`.
#[derive(Debug, Clone)]
pub struct Schedule {
    cron: Cron,
    text: String,
}

impl FromStr for Schedule {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |cause: String| Error::BadSchedule { text: text.into(), cause };
        if !text.starts_with('@') && text.split_whitespace().count() != 5 {
            return Err(bad(format!("it has {} fields", text.split_whitespace().count())));
        }
        let cron = Cron::from_str(text).map_err(|error| bad(error.to_string()))?;
        Ok(Self { cron, text: text.into() })
    }
}

impl Schedule {
    /// The first time after `now` that it names. `None`: there is none, as for the 30th of February.
    pub fn next_after(&self, now: &Zoned) -> Option<Zoned> {
        self.cron.find_next_occurrence(now, false).ok()
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, now: &str) -> String {
        let now: Zoned = now.parse().unwrap();
        let schedule: Schedule = text.parse().unwrap();
        schedule.next_after(&now).map(|time| time.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_next_time_is_after_now() {
        assert_eq!(next("15 2 * * *", "2026-11-29T02:15:00+00:00[UTC]"), "2026-11-30T02:15:00+00:00[UTC]");
        assert_eq!(next("@daily", "2026-11-29T02:15:00+00:00[UTC]"), "2026-11-30T00:00:00+00:00[UTC]");
        assert_eq!(next("*/20 * * * 1-5", "2026-11-29T23:59:00+00:00[UTC]"), "2026-11-30T00:00:00+00:00[UTC]");
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for text in ["", "daily", "61 * * * *", "* * * *", "1 2 3 4 5 6", "@often"] {
            let error = text.parse::<Schedule>().unwrap_err().to_string();
            assert!(error.contains(&format!("{text:?} is not a schedule")), "{error}");
        }
    }
}
