//! Points in time for people.

/// RFC 3339 in UTC, to the microsecond, of nanoseconds since the epoch.
pub fn rfc3339(ns: u64) -> String {
    let at = jiff::Timestamp::from_nanosecond(ns.into());
    // What 64 bits hold ends in 2554, and this in 9999.
    at.map_or_else(|_| ns.to_string(), |at| format!("{at:.6}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_moments_read_right() {
        for (secs, text) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
        ] {
            assert_eq!(rfc3339(secs * 1_000_000_000), text);
        }
        assert_eq!(rfc3339(1_234_567), "1970-01-01T00:00:00.001234Z");
    }
}
