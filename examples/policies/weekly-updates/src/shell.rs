//! A shell text as the commands in it, as far as that can be read without running it.
//!
//! Which branch is taken and what variables hold is not known: every command counts, and `$X` stays as it is written.

use std::iter::Peekable;
use std::str::Chars;

/// Substitutions in substitutions; nobody writes more.
const DEEPEST: usize = 8;

/// The words of each command, without quotes and redirections. Commands in substitutions and here-documents are among
/// them: what a here-document is fed to may be a shell, and to take other text for commands makes a step too young at
/// worst.
pub(crate) fn commands(text: &str) -> Vec<Vec<String>> {
    let mut reader = Reader { commands: Vec::new(), command: Vec::new(), word: None, drops: false, depth: 0 };
    reader.read(text);
    reader.commands
}

struct Reader {
    commands: Vec<Vec<String>>,
    command: Vec<String>,
    word: Option<String>,
    /// The next word is where a redirection goes.
    drops: bool,
    depth: usize,
}

impl Reader {
    fn read(&mut self, text: &str) {
        let mut chars = text.chars().peekable();
        let mut heredocs: Vec<Heredoc> = Vec::new();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    // The line goes on.
                    None | Some('\n') => {}
                    Some(escaped) => self.push(escaped),
                },
                '\'' => {
                    let quoted: String = chars.by_ref().take_while(|&c| c != '\'').collect();
                    self.word.get_or_insert_default().push_str(&quoted);
                }
                '"' => self.quoted(&mut chars),
                '$' => self.dollar(&mut chars),
                '`' => self.substitution(&backticked(&mut chars)),
                '#' if self.word.is_none() => while chars.next_if(|&c| c != '\n').is_some() {},
                '&' if chars.peek() == Some(&'>') => self.end_word(),
                ';' | '&' | '|' | '(' | ')' => self.end_command(),
                '\n' => {
                    self.end_command();
                    for heredoc in heredocs.drain(..) {
                        self.inner(&heredoc.body(&mut chars));
                    }
                }
                '<' | '>' => {
                    // `2>` is of one piece.
                    self.word.take_if(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
                    self.end_word();
                    heredocs.extend(self.redirection(c, &mut chars));
                }
                c if c.is_whitespace() => self.end_word(),
                c => self.push(c),
            }
        }
        self.end_command();
    }

    fn push(&mut self, c: char) {
        self.word.get_or_insert_default().push(c);
    }

    fn end_word(&mut self) {
        if let Some(word) = self.word.take()
            && !std::mem::take(&mut self.drops)
        {
            self.command.push(word);
        }
    }

    fn end_command(&mut self) {
        self.end_word();
        self.drops = false;
        if !self.command.is_empty() {
            self.commands.push(std::mem::take(&mut self.command));
        }
    }

    fn quoted(&mut self, chars: &mut Peekable<Chars<'_>>) {
        self.word.get_or_insert_default();
        while let Some(c) = chars.next() {
            match c {
                '"' => return,
                '\\' => match chars.next() {
                    None | Some('\n') => {}
                    Some(escaped @ ('$' | '`' | '"' | '\\')) => self.push(escaped),
                    Some(other) => {
                        self.push('\\');
                        self.push(other);
                    }
                },
                '$' => self.dollar(chars),
                '`' => self.substitution(&backticked(chars)),
                c => self.push(c),
            }
        }
    }

    /// Behind a `$`.
    fn dollar(&mut self, chars: &mut Peekable<Chars<'_>>) {
        match chars.peek() {
            Some('(') => {
                chars.next();
                let inner = enclosed(chars, '(', ')');
                self.substitution(&inner);
            }
            Some('{') => {
                chars.next();
                let inner = enclosed(chars, '{', '}');
                self.word.get_or_insert_default().push_str(&format!("${{{inner}}}"));
            }
            _ => self.push('$'),
        }
    }

    /// What the commands print is a part of the word and not known.
    fn substitution(&mut self, text: &str) {
        self.inner(text);
        self.word.get_or_insert_default();
    }

    /// Reads commands that are not part of the present one.
    fn inner(&mut self, text: &str) {
        if self.depth < DEEPEST {
            let mut inner =
                Self { commands: Vec::new(), command: Vec::new(), word: None, drops: false, depth: self.depth + 1 };
            inner.read(text);
            self.commands.append(&mut inner.commands);
        }
    }

    /// Behind `<` or `>`; gives the here-document that it announces.
    fn redirection(&mut self, c: char, chars: &mut Peekable<Chars<'_>>) -> Option<Heredoc> {
        if chars.peek() == Some(&'(') {
            // `<(command)`: the parenthesis is read as that of a subshell.
            return None;
        }
        if c == '<' && chars.next_if_eq(&'<').is_some() {
            if chars.next_if_eq(&'<').is_none() {
                return Heredoc::announced(chars);
            }
        } else {
            while chars.next_if(|&c| matches!(c, '>' | '&' | '|')).is_some() {}
        }
        self.drops = true;
        None
    }
}

