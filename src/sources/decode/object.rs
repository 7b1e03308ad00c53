//! One object of a known kind: from its JSON text to the model.
//!
//! In: the text, its apiVersion and kind. Out: one document, or none for a kind not read.
//! Never: an error that reaches another object.

use super::fields::Fault;
use super::findings::{Converted, Findings};
use super::{Decoded, Documents, Names, Read, cluster, endpoints, metadata, pod, service, slice};
use crate::model::{Kind, ObjectRef, Origin, Problem, ServiceKey, Severity};
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::value::RawValue;
use std::sync::Arc;

/// An object before it is decoded.
pub(super) struct Source<'a> {
    pub text: &'a str,
    pub api_version: &'a str,
    pub kind: &'a str,
    pub metadata: Option<&'a RawValue>,
}

pub(super) fn decode(source: Source<'_>, out: &mut Documents<'_>) {
    let kind = match kind_of(&source) {
        Ok(Some(kind)) => kind,
        Ok(None) => {
            let why = "vipd does not read this kind";
            return out.push(Decoded::Ignored { object: None, why }.into());
        }
        Err(fault) => return out.reject(None, fault),
    };
    let (document, path) = (out.next_number(), out.path);
    if tracing::enabled!(tracing::Level::DEBUG) {
        let file = path.display();
        for field in unknown_fields(kind, source.text) {
            tracing::debug!(%file, document, field, "unknown field, ignored");
        }
    }
    let origin = || Origin::File { path: Arc::clone(path), document };
    let read = read(kind, (source.text, &|| source.metadata), &origin, out.names);
    out.push(read);
}

/// Looks for an object's metadata in its text.
type Metadata<'a> = &'a dyn Fn() -> Option<&'a RawValue>;

/// One object of a kind that is known. `metadata` names it where it cannot be read; it and where it
/// comes from are asked only if something is wrong.
pub(super) fn read(
    kind: Kind,
    (text, metadata): (&str, Metadata<'_>),
    origin: &dyn Fn() -> Origin,
    names: &mut Names,
) -> Read {
    let mut findings = Findings::new(names);
    let converted = convert(kind, text, &mut findings);
    let warnings = std::mem::take(&mut findings.warnings);
    let triggered = findings.triggered;
    let (decoded, warnings) = match converted {
        Ok(Converted::Object(object)) => {
            let warnings = match warnings.is_empty() {
                true => Vec::new(),
                false => problems(warnings, &object.told_as(), &origin()),
            };
            (Decoded::Object(object), warnings)
        }
        Ok(Converted::Ignored(why)) => {
            (Decoded::Ignored { object: named(kind, metadata()), why }, Vec::new())
        }
        Err(fault) => {
            let service = service_of(kind, metadata());
            let object = named(kind, metadata()).map(|object| object.of(service));
            let problem = fault.into_problem(Severity::Rejected, origin(), object);
            (Decoded::Rejected(problem), Vec::new())
        }
    };
    Read { decoded, warnings, triggered }
}

fn problems(warnings: Vec<Fault>, object: &ObjectRef, origin: &Origin) -> Vec<Problem> {
    let problem =
        |w: Fault| w.into_problem(Severity::Warning, origin.clone(), Some(object.clone()));
    warnings.into_iter().map(problem).collect()
}

/// The kinds that are read, each in one version. The same kind name in another API group is
/// another kind (Knative has a Service too).
fn kind_of(source: &Source<'_>) -> Result<Option<Kind>, Fault> {
    if source.kind.is_empty() {
        return Err(Fault::new("kind", "is missing"));
    }
    if source.api_version.is_empty() {
        return Err(Fault::new("apiVersion", "is missing"));
    }
    let (kind, wanted) = match source.kind {
        "Service" => (Kind::Service, "v1"),
        "Endpoints" => (Kind::Endpoints, "v1"),
        "Pod" => (Kind::Pod, "v1"),
        "Node" => (Kind::Node, "v1"),
        "EndpointSlice" => (Kind::EndpointSlice, "discovery.k8s.io/v1"),
        "ServiceCIDR" => (Kind::ServiceCidr, "networking.k8s.io/v1"),
        _ => return Ok(None),
    };
    if source.api_version == wanted {
        return Ok(Some(kind));
    }
    let group = |version: &str| version.rsplit_once('/').map_or(String::new(), |(g, _)| g.into());
    if group(source.api_version) != group(wanted) {
        return Ok(None);
    }
    Err(Fault::new("apiVersion", format!("{} is read as {wanted} only", source.kind)))
}

fn convert(kind: Kind, text: &str, findings: &mut Findings<'_>) -> Result<Converted, Fault> {
    match kind {
        Kind::Service => service::service(&parse::<metadata::Service>(text)?.into(), findings),
        Kind::EndpointSlice => slice::endpoint_slice(&parse(text)?, findings),
        Kind::Endpoints => endpoints::endpoints(&parse(text)?, findings),
        Kind::Pod => pod::pod(&parse(text)?, findings),
        Kind::Node => cluster::node(&parse(text)?, findings),
        Kind::ServiceCidr => cluster::service_cidr(&parse(text)?),
    }
}

/// Knowing the path costs time, so it is only looked for once something is wrong.
fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|first| {
        let traced =
            serde_path_to_error::deserialize::<_, T>(&mut serde_json::Deserializer::from_str(text));
        match traced {
            Err(error) => {
                let path = error.path().to_string();
                Fault::new(if path == "." { String::new() } else { path }, reason(error.inner()))
            }
            Ok(_) => Fault::new("", reason(&first)),
        }
    })
}

