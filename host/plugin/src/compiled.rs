//! Compiled code on disk: native instructions, so only what this program wrote for this user is ever loaded.
//!
//! `<folder>/<component digest>-<engine>.cwasm`; the folder is the user's own and nobody else's, or is not used. The
//! engine part covers the runtime's version, its settings and the processor.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use oci::Digest;
use wasmtime::{Engine, component::Component};

/// Where compiled code is kept; none: nowhere.
#[derive(Debug)]
pub(crate) struct Cache(Option<PathBuf>);

impl Cache {
    /// Uses `folder` if it is this user's alone.
    pub(crate) fn open(folder: Option<&Path>, user: u32) -> Self {
        Self(folder.filter(|folder| is_own(folder, user)).map(Path::to_owned))
    }

    fn path(&self, engine: &Engine, digest: Digest) -> Option<PathBuf> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Some(self.0.as_ref()?.join(format!("{}-{:016x}.cwasm", digest.hex(), hasher.finish())))
    }

    /// The component, from disk where it is there, else compiled and put there.
    pub(crate) fn load(&self, engine: &Engine, digest: Digest, wasm: &[u8]) -> wasmtime::Result<Component> {
        let path = self.path(engine, digest);
        if let Some(path) = &path
            && path.exists()
        {
            if let Ok(component) = from_own_file(engine, path) {
                return Ok(component);
            }
            // Stale or damaged: made again below.
            let _ = fs::remove_file(path);
        }
        let component = Component::new(engine, wasm)?;
        if let Some(path) = path {
            // A cache that cannot be written costs time, not correctness.
            let _ = write(&path, &component.serialize()?);
        }
        Ok(component)
    }
}

fn is_own(folder: &Path, user: u32) -> bool {
    if !folder.exists() {
        if let Some(parent) = folder.parent() {
            let _ = fs::create_dir_all(parent);
        }
        let _ = fs::DirBuilder::new().mode(0o700).create(folder);
    }
    fs::symlink_metadata(folder).is_ok_and(|meta| meta.is_dir() && meta.uid() == user && meta.mode() & 0o077 == 0)
}

fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    let done = file.write_all(bytes).and_then(|()| fs::rename(&temporary, path));
    if done.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    done
}

#[expect(unsafe_code, reason = "the runtime marks loading native code as unsafe; this is the only place that does")]
fn from_own_file(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file lies in a folder that only this user can write to and was written by `write` above from the
    // runtime's own output; the runtime checks version, settings and processor before it uses it.
    unsafe { Component::deserialize_file(engine, path) }
}

#[expect(unsafe_code, reason = "the runtime marks loading native code as unsafe")]
pub(crate) fn from_binary(engine: &Engine, code: &'static [u8]) -> wasmtime::Result<Component> {
    // SAFETY: the bytes are part of this executable, put there when it was built by `plywood plugin precompile` of the
    // same sources; the runtime checks version, settings and processor before it uses them.
    unsafe { Component::deserialize(engine, code) }
}
