//! References, digests, platforms and the documents of images: what is read is written as it is read again.

#![no_main]

use std::fmt::{Debug, Display};
use std::str::FromStr;

use libfuzzer_sys::fuzz_target;
use oci::{ChainId, Digest, ImageConfig, Index, Manifest, Platform, Reference};
use plywood_fuzz::memory;
use serde::Serialize;
use serde::de::DeserializeOwned;

fuzz_target!(|data: &[u8]| {
    memory::within((1 << 20) + 2000 * data.len(), || {
        if let Ok(text) = std::str::from_utf8(data) {
            names(text);
        }
        if let Some(config) = document::<ImageConfig>(data) {
            let platform = config.platform();
            let _ = (Platform::host().rank(&platform), platform.rank(&Platform::host()), platform.to_string());
            let _ = ChainId::of(&config.rootfs.diff_ids);
            let mut same = config.clone();
            same.set_platform(&platform);
            assert_eq!(same.platform(), platform, "a platform that is not in normal form");
            let mut run = config.config;
            for name in ["PATH", "", "A"] {
                run.set_env(name, "x=y");
                assert_eq!(run.env(name), Some("x=y"));
            }
        }
        if let Some(manifest) = document::<Manifest>(data) {
            manifest.layers().iter().for_each(|layer| _ = oci::digest_of(layer));
        }
        if let Some(index) = document::<Index>(data) {
            for descriptor in index.manifests() {
                let _ = oci::digest_of(descriptor);
                descriptor.platform().iter().for_each(|platform| _ = Platform::from(platform).to_string());
            }
        }
    });
});

/// What displays as itself.
fn round<T: FromStr + Display>(text: &str) -> Option<T> {
    let value: T = text.parse().ok()?;
    let shown = value.to_string();
    let again = shown.parse::<T>().ok().map(|again| again.to_string());
    assert_eq!(again, Some(shown), "{text:?} is not read as it is written");
    Some(value)
}

fn names(text: &str) {
    if let Some(reference) = round::<Reference>(text) {
        let digest = Digest::of(text.as_bytes());
        let pinned = reference.at(digest);
        assert_eq!((pinned.digest(), pinned.locator()), (Some(digest), digest.to_string()));
        assert!(pinned.to_string().parse::<Reference>().is_ok_and(|again| again == pinned));
        assert!(!reference.locator().is_empty() && !reference.registry().is_empty());
        assert!(!reference.repository().split('/').any(|part| matches!(part, "" | "." | "..")));
    }
    if let Some(digest) = round::<Digest>(text) {
        assert_eq!(digest.to_string(), text);
    }
    if let Some(platform) = round::<Platform>(text) {
        assert_eq!(platform.rank(&platform), Some(0));
    }
}

fn document<T: Serialize + DeserializeOwned + PartialEq + Debug>(data: &[u8]) -> Option<T> {
    let document: T = serde_json::from_slice(data).ok()?;
    let bytes = serde_json::to_vec(&document).expect("a document that was read can be written");
    let again: T = serde_json::from_slice(&bytes).expect("a document that was written can be read");
    assert_eq!(again, document);
    Some(document)
}
