//! Pods and Jobs, played with real processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use localpod::event::What;
use localpod::play::JobEnd;
use localpod::{Cluster, Event, Manifest, Options, Outcome, Play};
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::client::{PATIENCE, get};

/// Where Cargo puts the examples, next to this test.
pub(crate) fn bin_dir() -> PathBuf {
    let test = std::env::current_exe().expect("this test's path");
    let directory = test.ancestors().nth(2).expect("the target directory").join("examples");
    assert!(directory.join("puppet").exists(), "run `cargo build -p localpod --examples` first");
    directory
}

fn options() -> Options {
    Options {
        bin_dirs: vec![bin_dir()],
        back_off: Duration::from_millis(20),
        probe_second: Duration::from_millis(10),
        ..Options::default()
    }
}

fn play(yaml: &str) -> Play {
    play_with(yaml, options())
}

fn play_with(yaml: &str, options: Options) -> Play {
    Play::start(Manifest::parse(yaml).expect("a manifest"), options).expect("a play")
}

fn pod(spec: &str) -> String {
    format!("kind: Pod\nmetadata: {{ name: web }}\nspec:\n{spec}")
}

fn end(play: &Play) -> Outcome {
    play.wait(PATIENCE).unwrap_or_else(|| panic!("no end after {:#?}", play.events()))
}

#[track_caller]
fn await_event(play: &Play, mut fits: impl FnMut(&What) -> bool) -> Event {
    play.wait_for(PATIENCE, |event| fits(&event.what))
        .unwrap_or_else(|| panic!("not in {:#?}", play.events()))
}

fn is_started(what: &What, name: &str) -> bool {
    matches!(what, What::ContainerStarted { container, .. } if container == name)
}

fn is_exited(what: &What, name: &str) -> bool {
    matches!(what, What::ContainerExited { container, .. } if container == name)
}

fn is_output(what: &What, text: &str) -> bool {
    matches!(what, What::Output { line, .. } if line == text)
}

/// The place of the first event that fits.
fn place(play: &Play, fits: impl Fn(&What) -> bool) -> usize {
    let events = play.events();
    events.iter().position(|event| fits(&event.what)).unwrap_or_else(|| panic!("not in {events:#?}"))
}

fn status(play: &Play) -> PodStatus {
    play.pod().expect("a Pod").status.expect("a status")
}

fn container(play: &Play, name: &str) -> ContainerStatus {
    let status = status(play);
    let all = status.init_container_statuses.into_iter().chain(status.container_statuses).flatten();
    all.into_iter().find(|container| container.name == name).expect("the container's status")
}

fn is_alive(pid: &str) -> bool {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn a_native_sidecar_does_not_keep_the_pod_from_succeeding() {
    let file = scratch("native").join("over");
    let play = play(&pod(&format!(
        "
  restartPolicy: Never
  initContainers:
  - {{ name: prepare, command: [puppet, exit, '0'] }}
  - {{ name: proxy, restartPolicy: Always, command: [puppet, signals, --count, '1'] }}
  containers:
  - {{ name: main, command: [sh, -c, 'until [ -e {file} ]; do sleep 0.01; done'] }}
",
        file = file.display()
    )));
    // Before that SIGTERM ends it.
    await_event(&play, |what| matches!(what, What::Output { line, .. } if line.starts_with("ready")));
    fs::write(&file, "").expect("a file");
    let outcome = end(&play);
    assert!(outcome.is_success());
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.containers["proxy"].exit_code, Some(0));
    let order = [
        place(&play, |what| is_exited(what, "prepare")),
        place(&play, |what| is_started(what, "proxy")),
        place(&play, |what| is_started(what, "main")),
        place(&play, |what| is_exited(what, "main")),
        place(&play, |what| is_output(what, "got SIGTERM")),
        place(&play, |what| is_exited(what, "proxy")),
        place(&play, |what| *what == What::PodPhase { phase: "Succeeded" }),
    ];
    assert!(order.is_sorted(), "{order:?} in {:#?}", play.events());
}

