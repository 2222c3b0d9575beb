//! `plywood build --call=check|outline|targets`: looking at a build file instead of building.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use build::{BuildRequest, Event, Outline, Target, Tools};
use plan::{Diagnostic, Severity, Span};
use serde_json::{Value, json};

use crate::args::Global;
use crate::args::build::BuildArgs;
use crate::commands::print;
use crate::session::Session;
use crate::surroundings::Process;
use crate::{report, request};

/// What is asked.
pub(crate) struct Call {
    what: What,
    json: bool,
    ignore_status: bool,
}

enum What {
    Check,
    Outline,
    Targets,
}

impl Call {
    /// What the arguments ask for; none: to build.
    pub(crate) fn parse(args: &BuildArgs) -> Result<Option<Self>> {
        let text = if args.check { "check" } else { args.call.as_str() };
        let mut fields = text.split(',');
        let what = match fields.next().unwrap_or_default() {
            "build" => None,
            "check" | "lint" => Some(What::Check),
            "outline" => Some(What::Outline),
            "targets" => Some(What::Targets),
            other => bail!("--call={other}: it is build, check, outline or targets"),
        };
        let (mut json, mut ignore_status) = (false, false);
        for field in fields {
            match field.split_once('=') {
                Some(("format", "json")) => json = true,
                Some(("format", "text")) => json = false,
                Some(("ignorestatus", "true" | "1")) | None if field.starts_with("ignorestatus") => {
                    ignore_status = true
                }
                Some(("ignorestatus", "false" | "0")) => ignore_status = false,
                _ => bail!("--call={text}: `{field}` is neither format=json, format=text nor ignorestatus=BOOL"),
            }
        }
        Ok(what.map(|what| Self { what, json, ignore_status }))
    }
}

pub(crate) async fn run(global: &Global, args: &BuildArgs, call: &Call) -> ExitCode {
    let request = match request::build(args, &global.registry_ca).await {
        Ok(request) => request,
        Err(error) => return report::failure(&error, None),
    };
    let file = Some((request.file_name.as_str(), request.file.as_str()));
    let findings = Arc::new(Mutex::new(Vec::new()));
    let tools = match tools(global, args, findings.clone()).await {
        Ok(tools) => tools,
        Err(error) => return report::failure(&error, file),
    };
    let done = match call.what {
        What::Check => {
            let outcome = build::check(&request, &tools).await.map_err(anyhow::Error::from);
            let findings = std::mem::take(&mut *findings.lock().unwrap_or_else(PoisonError::into_inner));
            return check(call, &request, &findings, outcome);
        }
        What::Outline => build::outline(&request, &tools).await.map(|outline| show_outline(call, &request, &outline)),
        What::Targets => build::targets(&request, &tools).map(|targets| show_targets(call, &request, &targets)),
    };
    match done.map_err(anyhow::Error::from) {
        Ok(text) => {
            print(text.trim_end_matches('\n'));
            ExitCode::SUCCESS
        }
        Err(error) => report::failure(&error, file),
    }
}

async fn tools(global: &Global, args: &BuildArgs, findings: Arc<Mutex<Vec<Diagnostic>>>) -> Result<Tools> {
    let session = Session::open(global, request::project(&args.input))?;
    let plugins = session.plugins(Arc::new(Process::default())).await.context("loading the plugins")?;
    Ok(Tools {
        store: session.store.clone(),
        registry: session.registry(&plugins),
        roots: session.global.registry_ca.clone(),
        instructions: plugins.instructions,
        syntaxes: plugins.syntaxes,
        policy: plugins.policy,
        events: Arc::new(move |event| {
            if let Event::Diagnostic(diagnostic) = event
                && diagnostic.severity == Severity::Warning
            {
                findings.lock().unwrap_or_else(PoisonError::into_inner).push(diagnostic);
            }
        }),
    })
}

