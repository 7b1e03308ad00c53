//! The daemon's wiring: the only place that makes channels, threads and runtimes.
//!
//! In: a checked configuration. Out: a running daemon, until it is told to stop.
//! Never: a decision of any other room.

mod answers;
mod departure;
mod live;
mod lock;
mod notices;
mod replace;
mod successor;

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
use crate::{admin, conntrack, dataplane, handover, metrics, node, sync, takeover};
use answers::Answers;
use arc_swap::ArcSwap;
use departure::Running;
pub use live::SetLevel;
use lock::{Lock, lock};
use replace::Turn;
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
pub use successor::Launch;
use successor::Successors;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
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
/// For the conntrack entries of former services.
const CLEANUP_PATIENCE: Duration = Duration::from_secs(20);

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
    #[error(
        "--init-only: {0}. What the node sets by itself is left alone by --conntrack-max-per-core 0 and \
         timeouts of 0 (`conntrack` in the file of --config)"
    )]
    Uninitialised(String),
    #[error("the thread that writes has ended; the lines above say why")]
    Writer,
    #[error(
        "another process asked to take over, and did not to the end: {0}; this one has stopped for it"
    )]
    Handover(#[source] handover::Error),
    #[error(
        "the process that took over has ended; its lines say why. This one has stopped for it, and ends \
         too, so that both can be started again"
    )]
    SuccessorLost,
    #[error("cannot start threads: {0}; check the limits on processes and memory")]
    Threads(#[source] io::Error),
}

/// Serves until SIGTERM, SIGINT, or another process takes this one's place. What the kernel forwards
/// stays when it ends. `set_level` is told what the log's level is to be, when that changes.
pub fn run(config: Config, launch: Launch, set_level: SetLevel) -> Result<(), Error> {
    check_machine()?;
    let place = match lock() {
        Err(Error::AlreadyRunning { .. } | Error::AlreadyRunningInContainer) if launch.replace => {
            Place::Former
        }
        Err(error) => return Err(error),
        Ok(lock) => Place::Own(lock),
    };
    if launch.replace && matches!(place, Place::Own(_)) {
        tracing::warn!("no vipd runs in this network namespace: there is nothing to replace");
    }
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Error::Threads)?;
    let outcome = runtime.block_on(serve(config, (place, launch), set_level));
    // A plugin for credentials that hangs must not keep the daemon.
    runtime.shutdown_timeout(SHUTDOWN);
    outcome
}

/// Whose turn it is.
enum Place {
    Own(Lock),
    /// Another process's, until this one is about to write.
    Former,
}

