//! `plywood plan`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use build::{BuildRequest, StepState, Tools};

use crate::args::Global;
use crate::args::build::PlanArgs;
use crate::commands::print;
use crate::session::Session;
use crate::surroundings::Process;
use crate::{report, request};

pub(crate) async fn run(global: &Global, args: &PlanArgs) -> ExitCode {
    let request = match request::plan(&args.input, &global.registry_ca).await {
        Ok(request) => request,
        Err(error) => return report::failure(&error, None),
    };
    match states(global, args, &request).await.and_then(|states| show(args, &states)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failure(&error, Some((&request.file_name, &request.file))),
    }
}

async fn states(global: &Global, args: &PlanArgs, request: &BuildRequest) -> Result<Vec<StepState>> {
    let session = Session::open(global, request::project(&args.input))?;
    let plugins = session.plugins(Arc::new(Process::default())).await?;
    let tools = Tools {
        store: session.store.clone(),
        registry: session.registry(&plugins),
        roots: session.global.registry_ca.clone(),
        instructions: plugins.instructions,
        syntaxes: plugins.syntaxes,
        policy: plugins.policy,
        events: Arc::new(|_| {}),
    };
    Ok(build::plan(request, &tools).await?)
}

fn show(args: &PlanArgs, states: &[StepState]) -> Result<()> {
    if args.json {
        print(&serde_json::to_string_pretty(states)?);
        return Ok(());
    }
    for state in states {
        let mark = if state.cached { "cached" } else { "run   " };
        let key = state.key.as_deref().map_or("-", |key| &key[..12]);
        let reason = state.reason.as_deref().map(|reason| format!("  ({reason})")).unwrap_or_default();
        print(&format!("{mark}  {key:12}  {}{reason}", state.name));
    }
    Ok(())
}
