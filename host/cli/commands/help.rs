//! `plywood help`: a command's help, or the language that the plugins make.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::CommandFactory;
use plan::op::Keyword;

use crate::args::{Args, Global, HelpArgs};
use crate::commands::print;
use crate::session::Session;
use crate::surroundings::Process;

/// What is the host's own: stages, and what stands in comments.
const FROM: [(&str, &str, &str, &str); 5] = [
    (
        "FROM",
        "",
        "Starts a stage on an image, a stage above, a named context, or scratch: FROM BASE [AS NAME]",
        "no Windows containers",
    ),
    ("", "--platform=", "what the stage is for: os/arch[/variant], as in $BUILDPLATFORM", ""),
    (
        "# syntax=",
        "",
        "Who gives the file its meaning: docker/dockerfile is built in, others are pinned plugins",
        "no image is ever pulled for it",
    ),
    ("# escape=", "", "The character that escapes and continues lines: \\ or `", ""),
    ("# check=", "", "Which findings count: skip=RULE,...;error=true;experimental=RULE; also above an instruction", ""),
];

pub(crate) async fn run(global: &Global, args: &HelpArgs) -> Result<()> {
    match &args.topic[..] {
        [topic] if topic == "dockerfile" => {
            let session = Session::open(global, Some(std::path::Path::new(".")))?;
            let plugins = session.plugins(Arc::new(Process::default())).await?;
            let keywords: Vec<Keyword> = plugins.instructions.iter().flat_map(|p| p.keywords().to_vec()).collect();
            print(language(&keywords).trim_end());
            Ok(())
        }
        topic => {
            let mut command = Args::command();
            command.build();
            let mut at = &mut command;
            for word in topic {
                at = at.find_subcommand_mut(word).with_context(|| {
                    format!("there is no help on `{}`; `plywood help` lists the commands, `plywood help dockerfile` the language", topic.join(" "))
                })?;
            }
            let text = at.render_long_help().to_string();
            if text.is_empty() {
                bail!("there is no help on `{}`", topic.join(" "));
            }
            print(text.trim_end());
            Ok(())
        }
    }
}

/// A table of every instruction and flag, with its standing against BuildKit.
fn language(keywords: &[Keyword]) -> String {
    let mut text = String::from(
        "# The Dockerfile language\n\n\
         What `plywood help dockerfile` prints: every instruction and flag that the plugins in use handle, by their own word.\n\
         Where the last column is empty, it means what it means to BuildKit.\n\n\
         | Instruction | Flag | What it does | Other than in BuildKit |\n|---|---|---|---|\n",
    );
    let mut row = |instruction: &str, flag: &str, doc: &str, deviation: &str| {
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
        let doc = doc.replace('|', "\\|");
        let _ = writeln!(text, "| {} | {} | {doc} | {deviation} |", code(instruction), code(flag));
    };
    FROM.iter().for_each(|(instruction, flag, doc, deviation)| row(instruction, flag, doc, deviation));
    let mut sorted: Vec<&Keyword> = keywords.iter().collect();
    sorted.sort_by(|a, b| a.keyword.cmp(&b.keyword));
    for keyword in sorted {
        row(&keyword.keyword, "", &keyword.doc, keyword.deviation.as_deref().unwrap_or_default());
        for flag in &keyword.flags {
            let name = if flag.takes_value { format!("--{}=", flag.name) } else { format!("--{}", flag.name) };
            let more = if flag.repeatable { "; may be repeated" } else { "" };
            row("", &name, &format!("{}{more}", flag.doc), flag.deviation.as_deref().unwrap_or_default());
        }
    }
    text
}