/// Paths of the fields that the kind does not have.
pub(super) fn unknown_fields(kind: Kind, text: &str) -> Vec<String> {
    fn of<T: DeserializeOwned>(text: &str) -> Vec<String> {
        let mut unknown = Vec::new();
        let read = &mut serde_json::Deserializer::from_str(text);
        // What else may be wrong with the object is said elsewhere.
        let _ = serde_ignored::deserialize::<_, _, T>(read, |path| unknown.push(written(&path)));
        unknown
    }
    match kind {
        Kind::Service => of::<Service>(text),
        Kind::EndpointSlice => of::<EndpointSlice>(text),
        Kind::Endpoints => of::<Endpoints>(text),
        // Hardly any of its fields is known here.
        Kind::Pod => Vec::new(),
        Kind::Node => of::<Node>(text),
        Kind::ServiceCidr => of::<ServiceCIDR>(text),
    }
}

/// A path as the reasons of rejected objects write it: `spec.ports[0].port`.
fn written(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Map { parent, key } => match written(parent) {
            outer if outer.is_empty() => key.clone(),
            outer => format!("{outer}.{key}"),
        },
        Path::Seq { parent, index } => format!("{}[{index}]", written(parent)),
        Path::Some { parent }
        | Path::NewtypeStruct { parent }
        | Path::NewtypeVariant { parent } => written(parent),
    }
}

/// serde_json's text without its position, which is counted within the object.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(at) => text[..at].into(),
        None => text,
    }
}

/// The object's name, as far as it can be read although the object cannot.
fn named(kind: Kind, metadata: Option<&RawValue>) -> Option<ObjectRef> {
    #[derive(Deserialize)]
    struct Meta {
        name: String,
        namespace: Option<String>,
    }
    let meta: Meta = serde_json::from_str(metadata?.get()).ok()?;
    if meta.name.is_empty() {
        return None;
    }
    Some(match kind {
        Kind::Node | Kind::ServiceCidr => ObjectRef::new(kind, &meta.name),
        Kind::Service | Kind::EndpointSlice | Kind::Endpoints | Kind::Pod => {
            let namespace = meta.namespace.as_deref().filter(|n| !n.is_empty());
            let key = ServiceKey::new(namespace.unwrap_or("default"), &meta.name);
            ObjectRef::new(kind, key.as_str())
        }
    })
}

/// The Service that a slice is for, as far as it can be read although the slice cannot.
fn service_of(kind: Kind, metadata: Option<&RawValue>) -> Option<ServiceKey> {
    #[derive(Deserialize)]
    struct Meta {
        namespace: Option<String>,
        labels: Labels,
    }
    #[derive(Deserialize)]
    struct Labels {
        #[serde(rename = "kubernetes.io/service-name")]
        service: String,
    }
    let metadata = metadata.filter(|_| kind == Kind::EndpointSlice)?;
    let meta: Meta = serde_json::from_str(metadata.get()).ok()?;
    let namespace = meta.namespace.as_deref().filter(|n| !n.is_empty());
    Some(ServiceKey::new(namespace.unwrap_or("default"), &meta.labels.service))
}