struct Heredoc {
    delimiter: String,
    chomps: bool,
}

impl Heredoc {
    /// Behind `<<`.
    fn announced(chars: &mut Peekable<Chars<'_>>) -> Option<Self> {
        let chomps = chars.next_if_eq(&'-').is_some();
        while chars.next_if(|&c| c == ' ' || c == '\t').is_some() {}
        let mut delimiter = String::new();
        while let Some(c) = chars.next_if(|c| !c.is_whitespace() && !";&|()<>".contains(*c)) {
            if !matches!(c, '\'' | '"' | '\\') {
                delimiter.push(c);
            }
        }
        (!delimiter.is_empty()).then_some(Self { delimiter, chomps })
    }

    fn body(&self, chars: &mut Peekable<Chars<'_>>) -> String {
        let mut body = String::new();
        while chars.peek().is_some() {
            let line: String = chars.by_ref().take_while(|&c| c != '\n').collect();
            let bare = if self.chomps { line.trim_start_matches('\t') } else { &line };
            if bare == self.delimiter {
                break;
            }
            body.push_str(&line);
            body.push('\n');
        }
        body
    }
}

fn backticked(chars: &mut Peekable<Chars<'_>>) -> String {
    let mut inner = String::new();
    while let Some(c) = chars.next().filter(|&c| c != '`') {
        match (c, chars.peek()) {
            ('\\', Some('`' | '\\' | '$')) => inner.extend(chars.next()),
            _ => inner.push(c),
        }
    }
    inner
}

/// The text up to the closing parenthesis or brace, those in quotes left aside.
fn enclosed(chars: &mut Peekable<Chars<'_>>, open: char, close: char) -> String {
    let (mut inner, mut depth, mut quote) = (String::new(), 1, None);
    while let Some(c) = chars.next() {
        match (quote, c) {
            (None | Some('"'), '\\') => {
                inner.push(c);
                inner.extend(chars.next());
                continue;
            }
            (Some(opened), c) if c == opened => quote = None,
            (None, '\'' | '"') => quote = Some(c),
            (None, c) if c == open => depth += 1,
            (None, c) if c == close => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        inner.push(c);
    }
    inner
}

#[cfg(test)]
mod tests {
    use super::commands;

    /// Commands, one a line, their words between bars.
    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let found: Vec<String> = commands(text).iter().map(|words| words.join("|")).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn operators_part_commands() {
        check("a b && c;d|e & (f)\ng || { h; }", &["a|b", "c", "d", "e", "f", "g", "{|h", "}"]);
        check("a \\\n  b\n", &["a|b"]);
        check("a # b; c\nd#e", &["a", "d#e"]);
        check("", &[]);
    }

    #[test]
    fn quotes_keep_words_together() {
        check("a 'b; c' \"d && 'e'\" f\\ g \"\" h'i'\"j\"", &["a|b; c|d && 'e'|f g||hij"]);
        check("echo \"a\\\"b\" \"\\n\" '\\'", &["echo|a\"b|\\n|\\"]);
        check("echo 'never closed; a", &["echo|never closed; a"]);
    }

    #[test]
    fn redirections_are_left_out() {
        check("a >/dev/null 2>&1 b", &["a|b"]);
        check("a &>x && b >> y 1>|z c", &["a", "b|c"]);
        check("a < in b <<< word c", &["a|b|c"]);
        check("diff <(a b) <(c)", &["diff", "a|b", "c"]);
    }

    #[test]
    fn substitutions_are_commands() {
        check("x=$(a \"b)\" $(c)) y", &["c", "a|b)|", "x=|y"]);
        check("echo `a; b` \"$(c d)\"", &["a", "b", "c|d", "echo||"]);
        check("echo ${x:-$(y)} $z ${a}b", &["echo|${x:-$(y)}|$z|${a}b"]);
        let deep = format!("{}a{}", "$(".repeat(100), ")".repeat(100));
        check(&deep, &[""; super::DEEPEST + 1]);
    }

    #[test]
    fn heredocs_have_quotes_of_their_own() {
        check("cat <<E > f; a\ndon't c\nE\nb", &["cat", "a", "dont c\n", "b"]);
        check("sh <<-'E' && a\n\tb c\n\tE\nd", &["sh", "a", "b|c", "d"]);
        check("sh <<E <<F\na\nE\nb\nF\nc", &["sh", "a", "b", "c"]);
        check("sh <<E\na", &["sh", "a"]);
    }
}
