//! Well-known sidecars are recognised in the Pod, asked and ended in their own way, in the right order.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::http::{Endpoint, Reply};
use crate::support::{PROA, World};

/// A Pod with restart policy `Never` and these containers beside `main`, one a line, all running and ready.
fn pod(beside: &[&str]) -> World {
    pod_with("[]", beside)
}

fn pod_with(init: &str, beside: &[&str]) -> World {
    let containers: Vec<_> = beside.iter().map(|container| format!("  - {container}")).collect();
    let names = beside.iter().map(|container| container.split(['{', ',', ':']).nth(2).unwrap().trim());
    let statuses: Vec<_> = names
        .map(|name| {
            format!("  - {{name: {name}, image: i, imageID: i, ready: true, restartCount: 0, state: {{running: {{}}}}}}")
        })
        .collect();
    let (containers, statuses) = (containers.join("\n"), statuses.join("\n"));
    World::of(&format!(
        "
metadata: {{name: pod, namespace: default}}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 30
  initContainers: {init}
  containers:
{containers}
  - {{name: main, image: i}}
status:
  phase: Running
  containerStatuses:
{statuses}
  - {{name: main, image: i, imageID: i, ready: false, restartCount: 0, state: {{running: {{}}}}}}
"
    ))
}

/// An Envoy that is asked at this endpoint.
fn envoy(at: &Endpoint) -> String {
    format!(
        "{{name: proxy, image: envoyproxy/envoy, readinessProbe: {{httpGet: {{path: /ready, port: {}}}}}}}",
        at.port()
    )
}

fn sql(at: &Endpoint) -> String {
    format!("{{name: sql, image: cloud-sql-connectors/cloud-sql-proxy, args: [--admin-port={}]}}", at.port())
}

const ENDED: &str = "terminated: {exitCode: 0, reason: Completed}";

#[test]
fn without_a_flag_a_well_known_sidecar_is_ended_in_its_own_way() {
    let quit = Endpoint::ok();
    let world = pod(&[&envoy(&quit)]);
    let running = world.proa().start(["sh", "-c", "exit 4"]);
    assert!(quit.request().starts_with("POST /quitquitquit "));
    world.set_state("proxy", ENDED);
    running.finish().expect(4, &["`proxy` (Envoy)", "every sidecar has exited"]);
}

#[test]
fn a_quit_endpoint_that_is_off_is_reported_with_what_turns_it_on() {
    let off = Endpoint::replying(vec![Reply::Status(404, None)]);
    let linkerd = format!(
        "{{name: linkerd-proxy, image: l, env: [{{name: LINKERD2_PROXY_ADMIN_LISTEN_ADDR, value: '0.0.0.0:{}'}}]}}",
        off.port()
    );
    pod(&[&linkerd])
        .proa()
        .flag("--shutdown-timeout=1s")
        .run(["sh", "-c", "exit 4"])
        .expect(4, &["/shutdown: 404", "config.linkerd.io/proxy-admin-shutdown: enabled"]);
    assert!(off.request().starts_with("POST /shutdown "));
}

#[test]
fn an_action_given_turns_that_off_unless_both_are_asked_for() {
    for (flag, asked) in [("--shutdown-timeout=1s", 0), ("--shutdown-auto", 1)] {
        let (quit, given) = (Endpoint::ok(), Endpoint::ok());
        let world = pod(&[&envoy(&quit)]);
        world
            .proa()
            .flags(["--ignore=proxy", flag, "-g", &given.url()])
            .run(["true"])
            .expect(0, &[&format!("GET {}: 200", given.url())]);
        assert_eq!(quit.more_requests(), asked, "{flag}");
    }
}

#[test]
fn no_shutdown_auto_ends_nobody() {
    let quit = Endpoint::ok();
    pod(&[&envoy(&quit)]).proa().flags(["--no-shutdown-auto", "--ignore=proxy"]).run(["true"]).expect(0, &[]);
    assert_eq!(quit.more_requests(), 0);
}

