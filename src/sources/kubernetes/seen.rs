//! An object as the server sent it, read no further than its name.

use crate::model::Kind;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// An object of the kind `K`. Its text is decoded where the manifests' are, into what the model
/// keeps; the client's own type of it is never made.
pub(super) struct Seen<K> {
    /// Only what tells one object and one version from others.
    meta: ObjectMeta,
    pub text: Box<RawValue>,
    kind: PhantomData<fn() -> K>,
}

impl<K> Seen<K> {
    /// `namespace/name`, or the name where the kind has no namespace.
    pub fn key(&self, kind: Kind) -> Box<str> {
        let name = self.meta.name.as_deref().unwrap_or_default();
        match kind {
            Kind::Node | Kind::ServiceCidr => name.into(),
            Kind::Service | Kind::EndpointSlice | Kind::Endpoints | Kind::Pod => {
                let namespace = self.meta.namespace.as_deref().unwrap_or("default");
                format!("{namespace}/{name}").into()
            }
        }
    }
}

impl<'de, K> Deserialize<'de> for Seen<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Head {
            metadata: Meta,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Meta {
            name: Option<String>,
            namespace: Option<String>,
            resource_version: Option<String>,
        }
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let Head { metadata } = serde_json::from_str(text.get()).map_err(D::Error::custom)?;
        let Meta { name, namespace, resource_version } = metadata;
        let meta = ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() };
        Ok(Self { meta, text, kind: PhantomData })
    }
}

impl<K> Clone for Seen<K> {
    fn clone(&self) -> Self {
        Self { meta: self.meta.clone(), text: self.text.clone(), kind: PhantomData }
    }
}

impl<K> fmt::Debug for Seen<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.meta.name.as_deref().unwrap_or_default())
    }
}

impl<K: Resource<DynamicType = ()>> Resource for Seen<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(of: &()) -> Cow<'_, str> {
        K::kind(of)
    }

    fn group(of: &()) -> Cow<'_, str> {
        K::group(of)
    }

    fn version(of: &()) -> Cow<'_, str> {
        K::version(of)
    }

    fn plural(of: &()) -> Cow<'_, str> {
        K::plural(of)
    }

    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
}
