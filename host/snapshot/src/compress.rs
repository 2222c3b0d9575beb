//! Compressing and decompressing layers.
//!
//! gzip is written in members of 1 MiB, compressed in parallel and put in order: RFC 1952 (2.2) lets a file have many,
//! and every reader of layers that was tried takes them. Equal input gives equal output, however many threads work.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc;
use std::thread;

use libdeflater::{CompressionLvl, Compressor};
use oci::media_type::Compression;

/// Bytes of a gzip member before compression.
const MEMBER: usize = 1 << 20;
/// Members under way per thread.
const DEPTH: usize = 2;

/// How hard to compress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(i32);

impl Level {
    /// The level that is written when none is asked for: for gzip, as small as zlib's default in a third of its time.
    #[must_use]
    pub fn default_of(compression: Compression) -> Self {
        Self(if compression == Compression::Gzip { 4 } else { 3 })
    }

    /// For what stays on this machine.
    #[must_use]
    pub fn fast() -> Self {
        Self(1)
    }
}

/// Reads whatever `source` holds, by its first bytes: plain, gzip of any number of members, or zstd.
///
/// # Errors
/// When it cannot be read.
pub fn reader<'r>(source: impl Read + Send + 'r) -> io::Result<Box<dyn Read + Send + 'r>> {
    let mut source = BufReader::with_capacity(256 << 10, source);
    let head = source.fill_buf()?;
    Ok(if head.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::bufread::MultiGzDecoder::new(source))
    } else if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) || is_skippable_frame(head) {
        Box::new(zstd::stream::read::Decoder::with_buffer(source)?)
    } else {
        Box::new(source)
    })
}

/// zstd data may start with frames to be skipped (RFC 8878, 3.1.2).
fn is_skippable_frame(head: &[u8]) -> bool {
    head.len() >= 4 && head[0] & 0xf0 == 0x50 && head[1..4] == [0x2a, 0x4d, 0x18]
}

/// A writer that compresses; [`Writer::finish`] ends it and gives back what it wrote to.
pub enum Writer<W: Write + Send + 'static> {
    /// As it is.
    Plain(W),
    /// In parallel members.
    Gzip(GzipWriter<W>),
    /// In one frame.
    Zstd(zstd::stream::write::Encoder<'static, W>),
}

impl<W: Write + Send + 'static> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain",
            Self::Gzip(_) => "Gzip",
            Self::Zstd(_) => "Zstd",
        })
    }
}

impl<W: Write + Send + 'static> Writer<W> {
    /// Compresses into `sink`.
    ///
    /// # Errors
    /// When the compressor cannot be set up.
    pub fn new(sink: W, compression: Compression, level: Level) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::Plain(sink),
            Compression::Gzip => Self::Gzip(GzipWriter::new(sink, level)),
            Compression::Zstd => Self::Zstd(zstd::stream::write::Encoder::new(sink, level.0)?),
        })
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// When the sink fails.
    pub fn finish(self) -> io::Result<W> {
        match self {
            Self::Plain(mut sink) => sink.flush().map(|()| sink),
            Self::Gzip(writer) => writer.finish(),
            Self::Zstd(encoder) => encoder.finish(),
        }
    }
}

impl<W: Write + Send + 'static> Write for Writer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(sink) => sink.write(bytes),
            Self::Gzip(writer) => writer.write(bytes),
            Self::Zstd(encoder) => encoder.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(sink) => sink.flush(),
            // A flush would cut a member short and make the bytes depend on when it came.
            Self::Gzip(_) | Self::Zstd(_) => Ok(()),
        }
    }
}

type Job = (Vec<u8>, mpsc::SyncSender<io::Result<Vec<u8>>>);

/// Writes gzip members that threads compress; a further thread writes them in order.
pub struct GzipWriter<W: Write + Send + 'static> {
    state: State<W>,
    level: Level,
    buffer: Vec<u8>,
    any: bool,
}

/// A stream of one member is not worth a thread.
enum State<W: Write + Send + 'static> {
    Single(W),
    Parallel(Parallel<W>),
    Done,
}

struct Parallel<W> {
    jobs: mpsc::SyncSender<Job>,
    order: mpsc::SyncSender<mpsc::Receiver<io::Result<Vec<u8>>>>,
    writer: thread::JoinHandle<io::Result<W>>,
}

