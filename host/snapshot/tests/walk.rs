//! Walking a tree before and after finds what overlayfs finds: changes made up by chance, the same in an overlay and in a
//! tree of its own. PLYWOOD_CASES says how many, PLYWOOD_SEED with which number the first one is made. Wants root.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "a test that cannot go on ends")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use oci::DiffId;
use oci::media_type::Compression;
use oci::tree::{Entry, File, Inode, Kind, Time, Tree};

use plywood_snapshot::apply::{self, Abilities};
use plywood_snapshot::assemble::{self, Body, Part};
use plywood_snapshot::compress::Level;
use plywood_snapshot::walk::{self, Snapshot};
use plywood_snapshot::{LayerWriter, diff, index, merged};
use store::Store;

const ABILITIES: Abilities = Abilities { devices: true, user_xattrs: false, one_user: false };

fn none(_: &[u8]) -> bool {
    false
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

fn entry(kind: Kind, mode: u32, owner: (u32, u32)) -> Entry {
    let mtime = Time { seconds: 1_600_000_000, nanoseconds: 5 };
    Entry { kind, mode, uid: owner.0, gid: owner.1, mtime, xattrs: Vec::new() }
}

fn part(path: &str, kind: Kind, mode: u32, owner: (u32, u32), text: Option<&str>) -> Part {
    let body = text.map(|text| Body::Bytes(text.as_bytes().to_vec()));
    Part { path: path.as_bytes().to_vec(), entry: entry(kind, mode, owner), body }
}

fn file(path: &str, text: &str) -> Part {
    let inode = Inode { layer: None, path: path.as_bytes().to_vec() };
    part(path, Kind::File(File { size: text.len() as u64, digest: None, inode }), 0o644, (0, 0), Some(text))
}

fn dir(path: &str) -> Part {
    part(path, Kind::Dir { opaque: false }, 0o755, (3, 4), None)
}

/// Two layers, of which the upper takes away, hides and replaces.
fn base(store: &Store) -> Vec<DiffId> {
    let layer = |parts| assemble::layer(store, parts, Compression::Zstd, Level::fast()).unwrap();
    let lower = vec![
        dir("a"),
        file("a/one", "1"),
        file("a/two", "22"),
        dir("a/deep"),
        file("a/deep/x", "x"),
        dir("b"),
        file("b/gone", "never seen"),
        dir("c"),
        file("c/hidden", "never seen either"),
        part("link", Kind::Symlink(b"a/one".to_vec()), 0o777, (0, 0), None),
        file("plain", "plain"),
        part("pipe", Kind::Fifo, 0o600, (1, 2), None),
    ];
    let upper = vec![
        dir("a"),
        file("a/two", "two"),
        dir("b"),
        part("b/gone", Kind::Whiteout, 0o644, (0, 0), None),
        file("b/three", "3"),
        part("c", Kind::Dir { opaque: true }, 0o700, (5, 6), None),
        file("c/seen", "seen"),
        part("zero", Kind::Char(1, 5), 0o666, (0, 0), None),
    ];
    vec![layer(lower), layer(upper)]
}

/// A change, made in the tree at `root`. What it cannot be made to it is not made to, in both trees alike.
fn change(root: &Path, number: usize, how: usize, path: &str, other: &str) {
    let (at, to) = (root.join(path), root.join(other));
    let text = format!("{number} {how}");
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_500_000_000 + number as u64, 7);
    let settle = |path: &Path| {
        if let Ok(file) = fs::File::options().write(true).open(path).or_else(|_| fs::File::open(path)) {
            let _ = file.set_times(fs::FileTimes::new().set_modified(time));
        }
    };
    let is_file = |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    let free = |path: &Path| fs::symlink_metadata(path).is_err();
    match how {
        // A new file, or another content.
        0 | 1 if (free(&at) || is_file(&at)) && fs::write(&at, &text).is_ok() => settle(&at),
        // The same size and time, another content.
        2 if is_file(&at) => {
            let meta = fs::metadata(&at).unwrap();
            let length = usize::try_from(meta.len()).unwrap();
            fs::write(&at, &text.repeat(9).as_bytes()[..length.min(text.len() * 9)]).unwrap();
            let times = fs::FileTimes::new().set_modified(meta.modified().unwrap());
            fs::File::options().write(true).open(&at).unwrap().set_times(times).unwrap();
        }
        // A write that changes nothing.
        3 if is_file(&at) => {
            let (bytes, modified) = (fs::read(&at).unwrap(), fs::metadata(&at).unwrap().modified().unwrap());
            fs::write(&at, bytes).unwrap();
            let times = fs::FileTimes::new().set_modified(modified);
            fs::File::options().write(true).open(&at).unwrap().set_times(times).unwrap();
        }
        4 if at.exists() && !at.is_symlink() => {
            fs::set_permissions(&at, fs::Permissions::from_mode(0o600 + u32::try_from(number % 8).unwrap())).unwrap();
        }
        5 if !free(&at) => std::os::unix::fs::lchown(&at, Some(number as u32), Some(9)).unwrap(),
        // Of one file over another, of folders; folders of a lower layer do not move in an overlay.
        6 if is_file(&at) && (is_file(&to) || free(&to)) => drop(fs::rename(&at, &to)),
        7 if is_file(&at) || at.is_symlink() => fs::remove_file(&at).unwrap(),
        8 if at.is_dir() && !at.is_symlink() => fs::remove_dir_all(&at).unwrap(),
        9 if free(&at) => drop(fs::create_dir(&at)),
        10 if free(&at) => drop(symlink(other, &at)),
        // A file becomes a folder and a folder a file.
        11 if is_file(&at) => {
            fs::remove_file(&at).unwrap();
            fs::create_dir(&at).unwrap();
            fs::write(at.join("inner"), &text).unwrap();
            settle(&at.join("inner"));
        }
        12 if at.is_dir() && !at.is_symlink() => {
            fs::remove_dir_all(&at).unwrap();
            fs::write(&at, &text).unwrap();
            settle(&at);
        }
        // Away and back again.
        13 if at.is_dir() && !at.is_symlink() => {
            fs::remove_dir_all(&at).unwrap();
            fs::create_dir(&at).unwrap();
            fs::write(at.join("again"), &text).unwrap();
            settle(&at.join("again"));
        }
        // Two names of a new file.
        14 if free(&at) && free(&to) && fs::write(&at, &text).is_ok() => {
            settle(&at);
            let _ = fs::hard_link(&at, &to);
        }
        15 if is_file(&at) => {
            let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            sys::xattr::set(&at, "security.capability", &capability).unwrap();
        }
        16 if !at.is_symlink() => settle(&at),
        17 if is_file(&at) => chown(&at, Some(0), Some(0)).unwrap(),
        _ => {}
    }
}

