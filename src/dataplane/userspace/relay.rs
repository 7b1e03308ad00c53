//! Two connections made one: bytes both ways, until both ends have said that they are done.

use super::acks;
use super::congestion::Congestion;
use super::counts::{Endpoint, Number};
use super::passing;
use super::pipes::{Pipe, Pipes};
use crate::model::Limits;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{SockRef, TcpKeepalive};
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};

/// What is read in one go, at first and at most. It is also what a reader that does not keep up
/// leaves here.
const SMALLEST: usize = 8 << 10;
const LARGEST: usize = passing::SIZE;

/// Reads below this are talk, not a transfer: two calls of splice cost more than a copy of these.
const TALK: usize = 4 << 10;

/// A direction that has moved so much without talk is spliced.
const SPLICE_AFTER: usize = 128 << 10;

/// Moved in one go; then others of this thread have their turn.
const TURN: usize = 4 << 20;

/// tokio knows that a socket can be written to only after a look at all sockets, so writes are tried
/// past it first.
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);

/// When a connection has lasted this long, its endpoint's end gets keepalive too (four system
/// calls, which short connections are spared).
const SETTLED: Duration = Duration::from_secs(60);

/// An end that vanished without a word must not hold a connection for ever.
pub const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(15))
    .with_retries(4);

/// How long nothing may pass.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quiet {
    pub open: Duration,
    /// When one end is done.
    pub half_closed: Duration,
}

impl From<Limits> for Quiet {
    fn from(limits: Limits) -> Self {
        Self { open: limits.idle, half_closed: limits.half_closed }
    }
}

/// What it means that an endpoint closes at once, before a byte went either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SilentEnd {
    /// What it would without a relay.
    Counts,
    /// Its process may have ended between the two: another endpoint may have the client
    /// ([`Broken::Untouched`], [`io::ErrorKind::UnexpectedEof`]).
    MayBeAnAccident,
}

/// Why a relay ended before both ends were done.
#[derive(Debug)]
pub(super) enum Broken {
    /// The endpoint broke off at once, before a byte went either way: another one may have the client.
    Untouched(io::Error),
    /// The endpoint broke off, and has said nothing to what the client sent.
    Unanswered(io::Error),
    /// An end broke off, or there was quiet for too long, or the endpoint's deadline has passed
    /// ([`io::ErrorKind::TimedOut`]).
    Off(io::Error),
}

/// What all connections have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Means<'a> {
    pub pipes: &'a Pipes,
    pub congestion: &'a Congestion,
}

