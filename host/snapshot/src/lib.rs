//! The bytes of file-system trees: layers read, indexed, unpacked, made from a step's changes or from copied files.
//!
//! A layer's *index* is made once, while its bytes pass: it is the truth for owner, mode and device numbers, whatever
//! the tree on disk can hold. Layers that this crate writes are deterministic: sorted, with fixed headers.

pub mod apply;
pub mod assemble;
pub mod compress;
pub mod diff;
mod error;
pub mod index;
pub mod merged;
pub mod pieces;
pub mod read;
pub mod rewrite;
pub mod walk;
mod write;

pub use error::Error;
pub use write::LayerWriter;

#[cfg(test)]
mod tests {
    use super::*;
    use oci::media_type::Compression;
    use oci::tree::{Entry, File, Inode, Kind, Time};

    /// Entries of every kind that an ordinary user can make, of that user's.
    fn parts() -> Vec<assemble::Part> {
        let (uid, gid) = (sys::rustix::process::geteuid().as_raw(), sys::rustix::process::getegid().as_raw());
        let entry = |kind, mode, seconds, nanoseconds| Entry {
            kind,
            mode,
            uid,
            gid,
            mtime: Time { seconds, nanoseconds },
            xattrs: Vec::new(),
        };
        let file = |path: &str, size| {
            Kind::File(File { size, digest: None, inode: Inode { layer: None, path: path.as_bytes().to_vec() } })
        };
        let long = format!("d/{}", "n".repeat(200));
        let bytes = |text: &str| Some(assemble::Body::Bytes(text.as_bytes().to_vec()));
        let part = |path: &str, entry, body| assemble::Part { path: path.as_bytes().to_vec(), entry, body };
        vec![
            part("d", entry(Kind::Dir { opaque: false }, 0o1777, 5, 0), None),
            part("d/file", entry(file("d/file", 4), 0o4755, 1_700_000_000, 123_456_789), bytes("text")),
            part("d/link", entry(Kind::Symlink(b"../elsewhere".to_vec()), 0o777, 7, 0), None),
            part(&long, entry(file(&long, 0), 0o644, -3, 500_000_000), bytes("")),
            part("d/pipe", entry(Kind::Fifo, 0o600, 9, 0), None),
            part("d/zz", entry(file("d/file", 4), 0o4755, 1_700_000_000, 123_456_789), None),
            part("d-e", entry(file("d-e", 3), 0o600, 1, 0), bytes("\u{e9}!")),
        ]
    }

    #[test]
    fn what_is_written_unpacks_to_what_is_written_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store::Store::open(&folder.path().join("store")).expect("a store");
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            let level = compress::Level::default_of(compression);
            let layer = assemble::layer(&store, parts(), compression, level).expect("a layer");
            let blobs = store.variants(layer);
            let blob = blobs.iter().find(|blob| blob.compression == compression).expect("its blob");
            let target = folder.path().join(format!("{compression:?}"));
            std::fs::create_dir(&target).expect("a folder");
            let abilities = apply::Abilities { devices: false, user_xattrs: true, one_user: false };
            let source = std::fs::File::open(store.blob(blob.digest)).expect("the blob");
            apply::unpack(source, layer, &target, abilities).expect("a tree");
            let writer = LayerWriter::new(&store, compression, level).expect("a writer");
            let again =
                diff::write(&diff::Changes { upper: &target, lowers: &[], one_user: None }, writer).expect("a layer");
            assert_eq!(again, layer, "{compression:?}");
        }
    }

    #[test]
    fn what_is_rewritten_differs_in_times_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store::Store::open(&folder.path().join("store")).expect("a store");
        let mut parts = parts();
        let whiteout = Entry { kind: Kind::Whiteout, ..Entry::dir(0o644, Time { seconds: 50, nanoseconds: 0 }) };
        let hiding =
            Entry { kind: Kind::Dir { opaque: true }, ..Entry::dir(0o700, Time { seconds: 50, nanoseconds: 1 }) };
        parts.push(assemble::Part { path: b"gone".to_vec(), entry: whiteout, body: None });
        parts.push(assemble::Part { path: b"hiding".to_vec(), entry: hiding, body: None });
        let level = compress::Level::fast();
        let layer = assemble::layer(&store, parts, Compression::Zstd, level).expect("a layer");
        let young = rewrite::not_after(&store, layer, 2_000_000_000, Compression::Gzip).expect("a layer");
        assert_eq!(young, layer, "nothing is as young as that");
        let rewritten = rewrite::not_after(&store, layer, 6, Compression::Gzip).expect("a layer");
        let (mut before, after) = (index::of(&store, layer).expect("it"), index::of(&store, rewritten).expect("it"));
        for (_, entry) in &mut before.entries {
            entry.mtime = entry.mtime.min(Time { seconds: 6, nanoseconds: 0 });
        }
        assert_eq!(before, after);
        // And the blob says the same. A mark of removal has no time of its own there.
        let blob = std::fs::File::open(store.blob(store.variants(rewritten)[0].digest)).expect("the blob");
        let read = index::of_blob(blob, rewritten).expect("an index");
        let times = |layer: oci::tree::Layer| {
            let real = layer.entries.into_iter().filter(|(_, entry)| entry.kind != Kind::Whiteout);
            real.map(|(path, entry)| (path, entry.mtime)).collect::<std::collections::BTreeMap<_, _>>()
        };
        assert_eq!(times(read), times(after));
    }

    #[test]
    fn a_blob_that_is_another_layer_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = store::Store::open(&folder.path().join("store")).expect("a store");
        let level = compress::Level::fast();
        let layer = assemble::layer(&store, parts(), Compression::Gzip, level).expect("a layer");
        let blob = std::fs::File::open(store.blob(store.variants(layer)[0].digest)).expect("the blob");
        let other = oci::DiffId(oci::Digest::of(b"other"));
        assert!(matches!(index::of_blob(blob, other), Err(Error::Mismatch { .. })));
    }
}
