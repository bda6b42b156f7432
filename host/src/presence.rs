//! Whether the client of an exchange is still there: [`Presence`], and the bodies that keep it.
//!
//! A component cannot see the connection it is answered on. Our contract with it (`src/spin/http.rs`): the body of a
//! request whose length is known delivers its bytes and then stays open. It ends without an error once the whole
//! response is sent, and with an error when the client left before that.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use wasmtime_wasi_http::{Error, WasiBody};

/// How long a request body may be silent before it counts as broken off.
const STALLED: Duration = Duration::from_secs(30);

const THERE: u8 = 0;
const SERVED: u8 = 1;
const LEFT: u8 = 2;

/// The client of one exchange.
#[derive(Default)]
pub(crate) struct Presence {
    state: AtomicU8,
    waker: AtomicWaker,
}

impl Presence {
    fn end(&self, state: u8) {
        if self.state.compare_exchange(THERE, state, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            self.waker.wake();
        }
    }

    /// `Ok` when the response was sent, `Err` when the client left before.
    fn poll_end(&self, context: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.waker.register(context.waker());
        match self.state.load(Ordering::Acquire) {
            THERE => Poll::Pending,
            SERVED => Poll::Ready(Ok(())),
            _ => Poll::Ready(Err(Error::ConnectionTerminated)),
        }
    }
}

/// Held by whoever answers the client. Dropped before [`Served::done`], it tells that the client left.
pub(crate) struct Served(Arc<Presence>);

impl Served {
    /// Begins the watch.
    pub(crate) fn watch(presence: Arc<Presence>) -> Self {
        Self(presence)
    }

    /// The response is with the client.
    pub(crate) fn done(&self) {
        self.0.end(SERVED);
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.0.end(LEFT);
    }
}

/// The body of a request as the component reads it.
pub(crate) struct RequestBody<B, K> {
    body: Option<B>,
    presence: Arc<Presence>,
    /// Runs while nothing comes.
    stalled: Option<Pin<Box<tokio::time::Sleep>>>,
    _kept: K,
}

impl<B, K> RequestBody<B, K> {
    /// `body`, and after its end the presence of the client. `kept` is let go with the body.
    pub(crate) fn new(body: B, presence: Arc<Presence>, kept: K) -> Self {
        Self { body: Some(body), presence, stalled: None, _kept: kept }
    }
}

impl<B: Body<Data = Bytes> + Unpin, K: Unpin> Body for RequestBody<B, K> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        if let Some(body) = &mut this.body {
            let Poll::Ready(frame) = Pin::new(body).poll_frame(context) else {
                // A body that does not come must not hold its place for ever.
                let stalled = this.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(STALLED)));
                ready!(stalled.as_mut().poll(context));
                return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
            };
            this.stalled = None;
            match frame {
                Some(Ok(frame)) => return Poll::Ready(Some(Ok(frame))),
                // Whatever the fault was, the connection does not survive it.
                Some(Err(_)) => return Poll::Ready(Some(Err(Error::ConnectionTerminated))),
                None => this.body = None,
            }
        }
        match ready!(self.presence.poll_end(context)) {
            Ok(()) => Poll::Ready(None),
            Err(left) => Poll::Ready(Some(Err(left))),
        }
    }
}

/// Knows whether the instance that produces a body broke down.
pub(crate) trait BrokeDown: Unpin {
    /// Whether it did.
    fn broke_down(&self) -> bool;
}

/// The body of a response as it goes to the client.
pub(crate) struct ResponseBody<T> {
    body: WasiBody,
    served: Served,
    /// Whether this response has no body on the wire, whatever `body` says.
    bodiless: bool,
    /// Bytes still to come, when the length was declared.
    remaining: Option<u64>,
    producer: T,
    ended: bool,
}

impl<T: BrokeDown> ResponseBody<T> {
    /// `body`, whose end is told to the holder of the presence.
    pub(crate) fn new(body: WasiBody, served: Served, bodiless: bool, producer: T) -> Self {
        let remaining = body.size_hint().exact();
        Self { body, served, bodiless, remaining, producer, ended: false }
    }
}

