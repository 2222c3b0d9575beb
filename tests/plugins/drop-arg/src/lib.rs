//! A cache policy to which the variable SHA does not matter.

use plywood_sdk::cache_policy::{self, Decision, Guest, KeyEdit, PluginError, PluginInfo, Step, Verdict};

const UNIMPORTANT: &str = "env:SHA";

struct DropArg;

impl Guest for DropArg {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "drop-arg".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "A step is reused although SHA has changed".into(),
            homepage: None,
        }
    }

    fn decide(step: Step) -> Result<Verdict, PluginError> {
        let names = step.components.into_iter().map(|component| component.name);
        let edit = KeyEdit {
            drop: names.filter(|name| name == UNIMPORTANT).collect(),
            add: Vec::new(),
            max_age: None,
            read_scopes: Vec::new(),
            write_scope: Some(String::new()),
        };
        Ok(Verdict { decision: Decision::Keyed(edit), reason: None, diagnostics: Vec::new() })
    }
}

cache_policy::export!(DropArg with_types_in cache_policy);
