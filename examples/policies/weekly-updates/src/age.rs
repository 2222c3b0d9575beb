//! Ages as people write them: `7d`, `12h`, `1d12h`.

/// An age in seconds.
pub(crate) fn parse(text: &str) -> Result<u64, &'static str> {
    const FORM: &str = "an age is numbers with the units w, d, h, m and s: 7d, 12h";
    let (mut seconds, mut rest) = (0_u64, text.trim());
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        let unit = match after.as_bytes().first() {
            Some(b'w') => 7 * 24 * 60 * 60,
            Some(b'd') => 24 * 60 * 60,
            Some(b'h') => 60 * 60,
            Some(b'm') => 60,
            Some(b's') => 1,
            _ => return Err(FORM),
        };
        let number: u64 = number.parse().map_err(|_| FORM)?;
        let part = number.checked_mul(unit).ok_or("nobody lives so long")?;
        seconds = seconds.checked_add(part).ok_or("nobody lives so long")?;
        rest = &after[1..];
    }
    // The age is measured in whole seconds: with none, what has just been made might or might not be used.
    if text.trim().is_empty() {
        Err(FORM)
    } else if seconds == 0 {
        Err("it is no time at all")
    } else {
        Ok(seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read() {
        for (text, seconds) in
            [("7d", 604_800), ("12h", 43_200), ("1w", 604_800), ("1d12h", 129_600), (" 90s ", 90), ("2m", 120)]
        {
            assert_eq!(parse(text), Ok(seconds), "{text}");
        }
        for wrong in ["", " ", "7", "d", "7 d", "-1d", "7y", "1.5d", "0d", "99999999999999999999d", "9999999999999999w"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