/// `quiet` says what holds at the moment; when that changes, the endpoint's deadline tells.
///
/// Until both ends have closed. Then the last to be told has not been told yet: it is by the streams
/// being dropped, for all that came from them has been read.
pub(super) async fn relay(
    client: &mut TcpStream,
    endpoint: &mut TcpStream,
    counts: &Endpoint,
    (quiet, silent): (impl Fn() -> Quiet, SilentEnd),
    means: &Means<'_>,
) -> Result<(), Broken> {
    let (from_client, to_client) = client.split();
    let (from_endpoint, to_endpoint) = endpoint.split();
    let mut there = Direction::new(from_client, to_endpoint, &counts.sent, means);
    let mut back = Direction::new(from_endpoint, to_client, &counts.received, means);
    passing::through(|passing| there.begin(passing))?;
    let begun = Instant::now();
    let mut watch = Watch::new(begun);
    let mut timer = pin!(sleep_until(begun + SETTLED));
    let mut changed = pin!(counts.deadline.changed());
    poll_fn(|cx| {
        let done = passing::through(|passing| {
            // The endpoint first: if it broke off, what the client says is still the client's.
            let accident = silent == SilentEnd::MayBeAnAccident && there.passed == 0 && !there.done;
            back.ends_soon = accident.then_some(begun);
            let back = back.poll(cx, passing, there.done).map_err(|error| {
                match (back.passed, there.passed) {
                    (0, 0) if begun.elapsed() < AT_ONCE => Broken::Untouched(error),
                    (0, 0) => Broken::Off(error),
                    (0, _) => Broken::Unanswered(error),
                    _ => Broken::Off(error),
                }
            })?;
            let back_done = back.is_ready();
            Ok([back, there.poll(cx, passing, back_done).map_err(Broken::Off)?])
        })?;
        let passed = there.passed + back.passed;
        match done {
            [Poll::Ready(()), Poll::Ready(())] => return Poll::Ready(Ok(())),
            [Poll::Pending, Poll::Pending] => {}
            _ if watch.half_closed => {}
            _ => {
                watch.half_close(Instant::now(), passed);
                timer.as_mut().reset(watch.next(counts, quiet()));
            }
        }
        let changes = counts.deadline.changes();
        if std::mem::replace(&mut watch.changes, changes) != changes {
            // A task's waker stays the same: once registered, it is woken by the next change.
            changed.set(counts.deadline.changed());
            if changed.as_mut().poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            timer.as_mut().reset(watch.next(counts, quiet()));
        }
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let over = counts.deadline.get().is_some_and(|at| at <= now.into_std());
            watch.look(now, passed);
            if over || watch.is_over(now, quiet()) {
                return Poll::Ready(Err(Broken::Off(io::ErrorKind::TimedOut.into())));
            }
            if !watch.settled && now >= begun + SETTLED {
                watch.settled = true;
                let to: &TcpStream = there.to.as_ref();
                let _ = SockRef::from(to).set_tcp_keepalive(&KEEPALIVE);
            }
            timer.as_mut().reset(watch.next(counts, quiet()));
        }
        Poll::Pending
    })
    .await
}

/// Later than this an endpoint that ends a connection on which nothing was said had it for as long as it
/// wanted.
const AT_ONCE: Duration = Duration::from_secs(1);

/// No count of bytes or changes comes to it.
const NEVER: u64 = u64::MAX;

/// Of the time that nothing may pass, how often it is looked whether something has: an end comes no
/// later after its time than one look.
const LOOKS: u32 = 4;

/// Looks now and then whether anything has passed: to read the clock for each read would cost more.
struct Watch {
    begun: Instant,
    settled: bool,
    half_closed: bool,
    /// What had passed when it last looked, and when that was news.
    seen: u64,
    since: Instant,
    looked: Instant,
    /// Of the endpoint's deadline, so many.
    changes: u64,
}

impl Watch {
    fn new(begun: Instant) -> Self {
        Self {
            begun,
            settled: false,
            half_closed: false,
            seen: NEVER,
            since: begun,
            looked: begun,
            changes: NEVER,
        }
    }

    fn look(&mut self, now: Instant, passed: u64) {
        self.looked = now;
        if std::mem::replace(&mut self.seen, passed) != passed {
            self.since = now;
        }
    }

    /// That an end is done is news too.
    fn half_close(&mut self, now: Instant, passed: u64) {
        (self.half_closed, self.seen, self.since, self.looked) = (true, passed, now, now);
    }

    fn limit(&self, quiet: Quiet) -> Duration {
        if self.half_closed { quiet.half_closed } else { quiet.open }
    }

    fn is_over(&self, now: Instant, quiet: Quiet) -> bool {
        now >= self.since + self.limit(quiet)
    }

    /// When it is to look again.
    fn next(&self, endpoint: &Endpoint, quiet: Quiet) -> Instant {
        let limit = self.limit(quiet);
        let look = (self.looked + limit / LOOKS).min(self.since + limit);
        let look = if self.settled { look } else { look.min(self.begun + SETTLED) };
        let deadline = endpoint.deadline.get().map(Instant::from_std);
        deadline.map_or(look, |deadline| deadline.min(look))
    }
}

