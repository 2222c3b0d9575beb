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
mod lowering;
mod mount;
mod run;

use plywood_sdk::instruction::{self, Guest, Instruction, KeywordSpec, Lowering, PluginError, PluginInfo, Stage};

struct Dockerfile;

impl Guest for Dockerfile {
    fn info() -> PluginInfo {
        PluginInfo {
            name: "dockerfile".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: "The instructions of the Dockerfile, as BuildKit means them".into(),
            homepage: None,
        }
    }

    fn keywords() -> Vec<KeywordSpec> {
        keywords::all()
    }

    fn lower(stage: &Stage, instruction: Instruction) -> Result<Lowering, PluginError> {
        let lowered = match instruction.keyword.as_str() {
            "ADD" | "COPY" => copy::lower(stage, &instruction),
            "ARG" => env::arg(stage, &instruction),
            "CMD" => exec::cmd(stage, &instruction),
            "ENTRYPOINT" => exec::entrypoint(stage, &instruction),
            "ENV" => env::env(stage, &instruction),
            "EXPOSE" => image::expose(stage, &instruction),
            "HEALTHCHECK" => healthcheck::lower(stage, &instruction),
            "LABEL" => env::label(stage, &instruction),
            "MAINTAINER" => image::maintainer(&instruction),
            "ONBUILD" => image::onbuild(&instruction),
            "RUN" => run::lower(stage, &instruction),
            "SHELL" => exec::shell(&instruction),
            "STOPSIGNAL" => image::stop_signal(stage, &instruction),
            "USER" => image::user(stage, &instruction),
            "VOLUME" => image::volume(stage, &instruction),
            "WORKDIR" => image::workdir(stage, &instruction),
            _ => return Err(PluginError::Unsupported),
        };
        lowered.map(Lowering::Ops)
    }
}

instruction::export!(Dockerfile with_types_in instruction);
