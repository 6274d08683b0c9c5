//! Secrets are passed on and shown nowhere: in no line of the log, error, metric or termination message, and no token is in
//! proa's memory once it is not needed.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use k8s_openapi::api::core::v1::EnvVar;
use localpod::cluster::{Fault, WatchEnd};

use crate::support::http::{Endpoint, Reply};
use crate::support::{Beside, Finished, Held, Proa, Running, World, eventually};

/// What every secret of these tests holds.
const SECRET: &str = "s3cr3t";

/// How the log is made to say all that it can: proa's own lines, and its libraries' too.
const LOUD: [(&str, &str, &str); 4] = [
    ("PROA_LOG_LEVEL", "trace", "text"),
    ("PROA_LOG_LEVEL", "trace", "json"),
    ("RUST_LOG", "trace,proa=trace", "text"),
    ("RUST_LOG", "trace,proa=trace", "json"),
];

fn loud(proa: Proa, (variable, level, format): (&str, &str, &str)) -> Proa {
    proa.env(variable, level).env("PROA_LOG_FORMAT", format)
}

/// A Pod of `main` and `web`, whose manifests have secrets.
fn pod(policy: &str) -> World {
    let world = World::with(policy, &[Beside::Regular("web")]);
    world.update(|pod| {
        for container in &mut pod.spec.as_mut().unwrap().containers {
            let value = Some("s3cr3t-of-the-pod".to_owned());
            container.env = Some(vec![EnvVar { name: "PASSWORD".into(), value, value_from: None }]);
            container.args = Some(vec!["--password=s3cr3t-argument".into()]);
        }
    });
    world
}

/// A URL to the same place, with a password and a token.
fn secret(url: &str) -> String {
    url.replacen("://", "://user:s3cr3t-word@", 1) + "?token=s3cr3t-token"
}

/// A file of variables with a secret in it, as a flag.
fn env_file(world: &World) -> String {
    let file = world.dir.join("variables");
    fs::write(&file, "FROM_FILE=s3cr3t-of-the-file\n").unwrap();
    format!("--env-file={}", file.display())
}

/// The service account's token.
fn token(world: &World) -> String {
    fs::read_to_string(world.cluster.service_account_dir().join("token")).unwrap()
}

#[track_caller]
fn assert_shows_no_secret(world: &World, text: &str) {
    let token = token(world);
    // A signed token's parts tell as much as the whole of it.
    for secret in token.split('.').filter(|part| part.len() > 8).chain([SECRET]) {
        assert!(!text.contains(secret), "{secret:?} is in\n{text}");
    }
}

#[track_caller]
fn assert_silent(world: &World, finished: &Finished) {
    assert_shows_no_secret(world, &finished.stderr);
    assert_shows_no_secret(world, &world.termination_message());
    assert!(finished.stderr.contains("TRACE"), "the log is not as loud as it can be:\n{}", finished.stderr);
}

#[test]
fn a_whole_run_shows_no_secret_at_any_level() {
    for (at, loudness) in (31..).map(crate::status::address).zip(LOUD) {
        let world = pod("Never");
        let (ready, quit) =
            (Endpoint::ok(), Endpoint::replying(vec![Reply::Status(500, None), Reply::Status(200, None)]));
        let go = world.dir.join("go");
        let script = format!(
            "echo up $PASSWORD $FROM_FILE $0; until [ -e {} ]; do sleep 0.01; done; exit 3",
            go.display()
        );
        let running = loud(world.proa(), loudness)
            .env("PASSWORD", "s3cr3t-of-the-environment")
            .flags([
                "--status-address",
                &at,
                "-p",
                &secret(&quit.url()),
                "--wait-http-get",
                &secret(&ready.url()),
            ])
            .flag(env_file(&world))
            .start(["sh", "-c", &script, "s3cr3t-argument"]);
        running.wait_stderr("waiting for");
        world.make_ready("web");
        running.wait_stdout("up s3cr3t-of-the-environment s3cr3t-of-the-file s3cr3t-argument");
        let metrics = crate::status::ask(&at, "GET /metrics");
        assert!(metrics.contains("proa_direct_wait_seconds{"), "{metrics}");
        assert_shows_no_secret(&world, &metrics);
        fs::write(&go, "").unwrap();
        running.wait_stderr("waiting for `web` to exit");
        let metrics = crate::status::ask(&at, "GET /metrics");
        assert!(metrics.contains("proa_shutdown_actions_total{"), "{metrics}");
        assert_shows_no_secret(&world, &metrics);
        // Its request was `POST /quitquitquit?token=...`, with the password.
        assert!(quit.request().contains(SECRET));
        world.set_state("web", "terminated: {exitCode: 4, reason: Error}");
        assert_silent(&world, &running.finish().expect(3, &[]));
    }
}

