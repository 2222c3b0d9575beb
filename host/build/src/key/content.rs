//! What context files hold, for keys: each is read once a build.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use context::Context;
use oci::Digest;
use oci::tree::{Kind, Tree};
use plan::graph::Vertex;
use plan::key::Frame;

use crate::error::Error;
use crate::op::copy::{self, How, Source};

/// Digests of context files.
#[derive(Default)]
pub(super) struct Digests {
    files: BTreeMap<(std::path::PathBuf, oci::tree::Path), Digest>,
}

impl Digests {
    /// The digest of what a copy would take, without times: two contexts that would give the same files are the same.
    pub(super) async fn content(
        &mut self,
        context: &Arc<Context>,
        sources: &[Source],
        how: &How,
        vertex: &Vertex,
    ) -> Result<Digest, Error> {
        let failed = |reason: String| Error::Step { step: vertex.name.clone(), reason, span: vertex.span().cloned() };
        let planned = copy::plan(sources, how, &Tree::default()).map_err(failed)?;
        let wanted: Vec<oci::tree::Path> = planned
            .iter()
            .filter_map(|planned| planned.origin.as_ref())
            .map(|origin| origin.inode.path.clone())
            .filter(|path| !self.files.contains_key(&(context.folder.clone(), path.clone())))
            .collect();
        let folder = context.folder.clone();
        let read = tokio::task::spawn_blocking(move || digest_files(&folder, &wanted)).await;
        for (path, digest) in read.map_err(|error| failed(error.to_string()))?.map_err(failed)? {
            self.files.insert((context.folder.clone(), path), digest);
        }
        let mut frame = Frame::new("files");
        for item in &planned {
            let entry = &item.entry;
            frame = frame.field(&item.path).field(&entry.mode.to_le_bytes());
            frame = match &entry.kind {
                Kind::File(file) => match &item.origin {
                    Some(origin) => {
                        let digest = self.files.get(&(context.folder.clone(), origin.inode.path.clone()));
                        frame.field(b"file").field(digest.map_or(&[][..], |digest| digest.as_bytes()))
                    }
                    None => frame.field(b"link").field(&file.inode.path),
                },
                Kind::Symlink(target) => frame.field(b"symlink").field(target),
                kind => frame.field(format!("{kind:?}").as_bytes()),
            };
            for (name, value) in &entry.xattrs {
                frame = frame.field(name.as_bytes()).field(value);
            }
        }
        Ok(frame.finish())
    }
}

/// Reads files side by side.
fn digest_files(folder: &Path, wanted: &[oci::tree::Path]) -> Result<Vec<(oci::tree::Path, Digest)>, String> {
    let root = sys::Root::open(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let size = wanted.len().div_ceil(threads).max(1);
    let read = |path: &oci::tree::Path| -> Result<(oci::tree::Path, Digest), String> {
        let relative = Path::new(std::ffi::OsStr::from_bytes(path));
        let failed = |error: std::io::Error| format!("{}: {error}", folder.join(relative).display());
        let mut file = root.read(relative).map_err(failed)?;
        let mut hasher = oci::Hasher::default();
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer).map_err(failed)? {
                0 => return Ok((path.clone(), hasher.finish())),
                length => hasher.update(&buffer[..length]),
            }
        }
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = wanted
            .chunks(size)
            .map(|part| scope.spawn(|| part.iter().map(read).collect::<Result<Vec<_>, String>>()))
            .collect();
        let mut all = Vec::new();
        for part in parts {
            all.extend(part.join().map_err(|_| "reading the context failed".to_owned())??);
        }
        Ok(all)
    })
}
