//! Sizes and rates as operators write them: `64MiB`, `100MB`, `1.5G`, `4096`.

/// Reads a number of bytes. `k`, `M`, `G`, `T` with `B` or without stand for powers of 1000, with `iB` for powers
/// of 1024. Case does not matter; a rate may end in `/s`.
///
/// # Errors
/// What is wrong with the text, for the person who wrote it.
pub fn bytes(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let trimmed = trimmed.strip_suffix("/s").or_else(|| trimmed.strip_suffix("/S")).unwrap_or(trimmed).trim_end();
    let split = trimmed.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(split);
    let complaint = || format!("{text:?} is not a size: write a number of bytes, such as 4096, 64MiB or 100MB");
    let factor: u64 = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "ki" | "kib" => 1 << 10,
        "mi" | "mib" => 1 << 20,
        "gi" | "gib" => 1 << 30,
        "ti" | "tib" => 1 << 40,
        _ => return Err(complaint()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).ok_or_else(|| format!("{text:?} is more bytes than there are"));
    }
    let value: f64 = number.parse().map_err(|_| complaint())?;
    let product = value * factor as f64;
    if product >= u64::MAX as f64 {
        return Err(format!("{text:?} is more bytes than there are"));
    }
    Ok(product as u64)
}

/// A number of bytes for people, in binary units.
pub fn human(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_numbers_are_bytes() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("4096"), Ok(4096));
        assert_eq!(bytes("17b"), Ok(17));
    }

    #[test]
    fn binary_and_decimal_units_differ() {
        assert_eq!(bytes("64MiB"), Ok(64 << 20));
        assert_eq!(bytes("100MB"), Ok(100_000_000));
        assert_eq!(bytes("2k"), Ok(2_000));
        assert_eq!(bytes("1Ti"), Ok(1 << 40));
        assert_eq!(bytes("1.5GiB"), Ok(3 << 29));
    }

    #[test]
    fn blanks_case_and_per_second_do_not_matter() {
        assert_eq!(bytes(" 64 mib "), Ok(64 << 20));
        assert_eq!(bytes("10MB/s"), Ok(10_000_000));
    }

    #[test]
    fn the_largest_size_is_read_and_one_more_is_not() {
        assert_eq!(bytes("18446744073709551615"), Ok(u64::MAX));
        assert!(bytes("18446744073709551616").is_err());
        assert!(bytes("20000000TiB").is_err());
    }

    #[test]
    fn what_is_no_size_is_refused_with_an_example() {
        for text in ["", "MiB", "-5", "5 parsecs", "1..2", ".", "1e3", "0x10", "nan", "inf"] {
            let error = bytes(text).expect_err(text);
            assert!(error.contains("64MiB"), "{error}");
        }
    }

    #[test]
    fn people_read_binary_units() {
        assert_eq!(human(0), "0 B");
        assert_eq!(human(1023), "1023 B");
        assert_eq!(human(1536), "1.5 KiB");
        assert_eq!(human(64 << 20), "64.0 MiB");
    }
}
