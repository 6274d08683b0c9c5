//! The `Status` objects with which the API server says no.

use serde_json::{Value, json};

/// A failure as the API reports it: HTTP status and body of one.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Status {
    pub(super) code: u16,
    reason: &'static str,
    message: String,
    details: Value,
    /// Seconds for the `Retry-After` header.
    pub(super) retry_after: Option<u32>,
}

impl Status {
    fn new(code: u16, message: impl Into<String>) -> Status {
        Status {
            code,
            reason: reason(code),
            message: message.into(),
            details: Value::Null,
            retry_after: None,
        }
    }

    fn with_details(mut self, details: Value) -> Status {
        self.details = details;
        self
    }

    fn with_retry_after(mut self, seconds: u32) -> Status {
        self.retry_after = Some(seconds);
        self.details["retryAfterSeconds"] = json!(seconds);
        self
    }

    /// The body, which is the object of an `ERROR` event as well.
    pub(super) fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code,
        });
        if !self.details.is_null() {
            body["details"] = self.details.clone();
        }
        body
    }

    pub(super) fn unauthorized() -> Status {
        Status::new(401, "Unauthorized")
    }

    pub(super) fn forbidden(message: String, name: Option<&str>) -> Status {
        let mut details = json!({ "kind": "pods" });
        if let Some(name) = name {
            details["name"] = json!(name);
        }
        Status::new(403, message).with_details(details)
    }

    pub(super) fn no_such_path() -> Status {
        Status::new(404, "the server could not find the requested resource").with_details(json!({}))
    }

    pub(super) fn no_such_pod(name: &str) -> Status {
        Status::new(404, format!("pods \"{name}\" not found"))
            .with_details(json!({ "name": name, "kind": "pods" }))
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Status {
        Status::new(400, message)
    }

    pub(super) fn invalid_options(field: &str, message: &str) -> Status {
        let cause = format!("{field}: Forbidden: {message}");
        Status::new(422, format!("ListOptions.meta.k8s.io \"\" is invalid: {cause}")).with_details(json!({
            "group": "meta.k8s.io",
            "kind": "ListOptions",
            "causes": [{ "reason": "FieldValueForbidden", "message": format!("Forbidden: {message}"), "field": field }],
        }))
    }

    /// The answer of a server that does not know the option, or has it switched off.
    pub(super) fn no_initial_events(code: u16) -> Status {
        let message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        Status { code, reason: reason(code), ..Status::invalid_options("sendInitialEvents", message) }
    }

    pub(super) fn method_not_allowed() -> Status {
        Status::new(405, "the server does not allow this method on the requested resource")
            .with_details(json!({}))
    }

    pub(super) fn not_acceptable() -> Status {
        Status::new(406, "only the following media types are accepted: application/json")
    }

    pub(super) fn too_old(asked: u64, oldest: u64) -> Status {
        Status::new(410, format!("too old resource version: {asked} ({oldest})"))
    }

    pub(super) fn continue_expired() -> Status {
        Status::new(410, "The provided continue parameter is too old to display a consistent list result.")
    }

    pub(super) fn too_large(asked: u64, current: u64) -> Status {
        Status::new(504, format!("Too large resource version: {asked}, current: {current}"))
            .with_details(json!({
                "causes": [{ "reason": "ResourceVersionTooLarge", "message": "Too large resource version" }],
            }))
            .with_retry_after(1)
    }

    /// The failure a real server most often gives with this code.
    pub(super) fn canned(code: u16) -> Status {
        match code {
            401 => Status::unauthorized(),
            403 => Status::forbidden("pods is forbidden".to_owned(), None),
            404 => Status::no_such_path(),
            410 => Status::new(code, "The resourceVersion for the provided watch is too old."),
            429 => Status::new(
                code,
                "the server has received too many requests and has asked us to try again later",
            )
            .with_details(json!({}))
            .with_retry_after(1),
            500 => Status::new(code, "Internal error occurred: etcdserver: leader changed"),
            503 => Status::new(code, "apiserver not ready").with_details(json!({})).with_retry_after(1),
            504 => Status::new(code, "Timeout: request did not complete within the allotted time"),
            _ => Status::new(code, format!("the server answered with status {code}")),
        }
    }

    /// An `ERROR` event's status with a reason of the caller's.
    pub(super) fn event(code: u16, message: &str) -> Status {
        Status::new(code, message)
    }
}

/// The machine-readable reason that belongs to a code.
fn reason(code: u16) -> &'static str {
    match code {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_pod_is_named_in_message_and_details() {
        let body = Status::no_such_pod("web").body();
        assert_eq!(body["message"], "pods \"web\" not found");
        assert_eq!(body["details"], json!({ "name": "web", "kind": "pods" }));
        assert_eq!((&body["reason"], &body["code"]), (&json!("NotFound"), &json!(404)));
    }

    #[test]
    fn overload_says_when_to_come_back() {
        let status = Status::canned(429);
        assert_eq!(status.retry_after, Some(1));
        assert_eq!(status.body()["details"]["retryAfterSeconds"], 1);
    }
}
