//! Who sends Events, and what the start and the configuration have to say in them.
//!
//! In: the configuration, what could not be set. Out: the task that sends Events, notices.
//! Never: an Event where objects come from files: the log has all of it too.

use crate::config::{Config, Source, Warning};
use crate::conntrack;
use crate::dataplane::Dataplane;
use crate::events::{self, About, Desk, Notices, Reason};
use crate::metrics::Metrics;
use crate::sources::kubernetes::Access;
use crate::sync::{StaleFlows, Writer};
use std::future::ready;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Where notices go, and the task that takes them.
pub(super) fn open<D: Dataplane, F: StaleFlows>(
    config: &Config,
    writer: &Writer<D, F>,
    (metrics, stop): (&Metrics, CancellationToken),
) -> (Notices, JoinHandle<()>) {
    let Source::ApiServer { kubeconfig, master } = &config.source else {
        return (Notices::to_nobody(), tokio::spawn(ready(())));
    };
    let counts = metrics.events.clone();
    let (notices, told) = Notices::new(counts.clone());
    let desk = Desk {
        access: Access {
            requests: metrics.requests.clone(),
            ..Access::new(kubeconfig.clone(), master.clone())
        },
        node: config.node_name.clone(),
        counts,
        published: writer.published(),
        findings: writer.findings(),
        told,
    };
    let version = env!("CARGO_PKG_VERSION");
    notices.tell(About::Node, Reason::Starting, format!("vipd {version} starts"));
    of_config(&notices, &config.warnings);
    (notices, tokio::spawn(events::serve(desk, stop)))
}

/// What kube-proxy has Events of; the rest is the log's.
pub(super) fn of_config<'a>(notices: &Notices, warnings: impl IntoIterator<Item = &'a Warning>) {
    for warning in warnings {
        let reason = match warning {
            Warning::DefaultMode => Reason::KubeProxyDefaultMode,
            Warning::OtherMode { asked: "ipvs" } => Reason::IpvsDeprecation,
            Warning::OtherMode { .. } => Reason::OtherProxyMode,
            _ => continue,
        };
        notices.tell(About::Node, reason, warning.to_string());
    }
}

/// Values of the kernel that stay as they are.
pub(super) fn of_sysctls(notices: &Notices, refused: Vec<conntrack::Error>) {
    for error in refused {
        notices.tell(About::Node, Reason::SysctlNotWritten, error.to_string());
    }
}
