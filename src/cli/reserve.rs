//! How much to leave free, as operators write it: `2GiB`, `5%`, `off`.
use crate::session::Reserve;

/// Reads a size, a share of the file system, or `off`.
///
/// # Errors
/// What is wrong with the text, for the person who wrote it.
pub fn reserve(text: &str) -> Result<Reserve, String> {
    let trimmed = text.trim();
    if trimmed.eq_ignore_ascii_case("off") {
        return Ok(Reserve::Off);
    }
    if let Some(number) = trimmed.strip_suffix('%') {
        let plain = number.trim_end().chars().all(|c| c.is_ascii_digit() || c == '.');
        let percent = number.trim_end().parse::<f64>().ok().filter(|percent| plain && (0.0..=100.0).contains(percent));
        return percent.map(Reserve::Percent).ok_or_else(|| format!("{text:?} is not a share: write 0% to 100%"));
    }
    super::size::bytes(trimmed)
        .map(Reserve::Bytes)
        .map_err(|_| format!("{text:?} is no reserve: write a size such as 2GiB, a share such as 5%, or off"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_a_size_a_share_or_off() {
        assert_eq!(reserve("2GiB"), Ok(Reserve::Bytes(2 << 30)));
        assert_eq!(reserve("0"), Ok(Reserve::Bytes(0)));
        assert_eq!(reserve(" 7.5 % "), Ok(Reserve::Percent(7.5)));
        assert_eq!(reserve("OFF"), Ok(Reserve::Off));
        for text in ["", "%", "101%", "-1%", "nan%", "inf%", "1e1%", "some"] {
            assert!(reserve(text).is_err(), "{text}");
        }
    }
}
