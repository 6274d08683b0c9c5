//! Pods as a client asked to see them: whole, or their metadata alone.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::status::Status;

/// The shape a client negotiated with its `Accept` header.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum View {
    Whole,
    Metadata,
}

impl View {
    /// The first of the offers that can be served; lists have a type name of their own.
    pub(super) fn negotiate(accept: Option<&str>, list: bool) -> Result<View, Status> {
        let offers = accept.unwrap_or("*/*");
        offers.split(',').find_map(|offer| View::of_offer(offer, list)).ok_or_else(Status::not_acceptable)
    }

    fn of_offer(offer: &str, list: bool) -> Option<View> {
        let mut parts = offer.split(';').map(str::trim);
        if !matches!(parts.next()?, "application/json" | "application/*" | "*/*") {
            return None;
        }
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let parameter = |name: &str| parameters.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        match (parameter("as"), parameter("g"), parameter("v")) {
            (None, _, _) => Some(View::Whole),
            (Some("PartialObjectMetadata"), Some("meta.k8s.io"), Some("v1")) if !list => Some(View::Metadata),
            (Some("PartialObjectMetadataList"), Some("meta.k8s.io"), Some("v1")) if list => {
                Some(View::Metadata)
            }
            _ => None,
        }
    }

    pub(super) fn object(self, pod: &Pod) -> Value {
        // A Pod serializes to an object, whatever is in it; there is no map with other keys than strings.
        let mut object = serde_json::to_value(pod).unwrap_or_default();
        match self {
            View::Whole => object,
            View::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": object["metadata"].take(),
            }),
        }
    }

    pub(super) fn list(self, pods: &[Arc<Pod>], metadata: &Value) -> Value {
        let mut items: Vec<Value> = pods.iter().map(|pod| self.object(pod)).collect();
        let (kind, version) = match self {
            View::Whole => ("PodList", "v1"),
            View::Metadata => ("PartialObjectMetadataList", "meta.k8s.io/v1"),
        };
        if self == View::Whole {
            // In a typed list the items go without the type, which is the list's.
            for item in items.iter_mut().filter_map(Value::as_object_mut) {
                item.remove("kind");
                item.remove("apiVersion");
            }
        }
        json!({ "kind": kind, "apiVersion": version, "metadata": metadata, "items": items })
    }

    /// An object that says nothing but the revision.
    pub(super) fn bookmark(self, revision: u64) -> Value {
        let metadata = json!({ "resourceVersion": revision.to_string() });
        match self {
            // The server sends an empty Pod, with the null that an empty one has for its containers.
            View::Whole => json!({
                "kind": "Pod",
                "apiVersion": "v1",
                "metadata": metadata,
                "spec": { "containers": null },
                "status": {},
            }),
            View::Metadata => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_any_spelling_is_whole() {
        for accept in [None, Some("*/*"), Some("application/json"), Some("application/json, */*")] {
            assert_eq!(View::negotiate(accept, true), Ok(View::Whole), "{accept:?}");
        }
    }

    #[test]
    fn metadata_is_served_under_the_name_that_fits_the_answer() {
        let list = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
        let single = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
        assert_eq!(View::negotiate(Some(list), true), Ok(View::Metadata));
        assert_eq!(View::negotiate(Some(single), false), Ok(View::Metadata));
        assert!(View::negotiate(Some(list), false).is_err());
        let with_fallback = format!("{single}, application/json");
        assert_eq!(View::negotiate(Some(&with_fallback), true), Ok(View::Whole));
    }

    #[test]
    fn protobuf_is_not_served() {
        assert!(View::negotiate(Some("application/vnd.kubernetes.protobuf"), true).is_err());
    }
}
