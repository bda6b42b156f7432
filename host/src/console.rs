//! Standard error: operational lines, and whatever the component writes, one whole line at a time.
//!
//! A thread of its own writes, so that a slow reader of standard error never holds up a request. The queue is bounded;
//! lines that do not fit are counted and the count is reported.

use std::io::Write;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use sallyport::domain::ids::Timestamp;
use sallyport::log::{Format, Level};
use tokio::io::AsyncWrite;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};

use crate::metrics;

/// Lines that may wait for the writing thread.
const WAITING_LINES: usize = 8192;
/// How long the writing thread gathers lines before it writes them.
const GATHER: Duration = Duration::from_millis(1);
/// The longest line that the component may write; longer ones are split.
const LONGEST_LINE: usize = 256 * 1024;

struct Console {
    lines: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    level: Level,
}

enum Message {
    Line(Vec<u8>),
    Flush(mpsc::Sender<()>),
}

static CONSOLE: OnceLock<Console> = OnceLock::new();
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Writes operational lines in this form from now on.
pub(crate) fn write_as(format: Format) {
    IS_JSON.store(format == Format::Json, Ordering::Relaxed);
}

/// The form of operational lines.
pub(crate) fn format() -> Format {
    if IS_JSON.load(Ordering::Relaxed) { Format::Json } else { Format::Text }
}

fn console() -> &'static Console {
    CONSOLE.get_or_init(|| {
        let (lines, waiting) = mpsc::sync_channel::<Message>(WAITING_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        // Without this thread there is nowhere to report to; lines are dropped then, requests are not.
        let _ = std::thread::Builder::new().name("stderr".to_owned()).spawn(move || write(&waiting, &lost));
        let level = Level::parse(&crate::environment::find("CLAUDE_GATEWAY_LOG_LEVEL").unwrap_or_default());
        Console { lines, dropped, level }
    })
}

/// Writes what arrives, several lines with one system call when several wait.
fn write(waiting: &mpsc::Receiver<Message>, dropped: &AtomicU64) {
    let mut batch = Vec::with_capacity(64 * 1024);
    let mut flushes = Vec::new();
    while let Ok(first) = waiting.recv() {
        // Lines come in company. Waking up for each of them costs more than writing it.
        if !matches!(first, Message::Flush(_)) {
            std::thread::sleep(GATHER);
        }
        let mut next = Some(first);
        while let Some(message) = next {
            match message {
                Message::Line(line) => batch.extend_from_slice(&line),
                Message::Flush(done) => flushes.push(done),
            }
            next = if batch.len() < 64 * 1024 { waiting.try_recv().ok() } else { None };
        }
        let lost = dropped.swap(0, Ordering::Relaxed);
        if lost > 0 {
            if let Some(metrics) = metrics::wanted() {
                metrics.lost(lost);
            }
            let message = format!("{lost} log lines were dropped: stderr is slow");
            let line = format().line(now(), Level::Warn, None, &message);
            batch.extend_from_slice(line.as_bytes());
            batch.push(b'\n');
        }
        // A closed stderr leaves nothing else to tell.
        let _ = std::io::stderr().write_all(&batch);
        batch.clear();
        batch.shrink_to(64 * 1024);
        for done in flushes.drain(..) {
            let _ = done.send(());
        }
    }
}

/// Queues one line that ends with its line break.
fn queue(line: Vec<u8>) {
    let console = console();
    if let Err(TrySendError::Full(_)) = console.lines.try_send(Message::Line(line)) {
        console.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits until everything that was queued before is written, but not for long.
pub(crate) fn flush() {
    let (done, written) = mpsc::channel();
    if console().lines.send(Message::Flush(done)).is_ok() {
        let _ = written.recv_timeout(std::time::Duration::from_secs(2));
    }
}

/// Writes one operational line, if `level` is to be shown.
pub(crate) fn line(level: Level, message: &str) {
    say(level, None, message);
}

/// The same about a request.
pub(crate) fn line_of(request_id: &str, level: Level, message: &str) {
    say(level, Some(request_id), message);
}

fn say(level: Level, request_id: Option<&str>, message: &str) {
    if level >= console().level {
        plain(&format().line(now(), level, request_id, message));
    }
}

/// Writes `text` and a line break.
pub(crate) fn plain(text: &str) {
    let mut line = Vec::with_capacity(text.len() + 1);
    line.extend_from_slice(text.as_bytes());
    line.push(b'\n');
    queue(line);
}

/// An `info` line.
pub(crate) fn info(message: &str) {
    line(Level::Info, message);
}

/// A `warn` line.
pub(crate) fn warn(message: &str) {
    line(Level::Warn, message);
}

/// An `error` line.
pub(crate) fn error(message: &str) {
    line(Level::Error, message);
}

/// Now.
#[expect(clippy::disallowed_methods, reason = "the host is where the time comes from")]
pub(crate) fn now() -> Timestamp {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_millis(i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX))
}

/// Standard output or error of one instance: bytes become whole lines.
#[derive(Clone)]
pub(crate) struct GuestLines {
    begun: Arc<Mutex<Vec<u8>>>,
    /// Whether lines may be figures, which are counted and not written.
    may_be_figures: bool,
}

impl GuestLines {
    /// Standard error.
    pub(crate) fn error() -> Self {
        Self { begun: Arc::default(), may_be_figures: false }
    }

    /// Standard output. The component writes figures there when it is told that they are counted.
    pub(crate) fn output() -> Self {
        Self { begun: Arc::default(), may_be_figures: true }
    }

    fn take(&self, line: Vec<u8>) {
        let is_figure = self.may_be_figures && line.starts_with(b"{\"figure\":");
        match metrics::wanted() {
            Some(metrics) if is_figure => metrics.figure(&line),
            Some(metrics) => metrics.line(&line),
            None => {}
        }
        if !is_figure {
            queue(line);
        }
    }

    fn push(&self, bytes: &[u8]) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            begun.extend_from_slice(piece);
            if begun.len() > LONGEST_LINE && begun.last() != Some(&b'\n') {
                begun.push(b'\n');
            }
            if begun.last() == Some(&b'\n') {
                self.take(std::mem::take(&mut *begun));
            }
        }
    }
}

impl IsTerminal for GuestLines {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for GuestLines {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

impl AsyncWrite for GuestLines {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.push(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[async_trait::async_trait]
impl Pollable for GuestLines {
    async fn ready(&mut self) {}
}

impl OutputStream for GuestLines {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.push(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(64 * 1024)
    }
}
