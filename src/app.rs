//! The daemon's wiring: the only place that makes channels, threads and runtimes.
//!
//! In: a checked configuration. Out: a running daemon, until it is told to stop.
//! Never: a decision of any other room.

mod live;
mod notices;

use crate::config::{self, Config, Feature};
use crate::conntrack::{Cause, Cleaner, DeleteBy, Options};
use crate::dataplane::nftables::{Counters, Nftables, Without};
use crate::dataplane::userspace::Budget;
use crate::dataplane::{Both, Dataplane};
use crate::metrics::Metrics;
use crate::model::Protocol;
use crate::node::KernelVersion;
use crate::planner::{NodePlan, Plan};
use crate::sources::kubernetes::{Access, Requests};
use crate::sources::{Batch, kubernetes, manifests};
use crate::sync::{OwnNode, Settings, Snapshot, Writer};
use crate::takeover::Outlook;
use crate::{
    admin, conntrack, dataplane, health, localhost, metrics, node, status, sync, takeover,
};
use arc_swap::ArcSwap;
pub use live::SetLevel;
use live::{Live, StatusSockets};
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::UCred;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Sets with timeouts, dynamic maps and the reject statements that the rules use.
const OLDEST_KERNEL: (u32, u32) = (5, 15);
/// nfgenmsg version 1: deletion of conntrack entries by filter.
const CONNTRACK_FILTER_KERNEL: (u32, u32) = (6, 12);
/// Batches between a source and the writer.
const BATCHES: usize = 64;
/// Pause before the address watch is started again after an error.
const WATCH_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at whether vipd serves, before what kube-proxy left is removed.
const TAKEOVER_PAUSE: Duration = Duration::from_millis(100);
/// For what still blocks when the writer has ended.
const SHUTDOWN: Duration = Duration::from_secs(1);
/// For connections that were led to the relay just before nobody was any more: it accepts them still.
const LAST_ACCEPTS: Duration = Duration::from_millis(100);
/// For relayed connections that are open when nobody is led to the relay any more.
const DRAIN: Duration = Duration::from_secs(1);
/// For the conntrack entries of former services.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(20);
/// Abstract, so that it belongs to the network namespace and goes with the process.
const LOCK_NAME: &[u8] = b"vipd.daemon";