#[test]
fn what_carries_the_others_traffic_is_ended_once_they_have_ended() {
    let (mesh, db) = (Endpoint::ok(), Endpoint::ok());
    let world = pod(&[&envoy(&mesh), &sql(&db)]);
    let running = world.proa().start(["true"]);
    db.request();
    running.wait_stderr("waiting for `sql` to exit");
    assert_eq!(mesh.more_requests(), 0);
    world.set_state("sql", ENDED);
    mesh.request();
    world.set_state("proxy", ENDED);
    running.finish().expect(0, &["the others have exited", "every sidecar has exited"]);
}

#[test]
fn by_name_it_is_asked_and_ended_where_the_pod_says_that_it_listens() {
    let (ready, quit) = (Endpoint::ok(), Endpoint::ok());
    let flags = format!("[--http-port={}, --admin-port={}]", ready.port(), quit.port());
    let world = pod(&[&format!("{{name: sql, image: cloud-sql-connectors/cloud-sql-proxy, args: {flags}}}")]);
    let running = world
        .proa()
        .flags(["--wait-known=cloud-sql-proxy", "--shutdown-known=cloud-sql-proxy"])
        .start(["true"]);
    assert!(ready.request().starts_with("GET /readiness "));
    assert!(quit.request().starts_with("POST /quitquitquit "));
    world.set_state("sql", ENDED);
    running.finish().expect(0, &["every sidecar has exited"]);
}

#[test]
fn a_wait_of_ones_own_stays_though_the_sidecar_listens_elsewhere() {
    let ready = Endpoint::ok();
    let flags = format!("[--http-port={}]", ready.port());
    let world = pod(&[&format!("{{name: sql, image: cloud-sql-connectors/cloud-sql-proxy, args: {flags}}}")]);
    // The same as what is asked for by name, until the Pod says otherwise. Nobody listens there.
    let own = ["--wait-known=cloud-sql-proxy", "--wait-http-get=http://localhost:9090/readiness"];
    let ran = world
        .proa()
        .flags(own)
        .flags(["--ready-timeout=1s", "--no-shutdown-auto", "--shutdown-timeout=1ms"])
        .run(["true"]);
    ran.expect(75, &["http://localhost:9090/readiness"]);
}

#[test]
fn a_mesh_whose_place_is_known_by_its_url_alone_is_ended_last_too() {
    let (mesh, other) = (Endpoint::ok(), Endpoint::ok());
    let world = pod(&[&envoy(&mesh), "{name: web, image: w}"]);
    let running = world.proa().flags(["-p", &mesh.url(), "-p", &other.url()]).start(["true"]);
    other.request();
    running.wait_stderr("waiting for `web` to exit");
    assert_eq!(mesh.more_requests(), 0);
    world.set_state("web", ENDED);
    mesh.request();
    world.set_state("proxy", ENDED);
    running.finish().expect(0, &["every sidecar has exited"]);
}

#[test]
fn a_mesh_is_ended_in_time_though_the_others_stay() {
    let (mesh, db) = (Endpoint::ok(), Endpoint::ok());
    let world = pod(&[&envoy(&mesh), &sql(&db)]);
    let running = world.proa().flag("--shutdown-timeout=1s").start(["true"]);
    db.request();
    mesh.request();
    running.finish().expect(0, &["still running when --shutdown-timeout ran out: `proxy`, `sql`"]);
}

#[test]
fn a_mesh_waits_for_a_sidecar_that_ends_by_itself() {
    let mesh = Endpoint::ok();
    let world = pod(&[&envoy(&mesh), "{name: web, image: w}"]);
    let running = world.proa().start(["true"]);
    running.wait_stderr("waiting for `web` to exit");
    assert_eq!(mesh.more_requests(), 0);
    world.set_state("web", ENDED);
    mesh.request();
    world.set_state("proxy", ENDED);
    running.finish().expect(0, &["every sidecar has exited"]);
}