impl<W: Write + Send + 'static> GzipWriter<W> {
    fn new(sink: W, level: Level) -> Self {
        Self { state: State::Single(sink), level, buffer: Vec::new(), any: false }
    }

    /// Hands a full buffer on.
    fn submit(&mut self) -> io::Result<()> {
        let data = std::mem::take(&mut self.buffer);
        self.any = true;
        if let State::Single(_) = self.state
            && let State::Single(sink) = std::mem::replace(&mut self.state, State::Done)
        {
            self.state = State::Parallel(Parallel::start(sink, self.level));
        }
        let State::Parallel(parallel) = &self.state else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let (result, waiting) = mpsc::sync_channel(1);
        let broken = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        parallel.order.send(waiting).map_err(|_| ()).map_err(broken)?;
        parallel.jobs.send((data, result)).map_err(|_| ()).map_err(broken)
    }

    fn finish(mut self) -> io::Result<W> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Single(mut sink) => {
                sink.write_all(&member(&self.buffer, self.level)?)?;
                sink.flush().map(|()| sink)
            }
            State::Parallel(parallel) => {
                self.state = State::Parallel(parallel);
                if !self.buffer.is_empty() {
                    self.submit()?;
                }
                let State::Parallel(parallel) = std::mem::replace(&mut self.state, State::Done) else {
                    return Err(io::ErrorKind::BrokenPipe.into());
                };
                drop((parallel.jobs, parallel.order));
                parallel.writer.join().map_err(|_| io::Error::other("the compressing thread failed"))?
            }
            State::Done => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl<W: Write + Send + 'static> Parallel<W> {
    fn start(mut sink: W, level: Level) -> Self {
        let threads = thread::available_parallelism().map_or(2, usize::from).min(8);
        let (jobs, receiver) = mpsc::sync_channel::<Job>(threads * DEPTH);
        let receiver = std::sync::Arc::new(std::sync::Mutex::new(receiver));
        for _ in 0..threads {
            let receiver = receiver.clone();
            thread::spawn(move || {
                loop {
                    let job = receiver.lock().unwrap_or_else(std::sync::PoisonError::into_inner).recv();
                    let Ok((data, result)) = job else { return };
                    // Nobody waits once the writer has failed.
                    let _ = result.send(member(&data, level));
                }
            });
        }
        let (order, waiting) = mpsc::sync_channel::<mpsc::Receiver<io::Result<Vec<u8>>>>(threads * DEPTH);
        let writer = thread::spawn(move || {
            for member in waiting {
                let member = member.recv().map_err(|_| io::Error::other("a compressing thread failed"))??;
                sink.write_all(&member)?;
            }
            sink.flush().map(|()| sink)
        });
        Self { jobs, order, writer }
    }
}

impl<W: Write + Send + 'static> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() == MEMBER {
            self.submit()?;
        }
        let taken = bytes.len().min(MEMBER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One gzip member; libdeflate writes a header without name and time.
fn member(data: &[u8], level: Level) -> io::Result<Vec<u8>> {
    let level = CompressionLvl::new(level.0).map_err(|_| io::Error::other("no such compression level"))?;
    let mut compressor = Compressor::new(level);
    let mut out = vec![0; compressor.gzip_compress_bound(data.len())];
    let length = compressor.gzip_compress(data, &mut out).map_err(|error| io::Error::other(format!("{error:?}")))?;
    out.truncate(length);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(length: usize) -> Vec<u8> {
        (0..length).map(|i| u8::try_from((i / 7 * i) % 251).unwrap_or(0)).collect()
    }

    #[test]
    fn what_is_compressed_comes_back() {
        for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
            for length in [0, 1, MEMBER, MEMBER + 1, 5 * MEMBER + 3] {
                let data = sample(length);
                let pack = || -> Vec<u8> {
                    let mut writer =
                        Writer::new(Vec::new(), compression, Level::default_of(compression)).expect("a writer");
                    data.chunks(10_007).for_each(|chunk| writer.write_all(chunk).expect("room"));
                    writer.finish().expect("all")
                };
                let packed = pack();
                assert_eq!(packed, pack(), "{compression:?} is deterministic");
                let mut back = Vec::new();
                reader(&packed[..]).expect("a reader").read_to_end(&mut back).expect("all");
                assert!(back == data, "{compression:?} {length}");
            }
        }
    }
}