/// Why the daemon did not run, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "this kernel is {found}, and vipd's nf_tables rules need {needed} or newer (dynamic maps with timeouts and concatenated data)"
    )]
    KernelTooOld { found: String, needed: String },
    #[error(
        "vipd needs the capability CAP_NET_ADMIN to program nf_tables and conntrack; run it as root, or grant it (systemd: AmbientCapabilities=CAP_NET_ADMIN; a container: securityContext.capabilities.add)"
    )]
    NoNetAdmin,
    #[error(
        "another vipd runs in this network namespace already, with pid {pid}; stop it first, or start this one in another namespace"
    )]
    AlreadyRunning { pid: i32 },
    #[error(
        "another vipd runs in this network namespace already, in a PID namespace (container) of its own, so that its pid is not known here; stop it first, or start this one in another network namespace"
    )]
    AlreadyRunningInContainer,
    #[error("cannot take the lock of this network namespace: {0}")]
    Lock(#[source] io::Error),
    #[error(transparent)]
    Manifests(#[from] manifests::Error),
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::Error),
    #[error(transparent)]
    Admin(#[from] admin::Error),
    #[error(transparent)]
    Conntrack(#[from] conntrack::Error),
    #[error(transparent)]
    Nftables(#[from] dataplane::nftables::Error),
    #[error(transparent)]
    Dataplane(#[from] dataplane::Error),
    #[error(
        "the table is gone, but UDP flows of former services are still in conntrack; see them with `conntrack -L -p udp`, and run this again"
    )]
    FlowsRemain,
    #[error("cannot start threads: {0}; check the limits on processes and memory")]
    Threads(#[source] io::Error),
}

/// Serves until SIGTERM or SIGINT. What the kernel forwards stays when it ends.
/// `set_level` is told what the log's level is to be, when that changes.
pub fn run(config: Config, set_level: SetLevel) -> Result<(), Error> {
    check_machine()?;
    let _lock = lock()?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Error::Threads)?;
    let outcome = runtime.block_on(serve(config, set_level));
    // A plugin for credentials that hangs must not keep the daemon.
    runtime.shutdown_timeout(SHUTDOWN);
    outcome
}

async fn serve(config: Config, set_level: SetLevel) -> Result<(), Error> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Threads)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Threads)?;

    if let Some(score) = config.oom_score_adj {
        set_oom_score(score);
    }
    let without = Without { element_count: config.without.contains(&Feature::ElementCount) };
    let budget = Arc::new(Budget::of_this_process());
    let dataplane = Both::new(Nftables::open(without)?, Arc::clone(&budget));
    let engine = dataplane.engine();
    let requests = Requests::default();
    // Without a source nothing is changed.
    let source = tokio::select! {
        source = open_source(&config, &requests) => source?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    let refused = conntrack::set_sysctls(&config.sysctls);
    let cleaner = Cleaner::spawn(Options {
        delete_by: delete_by(&config),
        reset_gone_after: config.reset_gone_after,
    })?;
    let own_node = match config.source {
        config::Source::Manifests(_) => OwnNode::Optional,
        config::Source::ApiServer { .. } => OwnNode::Expected,
    };
    let tuning = live::tuning(&config);
    let settings = Settings { node_name: config.node_name.clone(), own_node, tuning };
    let writer = Writer::new(settings, dataplane, cleaner);
    let mut metrics = Metrics::of(Counters::open()?, Arc::clone(&engine));
    metrics.requests = requests;
    let (notices, events) = notices::open(&config, &writer, (&metrics, stop.clone()));
    notices::of_sysctls(&notices, refused);
    let (health_tally, localhost_counts) = (metrics.health.clone(), metrics.localhost.clone());
    let watching = metrics::watch(metrics.clone(), writer.published(), stop.clone());
    let watching = tokio::spawn(watching);
    let listener = admin::bind(&config.admin_socket)?;
    let admin = admin::serve(listener, writer.published(), metrics.clone(), stop.clone());
    let admin = tokio::spawn(admin);
    let outlook = if config.takeover { Outlook::Go } else { Outlook::Stay };
    let takeover = tokio::spawn(take_over(outlook, writer.published(), stop.clone()));
    let (published, changes) = (writer.published(), writer.listening());
    let health = health::serve(published, changes, stop.clone(), (health_tally, notices.clone()));
    let (published, changes) = (writer.published(), writer.listening());
    let localhost = localhost::serve(published, changes, stop.clone(), (budget, localhost_counts));
    let (health, localhost) = (tokio::spawn(health), tokio::spawn(localhost));

    let site = status::Site {
        snapshot: writer.published(),
        metrics: metrics.clone(),
        configz: Arc::new(ArcSwap::from_pointee(status::configz(&config))),
        notices,
    };
    let mut sockets = StatusSockets { site, stop: stop.clone(), open: Vec::new() };
    sockets.set(&config).await;
    let (send_tuning, tuning) = watch::channel(live::tuning(&config));
    let live = Live { config: config.clone(), tuning: send_tuning, sockets, set_level };
    let live = tokio::spawn(live.run());

    let (batches, changes) = mpsc::channel(BATCHES);
    let (send_addresses, addresses) = watch::channel(Vec::new());
    let node = tokio::spawn(watch_addresses(send_addresses, stop.clone()));

    let stop_writer = stop.clone();
    let (ended, mut writer_ended) = watch::channel(());
    let thread = std::thread::Builder::new()
        .name("writer".into())
        .spawn(move || {
            let _ended = ended;
            // Commits block: on a runtime of their own they delay nobody.
            match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    runtime.block_on(async {
                        let inputs = sync::Inputs { batches: changes, addresses, tuning };
                        let writer = sync::run(writer, inputs, stop_writer);
                        // On the same thread: a change reaches the writer without a wake-up.
                        let source = async {
                            source.run(batches).await;
                            pending().await
                        };
                        tokio::select! {
                            biased;
                            () = source => {}
                            () = writer => {}
                        }
                    });
                    // A plugin for credentials that hangs must not keep the daemon.
                    runtime.shutdown_timeout(SHUTDOWN);
                }
                Err(error) => tracing::error!("the writer cannot start: {error}"),
            }
        })
        .map_err(Error::Threads)?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(source = ?config.source, node = %config.node_name, "started");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = writer_ended.changed() => tracing::error!("the writer ended; stopping"),
    }
    tracing::info!("stopping; what is programmed stays");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    // The table that leads to the relay went with the writer.
    if let Some(engine) = engine.get().cloned() {
        tokio::time::sleep(LAST_ACCEPTS).await;
        let _ = tokio::task::spawn_blocking(move || engine.stop(DRAIN)).await;
    }
    let _ = tokio::join!(admin, takeover, health, localhost, watching, live, events);
    node.abort();
    Ok(())
}

