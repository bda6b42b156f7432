//! A body whose pieces are gathered while they come in one burst.
//!
//! An upstream that writes two hundred small chunks at once would otherwise cross into the component two hundred times.
//! A piece never waits for a later one: what is gathered goes as soon as nothing more is there at this moment.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The most that is gathered.
const MOST: usize = 64 * 1024;

/// How often everybody else gets a turn before a pause counts as one: the connection, and whoever feeds it.
const TURNS: usize = 2;

/// See the head of the file. Dropping it drops the inner body at once.
pub(crate) struct Coalesced<E> {
    frames: mpsc::Receiver<Result<Frame<Bytes>, E>>,
    pump: JoinHandle<()>,
    size: SizeHint,
}

impl<E: Send + 'static> Coalesced<E> {
    /// Gathers the pieces of `body`.
    pub(crate) fn new<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error = E> + Unpin + Send + 'static,
    {
        let size = body.size_hint();
        // One piece under way and one in the making: the upstream waits for a client that does not read.
        let (sender, frames) = mpsc::channel(1);
        Self { frames, pump: tokio::spawn(pump(body, sender)), size }
    }
}

async fn pump<B>(mut body: B, sender: mpsc::Sender<Result<Frame<Bytes>, B::Error>>)
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut next = body.frame().await;
    loop {
        let data = match next.take() {
            None => return,
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => data,
                Err(trailers) => {
                    if sender.send(Ok(trailers)).await.is_err() {
                        return;
                    }
                    next = body.frame().await;
                    continue;
                }
            },
            Some(Err(error)) => {
                let _ = sender.send(Err(error)).await;
                return;
            }
        };
        let mut gathered = Gathered::One(data);
        let mut ended = false;
        let mut turns = TURNS;
        while gathered.len() < MOST && turns > 0 {
            match futures_util::FutureExt::now_or_never(body.frame()) {
                Some(Some(Ok(frame))) if frame.is_data() => {
                    gathered.add(&frame.into_data().unwrap_or_default());
                    turns = TURNS;
                }
                Some(None) => {
                    ended = true;
                    break;
                }
                Some(other) => {
                    next = other;
                    break;
                }
                None => {
                    turns -= 1;
                    tokio::task::yield_now().await;
                }
            }
        }
        if sender.send(Ok(Frame::data(gathered.into_bytes()))).await.is_err() || ended {
            return;
        }
        if next.is_none() {
            next = body.frame().await;
        }
    }
}

/// Copies only when there is something to join.
enum Gathered {
    One(Bytes),
    Several(BytesMut),
}

impl Gathered {
    fn len(&self) -> usize {
        match self {
            Self::One(bytes) => bytes.len(),
            Self::Several(bytes) => bytes.len(),
        }
    }

    fn add(&mut self, more: &[u8]) {
        match self {
            Self::One(first) => {
                let mut joined = BytesMut::with_capacity((first.len() + more.len()).max(4096));
                joined.extend_from_slice(first);
                joined.extend_from_slice(more);
                *self = Self::Several(joined);
            }
            Self::Several(joined) => joined.extend_from_slice(more),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::One(bytes) => bytes,
            Self::Several(bytes) => bytes.freeze(),
        }
    }
}

impl<E> Drop for Coalesced<E> {
    fn drop(&mut self) {
        self.pump.abort();
    }
}

impl<E> Body for Coalesced<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        self.frames.poll_recv(context)
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::channel::Channel;

    use super::*;

    #[tokio::test]
    async fn a_burst_becomes_one_piece_and_a_lone_piece_does_not_wait() {
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(8);
        let mut coalesced = Coalesced::new(body);
        for piece in ["a", "b", "c"] {
            sender.send_data(piece.into()).await.expect("somebody reads");
        }
        let piece = coalesced.frame().await.expect("a piece").expect("no error").into_data().expect("data");
        assert_eq!(piece, "abc");
        sender.send_data("d".into()).await.expect("somebody reads");
        let piece = coalesced.frame().await.expect("a piece").expect("no error").into_data().expect("data");
        assert_eq!(piece, "d");
        drop(sender);
        assert!(coalesced.frame().await.is_none());
    }

    #[tokio::test]
    async fn an_error_comes_after_what_came_before_it() {
        let frames = [Ok(Frame::data(Bytes::from_static(b"a"))), Err("broken")];
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let mut coalesced = Coalesced::new(body);
        let piece = coalesced.frame().await.expect("a piece").expect("data first").into_data().expect("data");
        assert_eq!(piece, "a");
        assert_eq!(coalesced.frame().await.expect("an error").err(), Some("broken"));
        assert!(coalesced.frame().await.is_none());
    }

    #[tokio::test]
    async fn dropping_it_drops_the_body() {
        let (mut sender, body) = Channel::<Bytes, Infallible>::new(1);
        let coalesced = Coalesced::new(body);
        drop(coalesced);
        tokio::task::yield_now().await;
        assert!(sender.send_data("a".into()).await.is_err());
    }
}
