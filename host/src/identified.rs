//! What the HTTP layer answers by itself, to what it cannot read as a request: these answers carry an id and the headers of
//! every answer, too. hyper has no hook for them, so they are found where they leave: they are the only heads that are
//! written on a connection of HTTP/1 while no request is open and nothing else waits to be written.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};

/// How hyper's own refusals begin.
const REFUSAL: &[u8] = b"HTTP/1.1 4";

/// The requests of one connection.
#[derive(Default)]
pub(crate) struct Requests {
    begun: AtomicUsize,
    ended: AtomicUsize,
}

impl Requests {
    /// One has come; it is open until what is returned is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Open {
        self.begun.fetch_add(1, Ordering::AcqRel);
        Open(Arc::clone(self))
    }

    /// How many there were, if none is open.
    fn when_at_rest(&self) -> Option<usize> {
        let begun = self.begun.load(Ordering::Acquire);
        (self.ended.load(Ordering::Acquire) == begun).then_some(begun)
    }
}

/// A request that is open.
pub(crate) struct Open(Arc<Requests>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::AcqRel);
    }
}

/// A connection whose every answer has an id.
pub(crate) struct Identified<S, F> {
    socket: S,
    requests: Arc<Requests>,
    /// After how many requests everything was written and none was open.
    rested_after: Option<usize>,
    /// Header lines for a refusal, given its status line.
    lines: F,
    /// A refusal on its way.
    waiting: Vec<u8>,
}

impl<S, F: Fn(&[u8]) -> Vec<u8>> Identified<S, F> {
    /// `socket`, whose requests are counted in `requests`.
    pub(crate) const fn new(socket: S, requests: Arc<Requests>, lines: F) -> Self {
        Self { socket, requests, rested_after: Some(0), lines, waiting: Vec::new() }
    }

    /// Keeps `bytes` with its further lines, if it is a refusal.
    fn takes(&mut self, bytes: &[u8]) -> bool {
        let at_rest = self.requests.when_at_rest();
        let is_refusal = bytes.starts_with(REFUSAL) && at_rest.is_some() && at_rest == self.rested_after;
        self.rested_after = None;
        let end = is_refusal.then(|| bytes.windows(2).position(|pair| pair == b"\r\n")).flatten();
        let Some(end) = end else { return false };
        let (status_line, rest) = bytes.split_at(end);
        self.waiting = [status_line, b"\r\n", &(self.lines)(status_line), &rest[b"\r\n".len()..]].concat();
        true
    }
}

impl<S: Write + Unpin, F: Unpin> Identified<S, F> {
    fn poll_waiting(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            match ready!(Pin::new(&mut self.socket).poll_write(context, &self.waiting))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => drop(self.waiting.drain(..written)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Read + Unpin, F: Unpin> Read for Identified<S, F> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, buffer)
    }
}

impl<S: Write + Unpin, F: Fn(&[u8]) -> Vec<u8> + Unpin> Write for Identified<S, F> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_waiting(context))?;
        if self.takes(bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_waiting(context))?;
        // A refusal is one piece: it has no body.
        let first = pieces.iter().find(|piece| !piece.is_empty());
        if let Some(first) = first
            && self.takes(first)
        {
            return Poll::Ready(Ok(first.len()));
        }
        Pin::new(&mut self.socket).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(context))?;
        ready!(Pin::new(&mut self.socket).poll_flush(context))?;
        // hyper flushes when it has nothing left to write.
        self.rested_after = self.requests.when_at_rest();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_waiting(context))?;
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes at most so many bytes at a time.
    struct Slow(usize, Vec<u8>);

    impl Write for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.0);
            self.1.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    type Connection = Identified<Slow, fn(&[u8]) -> Vec<u8>>;

    fn connection(requests: &Arc<Requests>, at_a_time: usize) -> Connection {
        Identified::new(Slow(at_a_time, Vec::new()), Arc::clone(requests), |_| b"x-request-id: r1\r\n".to_vec())
    }

    fn write(connection: &mut Connection, mut bytes: &[u8]) {
        let mut context = Context::from_waker(Waker::noop());
        while !bytes.is_empty() {
            let written = Pin::new(&mut *connection).poll_write_vectored(&mut context, &[IoSlice::new(bytes)]);
            let Poll::Ready(Ok(written)) = written else { panic!("{written:?}") };
            bytes = &bytes[written..];
        }
    }

    fn flush(connection: &mut Connection) {
        assert!(Pin::new(connection).poll_flush(&mut Context::from_waker(Waker::noop())).is_ready());
    }

    const BARE: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    const WITH_ID: &[u8] = b"HTTP/1.1 400 Bad Request\r\nx-request-id: r1\r\ncontent-length: 0\r\n\r\n";

    #[test]
    fn a_refusal_of_the_http_layer_gets_its_lines_however_slowly_it_leaves() {
        for at_a_time in [1, 7, 1000] {
            let requests = Arc::default();
            let mut connection = connection(&requests, at_a_time);
            write(&mut connection, BARE);
            flush(&mut connection);
            assert_eq!(connection.socket.1, WITH_ID);
        }
    }

    #[test]
    fn a_refusal_after_an_answer_gets_them_and_the_answer_does_not() {
        let requests = Arc::default();
        let mut connection = connection(&requests, 10);
        let open = requests.begin();
        // An answer of our own, which is let go before its last bytes have left.
        write(&mut connection, &BARE[..10]);
        drop(open);
        write(&mut connection, &BARE[10..]);
        flush(&mut connection);
        assert_eq!(connection.socket.1, BARE);
        connection.socket.1.clear();
        write(&mut connection, BARE);
        flush(&mut connection);
        assert_eq!(connection.socket.1, WITH_ID);
    }

    #[test]
    fn what_an_answer_contains_is_never_taken_for_a_refusal() {
        let requests = Arc::default();
        let mut connection = connection(&requests, 1000);
        flush(&mut connection);
        // Complete before its first byte is written, and with a body that looks like a head.
        drop(requests.begin());
        write(&mut connection, BARE);
        write(&mut connection, BARE);
        flush(&mut connection);
        assert_eq!(connection.socket.1, [BARE, BARE].concat());
    }
}
