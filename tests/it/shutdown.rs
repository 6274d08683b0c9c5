//! The sidecars are stopped as asked, side by side, with checked answers, and only when they should be.

use crate::support::http::{Endpoint, Reply, refusing_url};
use crate::support::{Beside, World};

/// A Pod whose sidecar is ready and whose container `main` has this restart policy.
fn ready(policy: &str) -> World {
    let world = World::with(policy, &[Beside::Regular("web")]);
    world.make_ready("web");
    world
}

/// No time for the drain: these tests end no sidecar.
const NO_DRAIN: &str = "--ignore=web";

#[test]
fn gets_and_posts_are_sent_once_each() {
    let (get, post) = (Endpoint::ok(), Endpoint::ok());
    ready("Never")
        .proa()
        .flags([NO_DRAIN, "-g", &get.url(), "-p", &post.url()])
        .run(["true"])
        .expect(0, &[&format!("GET {}: 200", get.url()), &format!("POST {}: 200", post.url())]);
    assert!(get.request().starts_with("GET /quitquitquit HTTP/1.1\r\n"));
    let head = post.request().to_lowercase();
    assert!(head.starts_with("post /quitquitquit http/1.1\r\n"));
    assert!(head.contains("content-length: 0\r\n"), "{head}");
    assert_eq!((get.more_requests(), post.more_requests()), (0, 0));
}

#[test]
fn flags_may_come_from_variables() {
    let (one, two) = (Endpoint::ok(), Endpoint::ok());
    let urls = format!("{} {}", one.url(), two.url());
    ready("Never")
        .proa()
        .env("PROA_SHUTDOWN_HTTP_POST", urls)
        .env("PROA_IGNORE", "web")
        .run(["true"])
        .expect(0, &[]);
    assert!(one.request().starts_with("POST "));
    assert!(two.request().starts_with("POST "));
}

#[test]
fn a_hanging_endpoint_holds_up_no_other() {
    let (hanging, prompt) = (Endpoint::replying(vec![Reply::Hang]), Endpoint::ok());
    let world = ready("Never");
    let running = world
        .proa()
        .flags([NO_DRAIN, "-p", &hanging.url(), "-p", &prompt.url(), "--shutdown-timeout=2s"])
        .start(["true"]);
    hanging.request();
    prompt.request();
    running.wait_stderr(&format!("POST {}: 200", prompt.url()));
    running.finish().expect(0, &["--shutdown-timeout ran out"]);
}

#[test]
fn answers_that_mean_no_are_reported_with_what_to_change() {
    for (reply, said) in [
        (Reply::Status(404, None), "must be enabled"),
        (Reply::Status(405, None), "another method"),
        (Reply::Status(302, Some("location: http://127.0.0.1:1/other".into())), "http://127.0.0.1:1/other"),
    ] {
        let quit = Endpoint::replying(vec![reply]);
        ready("Never")
            .proa()
            .flags([NO_DRAIN, "-p", &quit.url()])
            .run(["sh", "-c", "exit 4"])
            .expect(4, &[said]);
        quit.request();
        assert_eq!(quit.more_requests(), 0, "an answer that will not change is not asked for again");
    }
}

#[test]
fn server_errors_are_tried_again() {
    let quit = Endpoint::replying(vec![
        Reply::Status(503, None),
        Reply::Status(500, None),
        Reply::Status(200, None),
    ]);
    ready("Never").proa().flags([NO_DRAIN, "-p", &quit.url()]).run(["true"]).expect(0, &[": 200"]);
}

#[test]
fn a_sidecar_that_is_gone_after_it_was_asked_has_ended() {
    let quit = Endpoint::replying(vec![Reply::CloseForGood]);
    ready("Never").proa().flags([NO_DRAIN, "-p", &quit.url()]).run(["true"]).expect(0, &["it is gone"]);
}

#[test]
fn a_dropped_connection_is_no_yes() {
    let quit = Endpoint::replying(vec![Reply::Close, Reply::Status(200, None)]);
    ready("Never").proa().flags([NO_DRAIN, "-p", &quit.url()]).run(["true"]).expect(0, &[": 200"]);
}

#[test]
fn nobody_listening_is_reported_and_changes_nothing() {
    let url = refusing_url();
    ready("Never").proa().flags([NO_DRAIN, "-g", &url]).run(["true"]).expect(0, &["connection refused"]);
}

#[test]
fn proxies_are_not_used_for_loopback() {
    let quit = Endpoint::ok();
    ready("Never")
        .proa()
        .env("HTTP_PROXY", "http://127.0.0.1:1")
        .env("http_proxy", "http://127.0.0.1:1")
        .env("ALL_PROXY", "http://127.0.0.1:1")
        .flags([NO_DRAIN, "-p", &quit.url()])
        .run(["true"])
        .expect(0, &[": 200"]);
}

