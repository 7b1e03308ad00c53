//! `vipd get`: tables with kubectl's column habits.

use super::Error;
use super::age::age;
use super::answers::From;
use super::output::{self, Format};
use super::table::{Columns, abbreviated, joined};
use crate::admin::views::{EndpointView, EndpointsView, List, ProblemView, ServiceView};
use clap::{Args, ValueEnum};
use serde::Serialize;
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

#[derive(Debug, Args)]
pub(super) struct Flags {
    /// What to list
    #[arg(value_name = "KIND")]
    kind: Kind,

    /// Only these
    #[arg(value_name = "NAME")]
    names: Vec<String>,

    /// Namespace [default: default; rejected: all]
    #[arg(short, long, value_name = "NS")]
    namespace: Option<String>,

    /// All namespaces
    #[arg(short = 'A', long)]
    all_namespaces: bool,

    #[command(flatten)]
    from: From,

    /// How to print it
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Kind {
    #[value(alias = "service", alias = "svc")]
    Services,
    #[value(alias = "endpoint", alias = "ep")]
    Endpoints,
    Rejected,
}

/// What can be listed.
trait Listed: Serialize {
    /// As "not found" names it.
    const PLURAL: &'static str;

    fn namespace(&self) -> Option<&str>;
    fn name(&self) -> &str;
    /// Without the namespace's column.
    fn header(format: Format) -> Vec<&'static str>;
    fn cells(&self, format: Format, now: i64) -> Vec<String>;
}

pub(super) fn run(flags: Flags) -> Result<(), Error> {
    let wanted = Wanted {
        namespace: match (flags.all_namespaces, flags.namespace, flags.kind) {
            (true, _, _) | (false, None, Kind::Rejected) => None,
            (false, Some(namespace), _) => Some(namespace),
            (false, None, _) => Some("default".to_owned()),
        },
        names: flags.names,
        format: flags.output,
    };
    if flags.kind == Kind::Rejected && !wanted.names.is_empty() {
        return Err(Error::Usage("get rejected takes no names: use -n NAMESPACE".to_owned()));
    }
    let answers = flags.from.open()?;
    match flags.kind {
        Kind::Services => wanted.show(answers.services()?),
        Kind::Endpoints => wanted.show(answers.endpoints()?),
        Kind::Rejected => wanted.show(answers.rejected()?),
    }
}

struct Wanted {
    /// `None`: all.
    namespace: Option<String>,
    /// Empty: all.
    names: Vec<String>,
    format: Format,
}

impl Wanted {
    fn show<T: Listed>(&self, mut list: List<T>) -> Result<(), Error> {
        let in_namespace = |item: &T| {
            self.namespace.as_deref().is_none_or(|namespace| item.namespace() == Some(namespace))
        };
        let named =
            |item: &T| self.names.is_empty() || self.names.iter().any(|name| name == item.name());
        list.items.retain(|item| in_namespace(item) && named(item));
        let missing: Vec<String> = self
            .names
            .iter()
            .filter(|name| !list.items.iter().any(|item| item.name() == *name))
            .map(|name| format!("{} \"{name}\" not found", T::PLURAL))
            .collect();
        if self.names.is_empty() || !list.items.is_empty() {
            self.print(&list)?;
        }
        if missing.is_empty() { Ok(()) } else { Err(Error::NotFound(missing.join("\n"))) }
    }

    fn print<T: Listed>(&self, list: &List<T>) -> Result<(), Error> {
        // As kubectl: one name asks for the object, anything else for a list.
        let single = match (&self.names[..], &list.items[..]) {
            ([_], [item]) => Some(item),
            _ => None,
        };
        match (self.format, single) {
            (Format::Json, Some(item)) => output::print_json(item),
            (Format::Json, None) => output::print_json(list),
            (Format::Yaml, Some(item)) => output::print_yaml(item),
            (Format::Yaml, None) => output::print_yaml(list),
            (Format::Table | Format::Wide, _) if list.items.is_empty() => {
                output::note(&match &self.namespace {
                    Some(namespace) => format!("No resources found in {namespace} namespace."),
                    None => "No resources found".to_owned(),
                });
                Ok(())
            }
            (Format::Table | Format::Wide, _) => output::print(&self.table(&list.items)),
        }
    }

