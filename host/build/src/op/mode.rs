//! `--chmod`: octal, or the clauses of chmod(1).

use oci::tree::{Entry, Kind};

/// How permission bits are changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Octal(u32),
    Clauses(Vec<Clause>),
}

/// `[ugoa]*` and what is done to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clause {
    who: String,
    actions: Vec<(char, String)>,
}

impl Mode {
    /// None where the text is neither.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        if let Ok(bits) = u32::from_str_radix(text, 8) {
            return (bits <= 0o7777).then_some(Self::Octal(bits));
        }
        text.split(',').map(Clause::parse).collect::<Option<_>>().map(Self::Clauses)
    }

    /// The bits of an entry after the change. A link has none to change.
    pub(crate) fn apply(&self, entry: &Entry) -> u32 {
        match self {
            _ if matches!(entry.kind, Kind::Symlink(_)) => entry.mode,
            Self::Octal(bits) => *bits,
            Self::Clauses(clauses) => {
                clauses.iter().fold(entry.mode, |mode, clause| clause.apply(mode, entry.is_dir()))
            }
        }
    }
}

impl Clause {
    fn parse(text: &str) -> Option<Self> {
        let at = text.find(['+', '-', '='])?;
        let who = &text[..at];
        if !who.chars().all(|c| "ugoa".contains(c)) {
            return None;
        }
        let mut actions: Vec<(char, String)> = Vec::new();
        for c in text[at..].chars() {
            match c {
                '+' | '-' | '=' => actions.push((c, String::new())),
                'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o' => actions.last_mut()?.1.push(c),
                _ => return None,
            }
        }
        Some(Self { who: who.to_owned(), actions })
    }

    fn apply(&self, mut mode: u32, is_dir: bool) -> u32 {
        let who = if self.who.is_empty() { "a" } else { &self.who };
        let has = |c| who.contains(c) || who.contains('a');
        let spread = |bits: u32| {
            let part = |c, shift: u32| if has(c) { bits << shift } else { 0 };
            part('u', 6) | part('g', 3) | part('o', 0)
        };
        for (operator, permissions) in &self.actions {
            let mut bits = 0;
            for permission in permissions.chars() {
                bits |= match permission {
                    'r' => spread(4),
                    'w' => spread(2),
                    'x' => spread(1),
                    // Executable where it is a directory, or someone may execute it already.
                    'X' if is_dir || mode & 0o111 != 0 => spread(1),
                    's' => u32::from(has('u')) << 11 | u32::from(has('g')) << 10,
                    't' => 0o1000,
                    'u' => spread(mode >> 6 & 7),
                    'g' => spread(mode >> 3 & 7),
                    'o' => spread(mode & 7),
                    _ => 0,
                };
            }
            mode = match operator {
                '+' => mode | bits,
                '-' => mode & !bits,
                _ => mode & !spread(7) | bits,
            };
        }
        mode
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::tree::Time;

    #[test]
    fn modes_are_applied() {
        for (text, before, dir, after) in [
            ("755", 0o600, false, 0o755),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("go=u", 0o750, false, 0o777),
            ("a-w", 0o666, false, 0o444),
            ("+x", 0o644, false, 0o755),
            ("u+s,g+s,+t", 0o755, false, 0o7755),
            ("o=", 0o777, false, 0o770),
        ] {
            let mut entry = Entry::dir(before, Time::default());
            if !dir {
                entry.kind = Kind::Fifo;
            }
            assert_eq!(Mode::parse(text).map(|mode| mode.apply(&entry)), Some(after), "{text}");
        }
        for text in ["", "8", "77777", "u", "z+x", "u+q"] {
            assert_eq!(Mode::parse(text), None, "{text}");
        }
    }
}
