//! The built-in cache policy: every component that the host lists is an input, and none is more.

use plywood_sdk::cache_policy::{self, Decision, Guest, PluginError, PluginInfo, Step, Verdict};

struct Standard;

impl Guest for Standard {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "cache-standard".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "A step is reused when nothing that it depends on has changed".into(),
            homepage: None,
            needs: Vec::new(),
        }
    }

    fn decide(_: Step) -> Result<Verdict, PluginError> {
        Ok(Decision::Standard.into())
    }
}

cache_policy::export!(Standard with_types_in cache_policy);