const PATHS: [&str; 16] = [
    "a",
    "a/one",
    "a/two",
    "a/deep",
    "a/deep/x",
    "a/new",
    "b",
    "b/three",
    "b/gone",
    "c",
    "c/seen",
    "c/hidden",
    "link",
    "plain",
    "fresh",
    "fresh/file",
];

/// What of a tree counts, and which names are one file's. Folders bear the time at which something was made in them.
fn flat(tree: &Tree) -> (BTreeMap<String, String>, BTreeSet<BTreeSet<String>>) {
    let mut names: BTreeMap<Inode, BTreeSet<String>> = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for (path, entry) in tree.iter().filter(|(path, _)| !path.is_empty()) {
        let path = String::from_utf8_lossy(path).into_owned();
        let own = format!("{:o} {}:{} {:?}", entry.mode, entry.uid, entry.gid, entry.xattrs);
        let what = match &entry.kind {
            Kind::File(file) => {
                names.entry(file.inode.clone()).or_default().insert(path.clone());
                format!("file {:?} {:?} {own}", file.digest, entry.mtime)
            }
            Kind::Dir { .. } => format!("dir {own}"),
            kind => format!("{kind:?} {own}"),
        };
        entries.insert(path, what);
    }
    (entries, names.into_values().collect())
}

