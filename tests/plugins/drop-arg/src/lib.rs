//! A cache policy to which the variable SHA does not matter.

use plywood_sdk::cache_policy::{self, Decision, Guest, KeyEdit, PluginError, PluginInfo, Step, Verdict};

const UNIMPORTANT: &str = "SHA";

struct DropArg;

impl Guest for DropArg {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "drop-arg".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "A step is reused although SHA has changed".into(),
            homepage: None,
            needs: Vec::new(),
        }
    }

    fn decide(step: Step) -> Result<Verdict, PluginError> {
        let dropped = step
            .components
            .into_iter()
            .filter(|component| component.kind == "arg" && component.subject.as_deref() == Some(UNIMPORTANT));
        let edit = KeyEdit { drop: dropped.map(|component| component.name).collect(), ..KeyEdit::default() };
        Ok(Decision::Keyed(edit).into())
    }
}

cache_policy::export!(DropArg with_types_in cache_policy);
