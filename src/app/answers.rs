//! All that listens for who asks this process: opened when it is its turn, closed when it is over.
//!
//! In: the configuration, what is published. Out: tasks that answer; the offer of a handover.
//! Never: what the relay listens at.

use super::Error;
use super::live::{Live, SetLevel, StatusSockets};
use crate::config::Config;
use crate::events::Notices;
use crate::handover::{self, Offer};
use crate::metrics::Metrics;
use crate::sync::{Snapshot, Tuning};
use crate::{admin, health, status};
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What they are made of.
pub(super) struct Answers {
    pub published: Arc<ArcSwap<Snapshot>>,
    /// That listeners answer something else now.
    pub listening: watch::Receiver<()>,
    pub metrics: Metrics,
    pub notices: Notices,
    pub stop: CancellationToken,
    pub tuning: watch::Sender<Tuning>,
    pub set_level: SetLevel,
}

/// Open until the token is cancelled that they were made with, and [`Answering::closed`] is called.
pub(super) struct Answering {
    admin: JoinHandle<()>,
    health: JoinHandle<()>,
    live: JoinHandle<()>,
    /// `None`: it cannot be offered.
    offer: Option<Offer>,
}

impl Answers {
    pub(super) async fn open(self, config: &Config) -> Result<Answering, Error> {
        let Answers { published, listening, metrics, notices, stop, .. } = self;
        let listener = admin::bind(&config.admin_socket)?;
        let admin = admin::serve(listener, published.clone(), metrics.clone(), stop.clone());
        let tally = (metrics.health.clone(), notices.clone());
        let health = health::serve(published.clone(), listening, stop.clone(), tally);
        let site = status::Site {
            snapshot: published,
            metrics,
            configz: Arc::new(ArcSwap::from_pointee(status::configz(config))),
            notices,
        };
        let mut sockets = StatusSockets { site, stop, open: Vec::new() };
        sockets.set(config).await;
        let (tuning, set_level) = (self.tuning, self.set_level);
        let live = Live { config: config.clone(), tuning, sockets, set_level };
        let offer = handover::offer(&handover::path(&config.admin_socket));
        let offer = offer
            .inspect_err(|error| tracing::warn!("no process can replace this one: {error}"))
            .ok();
        Ok(Answering {
            admin: tokio::spawn(admin),
            health: tokio::spawn(health),
            live: tokio::spawn(live.run()),
            offer,
        })
    }
}

impl Answering {
    /// The process that is to replace this one.
    pub(super) async fn asked(&self) -> handover::Successor {
        match &self.offer {
            Some(offer) => offer.asked().await,
            None => std::future::pending().await,
        }
    }

    /// Until nothing is listened at any more.
    pub(super) async fn closed(self) {
        let Answering { admin, health, live, offer } = self;
        drop(offer);
        let _ = tokio::join!(admin, health, live);
    }
}