#[test]
fn native_sidecars_are_left_alone() {
    let quit = Endpoint::ok();
    let native = envoy(&quit).replace("image:", "restartPolicy: Always, image:");
    let world = pod_with(&format!("[{native}]"), &[]);
    world.update(|pod| {
        let ready = "[{name: proxy, image: i, imageID: i, ready: true, started: true, restartCount: 0, state: {running: {}}}]";
        let status = pod.status.get_or_insert_default();
        status.init_container_statuses = Some(serde_saphyr::from_str(ready).unwrap());
    });
    world.proa().run(["true"]).expect(0, &["`proxy` (Envoy)"]);
    assert_eq!(quit.more_requests(), 0);
}

#[test]
fn a_sidecar_that_is_ready_only_after_the_application_is_asked_itself() {
    let dapr = Endpoint::replying(vec![Reply::Status(500, None), Reply::Status(204, None)]);
    let daprd =
        format!("{{name: daprd, image: daprio/daprd, args: [/daprd, --dapr-http-port, '{}']}}", dapr.port());
    let world = pod(&[&daprd]);
    world.update_status("daprd", |status| status.ready = false);
    let running = world.proa().start(["true"]);
    for _ in 0..2 {
        assert!(dapr.request().starts_with("GET /v1.0/healthz/outbound "));
    }
    assert!(dapr.request().starts_with("POST /v1.0/shutdown "));
    world.set_state("daprd", ENDED);
    running.finish().expect(0, &["only once the application listens", "gate open"]);
}

#[test]
fn a_sidecar_that_leaves_last_is_not_waited_for() {
    let world = pod(&["{name: gke-gcsfuse-sidecar, image: g}"]);
    let finished = world.proa().flag("--shutdown-timeout=1h").run(["true"]).expect(0, &["gate open"]);
    assert!(!finished.stderr.contains("to exit"), "{}", finished.stderr);
}

#[test]
fn a_sidecar_without_a_quit_endpoint_is_named_with_what_helps() {
    let world = pod(&["{name: logs, image: fluent/fluent-bit}"]);
    world.proa().flag("--shutdown-timeout=1s").run(["true"]).expect(
        0,
        &["nobody shuts down `logs` (Fluent Bit)", "no quit endpoint; --kill", "shareProcessNamespace"],
    );
}

#[test]
fn the_only_container_that_is_no_well_known_sidecar_is_ours() {
    let world = pod(&["{name: istio-proxy, image: i}"]);
    world
        .proa()
        .without("PROA_CONTAINER")
        .flags(["--no-shutdown-auto", "--ignore=istio-proxy"])
        .run(["true"])
        .expect(0, &["this is container `main`"]);
}

#[test]
fn the_reference_has_every_row_of_the_table() {
    let output = Command::new(PROA).arg("known").env_clear().output().unwrap();
    assert!(output.status.success());
    let table = String::from_utf8(output.stdout).unwrap();
    let reference =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference.md")).unwrap();
    let rows: Vec<_> = table.split("\n\n").collect();
    assert!(rows.len() > 10, "{table}");
    for row in rows {
        let (name, title) = row.lines().next().unwrap().split_once(": ").unwrap();
        let line = reference.lines().find(|line| line.starts_with(&format!("| `{name}` | {title} |")));
        let line = line.unwrap_or_else(|| panic!("docs/reference.md has no row for {name}")).replace('`', "");
        let urls = row.split_whitespace().filter_map(|word| word.strip_prefix("http://localhost"));
        for url in urls {
            assert!(line.contains(url), "docs/reference.md: {name} lacks {url}");
        }
        for needs in row.lines().filter_map(|line| line.trim().strip_prefix("needs ")) {
            assert!(line.contains(&needs.replace('`', "")), "docs/reference.md: {name} lacks {needs}");
        }
        for why in row.lines().filter_map(|line| line.trim().strip_prefix("shutdown  no quit ")) {
            assert!(line.contains(&why.replace('`', "")), "docs/reference.md: {name} lacks {why}");
        }
    }
}

#[test]
fn an_unknown_name_lists_the_known_ones() {
    let world = World::alone();
    for flag in ["--wait-known=isto", "--shutdown-known=isto"] {
        world.proa().flag(flag).run(["true"]).expect(2, &["isto", "expected one of istio, linkerd"]);
    }
}
