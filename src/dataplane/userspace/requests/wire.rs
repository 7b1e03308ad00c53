//! A connection to an endpoint, as hyper reads and writes it: counted, and looked at by who lends it.

use super::super::budget::Files;
use super::super::counts::Endpoint;
use socket2::SockRef;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;

#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    counts: Arc<Endpoint>,
    files: Files,
    spoken: Spoken,
    /// From then on, and from the endpoint's end on.
    heard: AtomicBool,
    hearing: Notify,
}

/// Whether the endpoint has said anything on a connection, also when that has gone.
#[derive(Debug, Clone, Default)]
pub(super) struct Spoken(Arc<AtomicBool>);

impl Spoken {
    pub(super) fn is_so(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wire {
    pub(super) fn new(stream: TcpStream, counts: Arc<Endpoint>, files: Files) -> Self {
        let (heard, hearing) = (AtomicBool::new(false), Notify::new());
        Self { stream, counts, files, spoken: Spoken::default(), heard, hearing }
    }

    pub(super) fn spoken(&self) -> Spoken {
        self.spoken.clone()
    }

    /// That this process may open besides.
    pub(super) fn files_left(&self) -> usize {
        self.files.semaphore().available_permits()
    }

    /// Until the endpoint says something, and who reads has heard it; or until it is done.
    pub(super) async fn heard(&self) {
        while !self.heard.load(Ordering::Relaxed) {
            self.hearing.notified().await;
        }
    }

    fn has_heard(&self) {
        if !self.heard.swap(true, Ordering::Relaxed) {
            self.hearing.notify_one();
        }
    }

    /// Whether the endpoint has said nothing that was not asked for, above all not that it is done:
    /// hyper may not have been told so far.
    pub(super) fn is_quiet(&self) -> bool {
        let peeked = SockRef::from(&self.stream).peek(&mut [MaybeUninit::uninit()]);
        peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// hyper's hand on it.
#[derive(Debug)]
pub(super) struct Hand(pub Arc<Wire>);

impl Hand {
    /// The socket, where nobody else holds it any more.
    pub(super) fn into_stream(self) -> Option<(TcpStream, Files)> {
        let Wire { stream, files, .. } = Arc::into_inner(self.0)?;
        Some((stream, files))
    }

    fn poll_written(
        &self,
        cx: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        let Wire { stream, counts, .. } = &*self.0;
        loop {
            ready!(stream.poll_write_ready(cx))?;
            match write(stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    if written.is_err() {
                        // It is read no more.
                        self.0.has_heard();
                    }
                    counts.sent.add(*written.as_ref().unwrap_or(&0) as u64);
                    return Poll::Ready(written);
                }
            }
        }
    }
}

impl AsyncRead for Hand {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Wire { stream, counts, spoken, .. } = &*self.0;
        loop {
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_read_buf(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => {
                    if matches!(read, Ok(1..)) {
                        spoken.0.store(true, Ordering::Relaxed);
                    }
                    self.0.has_heard();
                    counts.received.add(read? as u64);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

impl AsyncWrite for Hand {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_written(cx, |stream| stream.try_write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(SockRef::from(&self.0.stream).shutdown(Shutdown::Write))
    }
}
