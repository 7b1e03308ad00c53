//! Where a question is answered: by the daemon, or from a directory of manifests.

use super::{Error, offline, output};
use crate::admin::views::TraceView;
use crate::admin::views::{
    DescribeView, EndpointsView, List, PlanView, ProblemView, ServiceView, describe,
    endpoints_view, not_found, problem_views, service_view, trace_view,
};
use crate::admin::{Answered, Client, ClientError, TraceQuery};
use crate::config::{NodeFlags, SocketFlag};
use crate::model::ServiceKey;
use crate::planner;
use crate::sync::Snapshot;
use clap::Args;
use std::path::PathBuf;
use tokio::runtime::{Builder, Runtime};

/// Whom to ask.
#[derive(Debug, Clone, Args)]
pub(super) struct From {
    /// Answer from this directory of manifests, without a daemon and without privilege
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,

    #[command(flatten)]
    socket: SocketFlag,

    #[command(flatten)]
    node: NodeFlags,
}

#[derive(Debug)]
pub(super) enum Answers {
    Daemon { client: Client, runtime: Runtime },
    Offline(Box<Snapshot>),
}

impl From {
    pub(super) fn open(self) -> Result<Answers, Error> {
        let Some(directory) = self.manifests else {
            let (client, runtime) = daemon(&self.socket)?;
            return Ok(Answers::Daemon { client, runtime });
        };
        let config = self.node.check()?;
        for warning in &config.warnings {
            output::note(&format!("vipd: warning: {warning}"));
        }
        Ok(Answers::Offline(Box::new(offline::load(&directory, config)?)))
    }
}

impl Answers {
    pub(super) fn services(&self) -> Result<List<ServiceView>, Error> {
        match self {
            Answers::Daemon { client, runtime } => answered(runtime.block_on(client.services())),
            Answers::Offline(snapshot) => {
                let with_service = snapshot
                    .known
                    .iter()
                    .filter_map(|(key, known)| Some((key, known, known.service.as_deref()?)));
                let items = with_service.map(|(key, known, service)| {
                    let plan = snapshot.plan.service(key);
                    service_view(service, known, plan.as_ref())
                });
                Ok(List { kind: "ServiceList".to_owned(), items: items.collect() })
            }
        }
    }

    pub(super) fn endpoints(&self) -> Result<List<EndpointsView>, Error> {
        match self {
            Answers::Daemon { client, runtime } => answered(runtime.block_on(client.endpoints())),
            Answers::Offline(snapshot) => {
                let items = snapshot.known.iter().map(|(key, known)| endpoints_view(key, known));
                Ok(List { kind: "EndpointsList".to_owned(), items: items.collect() })
            }
        }
    }

    pub(super) fn rejected(&self) -> Result<List<ProblemView>, Error> {
        match self {
            Answers::Daemon { client, runtime } => answered(runtime.block_on(client.rejected())),
            Answers::Offline(snapshot) => {
                Ok(List { kind: "ProblemList".to_owned(), items: problem_views(snapshot) })
            }
        }
    }

    pub(super) fn service(&self, key: &ServiceKey) -> Result<DescribeView, Error> {
        match self {
            Answers::Daemon { client, runtime } => answered(runtime.block_on(client.service(key))),
            Answers::Offline(snapshot) => {
                describe(snapshot, key).ok_or_else(|| Error::NotFound(not_found(snapshot, key)))
            }
        }
    }

    pub(super) fn trace(&self, query: &TraceQuery) -> Result<TraceView, Error> {
        match self {
            Answers::Daemon { client, runtime } => answered(runtime.block_on(client.trace(query))),
            Answers::Offline(snapshot) => {
                Ok(trace_view(&planner::trace(&snapshot.plan, &query.packet())?))
            }
        }
    }

    pub(super) fn plan(&self) -> Result<PlanView, Error> {
        match self {
            Answers::Daemon { client, runtime } => answered(runtime.block_on(client.plan())),
            Answers::Offline(snapshot) => Ok(PlanView::from(&snapshot.plan)),
        }
    }
}

fn daemon(socket: &SocketFlag) -> Result<(Client, Runtime), Error> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
    Ok((Client::new(&socket.admin_socket), runtime))
}

/// Only a daemon has counted anything.
pub(super) fn ask_metrics(socket: &SocketFlag) -> Result<String, Error> {
    let (client, runtime) = daemon(socket)?;
    answered(runtime.block_on(client.metrics()))
}

fn answered<T>(answer: Result<Answered<T>, ClientError>) -> Result<T, Error> {
    let Answered { value, synced } = answer?;
    if !synced {
        output::note("vipd: warning: the daemon has not read everything yet");
    }
    Ok(value)
}
