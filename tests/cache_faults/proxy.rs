//! A way to a registry on which things go wrong as they are told to, one request a connection.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

/// Nobody waits longer for the other side.
const PATIENCE: Duration = Duration::from_secs(20);

/// What goes wrong with an exchange.
#[derive(Clone)]
pub(crate) enum Fault {
    /// This answer instead of the registry's, with a further header.
    Status(u16, &'static str),
    /// The connection ends when the request has come.
    NoAnswer,
    /// The registry does what it is asked, and its answer is lost.
    LostAnswer,
    /// The connection ends when so many bytes of the request's body have come.
    CutRequest(usize),
    /// The answer's header is whole, half of the body follows, then the connection ends.
    CutAnswer,
    /// Half of the answer's body, and a header that says so.
    HalfAnswer,
    /// One byte of the answer's body is another.
    Flip,
    /// The body comes in this many pieces, a pause before each.
    Slow(u32, Duration),
    /// This body in place of the answer's.
    Body(&'static str, Arc<Vec<u8>>),
    /// A document is changed on its way, under the media type that it had.
    Edit(Arc<dyn Fn(&mut Value) + Send + Sync>),
    /// A tag that is there cannot be written again.
    Immutable(u16),
    /// A request whose body is longer is answered 413.
    Longest(usize),
}

/// Which exchanges go wrong.
#[derive(Clone)]
pub(crate) struct Rule {
    method: &'static str,
    part: String,
    /// So many of each path.
    times: usize,
    /// So many in all.
    in_all: usize,
    fault: Fault,
}

/// Exchanges whose path has `part` in it always go wrong.
pub(crate) fn always(method: &'static str, part: impl Into<String>, fault: Fault) -> Rule {
    times(usize::MAX, method, part, fault)
}

/// The first time that a path is asked for it goes wrong.
pub(crate) fn once(method: &'static str, part: impl Into<String>, fault: Fault) -> Rule {
    times(1, method, part, fault)
}

/// The first `times` times that a path is asked for it goes wrong.
pub(crate) fn times(times: usize, method: &'static str, part: impl Into<String>, fault: Fault) -> Rule {
    Rule { method, part: part.into(), times, in_all: usize::MAX, fault }
}

/// Only the first exchange goes wrong, whatever its path.
pub(crate) fn first(method: &'static str, part: impl Into<String>, fault: Fault) -> Rule {
    Rule { in_all: 1, ..times(1, method, part, fault) }
}

struct Shared {
    registry: String,
    rules: Vec<Rule>,
    /// By rule, method and path.
    counts: Mutex<BTreeMap<(usize, String), usize>>,
    is_over: AtomicBool,
}

/// The proxy. It ends with the test.
pub(crate) struct Proxy {
    pub(crate) host: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// In front of `registry`. The first rule that fits an exchange counts.
    pub(crate) fn open(registry: &str, rules: Vec<Rule>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let registry = registry.to_owned();
        let shared = Arc::new(Shared { registry, rules, counts: Mutex::default(), is_over: AtomicBool::new(false) });
        let at_door = shared.clone();
        let serve = move || {
            for connection in listener.incoming() {
                if at_door.is_over.load(Ordering::SeqCst) {
                    break;
                }
                let (Ok(connection), shared) = (connection, at_door.clone()) else { continue };
                // Whoever goes away in the middle of an exchange is no concern of the next.
                std::thread::spawn(move || shared.exchange(connection));
            }
        };
        Self { host, shared, thread: Some(std::thread::spawn(serve)) }
    }

    /// Exchanges that went wrong.
    pub(crate) fn hits(&self) -> usize {
        self.shared.counts.lock().unwrap().values().sum()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.host);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn exchange(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(PATIENCE))?;
        client.set_write_timeout(Some(PATIENCE))?;
        let Some(head) = read_head(&mut client)? else { return Ok(()) };
        let mut words = head.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let fault = self.fault(method, path);
        let length: usize = header(&head, "content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        if let Some(Fault::CutRequest(most)) = fault {
            client.read_exact(&mut vec![0; most.min(length)])?;
            // What has not been read makes this a reset.
            return Ok(());
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body)?;
        match &fault {
            Some(Fault::NoAnswer) => return Ok(()),
            Some(Fault::Status(status, more)) => return refuse(&mut client, *status, more),
            Some(Fault::Immutable(status)) => {
                let is_there = ask(&self.registry, &format!("HEAD {path} HTTP/1.1\r\nHost: registry"), &[])?;
                if is_there.starts_with(b"HTTP/1.1 200") {
                    return refuse(&mut client, *status, "");
                }
            }
            Some(Fault::Longest(most)) if length > *most => return refuse(&mut client, 413, ""),
            _ => {}
        }
        let answer = ask(&self.registry, &head, &body)?;
        let split = find(&answer, b"\r\n\r\n").map_or(answer.len(), |at| at + 4);
        let (head, body) = answer.split_at(split);
        let head = String::from_utf8_lossy(head).into_owned();
        let is_whole = head.starts_with("HTTP/1.1 2");
        match fault {
            Some(Fault::LostAnswer) => Ok(()),
            Some(Fault::CutAnswer) if is_whole => {
                client.write_all(head.as_bytes())?;
                client.write_all(&body[..body.len() / 2])?;
                client.shutdown(Shutdown::Both)
            }
            Some(Fault::HalfAnswer) if is_whole => send(&mut client, &head, &body[..body.len() / 2], None),
            Some(Fault::Flip) if is_whole => {
                let mut body = body.to_vec();
                if let Some(byte) = body.len().checked_sub(1).and_then(|last| body.get_mut(last / 2)) {
                    *byte ^= 1;
                }
                send(&mut client, &head, &body, None)
            }
            Some(Fault::Slow(pieces, pause)) => {
                client.write_all(head.as_bytes())?;
                let size = body.len().div_ceil(pieces as usize).max(1);
                for piece in body.chunks(size) {
                    std::thread::sleep(pause);
                    client.write_all(piece)?;
                }
                Ok(())
            }
            Some(Fault::Body(kind, bytes)) if is_whole => send(&mut client, &head, &bytes, Some(kind)),
            Some(Fault::Edit(edit)) if is_whole && !body.is_empty() => {
                let mut document = serde_json::from_slice(body)?;
                edit(&mut document);
                send(&mut client, &head, document.to_string().as_bytes(), None)
            }
            _ => client.write_all(&answer),
        }
    }

    fn fault(&self, method: &str, path: &str) -> Option<Fault> {
        let mut counts = self.counts.lock().unwrap();
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.method != method || !path.contains(&rule.part) {
                continue;
            }
            let in_all: usize = counts.iter().filter(|((of, _), _)| *of == at).map(|(_, count)| count).sum();
            let count = counts.entry((at, format!("{method} {path}"))).or_default();
            if *count < rule.times && in_all < rule.in_all {
                *count += 1;
                return Some(rule.fault.clone());
            }
        }
        None
    }
}

