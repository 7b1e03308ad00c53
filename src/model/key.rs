//! Names of objects.

use arcstr::ArcStr;
use std::borrow::Borrow;
use std::fmt;

macro_rules! namespaced_key {
    ($(#[$doc:meta])* $name:ident($text:ty)) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name($text);

        impl $name {
            pub fn new(namespace: &str, name: &str) -> Self {
                let mut text = String::with_capacity(namespace.len() + 1 + name.len());
                text.push_str(namespace);
                text.push('/');
                text.push_str(name);
                Self(text.into())
            }

            /// `text` as `as_str` prints it; `None` without exactly one slash between two names.
            pub fn parse(text: &str) -> Option<Self> {
                let (namespace, name) = text.split_once('/')?;
                let valid = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
                valid.then(|| Self(text.into()))
            }

            /// `namespace/name`
            pub fn as_str(&self) -> &str {
                &self.0
            }

            pub fn namespace(&self) -> &str {
                self.0.split_once('/').map_or("", |(namespace, _)| namespace)
            }

            pub fn name(&self) -> &str {
                self.0.split_once('/').map_or(&*self.0, |(_, name)| name)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

namespaced_key! {
    /// `namespace/name` of a Service, and of the Endpoints object that belongs to it.
    ServiceKey(ArcStr)
}
namespaced_key! {
    /// `namespace/name` of an EndpointSlice. Not shared: nothing else speaks of a slice.
    SliceKey(Box<str>)
}

namespaced_key! {
    /// `namespace/name` of a Pod, shared by the labels that it is found by.
    PodKey(ArcStr)
}

/// Name of a Node, shared by all the endpoints that run there.
pub type NodeName = ArcStr;

/// The kinds that vipd reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Service,
    EndpointSlice,
    Endpoints,
    Pod,
    Node,
    ServiceCidr,
}

impl Kind {
    /// The kind's name in Kubernetes.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
            Kind::Endpoints => "Endpoints",
            Kind::Pod => "Pod",
            Kind::Node => "Node",
            Kind::ServiceCidr => "ServiceCIDR",
        }
    }
}

/// One object by kind and `namespace/name` (only the name where the kind has no namespace).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    pub kind: Kind,
    pub key: Box<str>,
    /// Where a problem names an EndpointSlice: the Service that it is for, if that can be read.
    pub service: Option<ServiceKey>,
}

impl ObjectRef {
    pub fn new(kind: Kind, key: &str) -> Self {
        Self { kind, key: key.into(), service: None }
    }

    /// A slice of this Service.
    pub fn of(self, service: Option<ServiceKey>) -> Self {
        Self { service, ..self }
    }

    /// Whether it is the Service of this name, or says where its traffic goes.
    pub fn concerns(&self, service: &ServiceKey) -> bool {
        match self.kind {
            Kind::Service | Kind::Endpoints => *self.key == *service.as_str(),
            Kind::EndpointSlice => self.service.as_ref() == Some(service),
            Kind::Pod | Kind::Node | Kind::ServiceCidr => false,
        }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.key)
    }
}
