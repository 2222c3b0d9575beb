//! One JSON object a line, for programs.

use build::Event;
use serde_json::json;

use super::{View, write};

pub(super) struct Json;

impl View for Json {
    fn event(&mut self, event: &Event) {
        let object = match event {
            Event::Planned(steps) => {
                let steps: Vec<_> = steps.iter().map(|(id, name)| json!({ "step": id.0, "name": name })).collect();
                json!({ "event": "planned", "steps": steps })
            }
            Event::Diagnostic(diagnostic) => json!({ "event": "diagnostic", "diagnostic": diagnostic }),
            Event::Started(id, why) => json!({ "event": "started", "step": id.0, "why": why }),
            Event::Output { step, is_error, bytes } => json!({
                "event": "output",
                "step": step.0,
                "stream": if *is_error { "stderr" } else { "stdout" },
                "text": String::from_utf8_lossy(bytes),
            }),
            Event::Finished { step, cached } => json!({ "event": "finished", "step": step.0, "cached": cached }),
            Event::Failed(step) => json!({ "event": "failed", "step": step.0 }),
            Event::Note(text) => json!({ "event": "note", "text": text }),
        };
        write(&format!("{object}\n"));
    }

    fn tick(&mut self) {}

    fn end(&mut self) {}
}
