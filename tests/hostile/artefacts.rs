//! Tars and images written by hand: whatever a registry or a neighbour might send.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const PLAIN: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

pub(crate) fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// A tar being written. Nothing is checked: names and numbers go into the headers as they are.
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// An entry of any kind; `change` has the last word on its header. A name or link that is too long for the header
    /// goes into a PAX record.
    pub(crate) fn entry(
        mut self,
        kind: u8,
        name: impl AsRef<[u8]>,
        link: impl AsRef<[u8]>,
        body: impl AsRef<[u8]>,
        change: impl FnOnce(&mut tar::Header),
    ) -> Self {
        let (name, link, body) = (name.as_ref(), link.as_ref(), body.as_ref());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::new(kind));
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(body.len() as u64);
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        for (key, text) in [("path", name), ("linkpath", link)] {
            let old = header.as_old_mut();
            let field = if key == "path" { &mut old.name } else { &mut old.linkname };
            let length = text.len().min(field.len());
            field[..length].copy_from_slice(&text[..length]);
            if text.len() > field.len() || text.contains(&0) {
                records.push((key, text));
            }
        }
        change(&mut header);
        header.set_cksum();
        if !records.is_empty() {
            self = self.pax(&records);
        }
        self.0.extend_from_slice(header.as_bytes());
        self.raw(body)
    }

    /// Bytes as they are, filled up to a whole block.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// PAX records for the entry that comes next.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            body.extend_from_slice(format!("{length} {key}=").as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        self.entry(b'x', "pax", "", body, |_| {})
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Self {
        self.entry(b'0', name, "", body, |_| {})
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(b'5', name, "", "", |_| {})
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(b'2', name, target, "", |header| header.set_mode(0o777))
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(b'1', name, target, "", |_| {})
    }

    /// A device: `3` for a character device, `4` for a block device.
    pub(crate) fn device(self, kind: u8, name: impl AsRef<[u8]>, major: u32, minor: u32) -> Self {
        self.entry(kind, name, "", "", |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    }

    pub(crate) fn pipe(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(b'6', name, "", "", |_| {})
    }

    /// The bytes with the end of the archive.
    pub(crate) fn end(self) -> Vec<u8> {
        let mut bytes = self.0;
        bytes.extend([0; 1024]);
        bytes
    }

    /// The bytes so far.
    pub(crate) fn bytes(self) -> Vec<u8> {
        self.0
    }
}

/// A layer's blob and what the image says of it.
#[derive(Clone)]
pub(crate) struct Layer {
    pub(crate) blob: Vec<u8>,
    pub(crate) media_type: &'static str,
    pub(crate) diff_id: String,
}

impl Layer {
    pub(crate) fn plain(tar: Vec<u8>) -> Self {
        Self { diff_id: digest(&tar), blob: tar, media_type: PLAIN }
    }
}

impl From<Tar> for Layer {
    fn from(tar: Tar) -> Self {
        Self::plain(tar.end())
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    writer.write_all(bytes).unwrap();
    writer.finish().unwrap()
}

/// A configuration that names these layers and runs busybox.
pub(crate) fn config(layers: &[Layer]) -> Value {
    let ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    let shell = ["/bin/busybox", "sh", "-c"];
    json!({
        "architecture": std::env::consts::ARCH.replace("x86_64", "amd64").replace("aarch64", "arm64"),
        "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Shell": shell },
        "rootfs": { "type": "layers", "diff_ids": ids },
    })
}

/// An OCI layout that is filled piece by piece, right or wrong.
pub(crate) struct Layout {
    pub(crate) folder: PathBuf,
}

impl Layout {
    pub(crate) fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
        fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Self { folder }
    }

    pub(crate) fn path(&self, digest: &str) -> PathBuf {
        self.folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:"))
    }

    /// Puts a blob in and gives its descriptor.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        fs::write(self.path(&digest), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    pub(crate) fn json(&self, media_type: &str, document: &Value) -> Value {
        self.blob(media_type, document.to_string().as_bytes())
    }

    /// The manifest of these layers, not yet put in.
    pub(crate) fn manifest(&self, config: &Value, layers: &[Layer]) -> Value {
        let layers: Vec<Value> = layers.iter().map(|layer| self.blob(layer.media_type, &layer.blob)).collect();
        json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.json(CONFIG, config),
            "layers": layers,
        })
    }

    /// Makes this the one image of the layout.
    pub(crate) fn finish(&self, image: &Value) {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [image] });
        fs::write(self.folder.join("index.json"), index.to_string()).unwrap();
    }
}

/// Writes an image as a layout.
pub(crate) fn image(folder: &Path, layers: &[Layer]) -> Layout {
    let layout = Layout::new(folder.to_owned());
    let manifest = layout.manifest(&config(layers), layers);
    layout.finish(&layout.json(MANIFEST, &manifest));
    layout
}