fn check(call: &Call, request: &BuildRequest, findings: &[Diagnostic], outcome: Result<()>) -> ExitCode {
    let file = Some((request.file_name.as_str(), request.file.as_str()));
    if call.json {
        let mut document =
            json!({ "warnings": findings.iter().map(finding).collect::<Vec<_>>(), "sources": [source(request)] });
        if let Err(error) = &outcome {
            let span = match error.downcast_ref::<build::Error>() {
                Some(build::Error::Invalid(diagnostics)) => diagnostics.iter().find_map(|found| found.span.clone()),
                _ => None,
            };
            document["buildError"] = json!({ "message": error.to_string(), "location": span.as_ref().map(location) });
        }
        print(&format!("{document:#}"));
    } else {
        let mut text = match findings.len() {
            0 if outcome.is_ok() => "Check complete, no warnings found.\n".to_owned(),
            0 => String::new(),
            1 => "Check complete, 1 warning has been found!\n".to_owned(),
            number => format!("Check complete, {number} warnings have been found!\n"),
        };
        findings.iter().for_each(|found| text.push_str(&warning(found, request)));
        if !text.is_empty() {
            print(text.trim_end_matches('\n'));
        }
    }
    match outcome {
        Err(error) if !call.json => report::failure(&error, file),
        _ if call.ignore_status => ExitCode::SUCCESS,
        Ok(()) if findings.is_empty() => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// A finding, its place, and what mends it.
fn warning(found: &Diagnostic, request: &BuildRequest) -> String {
    let url = found.url.as_ref().map(|url| format!(" - {url}")).unwrap_or_default();
    let mut text = format!("\nWARNING: {}{url}\n{}\n", found.code, found.message);
    if let Some(span) = &found.span {
        let _ = writeln!(text, "{span}");
        if *span.file == *request.file_name {
            report::quote(&mut text, span, &request.file);
        }
    }
    for fix in &found.fixes {
        let _ = writeln!(text, "  fix: {}", fix.replacement);
    }
    text
}

fn finding(found: &Diagnostic) -> Value {
    let mut value = json!({ "ruleName": found.code, "description": found.description, "detail": found.message });
    if let Some(url) = &found.url {
        value["url"] = json!(url);
    }
    if let Some(span) = &found.span {
        value["location"] = location(span);
    }
    if !found.fixes.is_empty() {
        value["fixes"] = json!(found.fixes);
    }
    value
}

/// One range for each line, as BuildKit has it.
fn location(span: &Span) -> Value {
    let line = |line: u32| json!({ "start": { "line": line }, "end": { "line": line } });
    json!({ "ranges": (span.start.line..=span.end.line).map(line).collect::<Vec<_>>() })
}

fn source(request: &BuildRequest) -> Value {
    let data = base64::engine::general_purpose::STANDARD.encode(&request.file);
    json!({ "filename": request.file_name, "data": data, "language": "Dockerfile" })
}

fn show_outline(call: &Call, request: &BuildRequest, outline: &Outline) -> String {
    if call.json {
        let mut document = json!(outline);
        let spans = |list: Vec<&Span>| list.into_iter().map(location).collect::<Vec<_>>();
        let places = [
            ("args", spans(outline.args.iter().map(|arg| &arg.span).collect())),
            ("secrets", spans(outline.secrets.iter().map(|need| &need.span).collect())),
            ("ssh", spans(outline.ssh.iter().map(|need| &need.span).collect())),
        ];
        for (list, places) in places {
            for (at, place) in places.into_iter().enumerate() {
                document[list][at]["location"] = place;
            }
        }
        document["sources"] = json!([source(request)["data"]]);
        return format!("{:#}", filled(document));
    }
    let mut text = String::new();
    if outline.name.is_some() || outline.description.is_some() {
        let mut head = vec![vec!["TARGET:".to_owned(), outline.name.clone().unwrap_or_else(|| "(default)".into())]];
        head.extend(outline.description.iter().map(|words| vec!["DESCRIPTION:".to_owned(), words.clone()]));
        text += &(table(&head, 1) + "\n");
    }
    if !outline.args.is_empty() {
        let mut rows = vec![["BUILD ARG", "VALUE", "DESCRIPTION"].map(str::to_owned).to_vec()];
        let shown = |text: &Option<String>| text.clone().unwrap_or_default();
        rows.extend(outline.args.iter().map(|a| vec![a.name.clone(), shown(&a.value), shown(&a.description)]));
        text += &(table(&rows, 3) + "\n");
    }
    for (title, needs) in [("SECRET", &outline.secrets), ("SSH", &outline.ssh)] {
        if needs.is_empty() {
            continue;
        }
        let mut rows = vec![vec![title.to_owned(), "REQUIRED".to_owned()]];
        let required = |required| if required { "true".to_owned() } else { String::new() };
        rows.extend(needs.iter().map(|need| vec![need.name.clone(), required(need.required)]));
        text += &(table(&rows, 3) + "\n");
    }
    text
}

fn show_targets(call: &Call, request: &BuildRequest, targets: &[Target]) -> String {
    if call.json {
        let mut document = json!({ "targets": targets, "sources": [source(request)["data"]] });
        for (at, target) in targets.iter().enumerate() {
            document["targets"][at]["location"] = location(&target.span);
        }
        return format!("{:#}", filled(document));
    }
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    for target in targets {
        let name = match (&target.name, target.default) {
            (Some(name), true) => format!("{name} (default)"),
            (Some(name), false) => name.clone(),
            (None, true) => "(default)".to_owned(),
            (None, false) => String::new(),
        };
        rows.push(vec![name, target.description.clone().unwrap_or_default()]);
    }
    table(&rows, 1)
}

/// JSON without what says nothing.
fn filled(value: Value) -> Value {
    let says = |value: &Value| {
        !(value.is_null()
            || *value == json!(false)
            || *value == json!([])
            || *value == json!({})
            || *value == json!(""))
    };
    match value {
        Value::Object(map) => {
            map.into_iter().map(|(key, value)| (key, filled(value))).filter(|(_, v)| says(v)).collect()
        }
        Value::Array(list) => list.into_iter().map(filled).collect(),
        other => other,
    }
}

/// Columns as wide as their widest cell.
fn table(rows: &[Vec<String>], padding: usize) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0) + padding
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            let _ = write!(line, "{cell:width$}");
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text
}
