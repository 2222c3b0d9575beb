//! A cache policy for which the second step of each stage runs always.

use plywood_sdk::cache_policy::{self, Decision, Guest, PluginError, PluginInfo, Step, Verdict};

struct NeverSecond;

impl Guest for NeverSecond {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "never-second".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "The second step of each stage runs always".into(),
            homepage: None,
            needs: Vec::new(),
        }
    }

    fn decide(step: Step) -> Result<Verdict, PluginError> {
        let (decision, reason) = match step.index {
            1 => (Decision::Never, Some("step two is special".into())),
            _ => (Decision::Standard, None),
        };
        Ok(Verdict { decision, reason, diagnostics: Vec::new() })
    }
}

cache_policy::export!(NeverSecond with_types_in cache_policy);
