//! One line after another: the step's number, its name once, then what it prints with the time since it began.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use build::Event;
use plan::VertexId;

use super::{Lines, View, seconds, write};

/// A step that is silent for so long says that it is still running.
const HEARTBEAT: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(super) struct Plain {
    names: BTreeMap<VertexId, String>,
    running: BTreeMap<VertexId, Running>,
}

struct Running {
    since: Instant,
    heard: Instant,
    out: Lines,
    error: Lines,
}

impl Plain {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn name(&self, id: VertexId) -> &str {
        self.names.get(&id).map_or("", String::as_str)
    }
}

impl View for Plain {
    fn event(&mut self, event: &Event) {
        let now = Instant::now();
        match event {
            Event::Planned(steps) => self.names.extend(steps.iter().cloned()),
            Event::Diagnostic(_) => {}
            Event::Started(id, why) => {
                let why = why.as_deref().map(|why| format!("  ({why})")).unwrap_or_default();
                write(&format!("#{} {}{why}\n", id.0 + 1, self.name(*id)));
                let (out, error) = (Lines::default(), Lines::default());
                self.running.insert(*id, Running { since: now, heard: now, out, error });
            }
            Event::Output { step, is_error, bytes } => {
                let Some(running) = self.running.get_mut(step) else {
                    return;
                };
                running.heard = now;
                let lines = if *is_error { running.error.add(bytes) } else { running.out.add(bytes) };
                for line in lines {
                    write(&format!("#{} {:.1} {line}\n", step.0 + 1, running.since.elapsed().as_secs_f64()));
                }
            }
            Event::Finished { step, cached } => {
                let Some(mut running) = self.running.remove(step) else {
                    return;
                };
                self.rest(*step, &mut running);
                let word =
                    if *cached { "CACHED".to_owned() } else { format!("DONE {}", seconds(running.since.elapsed())) };
                write(&format!("#{} {word}\n", step.0 + 1));
            }
            Event::Failed(step) => {
                let Some(mut running) = self.running.remove(step) else {
                    return;
                };
                self.rest(*step, &mut running);
                write(&format!("#{} FAILED {}\n", step.0 + 1, seconds(running.since.elapsed())));
            }
            Event::Note(text) => write(&format!("{text}\n")),
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        let names = &self.names;
        for (id, running) in &mut self.running {
            if now - running.heard >= HEARTBEAT {
                running.heard = now;
                let name = names.get(id).map_or("", String::as_str);
                write(&format!("#{} still running after {}: {name}\n", id.0 + 1, seconds(now - running.since)));
            }
        }
    }

    fn end(&mut self) {}
}

impl Plain {
    fn rest(&self, id: VertexId, running: &mut Running) {
        for line in [running.out.rest(), running.error.rest()].into_iter().flatten() {
            write(&format!("#{} {:.1} {line}\n", id.0 + 1, running.since.elapsed().as_secs_f64()));
        }
    }
}