#[test]
fn walking_finds_what_an_overlay_finds() {
    assert!(sys::rustix::process::geteuid().is_root(), "this test mounts: run it as root");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let now = || u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap();
    let (first, many) = (number("PLYWOOD_SEED").unwrap_or_else(now), number("PLYWOOD_CASES").unwrap_or(300));
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let layers = base(&store);
    let tree = index::tree(&store, &layers, &BTreeMap::new()).unwrap();
    let blob = |layer: DiffId| store.blob(store.variants(layer)[0].digest);
    let unpacked: Vec<PathBuf> = layers
        .iter()
        .rev()
        .map(|layer| {
            let target = folder.path().join(layer.0.hex());
            fs::create_dir(&target).unwrap();
            apply::unpack(fs::File::open(blob(*layer)).unwrap(), *layer, &target, ABILITIES).unwrap();
            target
        })
        .collect();
    let blobs = layers.iter().map(|layer| (*layer, blob(*layer))).collect();
    for seed in first..first.wrapping_add(many) {
        let place = tempfile::tempdir_in(folder.path()).unwrap();
        let [own, upper, work] = ["own", "upper", "work"].map(|name| place.path().join(name));
        for path in [&own, &upper, &work] {
            fs::create_dir(path).unwrap();
        }
        merged::change(&Tree::default(), &tree, &blobs, &own, &none, ABILITIES).unwrap();
        let before = Snapshot::take(&own, &BTreeSet::new()).unwrap();
        let lowers: Vec<&Path> = unpacked.iter().map(PathBuf::as_path).collect();
        let overlay = sys::mount::overlay(&lowers, Some((&upper, &work)), false).unwrap();
        let mounted = PathBuf::from(format!("/proc/self/fd/{}", overlay.as_raw_fd()));
        let mut random = Random(seed);
        let mut made = Vec::new();
        for number in 0..1 + random.below(12) {
            let (how, path, other) = (random.below(18), random.below(PATHS.len()), random.below(PATHS.len()));
            for root in [&own, &mounted] {
                change(root, number, how, PATHS[path], PATHS[other]);
            }
            made.push(format!("{how} {} {}", PATHS[path], PATHS[other]));
        }
        let writer = || LayerWriter::new(&store, Compression::None, Level::fast()).unwrap();
        let by_overlay =
            diff::write(&diff::Changes { upper: &upper, lowers: &unpacked, one_user: None }, writer()).unwrap();
        let (by_walk, after) = walk::write(&before, &tree, &own, &BTreeSet::new(), writer()).unwrap();
        let with = |layer: DiffId| {
            let stack: Vec<DiffId> = layers.iter().copied().chain([layer]).collect();
            index::tree(&store, &stack, &BTreeMap::new()).unwrap()
        };
        let (expected, found) = (with(by_overlay), with(by_walk));
        assert_eq!(flat(&found), flat(&expected), "PLYWOOD_SEED={seed}: {made:#?}");
        // What was found once is not found again.
        let (nothing, _) = walk::write(&after, &found, &own, &BTreeSet::new(), writer()).unwrap();
        assert!(index::of(&store, nothing).unwrap().entries.is_empty(), "PLYWOOD_SEED={seed}: {made:#?}");
        // On top of what was there before, what was found gives what is there now.
        let again = place.path().join("again");
        fs::create_dir(&again).unwrap();
        merged::change(&Tree::default(), &tree, &blobs, &again, &none, ABILITIES).unwrap();
        let mut more: BTreeMap<DiffId, PathBuf> = blobs.clone();
        more.extend([(by_overlay, blob(by_overlay)), (by_walk, blob(by_walk))]);
        let whole = |root: &Path| {
            let layer = diff::write(&diff::Changes { upper: root, lowers: &[], one_user: None }, writer()).unwrap();
            index::tree(&store, &[layer], &BTreeMap::new()).unwrap()
        };
        merged::change(&tree, &expected, &more, &again, &none, ABILITIES).unwrap();
        assert_eq!(flat(&whole(&again)), flat(&expected), "PLYWOOD_SEED={seed}: {made:#?}");
        // And what was changed can be changed back.
        merged::change(&found, &tree, &more, &own, &none, ABILITIES).unwrap();
        assert_eq!(flat(&whole(&own)), flat(&tree), "PLYWOOD_SEED={seed}: {made:#?}");
    }
}

#[test]
fn what_is_put_together_is_what_the_layers_say() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap();
    let layers = base(&store);
    let tree = index::tree(&store, &layers, &BTreeMap::new()).unwrap();
    let blobs = layers.iter().map(|layer| (*layer, store.blob(store.variants(*layer)[0].digest))).collect();
    let own = folder.path().join("own");
    fs::create_dir(&own).unwrap();
    merged::change(&Tree::default(), &tree, &blobs, &own, &none, ABILITIES).unwrap();
    let writer = LayerWriter::new(&store, Compression::None, Level::fast()).unwrap();
    let whole = diff::write(&diff::Changes { upper: &own, lowers: &[], one_user: None }, writer).unwrap();
    let again = index::tree(&store, &[whole], &BTreeMap::new()).unwrap();
    assert_eq!(flat(&again).0, flat(&tree).0);
    // A blob that is another layer's is found out.
    let swapped =
        layers.iter().zip(layers.iter().rev()).map(|(layer, other)| (*layer, blobs_of(&store, *other))).collect();
    let target = folder.path().join("other");
    fs::create_dir(&target).unwrap();
    assert!(merged::change(&Tree::default(), &tree, &swapped, &target, &none, ABILITIES).is_err());
}

fn blobs_of(store: &Store, layer: DiffId) -> PathBuf {
    store.blob(store.variants(layer)[0].digest)
}
