//! Archives as contexts: what is unpacked lies in its folder and nowhere else, and goes with it.

#![no_main]

use std::fs;
use std::io::Read;

use libfuzzer_sys::{Corpus, fuzz_mutator, fuzz_target};
use oci::tree::{self, Kind};
use plywood_fuzz::{memory, packed};

/// Plain bytes of an input.
const LARGEST: u64 = 1 << 20;

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    packed::mutate(data, size, max_size, seed)
});

fuzz_target!(|data: &[u8]| -> Corpus {
    if !packed::is_small(data, LARGEST) {
        return Corpus::Reject;
    }
    memory::within(16 << 20, || {
        let is_tar = context::archive::is_tar(data);
        // `run` gives the process a folder for temporary files that is its own.
        let place = std::env::temp_dir();
        let read = context::archive::read(data, data.len().is_multiple_of(2));
        match &read {
            Ok(context) => hold(context),
            Err(error) => drop(error.to_string()),
        }
        let unpacked = read.as_ref().map_or(0, |context| usize::from(context.folder.starts_with(&place)));
        assert_eq!(fs::read_dir(&place).map_or(0, Iterator::count), unpacked, "something else was written");
        let has_entries = read.as_ref().is_ok_and(|context| context.tree.iter().next().is_some());
        assert!(is_tar || !has_entries, "no tar has entries");
        drop(read);
        assert_eq!(fs::read_dir(&place).map_or(0, Iterator::count), 0, "something is left behind");
    });
    Corpus::Keep
});

fn hold(context: &context::Context) {
    for (path, entry) in context.tree.iter() {
        assert!(!path.is_empty() && tree::clean(path) == *path, "a path outside: {path:?}");
        assert!(context.tree.is_dir(tree::parent(path)), "no folder holds {path:?}");
        if let Kind::File(file) = &entry.kind {
            let name = String::from_utf8(file.inode.path.clone()).expect("a number");
            assert!(name.bytes().all(|byte| byte.is_ascii_digit()), "a name of the archive is a path: {name}");
            let mut bytes = Vec::new();
            fs::File::open(context.folder.join(name))
                .and_then(|mut file| file.read_to_end(&mut bytes))
                .expect("a file");
            assert_eq!(bytes.len() as u64, file.size);
        }
    }
    for file in fs::read_dir(&context.folder).expect("the folder") {
        assert!(file.is_ok_and(|file| file.file_type().is_ok_and(|kind| kind.is_file())), "no plain file");
    }
}
