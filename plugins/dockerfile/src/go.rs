//! Go's way of printing values, which BuildKit's history texts are made with (package fmt, `%q` and `%v`).

/// `%q` of a string.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if is_printed(c) => out.push(c),
            c if u32::from(c) > 0xffff => out.push_str(&format!("\\U{:08x}", u32::from(c))),
            c => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// `strconv.IsPrint`, as far as it is about characters that are assigned: letters, marks, numbers, signs and the blank.
fn is_printed(c: char) -> bool {
    let formats = matches!(u32::from(c),
        0xad | 0x600..=0x605 | 0x61c | 0x6dd | 0x70f | 0x180e | 0x200b..=0x200f | 0x202a..=0x202e | 0x2060..=0x206f
        | 0xfeff | 0xfff9..=0xfffb | 0xfffe..=0xffff | 0xe000..=0xf8ff | 0xe0001..=0xe007f | 0xf0000..=0x10_ffff);
    c == ' ' || !(c.is_control() || c.is_whitespace() || formats)
}

/// `%q` of a list of strings.
pub(crate) fn quote_list(list: &[String]) -> String {
    let quoted: Vec<String> = list.iter().map(|text| quote(text)).collect();
    format!("[{}]", quoted.join(" "))
}

/// `%q` of a number, which Go takes for a character.
pub(crate) fn quote_rune(number: u32) -> String {
    match number {
        7 => "'\\a'".into(),
        8 => "'\\b'".into(),
        9 => "'\\t'".into(),
        10 => "'\\n'".into(),
        11 => "'\\v'".into(),
        12 => "'\\f'".into(),
        13 => "'\\r'".into(),
        39 => "'\\''".into(),
        92 => "'\\\\'".into(),
        n if n < 0x20 || n == 0x7f => format!("'\\x{n:02x}'"),
        n => match char::from_u32(n) {
            Some(c) if !c.is_control() => format!("'{c}'"),
            Some(_) => format!("'\\u{n:04x}'"),
            None => "'�'".into(),
        },
    }
}

/// `time.ParseDuration`: numbers with units, as in `1h30m` or `1.5s`; nanoseconds, as many as Go can hold.
pub(crate) fn parse_duration(text: &str) -> Option<u64> {
    exact_duration(text).filter(|time| *time <= i64::MAX as f64).map(|time| time.round() as u64)
}

/// Whether a text has the form of a duration, however long.
pub(crate) fn is_duration(text: &str) -> bool {
    exact_duration(text).is_some()
}

fn exact_duration(text: &str) -> Option<f64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0.0);
    }
    let mut total: f64 = 0.0;
    while !rest.is_empty() {
        let length = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..length].parse().ok()?;
        rest = &rest[length..];
        let length = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..length] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        rest = &rest[length..];
        total += number * unit;
    }
    (!text.is_empty() && text != "+").then_some(total)
}

/// `time.Duration.String`.
pub(crate) fn duration(nanoseconds: u64) -> String {
    let fraction = |value: u64, unit: u64| {
        let text = format!("{}.{:0width$}", value / unit, value % unit, width = unit.ilog10() as usize);
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    match nanoseconds {
        0 => "0s".into(),
        n if n < 1_000 => format!("{n}ns"),
        n if n < 1_000_000 => format!("{}µs", fraction(n, 1_000)),
        n if n < 1_000_000_000 => format!("{}ms", fraction(n, 1_000_000)),
        n => {
            let (minutes, rest) = (n / 60_000_000_000, n % 60_000_000_000);
            let seconds = fraction(rest, 1_000_000_000);
            match minutes {
                0 => format!("{seconds}s"),
                m if m < 60 => format!("{m}m{seconds}s"),
                m => format!("{}h{}m{seconds}s", m / 60, m % 60),
            }
        }
    }
}
