//! Requests and their answers: faults, authentication, authorization, then the Pods.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{Either, Full};
use hyper::body::Bytes;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Response};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::access::Question;
use super::fault::{Fault, Point};
use super::ledger::{Ledger, Request};
use super::object::View;
use super::query;
use super::selector::Selector;
use super::shared::Shared;
use super::status::Status;
use super::store::Start;
use super::watch::{Lines, Terms, Watch, error_event, line};

pub(super) type Answer = Response<Either<Full<Bytes>, Lines>>;

/// A request as far as this server looks at it.
struct Asked {
    method: Method,
    path: String,
    query: Vec<(String, String)>,
    accept: Option<String>,
    token: Option<String>,
    user_agent: Option<String>,
}

/// What a path under `/api/v1` names.
enum Target {
    /// The collection, in a namespace or everywhere.
    Pods {
        namespace: Option<String>,
    },
    Pod {
        namespace: String,
        name: String,
    },
}

impl Target {
    fn parse(path: &str) -> Option<Target> {
        let segments: Vec<&str> = path.strip_prefix("/api/v1/")?.split('/').collect();
        match segments[..] {
            ["pods"] => Some(Target::Pods { namespace: None }),
            ["namespaces", namespace, "pods"] => Some(Target::Pods { namespace: Some(namespace.to_owned()) }),
            ["namespaces", namespace, "pods", name] if !name.is_empty() => {
                Some(Target::Pod { namespace: namespace.to_owned(), name: name.to_owned() })
            }
            _ => None,
        }
    }
}

impl Asked {
    fn new<B>(request: &hyper::Request<B>) -> Asked {
        let header = |name: HeaderName| {
            request.headers().get(name).and_then(|value| value.to_str().ok()).map(ToOwned::to_owned)
        };
        Asked {
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            query: query::parse(request.uri().query().unwrap_or_default()),
            accept: header(ACCEPT),
            token: header(AUTHORIZATION)
                .and_then(|value| value.strip_prefix("Bearer ").map(ToOwned::to_owned)),
            user_agent: header(USER_AGENT),
        }
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        found.filter(|value| !value.is_empty())
    }

    fn flag(&self, name: &str) -> Option<bool> {
        self.parameter(name).map(|value| matches!(value, "1" | "true"))
    }

    fn number(&self, name: &str) -> Result<Option<u64>, Status> {
        let Some(text) = self.parameter(name) else { return Ok(None) };
        let invalid = |_| {
            Status::bad_request(format!(
                "{name}: Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
            ))
        };
        text.parse().map(Some).map_err(invalid)
    }

    fn verb(&self, target: Option<&Target>) -> String {
        match (&self.method, target) {
            (&Method::GET, Some(Target::Pods { .. })) if self.flag("watch") == Some(true) => {
                "watch".to_owned()
            }
            (&Method::GET, Some(Target::Pods { .. })) => "list".to_owned(),
            (&Method::GET, _) => "get".to_owned(),
            (method, _) => method.as_str().to_ascii_lowercase(),
        }
    }
}

/// Answers one request, and logs it as the answer begins.
pub(super) async fn answer<B>(shared: Arc<Shared>, request: hyper::Request<B>) -> Answer {
    let asked = Asked::new(&request);
    let target = Target::parse(&asked.path);
    let verb = asked.verb(target.as_ref());
    let answer = match strike(&shared, &asked).await {
        Struck::Answered(faulty) => faulty,
        Struck::Served(late) => {
            let answer = serve(&shared, &asked, target.as_ref(), &verb);
            let answer = answer.unwrap_or_else(|status| refuse(&status));
            answer.map(|body| match body {
                Either::Right(lines) if !late.is_zero() => Either::Right(lines.after(late)),
                body => body,
            })
        }
    };
    shared.ledger.log(Request {
        at: Instant::now(),
        verb,
        path: asked.path,
        query: asked.query,
        user_agent: asked.user_agent,
        status: answer.status().as_u16(),
    });
    answer
}

/// What the faults in force come to.
enum Struck {
    /// The answer is theirs.
    Answered(Answer),
    /// There is one; what it streams comes so much later.
    Served(Duration),
}

async fn strike(shared: &Shared, asked: &Asked) -> Struck {
    let mut late = Duration::ZERO;
    let points = [Point::Request, Point::InitialEvents];
    let points = if asked.flag("sendInitialEvents").is_some() { &points[..] } else { &points[..1] };
    for fault in points.iter().flat_map(|point| shared.faults.strike(*point)) {
        let answer = match fault {
            Fault::LateEvents(delay) => {
                late += delay;
                None
            }
            Fault::StallConsistent if asked.flag("sendInitialEvents") != Some(true) => None,
            fault => faulty(fault).await,
        };
        if let Some(answer) = answer {
            return Struck::Answered(answer);
        }
    }
    Struck::Served(late)
}