#[test]
fn the_other_forms_show_no_secret_either() {
    for loudness in LOUD {
        let world = pod("Never");
        let quit = Endpoint::ok();
        let proa = || loud(world.proa(), loudness).env("PASSWORD", "s3cr3t-of-the-environment");
        let url = secret(&quit.url());
        let waiting = proa().flags(["wait", "--wait-http-get", &url]).flag(env_file(&world)).start_bare();
        waiting.wait_stderr("waiting for");
        world.make_ready("web");
        assert_silent(&world, &waiting.finish().expect(0, &[]));

        let sidecar = proa().sidecar("web").flags(["--wait-http-get", &url]).flag(env_file(&world));
        let sidecar = sidecar.start(["sh", "-c", "echo up $FROM_FILE; exec sleep 600", "s3cr3t-argument"]);
        sidecar.wait_stdout("up s3cr3t-of-the-file");
        sidecar.wait_stderr("running until the exit of");
        world.set_state("main", "terminated: {exitCode: 3}");
        assert_silent(&world, &sidecar.finish().expect(0, &[]));

        let helper = proa().sidecar("web").flags(["--shutdown-timeout=1s", "-p", &url]).start_bare();
        assert_silent(&world, &helper.finish().expect(0, &["POST"]));

        let quitting = proa().flags(["quit", "--shutdown-timeout=1s", "-p", &url]).start_bare();
        assert_silent(&world, &quitting.finish().expect(1, &["POST"]));
        let planned = proa().flags(["quit", "--dry-run", "-p", &url]).start_bare().finish().expect(0, &[]);
        assert_shows_no_secret(&world, &planned.stdout);
    }
}

#[test]
fn no_refusal_of_the_api_server_shows_the_token() {
    for loudness in [LOUD[2], LOUD[3]] {
        for fault in [
            Fault::Reset,
            Fault::Status(401),
            Fault::Status(403),
            Fault::Status(500),
            Fault::Throttle { code: 429, retry_after: 1 },
            Fault::Page(502),
            Fault::Answer("nonsense"),
        ] {
            let world = pod("Never");
            let _guard = world.cluster.inject(fault);
            let flags = ["--ready-timeout=300ms", "--shutdown-when=never"];
            let finished = loud(world.proa(), loudness).flags(flags).run(["true"]);
            assert!([75, 77].contains(&finished.code()), "{fault:?}: {}", finished.stderr);
            assert!(!world.termination_message().is_empty(), "{fault:?}");
            assert_silent(&world, &finished);
        }
    }
}

/// The mappings of a process that hold this text, as /proc/PID/maps names them.
fn mappings_with(pid: i32, text: &str) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process");
    let memory = File::open(format!("/proc/{pid}/mem")).expect("a process of ours");
    let holds = |line: &&str| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        let mut content = vec![0; usize::try_from(end - start).unwrap()];
        // What the kernel lends to every process, [vvar] among it, cannot be read this way.
        let read = memory.read_at(&mut content, start).unwrap_or_default();
        content[..read].windows(text.len()).any(|window| window == text.as_bytes())
    };
    let readable =
        maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.starts_with('r')));
    readable.filter(holds).map(str::to_owned).collect()
}

/// What a core dump would hold now.
#[track_caller]
fn assert_not_in_memory(running: &Running, secrets: &[&str]) {
    let seen = mappings_with(running.pid(), "a-word-of-the-environment");
    assert!(seen.iter().any(|mapping| mapping.ends_with("[stack]")), "memory can be searched: {seen:?}");
    for secret in secrets {
        let found = mappings_with(running.pid(), secret);
        assert!(found.is_empty(), "{secret:?} is in\n{}", found.join("\n"));
    }
}

fn marked(proa: Proa) -> Proa {
    proa.env("MARK", "a-word-of-the-environment")
}

#[test]
fn no_token_is_in_memory_while_the_command_runs() {
    let world = pod("Never");
    let held = Held::in_dir(&world.dir, "");
    let running = marked(world.proa()).flag(env_file(&world)).start(&held.command);
    running.wait_stderr("waiting for web");
    let first = token(&world);
    // Each request has the token of then.
    world.cluster.rotate_token().unwrap();
    world.cluster.end_watches(&WatchEnd::Close);
    eventually("another watch", || world.cluster.requests().len() > 1);
    world.make_ready("web");
    running.wait_stdout("up");
    assert_not_in_memory(&running, &[&first, &token(&world), "s3cr3t-of-the-file", "s3cr3t-of-the-pod"]);
}