struct Direction<'a> {
    from: ReadHalf<'a>,
    to: WriteHalf<'a>,
    counted: &'a Number,
    means: &'a Means<'a>,
    /// Bytes read, and bytes written later than that.
    passed: u64,
    waiting: Waiting,
    /// Moved since the last talk.
    run: usize,
    /// To read in one go.
    size: usize,
    /// It has moved much, whatever the talk in between, and its congestion control is for that.
    is_settled: bool,
    done: bool,
    /// Since when: an end at once, before anything was said, is an error.
    ends_soon: Option<Instant>,
}

/// What was read and could not be written yet. Nothing is read before it has been.
enum Waiting {
    Nothing,
    Bytes { bytes: Box<[u8]>, written: usize },
    Piped(Pipe),
}

/// What a read came to.
enum Read {
    Some,
    End,
}

impl<'a> Direction<'a> {
    fn new(
        from: ReadHalf<'a>,
        to: WriteHalf<'a>,
        counted: &'a Number,
        means: &'a Means<'a>,
    ) -> Self {
        let (waiting, size) = (Waiting::Nothing, SMALLEST);
        Self {
            from,
            to,
            counted,
            means,
            passed: 0,
            waiting,
            run: 0,
            size,
            is_settled: false,
            done: false,
            ends_soon: None,
        }
    }

    /// To an endpoint that has just been connected to, and whose handshake may still wait for an
    /// acknowledgement (see [`acks`]): it rides on what the client has said by now. Past tokio, which
    /// knows of sockets only what the last look at all of them told.
    fn begin(&mut self, passing: &mut [u8]) -> Result<(), Broken> {
        let [from, to]: [&TcpStream; 2] = [self.from.as_ref(), self.to.as_ref()];
        // Should the endpoint break off, another one may have it.
        let said =
            match recv(from, &mut passing[..self.size], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
                Ok((_, said)) => said,
                Err(Errno::WOULDBLOCK | Errno::INTR) => 0,
                Err(error) => return Err(Broken::Off(error.into())),
            };
        if said == 0 {
            // Nothing, or its end.
            acks::now(to);
            return Ok(());
        }
        let sent = match send(to, &passing[..said], SEND) {
            Ok(sent) => sent,
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(()),
            Err(error) => return Err(Broken::Untouched(error.into())),
        };
        let flags = RecvFlags::TRUNC | RecvFlags::DONTWAIT;
        match recv(from, &mut passing[..sent], flags) {
            Ok(_) => self.count(sent),
            Err(error) => return Err(Broken::Off(error.into())),
        }
        Ok(())
    }

