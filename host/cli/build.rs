//! Builds the built-in plugins, which are a workspace of their own, and names their components for embedding.
//!
//! A nested cargo with a target folder of its own: no deadlock with the one that runs this, and incremental. Packagers
//! may bring components that were built before in `PLYWOOD_BUILTINS_DIR`, and code that `plywood plugin precompile` made
//! of them in `PLYWOOD_PRECOMPILED_DIR`.

use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "wasm32-wasip2";
/// Names, and what each is for.
const BUILTINS: [(&str, &str); 3] =
    [("dockerfile", "Instruction"), ("cache-standard", "CachePolicy"), ("credentials-docker-config", "Credential")];

fn main() {
    for path in ["plugins", "wit", "host/cli/build.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    for variable in ["PLYWOOD_BUILTINS_DIR", "PLYWOOD_PRECOMPILED_DIR"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let folder = match std::env::var_os("PLYWOOD_BUILTINS_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => build(&out),
    };
    let precompiled = std::env::var_os("PLYWOOD_PRECOMPILED_DIR").map(PathBuf::from);
    let mut text = String::new();
    for (name, kind) in BUILTINS {
        let wasm = folder.join(format!("{}.wasm", name.replace('-', "_")));
        assert!(wasm.exists(), "the built-in plugin {name} is not at {}", wasm.display());
        let code = precompiled.as_ref().map(|folder| folder.join(format!("{name}.cwasm"))).filter(|path| path.exists());
        let code = code.map_or("None".to_owned(), |path| format!("Some(include_bytes!({:?}))", absolute(&path)));
        let wasm = absolute(&wasm);
        let bytes = format!("wasm: include_bytes!({wasm:?}), code: {code}");
        text += &format!("Builtin {{ name: {name:?}, kind: plugin::Kind::{kind}, {bytes} }},\n");
    }
    std::fs::write(out.join("builtins.rs"), format!("[\n{text}]\n")).expect("OUT_DIR can be written to");
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).expect("the current folder exists")
}

fn build(out: &Path) -> PathBuf {
    ensure_target();
    let target_dir = out.join("plugins");
    let mut cargo = Command::new(std::env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo.args(["build", "--release", "--locked", "--target", TARGET, "--manifest-path", "plugins/Cargo.toml"]);
    cargo.arg("--target-dir").arg(&target_dir);
    for (name, _) in BUILTINS {
        cargo.args(["-p", name]);
    }
    // What is meant for the outer build must not reach the inner one: flags for another target, wrappers, profiles.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let foreign = matches!(
            text.as_ref(),
            "RUSTFLAGS"
                | "CARGO_ENCODED_RUSTFLAGS"
                | "CARGO_TARGET_DIR"
                | "RUSTC_WRAPPER"
                | "RUSTC_WORKSPACE_WRAPPER"
                | "CARGO_BUILD_TARGET"
                | "CARGO_INCREMENTAL"
        ) || text.starts_with("CARGO_PROFILE_")
            || text.starts_with("CARGO_FEATURE_")
            || text.starts_with("CARGO_CFG_");
        if foreign {
            cargo.env_remove(&name);
        }
    }
    let status = cargo.status().expect("cargo can be run");
    assert!(status.success(), "building the built-in plugins failed; the errors are above");
    target_dir.join(TARGET).join("release")
}

/// rustup installs the target that rust-toolchain.toml names only where that is switched on.
fn ensure_target() {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let has_target = || {
        let found = Command::new(&rustc).args(["--print=target-libdir", "--target", TARGET]).output();
        let libdir = found.ok().and_then(|output| String::from_utf8(output.stdout).ok());
        libdir.is_some_and(|path| Path::new(path.trim()).exists())
    };
    if has_target() {
        return;
    }
    let added = Command::new("rustup").args(["target", "add", TARGET]).status();
    let added = added.is_ok_and(|status| status.success()) && has_target();
    assert!(added, "the plugins need Rust's target {TARGET}: run `rustup target add {TARGET}`");
}