/// The answer of this fault, if it is one.
async fn faulty(fault: Fault) -> Option<Answer> {
    let answer = match fault {
        Fault::Delay(delay) => {
            tokio::time::sleep(delay).await;
            return None;
        }
        Fault::Status(code) => refuse(&Status::canned(code)),
        Fault::Throttle { code, retry_after } => throttle(code, retry_after),
        Fault::StallAfterHeaders | Fault::StallConsistent => {
            let (sender, receiver) = mpsc::channel(1);
            stream(Lines::new(receiver, vec![Arc::new(sender)]))
        }
        Fault::Endless => {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                while sender.send(Ok(Bytes::from_static(&[b'x'; 16384]))).await.is_ok() {}
            });
            stream(Lines::new(receiver, Vec::new()))
        }
        Fault::Trickle => {
            let (sender, receiver) = mpsc::channel(1);
            tokio::spawn(async move {
                while sender.send(Ok(Bytes::from_static(b"{"))).await.is_ok() {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            });
            stream(Lines::new(receiver, Vec::new()))
        }
        Fault::Page(code) => {
            let page = format!("<html><body><h1>{code} Bad Gateway</h1></body></html>\n");
            answer_with(code, "text/html", page.into(), None)
        }
        Fault::Answer(text) => {
            let (sender, receiver) = mpsc::channel(1);
            // There is room for one.
            let _ = sender.try_send(Ok(Bytes::from_static(text.as_bytes())));
            stream(Lines::new(receiver, Vec::new()))
        }
        Fault::WithoutInitialEvents(code) => refuse(&Status::no_initial_events(code)),
        // The last is in the stream; the others strike when a connection is accepted.
        Fault::Reset
        | Fault::StallHandshake
        | Fault::InsistsOnHttp2
        | Fault::GoAway
        | Fault::LateEvents(_) => return None,
    };
    Some(answer)
}

fn serve(shared: &Shared, asked: &Asked, target: Option<&Target>, verb: &str) -> Result<Answer, Status> {
    if !asked.token.as_deref().is_some_and(|token| shared.account.accepts(token)) {
        return Err(Status::unauthorized());
    }
    let target = target.ok_or_else(Status::no_such_path)?;
    if asked.method != Method::GET {
        return Err(Status::method_not_allowed());
    }
    let selector = Selector::parse(asked.parameter("fieldSelector").unwrap_or_default());
    let (namespace, name) = match target {
        Target::Pods { namespace } => (namespace.as_deref(), selector.as_ref().ok().and_then(Selector::name)),
        Target::Pod { namespace, name } => (Some(namespace.as_str()), Some(name.as_str())),
    };
    let question = Question { verb, namespace, name };
    if !shared.allows(&question) {
        return Err(Status::forbidden(question.refusal(&shared.user), name));
    }
    match target {
        Target::Pod { namespace, name } => {
            let view = View::negotiate(asked.accept.as_deref(), false)?;
            let pod = shared.store.get(&(namespace.clone(), name.clone()));
            let pod = pod.ok_or_else(|| Status::no_such_pod(name))?;
            note_served(&shared.ledger, view, [&pod]);
            Ok(whole(200, &view.object(&pod), None))
        }
        Target::Pods { namespace } if verb == "watch" => {
            watch(shared, asked, namespace.as_deref(), selector?)
        }
        Target::Pods { namespace } => list(shared, asked, namespace.as_deref(), &selector?),
    }
}

