//! Tars, compressed or not: a mutator that keeps them readable, and a look at how much they hold.
//!
//! Bytes changed at random fail at a header's checksum or at a compressor's. So an input is unpacked first, changed,
//! given its checksums, and packed again; now and then it is left broken.

use std::io::{self, Read, Write};

use libfuzzer_sys::fuzzer_mutate;

const BLOCK: usize = 512;
/// Plain bytes that a mutated input may have.
const LARGEST: u64 = 64 << 10;
/// What headers say that they are (POSIX ustar; GNU tar's letters).
const KINDS: &[u8] = b"0123456789LKSxgM\0V";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

const PACKINGS: [Packing; 5] = [Packing::Plain, Packing::Gzip, Packing::Bzip2, Packing::Xz, Packing::Zstd];

impl Packing {
    fn of(data: &[u8]) -> Self {
        match data {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }

    fn pack(self, plain: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(plain.to_vec()),
            Self::Gzip => {
                let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                writer.write_all(plain)?;
                writer.finish()
            }
            Self::Bzip2 => {
                let mut writer = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                writer.write_all(plain)?;
                writer.finish()
            }
            Self::Xz => {
                let mut writer = liblzma::write::XzEncoder::new(Vec::new(), 0);
                writer.write_all(plain)?;
                writer.finish()
            }
            Self::Zstd => zstd::stream::encode_all(plain, 1),
        }
    }
}

/// What is in an input, up to a limit; none if it cannot be unpacked.
#[must_use]
pub fn plain(data: &[u8], limit: u64) -> Option<Vec<u8>> {
    let mut plain = Vec::new();
    context::archive::decompress(data).ok()?.take(limit + 1).read_to_end(&mut plain).ok()?;
    (plain.len() as u64 <= limit).then_some(plain)
}

/// Whether an input unpacks to little enough for each execution to be short, holes of sparse files included.
#[must_use]
pub fn is_small(data: &[u8], limit: u64) -> bool {
    let mut unpacked = 0;
    let Ok(mut source) = context::archive::decompress(data) else { return true };
    let mut buffer = [0; 8192];
    while unpacked <= limit {
        match source.read(&mut buffer) {
            // What is malformed ends where it is.
            Ok(0) | Err(_) => break,
            Ok(length) => unpacked += length as u64,
        }
    }
    if unpacked > limit {
        return false;
    }
    let Ok(source) = context::archive::decompress(data) else { return true };
    let mut archive = tar::Archive::new(source);
    let Ok(entries) = archive.entries() else { return true };
    let mut holes = 0_u64;
    for entry in entries.map_while(Result::ok) {
        holes = holes.saturating_add(if entry.header().entry_type().is_gnu_sparse() { entry.size() } else { 0 });
    }
    holes <= limit
}

/// A source of small numbers (a linear congruence, of which the high bits are good enough).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % limit.max(1) as u64).unwrap_or(0)
    }
}

/// The mutator of the tar targets, for `fuzz_mutator!`.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let mut dice = Dice(seed.into());
    let packing = Packing::of(&data[..size]);
    let unpacked = if packing == Packing::Plain { Some(data[..size].to_vec()) } else { plain(&data[..size], LARGEST) };
    let (Some(mut tar), true) = (unpacked, dice.below(16) > 0) else {
        return fuzzer_mutate(data, size, max_size);
    };
    change(&mut tar, &mut dice);
    if dice.below(8) > 0 {
        mend(&mut tar);
    }
    let packing = match (dice.below(64), packing) {
        (0, _) => PACKINGS[dice.below(PACKINGS.len())],
        (1..=16, _) => Packing::Plain,
        _ => packing,
    };
    match packing.pack(&tar) {
        Ok(packed) if packed.len() <= max_size => {
            data[..packed.len()].copy_from_slice(&packed);
            packed.len()
        }
        _ => fuzzer_mutate(data, size, max_size),
    }
}

/// One or a few changes: of a field, of whole blocks, or of any bytes.
fn change(tar: &mut Vec<u8>, dice: &mut Dice) {
    for _ in 0..=dice.below(3) {
        let headers = headers(tar);
        if headers.is_empty() || dice.below(4) == 0 {
            let length = tar.len();
            tar.resize(length + BLOCK, 0);
            let length = fuzzer_mutate(tar, length, length + BLOCK);
            tar.truncate(length);
            continue;
        }
        let (start, end) = headers[dice.below(headers.len())];
        match dice.below(8) {
            // The kind of an entry.
            0 => tar[start + 156] = KINDS[dice.below(KINDS.len())],
            // An entry twice, or moved, or gone.
            1 => {
                let entry = tar[start..end].to_vec();
                let (to, _) = headers[dice.below(headers.len())];
                tar.splice(to..to, entry);
            }
            2 => drop(tar.drain(start..end)),
            // A name of one is another's, or what another links to.
            3 | 4 => {
                let (from, _) = headers[dice.below(headers.len())];
                let field = |dice: &mut Dice| if dice.below(2) == 0 { 0 } else { 157 };
                let (from, to) = (from + field(dice), start + field(dice));
                let name = tar[from..from + 100].to_vec();
                tar[to..to + 100].copy_from_slice(&name);
            }
            // A field: name, mode, owner, size, time, kind and link; magic, device numbers, prefix or sparse map.
            5 | 6 => {
                const FIELDS: [(usize, usize); 12] = [
                    (0, 100),
                    (100, 108),
                    (108, 124),
                    (124, 136),
                    (136, 148),
                    (157, 257),
                    (257, 265),
                    (329, 345),
                    (345, 500),
                    (386, 482),
                    (482, 483),
                    (483, 495),
                ];
                let (from, to) = FIELDS[dice.below(FIELDS.len())];
                let length = fuzzer_mutate(&mut tar[start + from..start + to], to - from, to - from);
                tar[start + from + length..start + to].fill(0);
            }
            // The content, in which extended headers and long names lie.
            _ if end > start + BLOCK => {
                let size = end - start - BLOCK;
                fuzzer_mutate(&mut tar[start + BLOCK..end], size, size);
            }
            _ => {}
        }
    }
}

/// Where the headers are, and what follows each: as its size says, or to the end.
fn headers(tar: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at + BLOCK <= tar.len() {
        let block = &tar[at..at + BLOCK];
        let digits = block[124..136].iter().skip_while(|byte| **byte == b' ');
        let size = digits
            .map_while(|byte| char::from(*byte).to_digit(8))
            .fold(0_usize, |size, digit| size.saturating_mul(8).saturating_add(digit as usize));
        let end = at.saturating_add(BLOCK).saturating_add(size.div_ceil(BLOCK).saturating_mul(BLOCK));
        let end = if block[124] & 0x80 == 0 && end <= tar.len() { end } else { at + BLOCK };
        if block.iter().any(|byte| *byte != 0) {
            found.push((at, end));
        }
        at = end;
    }
    found
}

/// Gives headers the checksums that they should have.
fn mend(tar: &mut [u8]) {
    for (at, _) in headers(tar) {
        let header = &mut tar[at..at + BLOCK];
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
}
