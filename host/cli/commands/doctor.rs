//! `plywood doctor`: what this place allows, and what would be needed for the rest.

use std::sync::Arc;

use anyhow::Result;
use build::worker::{self, Tried};
use serde_json::json;

use super::cache::human;
use crate::args::Global;
use crate::args::doctor::DoctorArgs;
use crate::commands::print_foreign;
use crate::request;
use crate::session::Session;
use crate::surroundings::{self, Process};

/// What was found about one thing.
struct Finding {
    /// `isolation`, `store`, ...
    about: &'static str,
    name: String,
    works: bool,
    told: String,
    /// What to do, where it does not work.
    help: Option<String>,
}

pub(crate) async fn run(global: &Global, args: &DoctorArgs) -> Result<()> {
    let session = Session::open(global, None)?;
    let mut findings: Vec<Finding> = worker::survey(session.store.root()).await.into_iter().map(isolation).collect();
    if findings.iter().all(|finding| !finding.works) {
        let told = "builds that run nothing: COPY, ADD, ENV and all else but RUN";
        findings.push(Finding::works("isolation", "none", told));
    }
    findings.push(store(&session));
    findings.push(certificates());
    findings.extend(proxies());
    let plugins = session.plugins(Arc::new(Process::default())).await?;
    let client = session.registry(&plugins);
    for registry in &args.registries {
        findings.push(match client.reach(registry).await {
            Ok(reached) => {
                let how = if reached.is_encrypted { "https" } else { "plain http" };
                let who = if reached.wants_credentials { "asks who you are" } else { "lets anyone in" };
                Finding::works("registry", registry, format!("answers over {how} and {who}"))
            }
            Err(error) => Finding {
                help: Some(
                    "see whether its name is right and a proxy stands between; --registry-ca adds certificates".into(),
                ),
                ..Finding::fails("registry", registry, error.to_string())
            },
        });
    }
    show(&findings, args.json)
}

impl Finding {
    fn works(about: &'static str, name: &str, told: impl Into<String>) -> Self {
        Self { about, name: name.to_owned(), works: true, told: told.into(), help: None }
    }

    fn fails(about: &'static str, name: &str, told: impl Into<String>) -> Self {
        Self { works: false, ..Self::works(about, name, told) }
    }
}

fn isolation(tried: Tried) -> Finding {
    let name = tried.mode.to_string();
    match tried.refused {
        None => Finding::works("isolation", &name, tried.mode.guarantee()),
        Some(refused) => Finding { help: Some(refused.help), ..Finding::fails("isolation", &name, refused.missing) },
    }
}

fn store(session: &Session) -> Finding {
    let path = session.store.root().display().to_string();
    match session.store.disk() {
        Ok(disk) => Finding::works("store", &path, format!("on {}, {} free", disk.kind, human(disk.free))),
        Err(error) => Finding::fails("store", &path, error.to_string()),
    }
}

fn certificates() -> Finding {
    match request::bundle() {
        Some(path) => Finding::works("certificates", &path, "those that registries are trusted by"),
        None => Finding {
            help: Some("install the package ca-certificates, or give --registry-ca".into()),
            ..Finding::fails("certificates", "none", "no bundle in any of the usual places: https is not to be had")
        },
    }
}

/// Proxies of the environment, without what may be secret.
fn proxies() -> Vec<Finding> {
    let names = ["HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY"];
    let set = names.iter().filter_map(|name| {
        let (name, value) = [(*name).to_owned(), name.to_lowercase()]
            .into_iter()
            .find_map(|name| surroundings::variable(&name).map(|value| (name, value)))?;
        let value = value.rsplit_once('@').map_or(value.clone(), |(_, place)| place.to_owned());
        Some(Finding::works("proxy", &name, value))
    });
    set.collect()
}

fn show(findings: &[Finding], json: bool) -> Result<()> {
    if json {
        let rows: Vec<_> = findings
            .iter()
            .map(|finding| {
                json!({
                    "about": finding.about, "name": finding.name, "works": finding.works, "told": finding.told,
                    "help": finding.help,
                })
            })
            .collect();
        print_foreign(&serde_json::to_string(&rows)?);
        return Ok(());
    }
    for finding in findings {
        let word = if finding.works { "yes" } else { "no " };
        print_foreign(&format!("{word}  {:12}  {}: {}", finding.about, finding.name, finding.told));
        if let Some(help) = &finding.help {
            print_foreign(&format!("                   {help}"));
        }
    }
    Ok(())
}
