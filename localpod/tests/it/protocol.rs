//! The API as a client of a real server knows it.

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use localpod::Cluster;
use localpod::cluster::{Access, WatchEnd};
use serde_json::json;

use crate::client::{PATIENCE, get, get_as, send};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Pod {
    Pod { metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }, ..Pod::default() }
}

fn set_phase(cluster: &Cluster, name: &str, phase: &str) {
    cluster.update("default", name, |pod| {
        pod.status = Some(PodStatus { phase: Some(phase.to_owned()), ..PodStatus::default() });
    });
}

fn cluster_with(names: &[&str]) -> Cluster {
    let cluster = Cluster::start().expect("a cluster");
    for name in names {
        cluster.apply(pod(name));
    }
    cluster
}

fn watch(cluster: &Cluster, query: &str) -> crate::client::Answer {
    let answer = get(cluster, &format!("{PODS}?watch=true&{query}")).expect("an answer");
    assert_eq!(answer.status, 200);
    answer
}

#[test]
fn a_pod_is_served_with_its_type_and_identity() {
    let cluster = cluster_with(&["web"]);
    let body = get(&cluster, &format!("{PODS}/web")).expect("an answer").json();
    assert_eq!((&body["kind"], &body["apiVersion"]), (&json!("Pod"), &json!("v1")));
    assert_eq!(body["metadata"]["namespace"], "default");
    for field in ["uid", "resourceVersion", "creationTimestamp"] {
        assert!(body["metadata"][field].is_string(), "{field}: {body}");
    }
}

#[test]
fn what_is_not_there_is_not_found() {
    let cluster = cluster_with(&[]);
    let missing = get(&cluster, &format!("{PODS}/web")).expect("an answer").json();
    assert_eq!(missing["message"], "pods \"web\" not found");
    let unknown = get(&cluster, "/apis/apps/v1/deployments").expect("an answer");
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.json()["kind"], "Status");
}

#[test]
fn only_reading_is_allowed() {
    let cluster = cluster_with(&["web"]);
    let token = std::fs::read_to_string(cluster.service_account_dir().join("token")).expect("a token");
    let bearer = format!("Bearer {token}");
    let answer =
        send(&cluster, "DELETE", &format!("{PODS}/web"), &[("Authorization", &bearer)]).expect("an answer");
    assert_eq!(answer.status, 405);
}

#[test]
fn a_list_has_what_the_selector_selects() {
    let cluster = cluster_with(&["a", "b"]);
    set_phase(&cluster, "b", "Failed");
    let list =
        get(&cluster, &format!("{PODS}?fieldSelector=status.phase%21%3DFailed")).expect("an answer").json();
    assert_eq!(list["kind"], "PodList");
    assert_eq!(list["metadata"]["resourceVersion"], cluster.resource_version().to_string());
    let items = list["items"].as_array().expect("items");
    assert_eq!(items.len(), 1);
    assert_eq!(items[0]["metadata"]["name"], "a");
    assert!(items[0].get("kind").is_none(), "items of a typed list have no type of their own");

    let answer = get(&cluster, &format!("{PODS}?fieldSelector=metadata.uid%3D1")).expect("an answer");
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["message"], "field label not supported: metadata.uid");
}

