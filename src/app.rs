//! The daemon's wiring: the only place that makes channels, threads and runtimes.
//!
//! In: a checked configuration. Out: a running daemon, until it is told to stop.
//! Never: a decision of any other room.

use crate::config::{Config, Feature};
use crate::conntrack::{Cleaner, DeleteBy, Options};
use crate::dataplane::Dataplane;
use crate::dataplane::nftables::{Nftables, Without};
use crate::model::Protocol;
use crate::planner::Plan;
use crate::sources::manifests;
use crate::sync::{Settings, Writer};
use crate::{admin, conntrack, dataplane, node, sync};
use std::future::pending;
use std::io;
use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
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
    Admin(#[from] admin::Error),
    #[error(transparent)]
    Conntrack(#[from] conntrack::Error),
    #[error(transparent)]
    Nftables(#[from] dataplane::nftables::Error),
    #[error(
        "the table is gone, but UDP flows of former services are still in conntrack; see them with `conntrack -L -p udp`, and run this again"
    )]
    FlowsRemain,
    #[error("cannot start threads: {0}; check the limits on processes and memory")]
    Threads(#[source] io::Error),
}

/// Serves until SIGTERM or SIGINT. What the kernel forwards stays when it ends.
pub fn run(config: Config) -> Result<(), Error> {
    check_machine()?;
    let _lock = lock()?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Error::Threads)?;
    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Error> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::Threads)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::Threads)?;

    let without = Without { element_count: config.without.contains(&Feature::ElementCount) };
    let dataplane = Nftables::open(without)?;
    conntrack::set_sysctls(&config.sysctls);
    let cleaner = Cleaner::spawn(Options {
        delete_by: delete_by(&config),
        reset_gone_after: config.reset_gone_after,
    })?;
    let settings = Settings {
        node_name: config.node_name.clone(),
        policy: config.policy.clone(),
        min_sync_period: config.min_sync_period,
    };
    let writer = Writer::new(settings, dataplane, cleaner);
    let listener = admin::bind(&config.admin_socket)?;
    let admin = tokio::spawn(admin::serve(listener, writer.published(), stop.clone()));

    let (batches, changes) = mpsc::channel(BATCHES);
    let source = manifests::open(config.manifests.clone())?;
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
                Ok(runtime) => runtime.block_on(async {
                    let writer = sync::run(writer, changes, addresses, stop_writer);
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
                }),
                Err(error) => tracing::error!("the writer cannot start: {error}"),
            }
        })
        .map_err(Error::Threads)?;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tracing::info!(manifests = %config.manifests.display(), node = %config.node_name, "started");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = writer_ended.changed() => tracing::error!("the writer ended; stopping"),
    }
    tracing::info!("stopping; what is programmed stays");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
    let _ = tokio::task::spawn_blocking(move || thread.join()).await;
    let _ = admin.await;
    node.abort();
    Ok(())
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

/// Removes everything of vipd's from the kernel.
pub fn cleanup() -> Result<(), Error> {
    if !node::has_net_admin() {
        return Err(Error::NoNetAdmin);
    }
    let _lock = lock()?;
    let mut dataplane = Nftables::open(Without::default())?;
    let mut frontends = dataplane.held_frontends()?;
    dataplane.cleanup()?;
    // TCP is left to finish; a UDP flow would go on to its endpoint for as long as somebody sends.
    frontends.retain(|frontend| frontend.protocol == Protocol::Udp);
    if !frontends.is_empty() {
        let options = Options { delete_by: DeleteBy::Entry, reset_gone_after: None };
        let mut cleaner = Cleaner::spawn(options)?;
        cleaner.clean(frontends, &Plan::empty());
        if !cleaner.wait(CLEANUP_PATIENCE) {
            return Err(Error::FlowsRemain);
        }
    }
    Ok(())
}

fn check_machine() -> Result<(), Error> {
    let (major, minor) = OLDEST_KERNEL;
    let kernel = node::kernel();
    if !kernel.at_least(major, minor) {
        return Err(Error::KernelTooOld {
            found: format!("{}.{}", kernel.major, kernel.minor),
            needed: format!("{major}.{minor}"),
        });
    }
    if node::has_net_admin() { Ok(()) } else { Err(Error::NoNetAdmin) }
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
