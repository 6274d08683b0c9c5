//! The order of the phases: every actor appends to one log, and the log reads as the promise does.

use std::time::Duration;

use localpod::{Manifest, Options, Play};

use crate::support::{Dir, PATIENCE, PROA, puppet};

/// Plays a Pod whose containers append to one log; returns the log's lines and the exit codes.
fn play(manifest: &str, dir: &Dir) -> (Vec<String>, Vec<(String, Option<i32>)>) {
    let log = dir.join("log");
    let manifest = manifest
        .replace("PROA", PROA)
        .replace("PUPPET", puppet().to_str().unwrap())
        .replace("LOG", log.to_str().unwrap())
        .replace("DIR", dir.join("").to_str().unwrap());
    let manifest = Manifest::parse(&manifest).expect("a manifest");
    let options = Options { probe_second: Duration::from_millis(20), ..Options::default() };
    let play = Play::start(manifest, options).expect("a play");
    let outcome = play.wait(PATIENCE).unwrap_or_else(|| panic!("no end: {:#?}", play.events()));
    let log = std::fs::read_to_string(log).expect("a log");
    let codes = outcome.containers.into_iter().map(|(name, end)| (name, end.exit_code)).collect();
    (log.lines().map(str::to_owned).collect(), codes)
}

/// The service account and its rights, as every example has them.
const ACCOUNT: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: proa}
rules: [{apiGroups: [''], resources: [pods], verbs: [watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: proa}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: proa}
subjects: [{kind: ServiceAccount, name: default}]
---
";

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}

#[test]
fn wait_run_end_drain_exit() {
    let dir = Dir::new();
    let port = free_port().to_string();
    let manifest = format!("{ACCOUNT}
apiVersion: v1
kind: Pod
metadata: {{name: ordered}}
spec:
  restartPolicy: Never
  containers:
  - name: web
    image: puppet
    command: [PUPPET, serve, --port, 'PORT', --name, web, --log, LOG, --not-ready, --ready-file, DIRready, --quit-delay, 100ms]
    readinessProbe: {{periodSeconds: 1, httpGet: {{path: /ready, port: PORT}}}}
  - name: opener
    image: puppet
    command: [sh, -c, 'until grep -q \"web started\" LOG; do sleep 0.01; done; PUPPET log LOG \"opener opens\"; PUPPET touch DIRready']
  - name: main
    image: proa
    command: [PROA, --ignore=opener, '--shutdown-http-post=http://localhost:PORT/quitquitquit', --, sh, -c, 'PUPPET log LOG \"command runs\"; exit 3']
").replace("PORT", &port);
    let (log, codes) = play(&manifest, &dir);
    assert_eq!(
        log,
        ["web started", "opener opens", "web ready", "command runs", "web quit POST", "web exited"]
    );
    let expected = [("main", 3), ("opener", 0), ("web", 0)];
    assert_eq!(codes, expected.map(|(name, code)| (name.to_owned(), Some(code))));
}

#[test]
fn a_native_sidecar_is_ready_before_the_command_and_ended_by_the_kubelet_after_it() {
    let dir = Dir::new();
    let port = free_port().to_string();
    let manifest = format!(
        "{ACCOUNT}
apiVersion: v1
kind: Pod
metadata: {{name: native}}
spec:
  restartPolicy: Never
  initContainers:
  - name: db
    image: puppet
    restartPolicy: Always
    command: [PUPPET, serve, --port, 'PORT', --name, db, --log, LOG, --ready-after, 300ms]
    readinessProbe: {{periodSeconds: 1, httpGet: {{path: /ready, port: PORT}}}}
  containers:
  - name: main
    image: proa
    command: [PROA, --, PUPPET, log, LOG, command runs]
"
    )
    .replace("PORT", &port);
    let (log, codes) = play(&manifest, &dir);
    assert_eq!(log, ["db started", "db ready", "command runs", "db got SIGTERM", "db exited"]);
    assert_eq!(codes.iter().find(|(name, _)| name == "main").unwrap().1, Some(0));
}

#[test]
fn a_command_that_fails_is_run_again_beside_the_same_sidecars() {
    let dir = Dir::new();
    let port = free_port().to_string();
    let manifest = format!("{ACCOUNT}
apiVersion: v1
kind: Pod
metadata: {{name: retried}}
spec:
  restartPolicy: OnFailure
  containers:
  - name: web
    image: puppet
    command: [PUPPET, serve, --port, 'PORT', --name, web, --log, LOG]
    readinessProbe: {{periodSeconds: 1, httpGet: {{path: /ready, port: PORT}}}}
  - name: main
    image: proa
    command: [PROA, '-phttp://localhost:PORT/quitquitquit', --, sh, -c, 'PUPPET log LOG \"command runs\"; PUPPET touch DIRtried-$(ls DIR | wc -l); test $(ls DIR | wc -l) -gt 2']
").replace("PORT", &port);
    let (log, codes) = play(&manifest, &dir);
    assert_eq!(
        log,
        ["web started", "web ready", "command runs", "command runs", "web quit POST", "web exited"]
    );
    assert!(codes.iter().all(|(_, code)| *code == Some(0)), "{codes:?}");
}
