//! Layers: entries read and an index made, of any bytes, compressed or not.

#![no_main]

use std::io::Read;

use libfuzzer_sys::{Corpus, fuzz_mutator, fuzz_target};
use oci::tree::{self, Kind, Layer, Tree};
use oci::{DiffId, Digest};
use plywood_fuzz::{memory, packed};
use snapshot::{compress, index, read};

/// Plain bytes of an input.
const LARGEST: u64 = 1 << 20;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    packed::mutate(data, size, max_size, seed)
});

fuzz_target!(|data: &[u8]| -> Corpus {
    if !packed::is_small(data, LARGEST) {
        return Corpus::Reject;
    }
    // Buffers, and what decompressors in Rust keep; the tree of a tar is less than a few times its size.
    memory::within(16 << 20, || {
        let _ = index::decode(data);
        let mut bytes = Vec::new();
        let whole = compress::reader(data).and_then(|mut source| source.read_to_end(&mut bytes)).is_ok();
        let read = read::entries(&bytes[..], |item, _| {
            assert!(is_clean(&item.path), "an entry outside: {:?}", item.path);
            Ok(())
        });
        let made = index::of_blob(data, DiffId(Digest::of(&bytes)));
        assert!(!(read.is_err() && made.is_ok()), "an index of entries that cannot be read");
        assert!(whole || made.is_err(), "an index of a broken blob");
        if let Ok(layer) = made {
            hold(&layer);
        }
    });
    Corpus::Keep
});

fn is_clean(path: &[u8]) -> bool {
    tree::clean(path) == path
}

fn hold(layer: &Layer) {
    assert!(layer.entries.iter().all(|(path, _)| is_clean(path)), "a path outside");
    assert!(layer.entries.windows(2).all(|pair| pair[0].0 < pair[1].0), "not sorted, or twice the same");
    assert_eq!(index::decode(&index::encode(layer)).as_ref(), Some(layer));
    let mut tree = Tree::default();
    tree.apply(layer, DiffId(Digest::of(b"layer")));
    for (path, entry) in tree.iter() {
        assert!(!matches!(entry.kind, Kind::Whiteout | Kind::Dir { opaque: true }), "a mark in a tree");
        let _ = tree.resolve(path);
    }
}
