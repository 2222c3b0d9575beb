//! `plywood explain`.

use anyhow::{Result, bail};
use build::StepState;

use crate::args::Global;
use crate::args::build::ExplainArgs;
use crate::commands::plan;
use crate::request;
use crate::session::Session;

pub(crate) fn run(global: &Global, args: &ExplainArgs) -> Result<()> {
    let session = Session::open(global, None)?;
    let Some(mut states) = build::explain(&session.store, &request::project_name(&args.context)) else {
        bail!("nothing has been built here from {}: `plywood plan` says what a build would do", args.context);
    };
    if let Some(wanted) = &args.step {
        states.retain(|state| is(state, wanted));
        if states.is_empty() {
            bail!("the latest build came to no step `{wanted}`: `plywood explain` lists them");
        }
    }
    plan::show(&states, args.json, "ran   ", args.step.is_some())
}

/// Whether a step is the one that is meant: by its place, as in `2/5`, or by a part of its text.
fn is(state: &StepState, wanted: &str) -> bool {
    let place = state.name.strip_prefix('[').and_then(|name| name.split_once(']')).map_or("", |(place, _)| place);
    let places = [place, place.rsplit(' ').next().unwrap_or_default()];
    places.contains(&wanted) || state.name.to_lowercase().contains(&wanted.to_lowercase())
}