    /// Ready when the one end has closed and the other has been told. Where both have closed, closing
    /// tells it.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        passing: &mut [u8],
        other_done: bool,
    ) -> io::Result<Poll<()>> {
        if self.done {
            return Ok(Poll::Ready(()));
        }
        let before = self.passed;
        loop {
            if self.poll_write_waiting(cx)?.is_pending() {
                return Ok(Poll::Pending);
            }
            let read = if self.run < SPLICE_AFTER {
                self.poll_copy(cx, passing)?
            } else {
                self.poll_splice(cx, passing)?
            };
            match read {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Read::Some) if self.passed - before >= TURN as u64 => {
                    cx.waker().wake_by_ref();
                    return Ok(Poll::Pending);
                }
                Poll::Ready(Read::Some) => {}
                Poll::Ready(Read::End) => break,
            }
        }
        let at_once = |begun: Instant| self.passed == 0 && begun.elapsed() < AT_ONCE;
        if self.ends_soon.is_some_and(at_once) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.done = true;
        if other_done {
            return Ok(Poll::Ready(()));
        }
        let to: &TcpStream = self.to.as_ref();
        match SockRef::from(to).shutdown(Shutdown::Write) {
            // It was reset meanwhile, which the other direction meets.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            closed => closed?,
        }
        Ok(Poll::Ready(()))
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>, passing: &mut [u8]) -> io::Result<Poll<Read>> {
        let mut buffer = ReadBuf::new(&mut passing[..self.size]);
        match Pin::new(&mut self.from).poll_read(cx, &mut buffer) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(read) => read?,
        }
        let bytes = buffer.filled();
        if bytes.is_empty() {
            return Ok(Poll::Ready(Read::End));
        }
        let (read, full) = (bytes.len(), bytes.len() == self.size);
        // Before it is sent: that the one end has spoken is true also where the other has gone.
        self.count(read);
        let written = match send(AsRef::<TcpStream>::as_ref(&self.to), bytes, SEND) {
            Ok(written) => written,
            // It is waited for in the next round.
            Err(Errno::WOULDBLOCK | Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        if written < read {
            self.waiting = Waiting::Bytes { bytes: bytes[written..].into(), written: 0 };
            self.size = SMALLEST;
        } else if full {
            self.size = (self.size * 2).min(LARGEST);
        }
        Ok(Poll::Ready(Read::Some))
    }

    fn poll_splice(&mut self, cx: &mut Context<'_>, passing: &mut [u8]) -> io::Result<Poll<Read>> {
        let from: &TcpStream = self.from.as_ref();
        match from.poll_read_ready(cx) {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(ready) => ready?,
        }
        let Some(mut pipe) = self.means.pipes.take() else { return self.poll_copy(cx, passing) };
        match from.try_io(Interest::READABLE, || pipe.fill(from)) {
            Ok(0) => {
                self.means.pipes.give_back(pipe);
                Ok(Poll::Ready(Read::End))
            }
            Ok(read) => {
                self.waiting = Waiting::Piped(pipe);
                self.count(read);
                Ok(Poll::Ready(Read::Some))
            }
            Err(error) => {
                self.means.pipes.give_back(pipe);
                // The socket is not ready any more: the next look waits until it is.
                if is_to_be_repeated(&error) { Ok(Poll::Ready(Read::Some)) } else { Err(error) }
            }
        }
    }

    fn poll_write_waiting(&mut self, cx: &mut Context<'_>) -> io::Result<Poll<()>> {
        loop {
            match &mut self.waiting {
                Waiting::Nothing => return Ok(Poll::Ready(())),
                Waiting::Bytes { bytes, written } => {
                    match Pin::new(&mut self.to).poll_write(cx, &bytes[*written..]) {
                        Poll::Pending => return Ok(Poll::Pending),
                        Poll::Ready(more) => {
                            let more = more?;
                            *written += more;
                            self.passed += more as u64;
                        }
                    }
                    if *written == bytes.len() {
                        self.waiting = Waiting::Nothing;
                    }
                }
                Waiting::Piped(pipe) => {
                    let to: &TcpStream = self.to.as_ref();
                    match to.poll_write_ready(cx) {
                        Poll::Pending => return Ok(Poll::Pending),
                        Poll::Ready(ready) => ready?,
                    }
                    match to.try_io(Interest::WRITABLE, || pipe.drain(to)) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(drained) => self.passed += drained as u64,
                        Err(error) if is_to_be_repeated(&error) => {}
                        Err(error) => return Err(error),
                    }
                    if pipe.is_empty()
                        && let Waiting::Piped(pipe) =
                            std::mem::replace(&mut self.waiting, Waiting::Nothing)
                    {
                        self.means.pipes.give_back(pipe);
                    }
                }
            }
        }
    }

    fn count(&mut self, read: usize) {
        self.passed += read as u64;
        self.counted.add(read as u64);
        if !self.is_settled && self.passed >= SPLICE_AFTER as u64 {
            self.is_settled = true;
            self.means.congestion.settle(self.to.as_ref());
        }
        if read < TALK {
            (self.run, self.size) = (0, SMALLEST);
        } else {
            self.run = self.run.saturating_add(read);
        }
    }
}

fn is_to_be_repeated(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
