//! One command a file: read what was typed, call one thing, print.

mod build;
mod cache;
mod call;
mod doctor;
mod executor;
mod explain;
mod help;
mod image;
mod plan;
mod plugin;

use std::process::ExitCode;

use crate::args::{Args, Command};
use crate::report;

pub(crate) async fn run(args: Args) -> ExitCode {
    let global = &args.global;
    let result = match &args.command {
        Command::Build(args) => {
            return match call::Call::parse(args) {
                Ok(None) => build::run(global, args).await,
                Ok(Some(call)) => call::run(global, args, &call).await,
                Err(error) => report::failure(&error, None),
            };
        }
        Command::Plan(args) => return plan::run(global, args).await,
        Command::Executor(args) => return executor::run(global, args).await,
        Command::Warmer(args) => return executor::warmer(global, args).await,
        Command::Migrate(args) => return executor::migrate(args),
        Command::Explain(args) => explain::run(global, args),
        Command::Cache(args) => cache::run(global, args).await,
        Command::Images => image::images(global),
        Command::Tag(args) => image::tag(global, args),
        Command::Rmi(args) => image::rmi(global, args),
        Command::Copy(args) => image::copy(global, args).await,
        Command::Pull(args) => image::pull(global, args).await,
        Command::Push(args) => image::push(global, args).await,
        Command::Inspect(args) => image::inspect(global, args).await,
        Command::Doctor(args) => doctor::run(global, args).await,
        Command::Plugin(args) => plugin::run(global, args).await,
        Command::Help(args) => help::run(global, args).await,
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failure(&error, None),
    }
}

/// Prints a line that is made of what others have written: it moves no cursor.
pub(crate) fn print_foreign(text: &str) {
    print(&text.chars().filter(|c| !c.is_control()).collect::<String>());
}

/// Prints a line to standard output; a reader that has gone away is no error.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{text}");
}
