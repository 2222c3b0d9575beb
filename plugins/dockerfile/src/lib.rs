//! What the Dockerfile's instructions mean: the built-in instruction plugin, written against the same contract as any
//! other. BuildKit's `dockerfile.v0` is the specification, down to the texts of an image's history.

mod args;
mod copy;
mod env;
mod exec;
mod go;
mod healthcheck;
mod image;
mod keywords;
mod lint;
mod lowering;
mod mount;
mod run;
mod scope;

use plywood_sdk::instruction::{
    self, Guest, Instruction, KeywordSpec, Lowered, Lowering, PluginError, PluginInfo, Stage,
};

use scope::Scope;

struct Dockerfile;

impl Guest for Dockerfile {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "dockerfile".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "The instructions of the Dockerfile, as BuildKit means them".into(),
            homepage: None,
            needs: Vec::new(),
        }
    }

    fn keywords() -> Vec<KeywordSpec> {
        keywords::all()
    }

    fn lower(stage: &Stage, instruction: Instruction) -> Result<Lowering, PluginError> {
        let scope = Scope::new(stage, &instruction);
        let result = match instruction.keyword.as_str() {
            "ADD" | "COPY" => copy::lower(&scope),
            "ARG" => env::arg(&scope),
            "CMD" => exec::cmd(&scope),
            "ENTRYPOINT" => exec::entrypoint(&scope),
            "ENV" => env::env(&scope),
            "EXPOSE" => image::expose(&scope),
            "HEALTHCHECK" => healthcheck::lower(&scope),
            "LABEL" => env::label(&scope),
            "MAINTAINER" => image::maintainer(&scope),
            "ONBUILD" => image::onbuild(&scope),
            "RUN" => run::lower(&scope),
            "SHELL" => exec::shell(&scope),
            "STOPSIGNAL" => image::stop_signal(&scope),
            "USER" => image::user(&scope),
            "VOLUME" => image::volume(&scope),
            "WORKDIR" => image::workdir(&scope),
            _ => return Err(PluginError::Unsupported),
        };
        let lowered = match result {
            // Nothing is known of the values in a stage that is not built.
            Err(error) if stage.is_unused() && lowering::is_about_values(&error) => return Ok(lowering::nothing()),
            result => result?,
        };
        let diagnostics = scope.findings();
        Ok(Lowering::Ops(Lowered { diagnostics, ..lowered }))
    }
}

instruction::export!(Dockerfile with_types_in instruction);