/// What ends the daemon.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn open() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn serve(
    config: Config,
    (place, launch): (Place, Launch),
    set_level: SetLevel,
) -> Result<(), Error> {
    let stop = CancellationToken::new();
    let mut signals = Signals::open().map_err(Error::Threads)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::Threads)?;

    if let Some(score) = config.oom_score_adj {
        set_oom_score(score);
    }
    let without = Without { element_count: config.without.contains(&Feature::ElementCount) };
    let budget = Arc::new(Budget::of_this_process());
    let mut dataplane = Both::new(Nftables::open(without)?, budget, config.drain_timeout);
    let engine = dataplane.engine();
    let turn = match place {
        Place::Own(lock) => Ok(Turn::alone(lock)),
        Place::Former => {
            let (former, taken) = replace::former(handover::path(&config.admin_socket));
            dataplane.follow(former);
            Err(taken)
        }
    };
    let requests = Requests::default();
    // Without a source nothing is changed.
    let source = tokio::select! {
        source = open_source(&config, &requests) => source?,
        () = signals.end() => return Ok(()),
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
    metrics.gates.store(Arc::new(config.gates.clone()));
    let (notices, events) = notices::open(&config, &writer, (&metrics, stop.clone()));
    notices::of_sysctls(&notices, refused);
    let watching = metrics::watch(metrics.clone(), writer.published(), stop.clone());
    let watching = tokio::spawn(watching);
    let outlook = if config.takeover { Outlook::Go } else { Outlook::Stay };
    let takeover = tokio::spawn(take_over(outlook, writer.published(), stop.clone()));
    let (send_tuning, tuning) = watch::channel(live::tuning(&config));
    let published = writer.published();
    let answers = Answers {
        published: writer.published(),
        listening: writer.listening(),
        metrics,
        notices,
        stop: stop.clone(),
        tuning: send_tuning,
        set_level,
    };
    let (batches, changes) = mpsc::channel(BATCHES);
    let (send_addresses, addresses) = watch::channel(Vec::new());
    let inputs = sync::Inputs { batches: changes, addresses, tuning };
    let look_again = send_addresses.clone();
    let node = tokio::spawn(watch_addresses(send_addresses, stop.clone()));
    let stop_writer = stop.clone();
    let start_writing = move || Writing::start(writer, inputs, (source, batches), stop_writer);

    let (turn, answering, mut writing) = match turn {
        // What cannot be opened is told before anything is written.
        Ok(turn) => {
            let answering = answers.open(&config).await?;
            (turn, answering, start_writing()?)
        }
        Err(taken) => {
            let mut writing = start_writing()?;
            let turn = tokio::select! {
                turn = taken => turn.unwrap_or(Err(Error::Writer))?,
                () = writing.has_ended() => return Err(Error::Writer),
                () = signals.end() => return Ok(()),
            };
            (turn, answers.open(&config).await?, writing)
        }
    };
    let beside = turn.former.as_ref().map(|former| {
        let (former, ended) = (Arc::clone(former), turn.ended.clone());
        tokio::spawn(async move {
            programmed(&published).await;
            former.serving();
            ended.cancelled().await;
            // The writer lets go of what the former process's connections needed.
            look_again.send_modify(|_| {});
        })
    });
    let own = sd_notify::NotifyState::MainPid(std::process::id());
    let _ = sd_notify::notify(&[own, sd_notify::NotifyState::Ready]);
    tracing::info!(source = ?config.source, node = %config.node_name, "started");

    let successors = Successors::new(launch);
    let successor = {
        let mut asked = pin!(answering.asked());
        loop {
            tokio::select! {
                () = signals.end() => break None,
                _ = hangup.recv() => successors.start(),
                () = writing.has_ended() => {
                    tracing::error!("the writer ended; stopping");
                    break None;
                }
                successor = &mut asked => break Some(successor),
            }
        }
    };
    node.abort();
    if let Some(beside) = beside {
        beside.abort();
    }
    let others = vec![watching, takeover, events];
    let running = Running { stop, writing, engine, answering, others, turn };
    match successor {
        None => running.stop().await,
        Some(successor) => {
            let told_by = (&mut signals, &successors);
            running.hand_over(successor, told_by, config.drain_timeout).await?;
        }
    }
    Ok(())
}

/// The thread that writes.
struct Writing {
    thread: std::thread::JoinHandle<Option<Writer<Both, Cleaner>>>,
    ended: watch::Receiver<()>,
}

impl Writing {
    /// Commits block: on a thread and a runtime of their own they delay nobody.
    fn start(
        writer: Writer<Both, Cleaner>,
        inputs: sync::Inputs,
        (source, batches): (Source, mpsc::Sender<Batch>),
        stop: CancellationToken,
    ) -> Result<Self, Error> {
        let (told, ended) = watch::channel(());
        let run = move || {
            let _told = told;
            let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime,
                Err(error) => {
                    tracing::error!("the writer cannot start: {error}");
                    return None;
                }
            };
            let writer = runtime.block_on(async {
                let writer = sync::run(writer, inputs, stop);
                // On the same thread: a change reaches the writer without a wake-up.
                let source = async {
                    source.run(batches).await;
                    pending().await
                };
                tokio::select! {
                    biased;
                    writer = source => writer,
                    writer = writer => writer,
                }
            });
            // What reads files, or a plugin for credentials that hangs, must not keep the next process
            // waiting.
            runtime.shutdown_background();
            Some(writer)
        };
        let thread = std::thread::Builder::new().name("writer".into()).spawn(run);
        Ok(Self { thread: thread.map_err(Error::Threads)?, ended })
    }

    async fn has_ended(&mut self) {
        let _ = self.ended.changed().await;
    }

    /// The writer, when it has been told to stop.
    async fn ended(self) -> Option<Writer<Both, Cleaner>> {
        let joined = tokio::task::spawn_blocking(move || self.thread.join()).await;
        joined.ok().and_then(Result::ok).flatten()
    }
}

/// Waits for the first commit.
async fn programmed(published: &ArcSwap<Snapshot>) {
    while published.load().status.last_success.is_none() {
        tokio::time::sleep(TAKEOVER_PAUSE).await;
    }
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

/// What needs more privilege than serving does. As with kube-proxy's `--init-only`, what could not be
/// set is an error: nobody else sets it later.
pub fn initialise(config: &Config) -> Result<(), Error> {
    let refused = conntrack::set_sysctls(&config.sysctls);
    if refused.is_empty() {
        return Ok(());
    }
    let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
    Err(Error::Uninitialised(refused.join("; ")))
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
    Both::new(nftables, Arc::new(Budget::of_this_process()), Duration::ZERO).cleanup()?;
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
