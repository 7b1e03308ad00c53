//! A client's connection, and how each of its requests finds an endpoint.

use super::super::choose::Chosen;
use super::super::counts::Held;
use super::super::dials::{Dials, Failure};
use super::super::served::{Caller, Served};
use super::super::shared::Shared;
use super::super::tcp::{Accepted, dial_once, patience};
use super::answers::{Dialect, Malformed, Refusal, answer};
use super::asked::{Asked, Spoilt};
use super::body::Passing;
use super::heads::{self, Wish};
use super::tunnel::{self, Tunnel};
use super::upstreams::{Connection, Lease, Upstream, prepare};
use super::wire::{Spoken, Wire};
use crate::model::HttpVersion;
use hyper::body::{Body, Incoming};
use hyper::{Request, Response, StatusCode, Version};
use std::error::Error as _;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::task::TaskTracker;

/// A connection to an endpoint is one file.
const FILES: u32 = 1;

pub struct Session {
    pub(in super::super) shared: Arc<Shared>,
    pub(in super::super) accepted: Arc<Accepted>,
    /// Spoken by the client, and to endpoints.
    pub(in super::super) version: HttpVersion,
    pub(in super::super) tunnels: TaskTracker,
}

/// An answer's head, and what is to be held until its body has ended.
struct Answered {
    response: Response<Incoming>,
    held: Held,
    lease: Lease,
}

/// Why there is none.
enum Unanswered {
    Refused(Refusal),
    /// The endpoint reset this request's stream: the client's is reset in the same words.
    Reset(h2::Error),
}

impl Session {
    fn served(&self) -> &Arc<Served> {
        &self.accepted.served
    }

