//! The linter and its neighbours: `--call=check|outline|targets`.
//!
//! `tests/lint/rules.cases` holds build files with what is to be found in them. A case starts with `=== name`; its
//! sections are the build file itself, `--- ignore` for .dockerignore, `--- words` for the command line, and `--- finds`,
//! whose lines are `RULE LINE TEXT`, `fix TEXT` and `error TEXT`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on ends")]

mod support;

use std::fs;
use std::process::Command;

use serde_json::Value;
use support::{Place, all, output, repository};

#[derive(Default)]
struct Case {
    name: String,
    file: String,
    ignore: Option<String>,
    words: Vec<String>,
    finds: Vec<String>,
}

fn cases() -> Vec<Case> {
    let text = fs::read_to_string(repository("tests/lint/rules.cases")).unwrap();
    let mut cases: Vec<Case> = Vec::new();
    let mut section = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("=== ") {
            cases.push(Case { name: name.to_owned(), ..Case::default() });
            section = "Dockerfile";
            continue;
        }
        if let Some(name) = line.strip_prefix("--- ") {
            section = name;
            continue;
        }
        let case = cases.last_mut().unwrap();
        match section {
            "Dockerfile" => case.file += &format!("{line}\n"),
            "ignore" => *case.ignore.get_or_insert_default() += &format!("{line}\n"),
            "words" => case.words.push(line.to_owned()),
            "finds" => case.finds.push(line.to_owned()),
            other => panic!("no section is called {other}"),
        }
    }
    cases
}

fn call(place: &Place, what: &str, words: &[String], case: &str) -> Command {
    let mut command = place.plywood();
    command.args(["build", "--call", what, "--build-context"]).arg(format!("busybox={}", base(place)));
    command.args(words).arg(place.join(case));
    command
}

/// An image without a shell of its own.
fn base(place: &Place) -> String {
    let layout = place.join("busybox");
    if !layout.exists() {
        place.write("plain/Dockerfile", "FROM scratch\nCOPY Dockerfile /\n");
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        support::run(
            place.plywood().args(["build", "-q", "-t", "busybox:latest", "-o", &output]).arg(place.join("plain")),
        );
    }
    format!("oci-layout://{}:latest", layout.display())
}

fn found(document: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    for warning in document["warnings"].as_array().unwrap() {
        let line = &warning["location"]["ranges"][0]["start"]["line"];
        lines.push(format!("{} {line} {}", warning["ruleName"].as_str().unwrap(), warning["detail"].as_str().unwrap()));
        let rule = warning["url"].as_str().unwrap();
        assert!(rule.starts_with("https://docs.docker.com/go/dockerfile/rule/") && rule.ends_with('/'), "{rule}");
        assert!(!warning["description"].as_str().unwrap().is_empty());
    }
    lines
}