fn list(
    shared: &Shared,
    asked: &Asked,
    namespace: Option<&str>,
    selector: &Selector,
) -> Result<Answer, Status> {
    let (view, store) = (View::negotiate(asked.accept.as_deref(), true)?, &shared.store);
    let matching = asked.parameter("resourceVersionMatch");
    if asked.flag("sendInitialEvents").is_some() {
        return Err(Status::invalid_options("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    let current = store.revision();
    let asked_revision = asked.number("resourceVersion")?.filter(|revision| *revision > 0);
    if let Some(revision) = asked_revision.filter(|revision| *revision > current) {
        return Err(Status::too_large(revision, current));
    }
    let (at, after) = match asked.parameter("continue") {
        None => (asked_revision.filter(|_| matching == Some("Exact")), None),
        Some(token) => {
            let (revision, key) =
                resume(token).ok_or_else(|| Status::bad_request("continue key is not valid"))?;
            (Some(revision), Some(key))
        }
    };
    let (revision, pods) = store.list(at).map_err(|compacted| match (at, &after) {
        (Some(asked), None) => Status::too_old(asked, compacted.oldest),
        _ => Status::continue_expired(),
    })?;
    let mut pods: Vec<_> = pods
        .into_iter()
        .filter(|pod| namespace.is_none_or(|wanted| pod.metadata.namespace.as_deref() == Some(wanted)))
        .filter(|pod| selector.matches(pod))
        .filter(|pod| after.as_ref().is_none_or(|after| super::store::key_of(pod) > *after))
        .collect();
    let mut metadata = json!({ "resourceVersion": revision.to_string() });
    let limit =
        asked.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    if let Some(limit) = limit.filter(|limit| *limit < pods.len()) {
        if selector.is_empty() {
            metadata["remainingItemCount"] = json!(pods.len() - limit);
        }
        pods.truncate(limit);
        let (namespace, name) = super::store::key_of(&pods[limit - 1]);
        metadata["continue"] = json!(format!("{revision}/{namespace}/{name}"));
    }
    note_served(&shared.ledger, view, &pods);
    Ok(whole(200, &view.list(&pods, &metadata), None))
}

fn note_served<'a>(ledger: &Ledger, view: View, pods: impl IntoIterator<Item = &'a Arc<Pod>>) {
    if view == View::Whole {
        pods.into_iter().for_each(|pod| ledger.serve(pod));
    }
}

/// Revision and last key of a continue token.
fn resume(token: &str) -> Option<(u64, (String, String))> {
    let (revision, key) = token.split_once('/')?;
    let (namespace, name) = key.split_once('/')?;
    Some((revision.parse().ok()?, (namespace.to_owned(), name.to_owned())))
}

fn watch(
    shared: &Shared,
    asked: &Asked,
    namespace: Option<&str>,
    selector: Selector,
) -> Result<Answer, Status> {
    // A watch is negotiated by the type of its objects, not of a list.
    let view = View::negotiate(asked.accept.as_deref(), false)?;
    let bookmarks = asked.flag("allowWatchBookmarks") == Some(true);
    let initial_events = asked.flag("sendInitialEvents");
    match (initial_events, asked.parameter("resourceVersionMatch")) {
        (Some(_), Some("NotOlderThan")) | (None, None) => {}
        (Some(_), _) => {
            let message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(Status::invalid_options("resourceVersionMatch", message));
        }
        (None, Some(_)) => {
            let message = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(Status::invalid_options("resourceVersionMatch", message));
        }
    }
    let revision = asked.number("resourceVersion")?.filter(|revision| *revision > 0);
    let start = match (initial_events, revision) {
        (Some(true), _) | (None, None) => Start::State,
        (Some(false), None) => Start::Now,
        (_, Some(revision)) => Start::After(revision),
    };
    let terms = Terms {
        namespace: namespace.map(ToOwned::to_owned),
        selector,
        view,
        bookmarks,
        initial_events_end: initial_events == Some(true),
        timeout: asked.number("timeoutSeconds")?.filter(|seconds| *seconds > 0).map(Duration::from_secs),
    };

    let (lines, receiver) = mpsc::channel(1);
    match shared.store.watch(start) {
        Ok(subscription) => {
            let stalling = shared.faults.stalling.subscribe();
            tokio::spawn(
                Watch { terms, lines, stalling, ledger: Arc::clone(&shared.ledger) }.run(subscription),
            );
        }
        // A server that has accepted a watch reports this as its only event, not as the answer's status.
        Err(compacted) => {
            let status = Status::too_old(revision.unwrap_or_default(), compacted.oldest);
            // The channel has room for one line, so this cannot fail.
            drop(lines.try_send(Ok(line(&error_event(&status)))));
        }
    }
    Ok(stream(Lines::new(receiver, vec![Arc::new(shared.ledger.watch())])))
}

fn refuse(status: &Status) -> Answer {
    whole(status.code, &status.body(), status.retry_after)
}

fn throttle(code: u16, retry_after: u32) -> Answer {
    let text = "Too many requests, please try again later.\n";
    answer_with(code, "text/plain; charset=utf-8", text.into(), Some(retry_after))
}

fn whole(code: u16, body: &Value, retry_after: Option<u32>) -> Answer {
    answer_with(code, "application/json", body.to_string().into(), retry_after)
}

fn answer_with(code: u16, content_type: &'static str, body: Bytes, retry_after: Option<u32>) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(body)));
    // A code that is none can only come from a test that asked for it.
    *answer.status_mut() = code.try_into().unwrap_or_default();
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert(RETRY_AFTER, seconds.into());
    }
    answer
}

fn stream(lines: Lines) -> Answer {
    let mut answer = Response::new(Either::Right(lines));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