impl<T: BrokeDown> Body for ResponseBody<T> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let (Some(data), Some(remaining)) = (frame.data_ref(), &mut self.remaining) {
                    *remaining = remaining.saturating_sub(data.len() as u64);
                }
            }
            Some(Err(_)) => {}
            // An instance that breaks down takes its end of the body with it, which must not look like the end.
            None if self.producer.broke_down() => return Poll::Ready(Some(Err(Error::HttpResponseIncomplete))),
            None => self.ended = true,
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream() && !self.producer.broke_down()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<T> Drop for ResponseBody<T> {
    fn drop(&mut self) {
        // A server stops asking once the declared length is there, and never asks for a body that is not sent.
        if self.ended || self.bodiless || self.remaining == Some(0) || self.body.is_end_stream() {
            self.served.done();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    impl BrokeDown for bool {
        fn broke_down(&self) -> bool {
            *self
        }
    }

    type Test<B> = RequestBody<B, ()>;

    type Polled<B> = Poll<Option<Result<Frame<<B as Body>::Data>, <B as Body>::Error>>>;

    fn poll<B: Body + Unpin>(body: &mut B) -> Polled<B> {
        Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()))
    }

    fn request() -> (Test<Full<Bytes>>, Arc<Presence>) {
        let presence = Arc::new(Presence::default());
        (RequestBody::new(Full::from("hello"), Arc::clone(&presence), ()), presence)
    }

    fn response(text: &'static str, presence: &Arc<Presence>) -> ResponseBody<bool> {
        let body = Full::from(text).map_err(|never| match never {}).boxed_unsync();
        ResponseBody::new(body, Served::watch(Arc::clone(presence)), false, false)
    }

    #[test]
    fn a_request_body_stays_open_until_the_response_is_sent() {
        let (mut request, presence) = request();
        assert!(matches!(poll(&mut request), Poll::Ready(Some(Ok(_)))));
        assert!(poll(&mut request).is_pending());

        let mut response = response("answer", &presence);
        while let Poll::Ready(Some(_)) = poll(&mut response) {}
        assert!(poll(&mut request).is_pending());
        drop(response);

        assert!(matches!(poll(&mut request), Poll::Ready(None)));
    }

    #[test]
    fn a_request_body_ends_with_an_error_when_the_client_leaves() {
        let (mut request, presence) = request();
        let _ = poll(&mut request);
        drop(response("answer", &presence));
        assert!(matches!(poll(&mut request), Poll::Ready(Some(Err(Error::ConnectionTerminated)))));
    }

    #[test]
    fn a_client_that_leaves_before_the_response_is_noticed() {
        let (mut request, presence) = request();
        let _ = poll(&mut request);
        drop(Served::watch(presence));
        assert!(matches!(poll(&mut request), Poll::Ready(Some(Err(Error::ConnectionTerminated)))));
    }

    #[test]
    fn a_response_without_a_body_is_served_without_being_asked() {
        for (text, bodiless) in [("", false), ("answer to HEAD", true)] {
            let (mut request, presence) = request();
            let _ = poll(&mut request);
            let body = Full::from(text).map_err(|never| match never {}).boxed_unsync();
            drop(ResponseBody::new(body, Served::watch(presence), bodiless, false));
            assert!(matches!(poll(&mut request), Poll::Ready(None)), "{text}");
        }
    }

    #[test]
    fn a_response_of_declared_length_is_served_when_its_bytes_are_taken() {
        let (mut request, presence) = request();
        let _ = poll(&mut request);
        let mut response = response("answer", &presence);
        let _ = poll(&mut response);
        drop(response);
        assert!(matches!(poll(&mut request), Poll::Ready(None)));
    }

    #[test]
    fn a_body_whose_producer_broke_down_does_not_end_quietly() {
        let presence = Arc::new(Presence::default());
        let frames = futures_util::stream::iter([Ok::<_, Error>(Frame::data(Bytes::from_static(b"begun")))]);
        let body = StreamBody::new(frames).boxed_unsync();
        let mut response = ResponseBody::new(body, Served::watch(presence), false, true);
        assert!(matches!(poll(&mut response), Poll::Ready(Some(Ok(_)))));
        assert!(!response.is_end_stream());
        assert!(matches!(poll(&mut response), Poll::Ready(Some(Err(Error::HttpResponseIncomplete)))));
    }
}
