//! An object as the server sent it, read no further than its name.

use crate::model::Kind;
use kube::Resource;
use kube::core::ObjectMeta;
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
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
        let text = Box::<RawValue>::deserialize(deserializer)?;
        let meta = Head::of(text.get()).map_err(D::Error::custom)?;
        Ok(Self { meta, text, kind: PhantomData })
    }
}

/// What is looked for. API servers write it near an object's beginning: the rest, of which most is
/// `managedFields`, is not read twice.
#[derive(Debug, Default)]
struct Head {
    name: Option<String>,
    namespace: Option<String>,
    resource_version: Option<String>,
}

impl Head {
    fn of(text: &str) -> Result<ObjectMeta, serde_json::Error> {
        let mut head = Head::default();
        let read = serde_json::Deserializer::from_str(text).deserialize_map(Object(&mut head));
        let whole = head.is_whole();
        let Head { name, namespace, resource_version } = head;
        let meta = ObjectMeta { name, namespace, resource_version, ..ObjectMeta::default() };
        // A visitor can end early only by an error.
        if whole { Ok(meta) } else { read.map(|()| meta) }
    }

    fn is_whole(&self) -> bool {
        self.name.is_some() && self.namespace.is_some() && self.resource_version.is_some()
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum ObjectField {
    Metadata,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum MetadataField {
    Name,
    Namespace,
    ResourceVersion,
    #[serde(other)]
    Other,
}

struct Object<'a>(&'a mut Head);

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with metadata")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(field) = map.next_key()? {
            if let ObjectField::Metadata = field {
                map.next_value_seed(Metadata(self.0))?;
                found = true;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if found { Ok(()) } else { Err(A::Error::missing_field("metadata")) }
    }
}

struct Metadata<'a>(&'a mut Head);

impl<'de> DeserializeSeed<'de> for Metadata<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Metadata<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("metadata of an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self(head) = self;
        while let Some(field) = map.next_key()? {
            let place = match field {
                MetadataField::Name => &mut head.name,
                MetadataField::Namespace => &mut head.namespace,
                MetadataField::ResourceVersion => &mut head.resource_version,
                MetadataField::Other => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *place = map.next_value()?;
            if head.is_whole() {
                return Err(A::Error::custom("the rest is not wanted"));
            }
        }
        Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Node, Service};

    fn seen<K: Resource<DynamicType = ()>>(text: &str) -> Result<[Option<String>; 3], String> {
        let seen: Seen<K> = serde_json::from_str(text).map_err(|error| error.to_string())?;
        assert_eq!(seen.text.get(), text);
        let meta = seen.meta().clone();
        Ok([meta.name, meta.namespace, meta.resource_version])
    }

    #[test]
    fn what_tells_one_object_and_version_from_others_is_read_wherever_it_stands() {
        let told = |of: [&str; 3]| Ok(of.map(|one| (!one.is_empty()).then(|| one.to_owned())));
        let rest = r#""labels":{"name":"x"},"managedFields":[{"name":"y"}]"#;
        for object in [
            format!(
                r#"{{"kind":"Service","metadata":{{"name":"a","namespace":"b","resourceVersion":"7",{rest}}},"spec":{{}}}}"#
            ),
            format!(
                r#"{{"spec":{{"metadata":1}},"metadata":{{{rest},"resourceVersion":"7","namespace":"b","name":"a"}}}}"#
            ),
        ] {
            assert_eq!(seen::<Service>(&object), told(["a", "b", "7"]), "{object}");
        }
        let node =
            format!(r#"{{"metadata":{{"name":"a","resourceVersion":"7",{rest}}},"status":{{}}}}"#);
        assert_eq!(seen::<Node>(&node), told(["a", "", "7"]));
        let bookmark = r#"{"kind":"Service","metadata":{"resourceVersion":"7","creationTimestamp":null},"spec":{}}"#;
        assert_eq!(seen::<Service>(bookmark), told(["", "", "7"]));
        assert_eq!(seen::<Node>(r#"{"metadata":{"name":"a\u0041"}}"#), told(["aA", "", ""]));
    }

    #[test]
    fn what_is_no_object_is_an_error() {
        for text in
            [r#"{"kind":"Service"}"#, r#"{"metadata":"a"}"#, r#"{"metadata":{"name":7}}"#, "[]"]
        {
            assert!(seen::<Service>(text).is_err(), "{text}");
        }
    }
}
