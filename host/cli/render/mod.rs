//! Showing what happens, on standard error: a thread of its own, so that a slow terminal holds up nobody but a step that
//! prints more than it takes.

mod json;
mod plain;
mod tty;

use std::io::IsTerminal;
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use build::{Event, Events};

use crate::args::build::Progress;
use crate::report;

/// How often a view may change when nothing happens.
const TICK: Duration = Duration::from_millis(100);

/// What may wait to be shown; a message has at most 16 KiB. A step could fill the memory else.
const BACKLOG: usize = 1024;

/// A way of showing.
trait View: Send {
    fn event(&mut self, event: &Event);
    fn tick(&mut self);
    /// The last word: nothing of a live view may stay in the way of what comes next.
    fn end(&mut self);
}

/// What is sent to the thread.
enum Message {
    Event(Event),
    Text(String),
}

/// Shows events until it is finished.
pub(crate) struct Renderer {
    sender: Mutex<Option<SyncSender<Message>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    quiet: bool,
}

impl Renderer {
    /// Starts to show.
    pub(crate) fn start(progress: Progress) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let mut view: Box<dyn View> = match progress {
            Progress::Quiet => {
                return Self { sender: Mutex::default(), thread: Mutex::default(), quiet: true };
            }
            Progress::Json => Box::new(json::Json),
            Progress::Tty => Box::new(tty::Tty::new()),
            Progress::Auto if terminal => Box::new(tty::Tty::new()),
            Progress::Auto | Progress::Plain => Box::new(plain::Plain::new()),
        };
        let (sender, receiver) = mpsc::sync_channel(BACKLOG);
        let thread = std::thread::spawn(move || {
            loop {
                match receiver.recv_timeout(TICK) {
                    Ok(Message::Event(event)) => view.event(&event),
                    Ok(Message::Text(text)) => {
                        view.end();
                        write(&text);
                    }
                    Err(RecvTimeoutError::Timeout) => view.tick(),
                    Err(RecvTimeoutError::Disconnected) => return view.end(),
                }
            }
        });
        Self { sender: Mutex::new(Some(sender)), thread: Mutex::new(Some(thread)), quiet: false }
    }

    /// Something that takes events; diagnostics are told with their place in the build file.
    pub(crate) fn events(&self, file_name: &str, file: &str) -> Events {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (name, text, quiet) = (file_name.to_owned(), file.to_owned(), self.quiet);
        let sender = Mutex::new(sender);
        Arc::new(move |event| {
            if quiet {
                return;
            }
            let message = match &event {
                Event::Diagnostic(d) => Message::Text(report::diagnostic(d, Some((&name, &text)))),
                Event::Planned(steps) => {
                    let cut = steps.iter().map(|(id, name)| (*id, report::cut(name)));
                    Message::Event(Event::Planned(cut.collect()))
                }
                _ => Message::Event(event),
            };
            if let Some(sender) = &*sender.lock().unwrap_or_else(PoisonError::into_inner) {
                // After the end there is nothing to show.
                let _ = sender.send(message);
            }
        })
    }

    /// Waits until everything is shown. Events that are sent later are not.
    pub(crate) fn finish(&self) {
        drop(self.sender.lock().unwrap_or_else(PoisonError::into_inner).take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

/// Writes to standard error; when that is gone nobody is left to see it.
fn write(text: &str) {
    use std::io::Write;
    let mut err = std::io::stderr().lock();
    let _ = err.write_all(text.as_bytes()).and_then(|()| err.flush());
}

/// Seconds with one digit.
fn seconds(time: Duration) -> String {
    format!("{:.1}s", time.as_secs_f64())
}

/// Splits what comes in pieces into lines.
#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    /// A line may be so long; then it is cut.
    const LONGEST: usize = 8 << 10;

    /// The lines that are whole now.
    fn add(&mut self, bytes: &[u8]) -> Vec<String> {
        self.0.extend_from_slice(bytes);
        let mut lines = Vec::new();
        while let Some(at) =
            self.0.iter().position(|byte| *byte == b'\n').or((self.0.len() > Self::LONGEST).then_some(Self::LONGEST))
        {
            let rest = self.0.split_off(at);
            let line = std::mem::replace(&mut self.0, rest.strip_prefix(b"\n").unwrap_or(&rest).to_vec());
            lines.push(clean(&line));
        }
        lines
    }

    /// What has no end of line.
    fn rest(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.0);
        (!rest.is_empty()).then(|| clean(&rest))
    }
}

/// Text of a command, without what would move the cursor.
fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    // Of a line that is written over and over, what would be seen at last.
    let text = text.rsplit('\r').next().unwrap_or(text);
    text.chars().filter(|c| !c.is_control() || *c == '\t' || *c == '\u{1b}').collect()
}