/// The head of a request without the empty line; none where it is no HTTP: a client may try TLS first.
fn read_head(client: &mut TcpStream) -> io::Result<Option<String>> {
    let mut seen = vec![0; 1 << 16];
    loop {
        let length = client.peek(&mut seen)?;
        if length == 0 || !seen[0].is_ascii_uppercase() {
            return Ok(None);
        }
        if let Some(end) = find(&seen[..length], b"\r\n\r\n") {
            client.read_exact(&mut seen[..end + 4])?;
            return Ok(Some(String::from_utf8_lossy(&seen[..end]).into_owned()));
        }
        if length == seen.len() {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
    fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The whole answer of the registry. It is told the name that the client used, so that it sends the client back here.
fn ask(registry: &str, head: &str, body: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(registry)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let lines = head.lines().filter(|line| !line.to_ascii_lowercase().starts_with("connection:"));
    let head: String = lines.flat_map(|line| [line, "\r\n"]).collect();
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn refuse(client: &mut TcpStream, status: u16, more: &str) -> io::Result<()> {
    let body = r#"{"errors":[{"code":"DENIED","message":"the fault of this test"}]}"#;
    let head = format!(
        "HTTP/1.1 {status} Fault\r\nContent-Type: application/json\r\nConnection: close\r\n{more}Content-Length: 0\r\n\r\n"
    );
    send(client, &head, body.as_bytes(), None)
}

/// Sends a head whose length is made that of the body.
fn send(client: &mut TcpStream, head: &str, body: &[u8], kind: Option<&str>) -> io::Result<()> {
    let mut text = String::new();
    for line in head.trim_end().lines() {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        match (name.as_str(), kind) {
            ("content-length", _) => text.push_str(&format!("Content-Length: {}", body.len())),
            ("content-type", Some(kind)) => text.push_str(&format!("Content-Type: {kind}")),
            _ => text.push_str(line),
        }
        text.push_str("\r\n");
    }
    client.write_all(text.as_bytes())?;
    client.write_all(b"\r\n")?;
    client.write_all(body)
}

/// A document of the registry.
pub(crate) fn document(registry: &str, path: &str) -> Value {
    let accept = "application/vnd.oci.image.manifest.v1+json";
    let answer = ask(registry, &format!("GET {path} HTTP/1.1\r\nHost: {registry}\r\nAccept: {accept}"), &[]).unwrap();
    let body = find(&answer, b"\r\n\r\n").map_or(&[][..], |at| &answer[at + 4..]);
    serde_json::from_slice(body).unwrap_or_else(|error| panic!("{path}: {error}: {}", String::from_utf8_lossy(&answer)))
}