/// Who tells what exists.
enum Source {
    Manifests(manifests::Source),
    Kubernetes(kubernetes::Source),
}

impl Source {
    async fn run(self, batches: mpsc::Sender<Batch>) {
        match self {
            Source::Manifests(source) => source.run(batches).await,
            Source::Kubernetes(source) => source.run(batches).await,
        }
    }
}

async fn open_source(config: &Config, requests: &Requests) -> Result<Source, Error> {
    Ok(match &config.source {
        config::Source::Manifests(directory) => {
            Source::Manifests(manifests::open(directory.clone())?)
        }
        config::Source::ApiServer { kubeconfig, master } => {
            let access = Access {
                requests: requests.clone(),
                ..Access::new(kubeconfig.clone(), master.clone())
            };
            Source::Kubernetes(kubernetes::open(access, &config.node_name).await?)
        }
    })
}

/// A lower one than it was needs CAP_SYS_RESOURCE; without it vipd serves as well, as long as it may.
fn set_oom_score(score: i32) {
    if let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        tracing::warn!(
            "the OOM score stays as it is, not {score}: {error}; --oom-score-adj sets another"
        );
    }
}

fn delete_by(config: &Config) -> DeleteBy {
    let (major, minor) = CONNTRACK_FILTER_KERNEL;
    let off = config.without.contains(&Feature::ConntrackFilter);
    if node::kernel().at_least(major, minor) && !off { DeleteBy::Filter } else { DeleteBy::Entry }
}

async fn watch_addresses(out: watch::Sender<Vec<IpAddr>>, stop: CancellationToken) {
    while let Some(Err(error)) = stop.run_until_cancelled(node::watch(out.clone())).await {
        tracing::warn!("watching the node's addresses: {error}; starting again");
        stop.run_until_cancelled(tokio::time::sleep(WATCH_PAUSE)).await;
    }
}

/// Tells what kube-proxy left. If told to, removes it once vipd serves: never earlier, so that there
/// is no moment without rules.
async fn take_over(outlook: Outlook, published: Arc<ArcSwap<Snapshot>>, stop: CancellationToken) {
    let found = takeover::find().await;
    for line in found.lines(outlook) {
        tracing::warn!("{line}");
    }
    if outlook == Outlook::Stay || found.is_clean() {
        return;
    }
    if stop.run_until_cancelled(serving(&published)).await.is_none() {
        return;
    }
    // Others may have changed it while vipd read its objects.
    let outcome = takeover::remove(takeover::find().await).await;
    if let Some(line) = outcome.removed() {
        tracing::info!("{line}");
    }
    for left in &outcome.left {
        tracing::warn!("{left}");
    }
}

/// Waits until the kernel holds vipd's rules. For no service at all they are in nobody's place: a
/// wrong directory of manifests must not cost the node what it has.
async fn serving(published: &ArcSwap<Snapshot>) {
    let mut told = false;
    loop {
        let snapshot = published.load();
        let status = &snapshot.status;
        if status.last_success.is_some() && status.last_error.is_none() {
            if snapshot.plan.services > 0 {
                return;
            }
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    "what kube-proxy left stays for now: vipd has no service to serve; is \
                     --manifests the right directory?"
                );
            }
        }
        drop(snapshot);
        tokio::time::sleep(TAKEOVER_PAUSE).await;
    }
}