#[test]
fn every_rule_finds_what_it_should() {
    let place = Place::new();
    let mut failures = Vec::new();
    for (number, case) in cases().iter().enumerate() {
        let folder = format!("case-{number}");
        place.write(&format!("{folder}/Dockerfile"), &case.file);
        if let Some(ignore) = &case.ignore {
            place.write(&format!("{folder}/.dockerignore"), ignore);
        }
        let output = output(&mut call(&place, "check,format=json", &case.words, &folder));
        let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", all(&output)));
        let wanted: Vec<&String> = case.finds.iter().filter(|line| !line.starts_with("fix ")).collect();
        let mut found = found(&document);
        if let Some(error) = document["buildError"]["message"].as_str() {
            found.push(format!("error {error}"));
        }
        let fits = |(wanted, found): (&&String, &String)| {
            *wanted == found || wanted.starts_with("error ") && found.starts_with(wanted.as_str())
        };
        let fixes: Vec<&str> = case.finds.iter().filter_map(|line| line.strip_prefix("fix ")).collect();
        let all_fixes = document["warnings"].to_string();
        let mended = fixes.iter().all(|fix| all_fixes.contains(&serde_json::to_string(fix).unwrap()));
        let fails = !case.finds.is_empty();
        if wanted.len() != found.len()
            || !wanted.iter().zip(&found).all(fits)
            || !mended
            || output.status.success() == fails
        {
            failures.push(format!("{}: {found:#?} {}", case.name, output.status));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn findings_are_shown_in_their_place() {
    let place = Place::new();
    place.write("c/Dockerfile", "FROM scratch as base\nCOPY Dockerfile .\n");
    let checked = output(place.plywood().args(["build", "--check"]).arg(place.join("c")));
    assert_eq!(checked.status.code(), Some(1));
    let expected = "\
Check complete, 1 warning has been found!

WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/
'as' and 'FROM' keywords' casing do not match
Dockerfile:1
  1 | FROM scratch as base
    |              ^^
  fix: AS
";
    assert_eq!(String::from_utf8_lossy(&checked.stdout), expected);
    place.write("c/Dockerfile", "FROM scratch\nCOPY Dockerfile .\n");
    let clean = output(place.plywood().args(["build", "--check"]).arg(place.join("c")));
    assert!(clean.status.success());
    assert_eq!(String::from_utf8_lossy(&clean.stdout), "Check complete, no warnings found.\n");
}

#[test]
fn a_build_warns_and_goes_on_and_fails_where_it_is_told_to() {
    let place = Place::new();
    place.write("c/Dockerfile", "FROM scratch as base\nCOPY Dockerfile .\n");
    let built = output(place.plywood().args(["build"]).arg(place.join("c")));
    assert!(built.status.success());
    assert!(all(&built).contains("warning: 'as' and 'FROM' keywords' casing do not match"), "{}", all(&built));
    let words = ["build", "--build-arg", "BUILDKIT_DOCKERFILE_CHECK=error=true"];
    let failed = output(place.plywood().args(words).arg(place.join("c")));
    assert!(!failed.status.success());
    assert!(all(&failed).contains("lint violation found for rules: FromAsCasing"), "{}", all(&failed));
}

const OUTLINED: &str = "
ARG inherited=box
ARG inherited2=box2
ARG unused=abc${inherited2}
# sfx is a suffix
ARG sfx=\"usy${inherited}\"

FROM b${sfx} AS first
# this is not assigned to anything
ARG FOO=123
# BAR is a number
ARG BAR=456
RUN --mount=type=secret,target=/etc/passwd,required=true --mount=type=ssh true

FROM alpine${unused} AS second
ARG BAZ
RUN true

FROM scratch AS third
ARG ABC=a
# check=skip=all
ARG password
# alternate_password will show up in the outline
# check=skip=all
ARG alternate_password
RUN --mount=type=secret,id=second${BAR} true

# target defines build target
FROM third AS target
COPY --from=first /etc/passwd /
RUN --mount=type=ssh,id=ssh3,required true

FROM second
";

#[test]
fn an_outline_says_what_a_target_takes() {
    let place = Place::new();
    place.write("c/Dockerfile", OUTLINED);
    let words = ["--target=target", "--build-arg=BAR=678"].map(str::to_owned);
    let text = support::run(&mut call(&place, "outline", &words, "c"));
    let expected = "\
TARGET:      target
DESCRIPTION: defines build target

BUILD ARG            VALUE    DESCRIPTION
inherited            box
sfx                  usybox   is a suffix
FOO                  123
BAR                  678      is a number
ABC                  a
password
alternate_password            will show up in the outline

SECRET   REQUIRED
passwd   true
second

SSH       REQUIRED
default
ssh3      true
";
    assert_eq!(text, expected);
    let document: Value =
        serde_json::from_str(&support::run(&mut call(&place, "outline,format=json", &words, "c"))).unwrap();
    assert_eq!(document["args"][1]["name"], "sfx");
    assert_eq!(document["args"][1]["location"]["ranges"][0]["start"]["line"], 6);
    assert_eq!(document["secrets"][0]["required"], true);
}

#[test]
fn targets_are_listed() {
    let place = Place::new();
    let text = "# build defines stage for compiling the binary\nFROM alpine AS build\nRUN true\n\nFROM busybox as second\n\n\
        FROM alpine\n\n# binary returns the compiled binary\nFROM second AS binary\n";
    place.write("c/Dockerfile", text);
    let text = support::run(&mut call(&place, "targets", &[], "c"));
    let expected = "TARGET           DESCRIPTION\nbuild            defines stage for compiling the binary\nsecond\n\n\
        binary (default) returns the compiled binary\n";
    assert_eq!(text, expected);
    let document: Value =
        serde_json::from_str(&support::run(&mut call(&place, "targets,format=json", &[], "c"))).unwrap();
    assert_eq!(document["targets"][3]["base"], "second");
    assert_eq!(document["targets"][3]["default"], true);
}