#[test]
fn https_endpoints_are_verified_against_the_systems_authorities() {
    // Any HTTPS server of a known authority will do: the API server answers 401 to a stranger.
    let world = ready("Never");
    let url = format!("https://localhost:{}/quitquitquit", world.cluster.address().port());
    let proa = || world.proa().flags([NO_DRAIN, "-p", &url]);
    let authority = world.cluster.service_account_dir().join("ca.crt");
    proa().env("SSL_CERT_FILE", authority).run(["true"]).expect(0, &["401: expected 2xx"]);
    proa().env("SSL_CERT_FILE", "/dev/null").run(["true"]).expect(0, &["ertificate"]);
}

#[test]
fn localhost_is_loopback_without_a_hosts_file() {
    let Some(mut wrapper) = crate::support::unshare(&[]) else { return };
    wrapper.extend(["sh", "-c", "mount --bind /dev/null /etc/hosts && exec \"$@\"", "sh"].map(str::to_owned));
    for name in ["localhost", "proxy.localhost"] {
        let quit = Endpoint::ok();
        let url = format!("http://{name}:{}/quitquitquit", quit.port());
        let world = ready("Never");
        let proa = world.proa().through(wrapper.clone());
        proa.flags([NO_DRAIN, "-p", &url]).run(["true"]).expect(0, &[": 200"]);
    }
}

#[test]
fn sidecars_are_ended_unless_this_container_will_be_started_again() {
    for (policy, when, code, ended) in [
        ("Never", "auto", 0, true),
        ("Never", "auto", 3, true),
        ("OnFailure", "auto", 0, true),
        ("OnFailure", "auto", 3, false),
        ("Always", "auto", 0, false),
        ("Always", "auto", 3, false),
        ("Always", "always", 3, true),
        ("Never", "success", 0, true),
        ("Never", "success", 3, false),
        ("Never", "never", 0, false),
    ] {
        let quit = Endpoint::ok();
        let said = if ended { ": 200" } else { "sidecars are left running" };
        ready(policy)
            .proa()
            .flags([NO_DRAIN, "-p", &quit.url(), "--shutdown-when", when])
            .run(["sh", "-c", &format!("exit {code}")])
            .expect(code, &[said]);
        assert_eq!(quit.more_requests(), usize::from(ended), "{policy} {when} {code}");
    }
}

#[test]
fn a_containers_own_restart_rules_count() {
    let world = ready("Never");
    world.update(|pod| {
        let spec = pod.spec.get_or_insert_default();
        let main = spec.containers.iter_mut().find(|container| container.name == "main").unwrap();
        main.restart_policy = Some("Never".into());
        let rule = "action: Restart\nexitCodes: {operator: In, values: [42]}";
        main.restart_policy_rules = Some(vec![serde_saphyr::from_str(rule).unwrap()]);
    });
    for (code, ended) in [(42, 0), (41, 1)] {
        let quit = Endpoint::ok();
        let finished =
            world.proa().flags([NO_DRAIN, "-p", &quit.url()]).run(["sh", "-c", &format!("exit {code}")]);
        assert_eq!(finished.code(), code);
        assert_eq!(quit.more_requests(), ended, "{code}");
    }
}

#[test]
fn a_refused_gate_and_a_missing_command_end_the_sidecars_too() {
    let world = World::with("Never", &[Beside::Regular("web"), Beside::Regular("log")]);
    world.set_state("log", "terminated: {exitCode: 1}");
    let quit = Endpoint::ok();
    world.proa().flags(["-p", &quit.url(), "--shutdown-timeout=1s"]).run(["true"]).expect(69, &[]);
    assert!(quit.request().starts_with("POST "));
    ready("Never").proa().flags([NO_DRAIN, "-p", &quit.url()]).run(["/no/such/program"]).expect(127, &[]);
    assert!(quit.request().starts_with("POST "));
}

#[test]
fn a_set_up_in_which_proa_cannot_work_ends_them_too() {
    let quit = Endpoint::ok();
    let world = World::alone();
    let proa = || world.proa().flags(["--shutdown-timeout=1s", "-p", &quit.url()]);
    proa().without("KUBERNETES_SERVICE_HOST").run(["true"]).expect(2, &["KUBERNETES_SERVICE_HOST"]);
    assert!(quit.request().starts_with("POST "));
    // An address of nobody's (RFC 5737).
    proa().flag("--status-address=192.0.2.1:9400").run(["true"]).expect(2, &["--status-address"]);
    assert!(quit.request().starts_with("POST "));
}