/// What needs more privilege than serving does.
pub fn initialise(config: &Config) {
    conntrack::set_sysctls(&config.sysctls);
}

/// Removes everything of vipd's from the kernel.
pub fn cleanup() -> Result<(), Error> {
    if !node::has_net_admin() {
        return Err(Error::NoNetAdmin);
    }
    let _lock = lock()?;
    let mut nftables = Nftables::open(Without::default())?;
    let mut frontends = nftables.held_frontends()?;
    let node_port_addresses = nftables.held_node_addresses()?;
    Both::new(nftables, Arc::new(Budget::of_this_process())).cleanup()?;
    // TCP is left to finish; a UDP flow would go on to its endpoint for as long as somebody sends.
    frontends.retain(|frontend| frontend.protocol == Protocol::Udp);
    if !frontends.is_empty() {
        let options = Options { delete_by: DeleteBy::Entry, reset_gone_after: None };
        let mut cleaner = Cleaner::spawn(options)?;
        // Of a node that does nothing any more; but for where its node ports answered, which tells
        // their flows from others.
        let mut plan = Plan::empty();
        plan.node = Arc::new(NodePlan { node_port_addresses, ..(*plan.node).clone() });
        let stale = frontends.into_iter().map(|at| (at, Cause::Changed));
        cleaner.clean(stale.collect(), &plan);
        if !cleaner.wait(CLEANUP_PATIENCE) {
            return Err(Error::FlowsRemain);
        }
    }
    Ok(())
}

fn check_machine() -> Result<(), Error> {
    check_kernel(node::kernel())?;
    if node::has_net_admin() { Ok(()) } else { Err(Error::NoNetAdmin) }
}

fn check_kernel(kernel: KernelVersion) -> Result<(), Error> {
    let (major, minor) = OLDEST_KERNEL;
    if kernel.at_least(major, minor) {
        return Ok(());
    }
    Err(Error::KernelTooOld { found: kernel.to_string(), needed: format!("{major}.{minor}") })
}

/// One daemon per network namespace. The name can be taken by any process of the namespace, so
/// only a holder with our own user id counts: others could keep vipd from starting.
fn lock() -> Result<Option<UnixListener>, Error> {
    let address = SocketAddr::from_abstract_name(LOCK_NAME).map_err(Error::Lock)?;
    match UnixListener::bind_addr(&address) {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            let Ok(holder) = UnixStream::connect_addr(&address) else {
                return UnixListener::bind_addr(&address).map(Some).map_err(Error::Lock);
            };
            let holder = peer(holder).map_err(Error::Lock)?;
            if holder.uid() == rustix::process::geteuid().as_raw() {
                return Err(match holder.pid() {
                    Some(pid) if pid > 0 => Error::AlreadyRunning { pid },
                    _ => Error::AlreadyRunningInContainer,
                });
            }
            tracing::warn!(
                uid = holder.uid(),
                "a process of another user holds vipd's lock; ignored"
            );
            Ok(None)
        }
        Err(error) => Err(Error::Lock(error)),
    }
}

/// tokio's, because rustix's type has no room for the pid 0 that the kernel gives for a process of
/// a PID namespace that this one does not see.
fn peer(stream: UnixStream) -> io::Result<UCred> {
    stream.set_nonblocking(true)?;
    let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async { tokio::net::UnixStream::from_std(stream)?.peer_cred() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_kernel_is_told_with_what_is_needed() {
        for old in ["5.14.21-default", "4.19.0", "5.4.0-190-generic"] {
            let error = check_kernel(KernelVersion::parse(old)).expect_err(old).to_string();
            let version = old.rsplitn(2, '.').last().unwrap_or_default();
            assert!(error.contains(&format!("this kernel is {version},")), "{old}: {error}");
            assert!(error.contains("need 5.15 or newer"), "{old}: {error}");
        }
        for new in ["5.15.0-1042-aws", "6.1.0-13-amd64", "10.0.1"] {
            check_kernel(KernelVersion::parse(new)).expect(new);
        }
    }
}
