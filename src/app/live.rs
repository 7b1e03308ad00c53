//! What a running daemon takes over from a changed file of `--config`.
//!
//! In: that the file may be another one. Out: the writer's settings, the sockets that answer about the
//! process, sysctls, the OOM score, the log's level.
//! Never: an end of the process; a file with a mistake in it.

use super::{notices, set_oom_score};
use crate::config::{Config, ConfigFile, LogLevel};
use crate::conntrack;
use crate::sources::manifests::FollowedFile;
use crate::status::{self, Asked};
use crate::sync::Tuning;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The sockets that answer about the process.
pub(super) struct StatusSockets {
    pub site: status::Site,
    pub stop: CancellationToken,
    pub open: Vec<Socket>,
}

pub(super) struct Socket {
    asked: (Asked, SocketAddr),
    stop: CancellationToken,
    served: JoinHandle<()>,
}

impl StatusSockets {
    /// Opens those that are wanted and closes the others: these first, because an address and all
    /// addresses do not share a port.
    pub async fn set(&mut self, config: &Config) {
        let wanted = [(Asked::Health, &config.healthz_at), (Asked::Metrics, &config.metrics_at)];
        let wanted =
            wanted.into_iter().flat_map(|(asked, all)| all.iter().map(move |at| (asked, *at)));
        let wanted: Vec<_> = wanted.collect();
        let (kept, gone) = std::mem::take(&mut self.open)
            .into_iter()
            .partition(|socket: &Socket| wanted.contains(&socket.asked));
        self.open = kept;
        close(gone).await;
        for asked in wanted {
            if !self.open.iter().any(|socket| socket.asked == asked) {
                let stop = self.stop.child_token();
                let served = tokio::spawn(status::serve(asked, self.site.clone(), stop.clone()));
                self.open.push(Socket { asked, stop, served });
            }
        }
    }
}

async fn close(sockets: Vec<Socket>) {
    for socket in &sockets {
        socket.stop.cancel();
    }
    for socket in sockets {
        let _ = socket.served.await;
    }
}

/// Sets the level of the log.
pub type SetLevel = Box<dyn Fn(LogLevel) + Send>;

/// What follows the configuration while the daemon runs.
pub(super) struct Live {
    pub config: Config,
    pub tuning: watch::Sender<Tuning>,
    pub sockets: StatusSockets,
    pub set_level: SetLevel,
}

pub(super) fn tuning(config: &Config) -> Tuning {
    Tuning { policy: config.policy.clone(), min_sync_period: config.min_sync_period }
}

impl Live {
    /// Follows the file, if there is one, until told to stop; then closes the sockets.
    pub async fn run(mut self) {
        let stop = self.sockets.stop.clone();
        if let Some(file) = self.config.file.clone() {
            stop.run_until_cancelled(self.follow(file)).await;
        }
        stop.cancelled().await;
        close(self.sockets.open).await;
    }

    async fn follow(&mut self, file: ConfigFile) {
        let mut followed = match FollowedFile::open(file.path().to_owned()) {
            Ok(followed) => followed,
            Err(error) => {
                tracing::warn!("the file of --config is not followed: {error}");
                return;
            }
        };
        loop {
            // It may have changed since it was read first.
            self.reread().await;
            if let Err(error) = followed.changed().await {
                tracing::error!("the file of --config is no longer followed: {error}");
                return;
            }
        }
    }

    async fn reread(&mut self) {
        let Some(file) = &self.config.file else { return };
        match file.reread() {
            Ok(None) => {}
            Ok(Some(newer)) => self.apply(newer).await,
            Err(error) => tracing::warn!("{error}; the former configuration stays"),
        }
    }

    /// What cannot be taken over stays as it was, and is told each time.
    async fn apply(&mut self, mut newer: Config) {
        let site = self.sockets.site.clone();
        for warning in newer.warnings.iter().filter(|new| !self.config.warnings.contains(new)) {
            tracing::warn!("{warning}");
            notices::of_config(&site.notices, [warning]);
        }
        for what in self.config.needs_restart(&newer) {
            tracing::warn!("{what} in the file of --config has changed: it needs a restart");
        }
        if newer.log.level != self.config.log.level {
            (self.set_level)(newer.log.level);
        }
        if newer.sysctls != self.config.sysctls {
            let refused = conntrack::set_sysctls(&newer.sysctls);
            notices::of_sysctls(&site.notices, refused);
        }
        if let Some(score) =
            newer.oom_score_adj.filter(|_| newer.oom_score_adj != self.config.oom_score_adj)
        {
            set_oom_score(score);
        }
        self.sockets.set(&newer).await;
        let tuning = tuning(&newer);
        self.tuning.send_if_modified(|now| {
            let differs = *now != tuning;
            *now = tuning;
            differs
        });
        // What needs a restart is still what runs.
        newer.source = self.config.source.clone();
        newer.node_name = Arc::clone(&self.config.node_name);
        newer.log.format = self.config.log.format;
        site.metrics.gates.store(Arc::new(newer.gates.clone()));
        site.configz.store(Arc::new(status::configz(&newer)));
        self.config = newer;
        tracing::info!("the changed file of --config is in effect");
    }
}
