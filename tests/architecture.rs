//! The architecture, as a test: who may import whom, where what may stand, how long a file may be.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each room and what it may import (ARCHITECTURE.md). A room that needs less says less in its manifest.
const EDGES: [(&str, &[&str]); 15] = [
    (
        "build",
        &[
            "cache",
            "context",
            "credential",
            "dockerfile",
            "executor",
            "http",
            "image",
            "oci",
            "plan",
            "plugin",
            "registry",
            "snapshot",
            "store",
            "sys",
        ],
    ),
    ("credential", &["plugin", "registry", "oci"]),
    ("image", &["registry", "store", "oci"]),
    ("cache", &["plan", "store", "registry", "http", "oci"]),
    ("dockerfile", &["plan", "oci"]),
    ("plugin", &["plan", "oci"]),
    ("snapshot", &["store", "oci", "sys"]),
    ("registry", &["http", "oci"]),
    ("context", &["http", "oci", "sys"]),
    ("plan", &["oci"]),
    ("store", &["oci", "sys"]),
    ("executor", &["sys"]),
    ("http", &["sys"]),
    ("oci", &[]),
    ("sys", &[]),
];
/// The binary.
const DOOR: &[&str] = &["build", "credential", "image", "cache", "plugin", "store", "registry", "plan", "oci"];
/// Lines of a file without its tests.
const LONGEST: usize = 400;
/// Files that are one list or one account of the contract, and would be worse in pieces.
const LONGER: [(&str, usize); 2] = [("host/plan/src/op.rs", 500), ("host/plugin/src/worlds.rs", 440)];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a folder, with its path from the root.
fn sources(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                found.push((name, fs::read_to_string(&path).expect("text")));
            }
        }
    }
    found.sort();
    found
}

/// A file without its unit tests.
fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().unwrap_or(text)
}

/// Code lines: without comments, so that prose may speak of anything.
fn code(text: &str) -> impl Iterator<Item = &str> {
    without_tests(text).lines().map(str::trim_start).filter(|line| !line.starts_with("//"))
}

fn imports(manifest: &Path, rooms: &BTreeSet<&str>) -> BTreeSet<String> {
    let text = fs::read_to_string(manifest).expect("a manifest");
    let dependencies = text.split("[dependencies]").nth(1).expect("dependencies");
    let dependencies = dependencies.split("\n[").next().unwrap_or_default();
    let names = dependencies.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| rooms.contains(name)).map(str::to_owned).collect()
}

#[test]
fn rooms_import_only_what_is_below_them() {
    let rooms: BTreeSet<&str> = EDGES.iter().map(|(room, _)| *room).collect();
    let allowed: BTreeMap<&str, &[&str]> = EDGES.into_iter().collect();
    for (room, may) in &allowed {
        for import in imports(&root().join("host").join(room).join("Cargo.toml"), &rooms) {
            assert!(may.contains(&import.as_str()), "host/{room} must not import {import}");
        }
    }
    for import in imports(&root().join("Cargo.toml"), &rooms) {
        assert!(DOOR.contains(&import.as_str()), "the binary must not import {import}");
    }
    let folders = fs::read_dir(root().join("host")).expect("host").flatten();
    for folder in folders.map(|entry| entry.file_name().to_string_lossy().into_owned()) {
        assert!(folder == "cli" || allowed.contains_key(folder.as_str()), "host/{folder} is in no table");
    }
}

#[test]
fn what_is_dangerous_stands_in_one_place() {
    for (path, text) in sources("host") {
        let is = |prefix: &str| path.starts_with(prefix);
        for line in code(&text) {
            let here = || format!("{path}: {line}");
            if line.contains("unsafe ") && !line.contains("unsafe_code") {
                assert!(is("host/sys/") || path == "host/plugin/src/compiled.rs", "unsafe: {}", here());
            }
            if line.contains("wasmtime") {
                assert!(is("host/plugin/"), "the component runtime: {}", here());
            }
            if line.contains("reqwest") {
                assert!(is("host/http/"), "an HTTP client: {}", here());
            }
            for word in ["process::exit(", "env::var(", "env::var_os(", "println!", "eprintln!", "print!("] {
                // The build script speaks to cargo by printing, and a test is told how much to do.
                let may = is("host/cli/") || path.contains("/tests/");
                assert!(!line.contains(word) || may, "{word} {}", here());
            }
        }
    }
}

#[test]
fn the_host_knows_no_keyword_but_three() {
    // As string literals in code: what an instruction means is a plugin's business.
    let keywords = [
        "ADD",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "HEALTHCHECK",
        "LABEL",
        "MAINTAINER",
        "RUN",
        "SHELL",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    ];
    for (path, text) in sources("host") {
        for line in code(&text) {
            for keyword in keywords {
                assert!(!line.contains(&format!("\"{keyword}\"")), "{path} knows {keyword}: {line}");
            }
        }
    }
}

#[test]
fn files_say_what_they_are_and_are_short() {
    let longer: BTreeMap<&str, usize> = LONGER.into_iter().collect();
    let mut wrong = Vec::new();
    for (path, text) in sources("host").into_iter().chain(sources("plugins")) {
        if !text.starts_with("//!") {
            wrong.push(format!("{path} does not open with a //! line"));
        }
        let lines = without_tests(&text).lines().count();
        let limit = longer.get(path.as_str()).copied().unwrap_or(LONGEST);
        if lines > limit {
            wrong.push(format!("{path} has {lines} lines, and may have {limit}"));
        }
        let stem = Path::new(&path).file_stem().expect("a name").to_string_lossy();
        let vague = ["util", "utils", "common", "helper", "helpers", "manager", "misc"];
        if vague.contains(&stem.as_ref()) {
            wrong.push(format!("{path} does not say what is in it"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn plugins_see_the_contract_and_nothing_of_the_host() {
    for folder in ["plugins/sdk", "plugins/dockerfile", "plugins/cache-standard", "plugins/credentials-docker-config"] {
        let manifest = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
        assert!(!manifest.contains("host"), "{folder} depends on the host");
    }
}
