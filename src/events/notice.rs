//! What there is to say, and about which object. PURE.

#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

use crate::listen::Count;
use crate::model::{Kind, ObjectRef, ServiceKey};
use tokio::sync::mpsc;

/// Notices that wait to be taken in. Whoever has something to say does not wait for it.
const WAITING: usize = 128;

/// What an Event is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// The node that vipd runs on.
    Node,
    /// `namespace/name`, or the name where the kind has no namespace.
    Object { kind: Kind, key: Box<str> },
}

impl About {
    pub fn service(key: &ServiceKey) -> Self {
        About::Object { kind: Kind::Service, key: key.as_str().into() }
    }

    pub fn object(object: &ObjectRef) -> Self {
        match object.kind {
            // Only the own one is read.
            Kind::Node => About::Node,
            kind => About::Object { kind, key: object.key.clone() },
        }
    }
}

/// Why there is an Event. What kube-proxy 1.37 has a name for keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Starting,
    /// No mode is given.
    KubeProxyDefaultMode,
    IpvsDeprecation,
    /// nf_tables stand in for the mode that is asked for.
    OtherProxyMode,
    FailedToStartProxierHealthcheck,
    FailedToStartMetricServer,
    /// Of a Service's `healthCheckNodePort`.
    FailedToStartServiceHealthcheck,
    ForeignEditRepaired,
    SysctlNotWritten,
    /// An object that is not served as it is written.
    Rejected,
    /// An address and port that another Service holds.
    FrontendHeldByOther,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventType {
    Normal,
    Warning,
}

/// Who finds what an Event tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Finders {
    /// It is so on this node.
    ThisNode,
    /// It follows from objects alone, so that every node of the cluster finds it: all of them together
    /// have one Event of it.
    EveryNode,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::Starting => "Starting",
            Reason::KubeProxyDefaultMode => "KubeProxyDefaultMode",
            Reason::IpvsDeprecation => "IPVSDeprecation",
            Reason::OtherProxyMode => "OtherProxyMode",
            Reason::FailedToStartProxierHealthcheck => "FailedToStartProxierHealthcheck",
            Reason::FailedToStartMetricServer => "FailedToStartMetricServer",
            Reason::FailedToStartServiceHealthcheck => "FailedToStartServiceHealthcheck",
            Reason::ForeignEditRepaired => "ForeignEditRepaired",
            Reason::SysctlNotWritten => "SysctlNotWritten",
            Reason::Rejected => "Rejected",
            Reason::FrontendHeldByOther => "FrontendHeldByOther",
        }
    }

    /// What was being done.
    pub(super) fn action(self) -> &'static str {
        match self {
            Reason::Starting
            | Reason::KubeProxyDefaultMode
            | Reason::IpvsDeprecation
            | Reason::OtherProxyMode
            | Reason::FailedToStartProxierHealthcheck
            | Reason::FailedToStartMetricServer
            | Reason::SysctlNotWritten => "StartKubeProxy",
            Reason::FailedToStartServiceHealthcheck => "Listen",
            Reason::ForeignEditRepaired => "Repair",
            Reason::Rejected => "Read",
            Reason::FrontendHeldByOther => "Plan",
        }
    }

    pub(super) fn event_type(self) -> EventType {
        match self {
            Reason::Starting => EventType::Normal,
            _ => EventType::Warning,
        }
    }

    pub(super) fn finders(self) -> Finders {
        match self {
            Reason::Rejected | Reason::FrontendHeldByOther => Finders::EveryNode,
            _ => Finders::ThisNode,
        }
    }
}

/// One thing to say. Two that are equal are one Event that happened twice.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Notice {
    pub about: About,
    pub reason: Reason,
    /// For people; the API takes 1,024 bytes.
    pub note: Box<str>,
}

/// What became of notices. Copies count on the same.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Events made or counted up.
    pub sent: Count,
    /// Those that found no room, or that the server does not take.
    pub dropped: Count,
}

/// Where other rooms say what they have to say.
#[derive(Debug, Clone, Default)]
pub struct Notices {
    out: Option<mpsc::Sender<Notice>>,
    counts: Counts,
}

/// What was said, to be taken in.
pub type Told = mpsc::Receiver<Notice>;

impl Notices {
    pub fn new(counts: Counts) -> (Self, Told) {
        let (out, told) = mpsc::channel(WAITING);
        (Self { out: Some(out), counts }, told)
    }

    /// Nobody listens: there is no API server, and the log has it too.
    pub fn to_nobody() -> Self {
        Self::default()
    }

    pub fn tell(&self, about: About, reason: Reason, note: impl Into<Box<str>>) {
        let Some(out) = &self.out else { return };
        if out.try_send(Notice { about, reason, note: note.into() }).is_err() {
            self.counts.dropped.add(1);
        }
    }
}
