//! Durations as operators write them: `500ms`, `2s`, `1.5s`, `1min`.

use std::time::Duration;

/// Reads a duration: a number and its unit, one of `us`, `ms`, `s`, `min`. Case does not matter.
///
/// # Errors
/// What is wrong with the text, for the person who wrote it.
pub fn duration(text: &str) -> Result<Duration, String> {
    let complaint = || format!("{text:?} is not a duration: write a number and its unit, such as 500ms or 2s");
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let unit = match unit.trim_start().to_ascii_lowercase().as_str() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        _ => return Err(complaint()),
    };
    let value: f64 = number.parse().map_err(|_| complaint())?;
    let duration = Duration::try_from_secs_f64(value * unit);
    // To the microsecond: 0.1 has no exact binary form.
    let rounded = duration.map(|duration| Duration::from_micros((duration.as_nanos() as f64 / 1e3).round() as u64));
    rounded.map_err(|_| format!("{text:?} is longer than anybody can wait"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_differ() {
        for (text, us) in [
            ("250us", 250),
            ("500ms", 500_000),
            ("2s", 2_000_000),
            ("1min", 60_000_000),
            ("1.5s", 1_500_000),
            ("0.1s", 100_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_micros(us)), "{text}");
        }
    }

    #[test]
    fn blanks_and_case_do_not_matter() {
        assert_eq!(duration(" 20 MS "), Ok(Duration::from_millis(20)));
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in
            ["", "5", "ms", "-5ms", "5 parsecs", "1..2s", ".", ".s", "1e3s", "0x10s", "nan", "infs", "5m", "1h2m"]
        {
            let error = duration(text).expect_err(text);
            assert!(error.contains("500ms") && error.lines().count() == 1, "{error}");
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        assert!(duration("99999999999999999999999s").is_err());
    }
}
