//! `plywood plan`.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Result;
use build::{BuildRequest, FileState, StepState, Tools};

use crate::args::Global;
use crate::args::build::PlanArgs;
use crate::commands::{print, print_foreign};
use crate::session::Session;
use crate::surroundings::Process;
use crate::{report, request};

pub(crate) async fn run(global: &Global, args: &PlanArgs) -> ExitCode {
    let request = match request::plan(args, &global.registry_ca).await {
        Ok(request) => request,
        Err(error) => return report::failure(&error, None),
    };
    match states(global, args, &request).await.and_then(|states| show(&states, args.json, "run   ", false)) {
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

/// Files of a step that are named where all steps are shown.
const FEW: usize = 5;

/// Prints steps; `run` stands before those that are not found; `whole` is with everything that is known of each.
pub(super) fn show(states: &[StepState], json: bool, run: &str, whole: bool) -> Result<()> {
    if json {
        print(&serde_json::to_string_pretty(states)?);
        return Ok(());
    }
    for state in states {
        let mark = if state.cached { "cached" } else { run };
        let key = state.key.as_deref().map_or("-", |key| if whole { key } else { &key[..12] });
        let place = state.from.as_deref().map(|from| format!("in the cache {from}"));
        let policy = state.policy.as_deref().map(|words| format!("the policy: {words}"));
        let said = [state.reason.clone(), place, policy].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let said = if said.is_empty() { said } else { format!("  ({said})") };
        print_foreign(&format!("{mark}  {key:12}  {}{said}", state.name));
        let several = state.changes.len() > 1;
        for change in &state.changes {
            if several || whole {
                print_foreign(&format!("          {:24}  {}", change.component, change.text));
            }
            let most = if whole { usize::MAX } else { FEW };
            let files = change.files.iter().take(if several || whole || change.files.len() > 1 { most } else { 0 });
            for file in files {
                let how = match file.how {
                    FileState::Added => "+",
                    FileState::Removed => "-",
                    FileState::Changed => "~",
                };
                print_foreign(&format!("            {how} {}", file.path));
            }
            if let more @ 1.. = change.files.len().saturating_sub(most) {
                print_foreign(&format!("              and {more} more"));
            }
        }
        if whole && !state.dropped.is_empty() {
            print_foreign(&format!("          left out of the key: {}", state.dropped.join(", ")));
        }
    }
    Ok(())
}