#[test]
fn a_long_list_comes_in_pages_of_one_moment() {
    let cluster = cluster_with(&["a", "b", "c"]);
    let first = get(&cluster, &format!("{PODS}?limit=2")).expect("an answer").json();
    assert_eq!(first["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();

    cluster.remove("default", "c");
    let second = get(&cluster, &format!("{PODS}?limit=2&continue={token}")).expect("an answer").json();
    assert_eq!(second["items"][0]["metadata"]["name"], "c");
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    assert!(second["metadata"].get("continue").is_none());

    cluster.compact();
    let late = get(&cluster, &format!("{PODS}?limit=2&continue={token}")).expect("an answer");
    assert_eq!(late.status, 410);
}

#[test]
fn metadata_can_be_had_without_the_rest() {
    let cluster = cluster_with(&["web"]);
    let media_type = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = get_as(&cluster, PODS, media_type).expect("an answer").json();
    assert_eq!(
        (&list["kind"], &list["apiVersion"]),
        (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1"))
    );
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
    assert_eq!(list["items"][0]["metadata"]["name"], "web");
    assert!(list["items"][0].get("spec").is_none());
}

#[test]
fn a_watch_from_nowhere_begins_with_what_is_there() {
    for query in ["", "resourceVersion=0"] {
        let cluster = cluster_with(&["a"]);
        let mut watch = watch(&cluster, query);
        assert_eq!(watch.brief(), "ADDED a");
        cluster.apply(pod("b"));
        assert_eq!(watch.brief(), "ADDED b");
        set_phase(&cluster, "a", "Running");
        assert_eq!(watch.brief(), "MODIFIED a");
        cluster.remove("default", "b");
        let gone = watch.event();
        assert_eq!(gone["type"], "DELETED");
        assert_eq!(gone["object"]["metadata"]["resourceVersion"], cluster.resource_version().to_string());
    }
}

#[test]
fn a_watch_from_a_revision_has_what_came_after_it() {
    let cluster = cluster_with(&["a"]);
    let revision = cluster.resource_version();
    cluster.apply(pod("b"));
    let mut watch = watch(&cluster, &format!("resourceVersion={revision}"));
    assert_eq!(watch.brief(), "ADDED b");
}

#[test]
fn a_watch_from_a_compacted_revision_gets_an_error_event_and_ends() {
    let cluster = cluster_with(&["a"]);
    let revision = cluster.resource_version();
    cluster.compact();
    let mut watch = watch(&cluster, &format!("resourceVersion={revision}"));
    let event = watch.event();
    assert_eq!(event["type"], "ERROR");
    assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&json!(410), &json!("Expired")));
    assert_eq!(watch.next().expect("a clean end"), None);
}

#[test]
fn an_object_that_begins_to_match_is_added_and_one_that_ceases_to_is_deleted() {
    let cluster = cluster_with(&["a", "other"]);
    set_phase(&cluster, "a", "Pending");
    let mut watch = watch(&cluster, "fieldSelector=status.phase%3DRunning");
    set_phase(&cluster, "a", "Running");
    set_phase(&cluster, "a", "Failed");
    assert_eq!(watch.brief(), "ADDED a");
    let gone = watch.event();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(gone["object"]["status"]["phase"], "Running", "the last state the selector let through");
}

#[test]
fn a_streamed_list_ends_with_a_bookmark_that_says_so() {
    let cluster = cluster_with(&["a"]);
    let streamed = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = watch(&cluster, streamed);
    assert_eq!(watch.brief(), "ADDED a");
    let bookmark = watch.event();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"], json!({ "k8s.io/initial-events-end": "true" }));

    let answer = get(&cluster, &format!("{PODS}?watch=1&sendInitialEvents=true")).expect("an answer");
    assert_eq!(answer.status, 422);
}

#[test]
fn bookmarks_go_to_those_who_allowed_them() {
    let cluster = cluster_with(&[]);
    let mut with = watch(&cluster, "allowWatchBookmarks=true");
    let mut without = watch(&cluster, "");
    cluster.bookmark();
    cluster.apply(pod("a"));
    let bookmark = with.event();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert!(bookmark["object"]["metadata"]["resourceVersion"].is_string());
    assert_eq!(with.brief(), "ADDED a");
    assert_eq!(without.brief(), "ADDED a");
}

#[test]
fn a_watch_ends_as_it_is_told() {
    let cluster = cluster_with(&[]);
    let mut closed = watch(&cluster, "");
    cluster.end_watches(&WatchEnd::Close);
    assert_eq!(closed.next().expect("a clean end"), None);

    let mut aborted = watch(&cluster, "");
    cluster.end_watches(&WatchEnd::Abort);
    assert!(aborted.next().is_err(), "the last chunk is missing");

    let mut expired = watch(&cluster, "");
    cluster.end_watches(&WatchEnd::expired());
    assert_eq!(expired.event()["object"]["code"], 410);
    assert_eq!(expired.next().expect("a clean end"), None);
}

#[test]
fn a_watch_ends_cleanly_when_its_time_is_over() {
    let cluster = cluster_with(&[]);
    assert_eq!(watch(&cluster, "timeoutSeconds=1").next().expect("a clean end"), None);
}

#[test]
fn a_client_that_goes_ends_its_watch() {
    let cluster = cluster_with(&[]);
    let watch = watch(&cluster, "");
    assert!(cluster.wait_for_watches(1, PATIENCE));
    drop(watch);
    assert!(cluster.wait_for_watches(0, PATIENCE));
    assert!(cluster.wait_for_connections(0, PATIENCE));
}

#[test]
fn only_the_current_token_is_accepted() {
    let cluster = cluster_with(&["web"]);
    let old = std::fs::read_to_string(cluster.service_account_dir().join("token")).expect("a token");
    cluster.rotate_token().expect("a new token");
    let bearer = format!("Bearer {old}");
    let stale = send(&cluster, "GET", PODS, &[("Authorization", &bearer)]).expect("an answer");
    assert_eq!(stale.status, 401);
    assert_eq!(stale.json()["reason"], "Unauthorized");
    assert_eq!(send(&cluster, "GET", PODS, &[]).expect("an answer").status, 401);
    assert_eq!(get(&cluster, PODS).expect("an answer").status, 200);
}

#[test]
fn a_verb_without_a_rule_is_forbidden() {
    let cluster = Cluster::start_for("jobs", "proa").expect("a cluster");
    cluster.authorize(Access::to(&["watch"]));
    let path = "/api/v1/namespaces/jobs/pods";
    let answer = get(&cluster, path).expect("an answer");
    assert_eq!(answer.status, 403);
    assert_eq!(
        answer.json()["message"],
        "pods is forbidden: User \"system:serviceaccount:jobs:proa\" cannot list resource \"pods\" in API group \"\" \
         in the namespace \"jobs\""
    );
    assert_eq!(get(&cluster, &format!("{path}?watch=true")).expect("an answer").status, 200);
}

#[test]
fn requests_are_logged_with_verb_and_query() {
    let cluster = cluster_with(&[]);
    drop(watch(&cluster, "fieldSelector=metadata.name%3Dweb"));
    let request = cluster.wait_for_request(PATIENCE, |request| request.verb == "watch").expect("a request");
    assert_eq!(request.path, PODS);
    assert_eq!(request.parameter("fieldSelector"), Some("metadata.name=web"));
    assert_eq!(request.status, 200);
}

#[test]
fn what_was_sent_whole_is_known_before_it_arrives() {
    let cluster = cluster_with(&["web"]);
    let is_running =
        |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
    let mut events = watch(&cluster, "resourceVersion=0");
    assert_eq!(events.event()["type"], "ADDED");
    assert!(cluster.has_served(|pod| pod.metadata.name.as_deref() == Some("web")));
    assert!(!cluster.has_served(is_running));
    set_phase(&cluster, "web", "Running");
    assert_eq!(events.event()["type"], "MODIFIED");
    assert!(cluster.has_served(is_running));
    cluster.forget_requests();
    assert!(!cluster.has_served(is_running));
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    get_as(&cluster, &format!("{PODS}/web"), metadata).expect("an answer");
    assert!(!cluster.has_served(is_running), "metadata alone shows no phase");
    get(&cluster, &format!("{PODS}/web")).expect("an answer");
    assert!(cluster.wait_for_served(PATIENCE, is_running));
}