#[test]
fn a_regular_sidecar_keeps_the_pod_until_it_ends_itself() {
    let play = play(&pod("
  restartPolicy: Never
  containers:
  - { name: main, command: [puppet, exit, '0'] }
  - { name: sidecar, command: [puppet, signals, --count, '1'] }
"));
    await_event(&play, |what| is_exited(what, "main"));
    let started = await_event(&play, |what| is_output(what, "got SIGTERM") || is_started(what, "sidecar"));
    let What::ContainerStarted { pid, .. } = started.what else { panic!("stopped by the player") };
    assert_eq!(status(&play).phase.as_deref(), Some("Running"));
    await_event(&play, |what| matches!(what, What::Output { line, .. } if line.starts_with("ready")));
    let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("a signal");
    assert!(end(&play).is_success());
}

#[test]
fn readiness_follows_the_probe() {
    let file = PathBuf::from(format!("{}-ready", scratch("readiness").display()));
    let play = play(&pod(&format!(
        "
  containers:
  - name: main
    command: [puppet, sleep, 10m]
    readinessProbe: {{ exec: {{ command: [test, -e, {file}] }}, periodSeconds: 1, failureThreshold: 1 }}
",
        file = file.display()
    )));
    await_event(&play, |what| matches!(what, What::ProbeFailed { probe: "Readiness", .. }));
    assert!(!container(&play, "main").ready);
    fs::write(&file, "").expect("a file");
    await_event(&play, |what| matches!(what, What::ContainerReady { .. }));
    fs::remove_file(&file).expect("no file");
    await_event(&play, |what| matches!(what, What::ContainerUnready { .. }));
}

#[test]
fn http_probes_ask_the_named_port() {
    let port = free_port();
    let play = play(&pod(&format!(
        "
  restartPolicy: Never
  initContainers:
  - name: proxy
    restartPolicy: Always
    command: [puppet, serve, --port, '{port}', --bind-after, 50ms]
    ports: [{{ name: admin, containerPort: {port} }}]
    startupProbe: {{ httpGet: {{ path: /ready, port: admin }}, periodSeconds: 1, failureThreshold: 1000 }}
  containers:
  - {{ name: main, command: [puppet, http, GET, 'http://127.0.0.1:{port}/ready'] }}
"
    )));
    assert!(end(&play).is_success(), "{:#?}", play.events());
    assert_eq!(play.stdout("main"), "200\n");
}

#[test]
fn a_failed_liveness_probe_restarts_the_container() {
    let play = play(&pod("
  containers:
  - name: main
    command: [puppet, sleep, 10m]
    livenessProbe: { exec: { command: ['false'] }, periodSeconds: 1, failureThreshold: 2 }
"));
    await_event(&play, |what| matches!(what, What::ContainerRestarting { .. }));
    let mut starts = 0;
    await_event(&play, |what| {
        starts += usize::from(is_started(what, "main"));
        starts == 2
    });
    await_event(&play, |what| matches!(what, What::ContainerExited { code: 143, signal: Some(15), .. }));
}

#[test]
fn a_failing_container_loops_with_back_off_and_the_api_says_so() {
    let slow = Options { back_off: Duration::from_secs(60), ..options() };
    let play = play_with(
        &pod("
  restartPolicy: OnFailure
  containers:
  - { name: main, command: [puppet, exit, '7'] }
"),
        slow,
    );
    await_event(&play, |what| matches!(what, What::ContainerRestarting { after, .. } if !after.is_zero()));
    // The report follows the event at once, but not in the same moment.
    let until = Instant::now() + PATIENCE;
    let looping = loop {
        let container = container(&play, "main");
        if container.state.as_ref().is_some_and(|state| state.waiting.is_some()) {
            break container;
        }
        assert!(Instant::now() < until, "{container:?}");
        std::thread::yield_now();
    };
    assert_eq!(looping.restart_count, 1);
    let waiting = looping.state.and_then(|state| state.waiting).expect("waiting");
    assert_eq!(waiting.reason.as_deref(), Some("CrashLoopBackOff"));
    let last = looping.last_state.and_then(|state| state.terminated).expect("a last state");
    assert_eq!((last.exit_code, last.reason.as_deref()), (7, Some("Error")));
    assert_eq!(status(&play).phase.as_deref(), Some("Running"));
}

#[test]
fn a_container_is_restarted_until_it_succeeds() {
    let marker = scratch("marker").join("marker");
    let play = play(&pod(&format!(
        "
  restartPolicy: OnFailure
  containers:
  - {{ name: main, command: [sh, -c, 'test -e {marker} || {{ touch {marker}; exit 1; }}'] }}
",
        marker = marker.display()
    )));
    let outcome = end(&play);
    assert!(outcome.is_success());
    assert_eq!(outcome.containers["main"].restarts, 1);
}

#[test]
fn a_containers_own_rules_overrule_the_pods_policy() {
    let marker = scratch("rules").join("marker");
    let play = play(&pod(&format!(
        "
  restartPolicy: Never
  containers:
  - name: main
    restartPolicy: Never
    restartPolicyRules: [{{ action: Restart, exitCodes: {{ operator: In, values: [42] }} }}]
    command: [sh, -c, 'test -e {marker} && exit 5; touch {marker}; exit 42']
",
        marker = marker.display()
    )));
    let outcome = end(&play);
    assert_eq!((outcome.phase, outcome.failure), ("Failed", Some(5)));
    assert_eq!(outcome.containers["main"].restarts, 1);
}

#[test]
fn deletion_stops_mains_together_and_sidecars_after_them_in_reverse() {
    let play = play(&pod("
  initContainers:
  - { name: first, restartPolicy: Always, command: [puppet, signals, --count, '1'] }
  - { name: second, restartPolicy: Always, command: [puppet, signals, --count, '1'] }
  containers:
  - { name: main, command: [puppet, signals, --count, '1'] }
  - name: other
    command: [puppet, signals, --count, '1']
    lifecycle: { stopSignal: SIGUSR1 }
"));
    let mut ready = 0;
    await_event(&play, |what| {
        ready += usize::from(matches!(what, What::Output { line, .. } if line.starts_with("ready")));
        ready == 4
    });
    let mut watch = get(play.cluster(), "/api/v1/namespaces/default/pods?watch=true").expect("an answer");
    assert_eq!(watch.status, 403, "the manifest binds no rights");
    play.cluster().authorize(localpod::cluster::Access::AllowAll);
    watch = get(play.cluster(), "/api/v1/namespaces/default/pods?watch=true").expect("an answer");
    assert_eq!(watch.brief(), "ADDED web");

    play.delete(None);
    let marked = watch.event();
    assert_eq!(marked["object"]["metadata"]["deletionGracePeriodSeconds"], 30);
    let last = watch.event();
    let codes: Vec<_> =
        ["first", "second"]
            .iter()
            .enumerate()
            .map(|(index, _)| {
                &last["object"]["status"]["initContainerStatuses"][index]["state"]["terminated"]["exitCode"]
            })
            .collect();
    assert_eq!(codes, [&json!(0), &json!(0)], "no status in between, and all of them at the end");
    assert_eq!(watch.brief(), "DELETED web");

    let outcome = end(&play);
    assert!(outcome.deleted);
    assert!(play.pod().is_none());
    let stopping = |name: &str| {
        place(&play, |what| matches!(what, What::ContainerStopping { container, .. } if container == name))
    };
    let exited = |name: &str| place(&play, |what| is_exited(what, name));
    assert!(stopping("second") > exited("main").max(exited("other")));
    assert!(stopping("first") > exited("second"));
    assert_eq!(play.stdout("other").lines().last(), Some("got SIGUSR1"));
}

#[test]
fn what_ignores_the_signal_is_killed_when_grace_is_over() {
    let play = play(&pod("
  containers:
  - { name: main, command: [puppet, ignore-term] }
"));
    await_event(&play, |what| matches!(what, What::Output { .. }));
    let asked = Instant::now();
    play.delete(Some(Duration::from_secs(1)));
    let outcome = end(&play);
    assert_eq!(outcome.containers["main"].exit_code, Some(137));
    assert!(asked.elapsed() >= Duration::from_secs(2), "never less than the least grace");
}

#[test]
fn the_end_of_the_first_process_is_the_end_of_all() {
    let play = play(&pod("
  restartPolicy: Never
  containers:
  - { name: main, command: [sh, -c, 'env -i sleep 600 & echo $!; setsid puppet ignore-term & echo $!; exit 3'] }
"));
    assert_eq!(end(&play).failure, Some(3));
    let left: Vec<String> =
        play.stdout("main").lines().map(ToOwned::to_owned).filter(|pid| is_alive(pid)).collect();
    assert!(left.is_empty(), "{left:?} are alive");
}

#[test]
fn dropping_a_play_kills_whole_trees() {
    let play = play(&pod("
  containers:
  - { name: main, command: [puppet, spawn-tree] }
"));
    let line = await_event(&play, |what| matches!(what, What::Output { .. }));
    let What::Output { line, .. } = line.what else { unreachable!() };
    let pids: Vec<&str> = line.split(' ').filter(|word| word.chars().all(|c| c.is_ascii_digit())).collect();
    assert_eq!(pids.len(), 2, "{line}");
    assert!(pids.iter().all(|pid| is_alive(pid)));
    drop(play);
    assert!(!pids.iter().any(|pid| is_alive(pid)));
}

#[test]
fn last_words_are_those_written_or_else_the_end_of_the_log() {
    let play = play(&pod("
  restartPolicy: Never
  containers:
  - { name: writes, command: [sh, -c, 'echo done > $PROA_TERMINATION_MESSAGE_PATH'] }
  - { name: logs, terminationMessagePolicy: FallbackToLogsOnError, command: [sh, -c, 'echo oops >&2; exit 1'] }
  - { name: silent, command: [sh, -c, 'echo nothing; exit 1'] }
"));
    let outcome = end(&play);
    assert_eq!(outcome.containers["writes"].message.as_deref(), Some("done\n"));
    assert_eq!(outcome.containers["logs"].message.as_deref(), Some("oops"));
    assert_eq!(outcome.containers["silent"].message, None);
}

#[test]
fn a_command_that_is_not_there_is_a_start_error() {
    let play = play(&pod("
  restartPolicy: Never
  containers:
  - { name: main, command: [/no/such/program] }
"));
    let outcome = end(&play);
    let main = &outcome.containers["main"];
    assert_eq!((main.exit_code, main.reason.as_deref()), (Some(128), Some("StartError")));
    assert!(main.message.as_ref().is_some_and(|message| message.contains("/no/such/program")), "{main:?}");
}

#[test]
fn an_absolute_path_is_looked_up_in_the_given_directories() {
    let play = play(&pod("
  restartPolicy: Never
  containers:
  - { name: main, command: [/usr/local/bin/elsewhere/puppet, exit, '0'] }
"));
    assert!(end(&play).is_success());
}

#[test]
fn an_image_that_cannot_be_pulled_keeps_its_container_waiting() {
    let unpullable = Options { unpullable: ["main".to_owned()].into(), ..options() };
    let play = play_with(
        &pod("
  containers:
  - { name: main, image: nowhere/none, command: [puppet, exit, '0'] }
  - { name: other, command: [puppet, sleep, 10m] }
"),
        unpullable,
    );
    await_event(&play, |what| is_started(what, "other"));
    let waiting = container(&play, "main").state.and_then(|state| state.waiting).expect("waiting");
    assert_eq!(waiting.reason.as_deref(), Some("ImagePullBackOff"));
    assert_eq!(status(&play).phase.as_deref(), Some("Pending"));
}

#[test]
fn a_container_has_the_environment_of_a_container_only() {
    let play = play(&pod("
  restartPolicy: Never
  nodeName: node-1
  containers:
  - name: main
    command: [puppet, env]
    env:
    - { name: NODE, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
    - { name: GREETING, value: hello $(NODE) }
"));
    assert!(end(&play).is_success());
    let stdout = play.stdout("main");
    let mut names: Vec<&str> = stdout.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "GREETING",
            "HOSTNAME",
            "KUBERNETES_SERVICE_HOST",
            "KUBERNETES_SERVICE_PORT",
            "LOCALPOD_CONTAINER",
            "NODE",
            "PATH",
            "PROA_CONTAINER",
            "PROA_POD_NAME",
            "PROA_SERVICE_ACCOUNT_DIR",
            "PROA_TERMINATION_MESSAGE_PATH",
        ]
    );
    assert!(stdout.contains("\nGREETING=hello node-1\n") || stdout.starts_with("GREETING=hello node-1\n"));
}

#[test]
fn signals_start_at_their_defaults_in_a_session_of_the_containers_own() {
    // Whoever plays may block signals for its own ends, as localpod's program does.
    SigSet::from_iter([Signal::SIGTERM, Signal::SIGUSR1]).thread_block().expect("signals can be blocked");
    let play = play(&pod("
  restartPolicy: Never
  containers:
  - { name: main, command: [puppet, dispositions] }
"));
    assert!(end(&play).is_success(), "{:#?}", play.events());
    let stdout = play.stdout("main");
    let value = |name: &str| stdout.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    assert_eq!(value("SigBlk"), Some("0000000000000000"), "{stdout}");
    assert_eq!(value("SigIgn"), Some("0000000000000000"), "{stdout}");
    assert_eq!(value("pid"), value("sid"));
    assert_eq!(value("pid"), value("pgid"));
}

#[test]
fn a_post_start_hook_holds_up_the_containers_behind() {
    let file = scratch("hook").join("ready");
    let play = play(&pod(&format!(
        "
  restartPolicy: Never
  containers:
  - name: proxy
    command: [puppet, signals, --count, '1']
    lifecycle: {{ postStart: {{ exec: {{ command: [puppet, await, {file}] }} }} }}
  - {{ name: main, command: [puppet, exit, '0'] }}
",
        file = file.display()
    )));
    await_event(&play, |what| is_started(what, "proxy"));
    let waiting = container(&play, "proxy").state.and_then(|state| state.waiting).expect("waiting");
    assert_eq!(waiting.reason.as_deref(), Some("ContainerCreating"));
    fs::write(&file, "").expect("a file");
    await_event(&play, |what| is_exited(what, "main"));
}

#[test]
fn a_pre_stop_hook_comes_before_the_signal() {
    let log = scratch("prestop").join("log");
    let play = play(&pod(&format!(
        "
  containers:
  - name: main
    command: [puppet, signals, --count, '1', --log, {log}]
    lifecycle: {{ preStop: {{ exec: {{ command: [puppet, log, {log}, hook] }} }} }}
",
        log = log.display()
    )));
    await_event(&play, |what| matches!(what, What::Output { .. }));
    play.delete(None);
    end(&play);
    let log = fs::read_to_string(&log).expect("the log");
    let lines: Vec<&str> = log.lines().skip(1).collect();
    assert_eq!(lines, ["hook", "got SIGTERM"]);
}

fn job(limit: u32, policy: &str, command: &str) -> String {
    format!(
        "
kind: Job
metadata: {{ name: batch }}
spec:
  backoffLimit: {limit}
  template:
    spec:
      restartPolicy: {policy}
      containers:
      - {{ name: main, command: [sh, -c, '{command}'] }}
"
    )
}

#[test]
fn a_failed_pod_of_a_job_is_followed_by_another() {
    let marker = scratch("job").join("marker");
    let marker = marker.display();
    let play = play(&job(6, "Never", &format!("test -e {marker} || {{ touch {marker}; exit 1; }}")));
    let outcome = end(&play);
    assert_eq!(outcome.job, Some(JobEnd::Complete));
    let mut pods: Vec<String> = play.events().into_iter().map(|event| event.pod).collect();
    pods.dedup();
    assert_eq!(pods.len(), 2, "{pods:?}");
    assert!(pods.iter().all(|pod| pod.starts_with("batch-") && pod.len() == "batch-".len() + 5));
    await_event(&play, |what| *what == What::JobComplete);
}

#[test]
fn a_job_fails_when_its_limit_is_reached() {
    let outcome = end(&play(&job(1, "Never", "exit 9")));
    assert_eq!((outcome.job, outcome.failure), (Some(JobEnd::Failed), Some(9)));
    let outcome = end(&play(&job(2, "OnFailure", "exit 9")));
    assert_eq!((outcome.job, outcome.containers["main"].restarts), (Some(JobEnd::Failed), 2));
}

#[test]
fn a_play_leaves_nothing_behind() {
    let play = play(&pod("
  containers:
  - { name: main, command: [puppet, sleep, 10m] }
"));
    await_event(&play, |what| is_started(what, "main"));
    let account = play.cluster().service_account_dir().to_owned();
    drop(play);
    assert!(!account.exists());
}

#[test]
fn a_cluster_may_have_faults_before_the_first_container() {
    let manifest = Manifest::parse(&pod("
  restartPolicy: Never
  containers:
  - { name: main, command: [sh, -c, 'puppet http GET http://127.0.0.1:$KUBERNETES_SERVICE_PORT/ || exit 4'] }
"))
    .expect("a manifest");
    let cluster = Cluster::start().expect("a cluster");
    let refusal = cluster.refuse();
    let play = Play::start_on(cluster, manifest, options()).expect("a play");
    assert_eq!(end(&play).failure, Some(4));
    refusal.clear();
}

/// A directory for one test, of which only its name matters.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    drop(fs::remove_dir_all(&directory));
    fs::create_dir_all(&directory).expect("a directory");
    directory
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}
