//! `plywood build`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result};
use build::{BuildOutput, BuildRequest, Tools};

use crate::args::Global;
use crate::args::build::{BuildArgs, Progress};
use crate::commands::cache::keep_below;
use crate::commands::print;
use crate::render::Renderer;
use crate::session::Session;
use crate::surroundings::Process;
use crate::{report, request};

pub(crate) async fn run(global: &Global, args: &BuildArgs) -> ExitCode {
    run_where(global, args, false).await
}

/// Builds; where `may_be_there`, a registry that lets nobody write a tag again is taken to have the image.
pub(crate) async fn run_where(global: &Global, args: &BuildArgs, may_be_there: bool) -> ExitCode {
    let request = match request::build(args, &global.registry_ca).await {
        Ok(request) => request,
        Err(error) => return report::failure(&error, None),
    };
    let store_max = match args.store_max.as_deref().map(|text| request::bytes("--store-max", text)).transpose() {
        Ok(store_max) => store_max,
        Err(error) => return report::failure(&error, None),
    };
    let progress = if args.quiet { Progress::Quiet } else { args.progress };
    let renderer = Renderer::start(progress);
    let result = perform(global, args, &request, &renderer).await;
    renderer.finish();
    if let Some(bytes) = store_max
        && let Err(error) = keep_below(global, bytes).await
    {
        report::note(&format!("warning: no room was made in the store: {error:#}"));
    }
    match result {
        Ok(output) => match finish(args, &request, &output) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => report::failure(&error, None),
        },
        Err(error) if may_be_there && is_immutable(&error) => {
            report::note(&format!("{error:#}; the tag is taken to be there"));
            ExitCode::SUCCESS
        }
        Err(error) => report::failure(&error, Some((&request.file_name, &request.file))),
    }
}

/// Whether a registry has refused to write a tag again, in the words of those that do.
fn is_immutable(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}").to_lowercase();
    ["immutable", "tag_invalid", "cannot be overwritten"].iter().any(|words| text.contains(words))
}

async fn perform(
    global: &Global,
    args: &BuildArgs,
    request: &BuildRequest,
    renderer: &Renderer,
) -> Result<BuildOutput> {
    let session = Session::open(global, request::project(&args.input))?;
    let process = Arc::new(Process { secrets: request.secrets.clone(), ..Process::default() });
    let plugins = session.plugins(process.clone()).await?;
    let tools = Tools {
        store: session.store.clone(),
        registry: session.registry(&plugins),
        roots: session.global.registry_ca.clone(),
        instructions: plugins.instructions,
        syntaxes: plugins.syntaxes,
        policy: plugins.policy,
        events: renderer.events(&request.file_name, &request.file),
    };
    let result = build::build(request, &tools).await;
    for line in process.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner).drain(..) {
        (tools.events)(build::Event::Note(line));
    }
    Ok(result?)
}

/// Writes a file, and the folder that it is in.
fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    std::fs::write(path, bytes).with_context(|| path.display().to_string())
}

fn finish(args: &BuildArgs, request: &BuildRequest, output: &BuildOutput) -> Result<()> {
    if let Some(path) = &args.iidfile {
        write(path, output.digest.to_string().as_bytes())?;
    }
    let names = |name: &dyn Fn(&oci::Reference) -> String| -> String {
        output.tags.iter().map(|tag| format!("{}@{}\n", name(tag), output.digest)).collect()
    };
    if let Some(path) = &args.image_name_with_digest_file {
        write(path, names(&oci::Reference::name).as_bytes())?;
    }
    if let Some(path) = &args.image_name_tag_with_digest_file {
        write(path, names(&|tag| format!("{}:{}", tag.name(), tag.tag().unwrap_or("latest"))).as_bytes())?;
    }
    if let Some(path) = &args.metadata_file {
        let names: Vec<String> = output.tags.iter().map(ToString::to_string).collect();
        let mut metadata = serde_json::json!({
            "containerimage.digest": output.digest,
            "containerimage.descriptor": output.descriptor,
            "plywood.steps": { "cached": output.cached.0, "all": output.cached.1 },
        });
        if let Some(digest) = &output.config_digest {
            metadata["containerimage.config.digest"] = serde_json::json!(digest);
        }
        if !names.is_empty() {
            metadata["image.name"] = names.join(",").into();
        }
        write(path, &serde_json::to_vec_pretty(&metadata)?)?;
    }
    if !request::uses_stdout(request) {
        print(&output.digest.to_string());
    }
    Ok(())
}
