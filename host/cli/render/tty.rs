//! A live view: a line for each step that runs, with its time and what it last printed; steps that are done stay above.

use std::collections::BTreeMap;
use std::time::Instant;

use build::Event;
use plan::VertexId;

use super::{Lines, View, seconds, write};

/// Steps that run at the same time beyond this many are only counted.
const MOST: usize = 12;

pub(super) struct Tty {
    names: BTreeMap<VertexId, String>,
    running: BTreeMap<VertexId, Running>,
    drawn: usize,
    color: bool,
    total: usize,
    done: usize,
}

struct Running {
    since: Instant,
    lines: Lines,
    last: String,
}

impl Tty {
    pub(super) fn new() -> Self {
        let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { names: BTreeMap::new(), running: BTreeMap::new(), drawn: 0, color, total: 0, done: 0 }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// Takes the live part away.
    fn erase(&mut self) -> String {
        let up = format!("\u{1b}[{}A\u{1b}[J", self.drawn);
        let text = if self.drawn > 0 { up } else { String::new() };
        self.drawn = 0;
        text
    }

    fn draw(&mut self) -> String {
        let mut text = String::new();
        if self.running.is_empty() {
            return text;
        }
        let width = width();
        let mut lines = vec![format!("[{}/{}]", self.done, self.total)];
        for (id, running) in self.running.iter().take(MOST) {
            let name = self.names.get(id).map_or("", String::as_str);
            lines.push(format!(" => {} {name}", seconds(running.since.elapsed())));
            if !running.last.is_empty() {
                lines.push(format!("    {}", running.last));
            }
        }
        if self.running.len() > MOST {
            lines.push(format!(" => and {} more", self.running.len() - MOST));
        }
        self.drawn = lines.len();
        for line in lines {
            let line: String = line.chars().filter(|c| !c.is_control()).take(width).collect();
            text.push_str(&self.paint("34", &line));
            text.push('\n');
        }
        text
    }

    fn above(&mut self, line: &str) {
        let text = format!("{}{line}\n{}", self.erase(), self.draw());
        write(&text);
    }
}

/// What fits into a line; terminals that do not say are taken for narrow ones.
fn width() -> usize {
    std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(80usize).saturating_sub(1)
}

impl View for Tty {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Planned(steps) => {
                self.total = steps.len();
                self.names.extend(steps.iter().cloned());
            }
            Event::Diagnostic(_) => {}
            Event::Started(id, _) => {
                let running = Running { since: Instant::now(), lines: Lines::default(), last: String::new() };
                self.running.insert(*id, running);
            }
            Event::Output { step, bytes, .. } => {
                if let Some(running) = self.running.get_mut(step)
                    && let Some(last) = running.lines.add(bytes).pop()
                {
                    running.last = last;
                }
            }
            Event::Finished { step, cached } => {
                let Some(running) = self.running.remove(step) else {
                    return;
                };
                self.done += 1;
                let name = self.names.get(step).cloned().unwrap_or_default();
                let word = if *cached { "CACHED".to_owned() } else { seconds(running.since.elapsed()) };
                let mark = self.paint("32", "✓");
                self.above(&format!("{mark} {name}  {word}"));
            }
            Event::Failed(step) => {
                let Some(running) = self.running.remove(step) else {
                    return;
                };
                let name = self.names.get(step).cloned().unwrap_or_default();
                let mark = self.paint("31", "✗");
                self.above(&format!("{mark} {name}  {}", seconds(running.since.elapsed())));
            }
            Event::Note(text) => self.above(text),
        }
    }

    fn tick(&mut self) {
        let text = format!("{}{}", self.erase(), self.draw());
        if !text.is_empty() {
            write(&text);
        }
    }

    fn end(&mut self) {
        let text = self.erase();
        if !text.is_empty() {
            write(&text);
        }
    }
}