    fn table<T: Listed>(&self, items: &[T]) -> String {
        let with_namespace = self.namespace.is_none() && T::PLURAL != ProblemView::PLURAL;
        let mut header = T::header(self.format);
        if with_namespace {
            header.insert(0, "NAMESPACE");
        }
        let now = now();
        let mut columns = Columns::new(&header);
        for item in items {
            let mut cells = item.cells(self.format, now);
            if with_namespace {
                cells.insert(0, item.namespace().unwrap_or("<none>").to_owned());
            }
            columns.row(&cells.iter().map(String::as_str).collect::<Vec<_>>());
        }
        columns.text()
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

impl Listed for ServiceView {
    const PLURAL: &'static str = "services";

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn header(format: Format) -> Vec<&'static str> {
        let mut header = vec!["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"];
        if format == Format::Wide {
            header.extend(["SELECTOR", "ENDPOINTS", "FRONTENDS"]);
        }
        header
    }

    fn cells(&self, format: Format, now: i64) -> Vec<String> {
        let ports: Vec<String> = self
            .ports
            .iter()
            .map(|port| match port.node_port {
                Some(node_port) => format!("{}:{node_port}/{}", port.port, port.protocol),
                None => format!("{}/{}", port.port, port.protocol),
            })
            .collect();
        let mut cells = vec![
            self.name.clone(),
            self.service_type.clone(),
            joined(&self.cluster_ips),
            external(self),
            joined(&ports),
            age(self.created, now),
        ];
        if format == Format::Wide {
            cells.push(joined(&self.selector));
            cells.push(format!("{}/{}", self.endpoints.used, self.endpoints.total));
            cells.push(format!("{}/{}", self.frontends.used, self.frontends.total));
        }
        cells
    }
}

/// A load balancer that has no address yet is on its way.
fn external(service: &ServiceView) -> String {
    let balanced = service.service_type == "LoadBalancer";
    let addresses: Vec<_> =
        service.load_balancer_ips.iter().chain(&service.external_ips).copied().collect();
    if balanced && addresses.is_empty() { "<pending>".to_owned() } else { joined(&addresses) }
}

impl Listed for EndpointsView {
    const PLURAL: &'static str = "endpoints";

    fn namespace(&self) -> Option<&str> {
        Some(&self.namespace)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn header(format: Format) -> Vec<&'static str> {
        let mut header = vec!["NAME", "ENDPOINTS", "AGE"];
        if format == Format::Wide {
            header.extend(["NOT-READY", "FROM"]);
        }
        header
    }

    fn cells(&self, format: Format, now: i64) -> Vec<String> {
        let at = |endpoint: &EndpointView| SocketAddr::new(endpoint.address, endpoint.port);
        let (ready, not_ready): (Vec<_>, Vec<_>) =
            self.endpoints.iter().partition(|endpoint| endpoint.ready);
        let ready: Vec<_> = ready.into_iter().map(at).collect();
        let not_ready: Vec<_> = not_ready.into_iter().map(at).collect();
        let age = age(self.created, now);
        match format {
            Format::Wide => {
                let source = joined(self.source.as_slice());
                vec![self.name.clone(), joined(&ready), age, joined(&not_ready), source]
            }
            _ => vec![self.name.clone(), abbreviated(&ready), age],
        }
    }
}

impl Listed for ProblemView {
    const PLURAL: &'static str = "rejected";

    fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    fn name(&self) -> &str {
        self.object.as_deref().unwrap_or_default()
    }

    fn header(_: Format) -> Vec<&'static str> {
        vec!["SEVERITY", "OBJECT", "SOURCE", "FIELD", "REASON"]
    }

    fn cells(&self, _: Format, _: i64) -> Vec<String> {
        let or_none =
            |text: &str| if text.is_empty() { "<none>".to_owned() } else { text.to_owned() };
        vec![
            self.severity.clone(),
            or_none(self.object.as_deref().unwrap_or_default()),
            self.source.clone(),
            or_none(&self.field),
            self.reason.clone(),
        ]
    }
}