    pub(super) async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Passing>, h2::Error> {
        let (dialect, version) = (Dialect::of(&request), request.version());
        // Taken out in any case: it is of the client's connection.
        let client = hyper::upgrade::on(&mut request);
        let wish = match heads::request(&mut request, self.accepted.client.ip()) {
            Ok(wish) => wish,
            Err(what) => return Ok(Passing::own(answer(Refusal::Malformed(what), dialect))),
        };
        let (request, spoilt) = Asked::of(request);
        let Answered { mut response, held, lease } = match self.exchange(request, &spoilt).await {
            Ok(answered) => answered,
            Err(Unanswered::Refused(why)) => return Ok(Passing::own(answer(why, dialect))),
            Err(Unanswered::Reset(error)) => return Err(error),
        };
        heads::response(&mut response, version);
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let ends_with_connection =
                version == Version::HTTP_10 && response.body().size_hint().exact().is_none();
            return Ok(response.map(|body| Passing::Endpoint {
                body,
                held,
                _lease: lease,
                spoilt,
                ends_with_connection,
            }));
        }
        if wish != Wish::Upgrade {
            held.broken.add(1);
            return Ok(Passing::own(answer(Refusal::Broken, dialect)));
        }
        let endpoint = hyper::upgrade::on(&mut response);
        let (shared, accepted) = (Arc::clone(&self.shared), Arc::clone(&self.accepted));
        let tunnel = Tunnel { client, endpoint, held, shared, accepted };
        self.tunnels.spawn(tunnel::pass(tunnel));
        Ok(response.map(|_| Passing::empty()))
    }

    /// Asks one endpoint after another until one has been sent the request.
    async fn exchange(
        &self,
        mut request: Request<Asked>,
        spoilt: &Spoilt,
    ) -> Result<Answered, Unanswered> {
        let mut dials = Dials::default();
        loop {
            let node = self.shared.frontends.node();
            let caller = Caller { client: self.accepted.client.ip(), node: &node };
            let Some(chosen) = self.served().choose(&caller, &dials) else {
                self.served().port.unserved.add(1);
                let why = if dials.timed_out() { Refusal::Slow } else { Refusal::NoEndpoint };
                return Err(Unanswered::Refused(why));
            };
            let found = self.connection(&caller, &mut dials, &chosen).await;
            let Some(Found { connection, age }) = found.map_err(Unanswered::Refused)? else {
                continue;
            };
            let held = chosen.endpoint;
            let target = held.target;
            let mut error = match connection.send(request).await {
                Ok((response, lease)) => {
                    held.requests.add(1);
                    self.served().answered(&held);
                    return Ok(Answered { response, held, lease });
                }
                Err(error) => error,
            };
            let unsent = error.take_message();
            let error = error.into_error();
            if spoilt.is_so() {
                held.requests.add(1);
                return Err(unanswerable(&error));
            }
            tracing::debug!(%target, %error, unsent = unsent.is_some(), "an endpoint broke off");
            if let Age::New(spoken) = age {
                if !spoken.is_so() {
                    self.served().broke_off(&caller, target);
                }
                dials.failed(target, Failure::Refused);
            }
            match unsent {
                Some(unsent) => {
                    held.retried.add(1);
                    request = unsent;
                }
                None => {
                    held.requests.add(1);
                    held.broken.add(1);
                    return Err(unanswered(&error));
                }
            }
        }
    }

    /// To the endpoint that was chosen: one that is open, or a new one. `None`: it takes none, as
    /// the dials now say.
    async fn connection(
        &self,
        caller: &Caller<'_>,
        dials: &mut Dials,
        chosen: &Chosen,
    ) -> Result<Option<Found>, Refusal> {
        let target = chosen.endpoint.target;
        let upstream = self.served().port.upstreams.to(target);
        if let Some(connection) = self.kept(&upstream) {
            return Ok(Some(Found { connection, age: Age::Used }));
        }
        let _turn = match self.version {
            HttpVersion::Http1 => None,
            HttpVersion::H2c => {
                let patience = patience(self.served(), dials, chosen);
                let Some(turn) = turn(&upstream, patience).await else {
                    // Whoever dials tells of it.
                    dials.failed(target, Failure::Slow);
                    return Ok(None);
                };
                if let Some(connection) = self.kept(&upstream) {
                    return Ok(Some(Found { connection, age: Age::Used }));
                }
                Some(turn)
            }
        };
        let Some(files) = self.shared.budget.files(FILES) else {
            self.served().port.refused.add(1);
            return Err(Refusal::Full);
        };
        let began = Instant::now();
        let Some(stream) = dial_once((&self.shared, self.served()), caller, dials, chosen).await
        else {
            return Ok(None);
        };
        prepare(&stream);
        self.shared.congestion.settle(&stream);
        let wire = Wire::new(stream, chosen.endpoint.endpoint(), files);
        let spoken = wire.spoken();
        let begun = match self.version {
            HttpVersion::Http1 => Ok(upstream.begin_lone(wire).await),
            HttpVersion::H2c => {
                let patience = patience(self.served(), dials, chosen);
                tokio::time::timeout(patience, upstream.begin_shared(wire)).await
            }
        };
        let failure = match begun {
            Ok(Ok(connection)) => {
                self.served().connected(&chosen.endpoint, began.elapsed());
                return Ok(Some(Found { connection, age: Age::New(spoken) }));
            }
            Ok(Err(error)) => {
                tracing::debug!(%target, %error, "an endpoint broke off at once");
                match spoken.is_so() {
                    true => self.served().failed(caller, target, Failure::Refused),
                    false => self.served().broke_off(caller, target),
                }
                Failure::Refused
            }
            Err(_) => {
                tracing::debug!(%target, "an endpoint does not speak HTTP/2, or not in time");
                self.served().failed(caller, target, Failure::Slow);
                Failure::Slow
            }
        };
        dials.failed(target, failure);
        Ok(None)
    }

    fn kept(&self, upstream: &Arc<Upstream>) -> Option<Connection> {
        match self.version {
            HttpVersion::Http1 => upstream.lone(),
            HttpVersion::H2c => upstream.shared(),
        }
    }
}

struct Found {
    connection: Connection,
    age: Age,
}

/// What it says of the endpoint that a connection broke off: one that has been used may have been idle
/// for too long.
enum Age {
    New(Spoken),
    Used,
}

/// Many requests that come at once make one connection. `None`: who makes it takes too long.
async fn turn(upstream: &Upstream, patience: Duration) -> Option<tokio::sync::MutexGuard<'_, ()>> {
    tokio::time::timeout(patience, upstream.dialling.lock()).await.ok()
}

/// Of a request whose client is to blame. In HTTP/2 its stream has ended.
fn unanswerable(error: &hyper::Error) -> Unanswered {
    match unanswered(error) {
        Unanswered::Refused(_) => Unanswered::Refused(Refusal::Malformed(Malformed::Body)),
        reset @ Unanswered::Reset(_) => reset,
    }
}

fn unanswered(error: &hyper::Error) -> Unanswered {
    let reset = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    let Some((error, reason)) = reset.and_then(|error| Some((error, error.reason()?))) else {
        return Unanswered::Refused(Refusal::Broken);
    };
    if error.is_reset() {
        return Unanswered::Reset(reason.into());
    }
    // The endpoint goes away and has not looked at this one (RFC 9113 6.8), which is what to tell a
    // client that may try again.
    if error.is_go_away() && error.is_remote() && reason == h2::Reason::NO_ERROR {
        return Unanswered::Reset(h2::Reason::REFUSED_STREAM.into());
    }
    Unanswered::Refused(Refusal::Broken)
}
