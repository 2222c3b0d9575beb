//! Layers and archives that promise more than they hold, or hold more than they should.

use std::fs;

use sha2::{Digest, Sha256};

use crate::artefacts::{GZIP, Layer, PLAIN, Tar, ZSTD, digest, gzip};
use crate::scene::Scene;

const GIB: usize = 1 << 30;

/// The digest of these bytes, so many zeros, and the end of a tar.
fn with_zeros(head: &[u8], zeros: usize) -> String {
    let mut hasher = Sha256::new();
    hasher.update(head);
    let piece = vec![0; 1 << 20];
    (0..zeros / piece.len()).for_each(|_| hasher.update(&piece));
    hasher.update([0; 1024]);
    let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The header of a file that is so long.
fn head(kind: u8, length: usize) -> Vec<u8> {
    Tar::new().entry(kind, "zeros", "", "", |header| header.set_size(length as u64)).bytes()
}

/// A frame of raw blocks, and of blocks that say one byte many times (RFC 8878, 3.1.1.2).
fn zstd(raw: &[u8], zeros: usize, end: &[u8]) -> Vec<u8> {
    let mut out = b"\x28\xb5\x2f\xfd\x00\x38".to_vec();
    let block = |kind: usize, length: usize, last: usize| (length << 3 | kind << 1 | last).to_le_bytes();
    raw.chunks(1 << 16).for_each(|chunk| out.extend([&block(0, chunk.len(), 0)[..3], chunk].concat()));
    (0..zeros >> 16).for_each(|_| out.extend([&block(1, 1 << 16, 0)[..3], &[0]].concat()));
    out.extend([&block(0, end.len(), 1)[..3], end].concat());
    out
}

#[test]
fn a_gzip_bomb_takes_no_memory() {
    let scene = Scene::new();
    let head = head(b'0', GIB);
    let blob = [gzip(&head), gzip(&vec![0; 1 << 20]).repeat(GIB >> 20), gzip(&[0; 1024])].concat();
    let base = scene.image([Layer { blob, media_type: GZIP, diff_id: with_zeros(&head, GIB) }]);
    scene.build(&base, "FROM base\nRUN [ -s /zeros ]\n", "type=oci,dest=/dev/null").built();
}

#[test]
fn a_zstd_bomb_takes_no_memory() {
    let scene = Scene::new();
    let head = head(b'0', GIB);
    let blob = zstd(&head, GIB, &[0; 1024]);
    let base = scene.image([Layer { blob, media_type: ZSTD, diff_id: with_zeros(&head, GIB) }]);
    scene.build(&base, "FROM base\nCOPY --from=base bin/busybox /\n", "type=oci,dest=/dev/null").built();
}

#[test]
fn headers_are_bounded() {
    let scene = Scene::new();
    let long = GIB / 2;
    for kind in [b'x', b'L', b'K'] {
        let head = head(kind, long);
        let blob = zstd(&head, long, &[0; 1024]);
        let base = scene.image([Layer { blob: blob.clone(), media_type: ZSTD, diff_id: with_zeros(&head, long) }]);
        let phrase = "the headers of an entry are longer than";
        scene.build(&base, "FROM base\nCOPY Dockerfile /\n", "type=tar,dest=/dev/null").refused(phrase);
        scene.build(&base, "FROM base\nRUN true\n", "type=tar,dest=/dev/null").refused(phrase);
        // What ADD cannot read as a tar is a file.
        scene.write("context/x.tar", &blob);
        scene.build("base=.", "FROM scratch\nADD x.tar /\n", "type=tar,dest=/dev/null").built();
        let first = Tar::new().file("Dockerfile", "FROM scratch\n").bytes();
        let path = scene.write("context.tar", zstd(&[first, head].concat(), long, &[0; 1024]));
        let mut command = scene.place.plywood();
        command.arg("build").arg(path);
        scene.watch(command).refused(phrase);
    }
}

#[test]
fn many_records_are_read_in_no_time() {
    let scene = Scene::new();
    let names: Vec<String> = (0..100_000).map(|number| format!("SCHILY.xattr.user.{number}")).collect();
    let records: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
    let base = scene.image([Tar::new().pax(&records).file("x", "a")]);
    assert_eq!(scene.exported(&base).unwrap()["x"], "Regular 644 0:0 a");
}

/// A header of GNU's for a sparse file: its real size and its pieces, in octal.
fn sparse(real: &str, pieces: &[(&str, &str)], extended: bool) -> impl FnOnce(&mut tar::Header) {
    let (real, pieces) =
        (real.to_owned(), pieces.iter().map(|(a, b)| (a.to_string(), b.to_string())).collect::<Vec<_>>());
    move |header: &mut tar::Header| {
        let gnu = header.as_gnu_mut().unwrap();
        let put = |field: &mut [u8; 12], text: &str| field[..text.len()].copy_from_slice(text.as_bytes());
        put(&mut gnu.realsize, &real);
        gnu.isextended[0] = u8::from(extended);
        for (place, (offset, length)) in gnu.sparse.iter_mut().zip(&pieces) {
            put(&mut place.offset, offset);
            put(&mut place.numbytes, length);
        }
    }
}

#[test]
fn sparse_files_have_their_holes() {
    let scene = Scene::new();
    let tar = Tar::new().entry(b'S', "x", "", "end", sparse("2003", &[("2000", "3")], false));
    let files = scene.files([tar]).unwrap();
    assert!(files["x"].starts_with("Regular 644 0:0 1027 bytes"), "{files:?}");
}

#[test]
fn holes_are_bounded() {
    let scene = Scene::new();
    let huge = || sparse("77777777777", &[("77777777774", "3")], false);
    scene.refuses([Tar::new().entry(b'S', "x", "", "end", huge())], "holes");
    let mut many = Tar::new();
    for number in 0..100 {
        many = many.entry(b'S', number.to_string(), "", "end", sparse("1000000003", &[("1000000000", "3")], false));
    }
    scene.write("context/x.tar", many.clone().entry(b'S', "x", "", "end", huge()).end());
    scene.build("base=.", "FROM scratch\nADD x.tar /\n", "type=tar,dest=/dev/null").refused("holes");
    // A list of holes without end.
    let head = Tar::new().entry(b'S', "x", "", "", sparse("0", &[], true)).bytes();
    let mut block = [0; 512];
    (0..21).for_each(|at| block[at * 24..at * 24 + 24].copy_from_slice(b"000000000000000000000000"));
    block[504] = 1;
    scene.refuses([Layer::plain([head, block.repeat(20_000)].concat())], "the headers of an entry are longer than");
    let pieces = [("1000", "1000"), ("10", "10")];
    scene.refuses([Tar::new().entry(b'S', "x", "", [0; 1040], sparse("2000", &pieces, false))], "sparse");
    let odd = Tar::new().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0")]).file("x", "1\n0\n0\n");
    scene.refuses([odd], "a sparse file in a form that is not understood");
}

#[test]
fn what_is_shorter_than_it_says_is_refused() {
    let scene = Scene::new();
    for size in [10_000, 1 << 33, (1 << 62) + 1, u64::MAX] {
        let tar = Tar::new().entry(b'0', "x", "", "short", |header| header.set_size(size)).end();
        let error = scene.files([Layer::plain(tar)]).expect_err("it is not all there");
        assert!(error.contains("cannot be read"), "{error}");
    }
    let negative = |header: &mut tar::Header| header.as_old_mut().size = [0xff; 12];
    assert!(scene.files([Tar::new().entry(b'0', "x", "", "short", negative)]).is_err());
    let other = Tar::new().pax(&[("size", b"99999999999999999999")]).file("x", "a");
    scene.refuses([other], "the size of an entry cannot be read");
}

#[test]
fn tars_that_are_none_are_refused() {
    let scene = Scene::new();
    let good = Tar::new().file("x", "a".repeat(2000)).file("y", "b").end();
    let layer = |blob: Vec<u8>| Layer { diff_id: digest(&blob), blob, media_type: PLAIN };
    for cut in [100, 512, 600, 2000, 2600] {
        assert!(scene.files([layer(good[..cut].to_vec())]).is_err(), "cut at {cut}");
    }
    let mut wrong = good.clone();
    wrong[0] = b'z';
    scene.refuses([layer(wrong)], "checksum");
    scene.refuses([layer(vec![7; 4096])], "cannot be read");
    scene.refuses([Tar::new().pax(&[("path", b"a")])], "cannot be read");
    for record in [&b"x"[..], b"5 a=b\n", b"99 a=b\n", b"0 a=b\n", b"-1 a=b\n", b"99999999999999999999 a=b\n"] {
        scene.refuses([Tar::new().entry(b'x', "pax", "", record, |_| {}).file("x", "a")], "cannot be read");
    }
    // Without its end, with another behind it: as every reader takes them.
    for odd in [good[..good.len() - 1024].to_vec(), Vec::new(), [&good[..], b"behind the end"].concat()] {
        scene.files([layer(odd)]).unwrap();
    }
}

#[test]
fn names_and_values_may_hold_newlines() {
    let scene = Scene::new();
    let name = format!("{}\nn\n", "n".repeat(150));
    let capability = b"\x01\0\0\x02\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tar = Tar::new().file(&name, "a").pax(&[("SCHILY.xattr.security.capability", capability)]).file("ping", "b");
    let files = scene.files([tar]).unwrap();
    assert_eq!(files[&name], "Regular 644 0:0 a");
    let copy = "FROM base\nCOPY --from=base /ping /pong\nRUN true\n";
    scene.build(&scene.image([Tar::new().file("ping", "b")]), copy, "type=tar,dest=/dev/null").built();
}

#[test]
fn compression_that_is_cut_or_has_something_behind_it() {
    let scene = Scene::new();
    let tar = Tar::new().file("x", "a".repeat(100_000)).end();
    let (zip, std) = (gzip(&tar), zstd(&tar[..512], 0, &tar[512..]));
    let diff_id = digest(&tar);
    for (blob, media_type) in [
        (zip[..zip.len() / 2].to_vec(), GZIP),
        (zip[..zip.len() - 8].to_vec(), GZIP),
        (zip[..zip.len() - 1].to_vec(), GZIP),
        ([&zip[..], b"garbage"].concat(), GZIP),
        ([&zip[..], &gzip(b"more")].concat(), GZIP),
        (vec![0x1f, 0x8b, 8], GZIP),
        ([&b"\x1f\x8b\x08\x08\0\0\0\0\0\0"[..], &[b'n'; 300_000]].concat(), GZIP),
        (std[..std.len() / 2].to_vec(), ZSTD),
        ([&std[..], b"garbage"].concat(), ZSTD),
        (b"\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00".to_vec(), ZSTD),
        (b"\x50\x2a\x4d\x18\xff\xff\xff\xff".to_vec(), ZSTD),
    ] {
        assert!(scene.files([Layer { blob, media_type, diff_id: diff_id.clone() }]).is_err());
    }
    let members = [gzip(&tar[..700]), gzip(b""), gzip(&tar[700..])].concat();
    scene.files([Layer { blob: members, media_type: GZIP, diff_id }]).unwrap();
}

#[test]
fn a_hundred_thousand_entries() {
    let scene = Scene::new();
    let mut tar = Tar::new();
    for number in 0..100_000 {
        tar = tar.symlink(format!("{}/{number}", number % 300), "x");
    }
    let base = scene.image([tar]);
    assert_eq!(scene.exported(&base).unwrap().len(), 100_302);
    scene.build(&base, "FROM base\nCOPY --from=base /7 /new\nCOPY Dockerfile /\n", "type=oci,dest=/dev/null").built();
}

#[test]
fn two_thousand_layers() {
    let scene = Scene::new();
    let layers: Vec<Tar> = (0..2000).map(|number| Tar::new().file(format!("f{number}"), number.to_string())).collect();
    let base = scene.image(layers);
    assert_eq!(scene.exported(&base).unwrap().len(), 2002);
    // More than overlayfs puts together.
    scene
        .build(&base, "FROM base\nRUN true\n", "type=tar,dest=/dev/null")
        .refused("overlayfs puts together at most 500");
    let few: Vec<Tar> = (0..300).map(|number| Tar::new().file(format!("f{number}"), number.to_string())).collect();
    let base = scene.image(few);
    scene.build(&base, "FROM base\nRUN [ $(busybox cat /f299) = 299 ]\n", "type=oci,dest=/dev/null").built();
    assert!(fs::read_dir(scene.place.root().join("tmp")).unwrap().next().is_none());
}
