//! What others do to proa, or the machine refuses it, costs neither secrets nor the command, nor its exit code.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use localpod::cluster::{Fault, FaultGuard};
use nix::libc;

use crate::sidecar::both;
use crate::status::address;
use crate::support::http::{Endpoint, Reply, refusing_url};
use crate::support::{
    Beside, Finished, Held, Proa, Running, World, eventually, in_directory, peak_memory, send, with_streams,
};

// Secrets in URLs.

/// What every secret of these tests holds.
const SECRET: &str = "s3cr3t";

/// A URL to the same place, with a password and a token.
fn secret(url: &str) -> String {
    url.replacen("://", "://user:s3cr3t-word@", 1) + "?token=s3cr3t-token"
}

#[track_caller]
fn assert_no_secret(world: &World, finished: &Finished) {
    for text in [&finished.stderr, &world.termination_message()] {
        assert!(!text.contains(SECRET), "{text}");
    }
}

/// Places at which a request fails, each in its own way, for as long as this lives.
struct Failing {
    urls: Vec<String>,
    _endpoints: Vec<Endpoint>,
    _servers: [World; 2],
    _resets: FaultGuard,
}

impl Failing {
    fn everywhere() -> Self {
        let redirect = |to: &str| Reply::Status(302, Some(format!("location: {to}")));
        let endpoints: Vec<_> = [
            Reply::Close,
            Reply::Hang,
            Reply::Status(404, None),
            Reply::Status(405, None),
            Reply::Status(500, None),
            redirect("http://user:s3cr3t-word@127.0.0.1:1/login?token=s3cr3t-token"),
            redirect("/login?token=s3cr3t-token"),
        ]
        .map(|reply| Endpoint::replying(vec![reply]))
        .into();
        let servers = [World::alone(), World::alone()];
        let resets = servers[0].cluster.inject(Fault::Reset);
        let mut urls: Vec<_> = endpoints.iter().map(Endpoint::url).collect();
        urls.push(refusing_url());
        // A name that cannot exist (RFC 6761, 6.4).
        urls.push("http://absent.invalid/quitquitquit".to_owned());
        // Where nobody speaks TLS.
        urls.push(endpoints[2].url().replacen("http:", "https:", 1));
        // A connection that is reset, and a certificate of an authority that is not known.
        urls.extend(
            servers.iter().map(|server| format!("https://{}/quitquitquit", server.cluster.address())),
        );
        Self { urls, _endpoints: endpoints, _servers: servers, _resets: resets }
    }

    fn flags(&self, flag: &str) -> Vec<String> {
        self.urls.iter().flat_map(|url| [flag.to_owned(), secret(url)]).collect()
    }

    /// That each of them was reported, if without its secrets.
    #[track_caller]
    fn assert_named_in(&self, text: &str) {
        for url in &self.urls {
            assert!(text.contains(url), "nothing of {url}:\n{text}");
        }
    }
}

/// proa with authorities of its own for https, and this log level.
fn trusting(world: &World, level: &str) -> Proa {
    let authorities = world.cluster.service_account_dir().join("ca.crt");
    world.proa().env("SSL_CERT_FILE", authorities).env("RUST_LOG", level)
}

#[test]
fn no_request_that_fails_shows_the_secrets_of_its_url() {
    let (world, failing) = (World::alone(), Failing::everywhere());
    for (flag, level) in [("--shutdown-http-post", "proa=info"), ("--shutdown-http-get", "trace,proa=trace")]
    {
        // Enough for an attempt that gets no answer.
        let proa = trusting(&world, level).flag("--shutdown-timeout=7s").flags(failing.flags(flag));
        let finished = proa.run(["true"]).expect(0, &[]);
        failing.assert_named_in(&finished.stderr);
        assert_no_secret(&world, &finished);
    }
}

#[test]
fn no_wait_that_is_in_vain_shows_the_secrets_of_its_url() {
    let (world, failing) = (World::alone(), Failing::everywhere());
    for level in ["proa=info", "trace,proa=trace"] {
        let proa = trusting(&world, level).flag("--ready-timeout=3s").flags(failing.flags("--wait-http-get"));
        let finished = proa.run(["true"]).expect(75, &[]);
        failing.assert_named_in(&finished.stderr);
        assert!(world.termination_message().contains("127.0.0.1"), "{}", world.termination_message());
        assert_no_secret(&world, &finished);
    }
}

#[test]
fn without_any_authority_https_fails_without_showing_secrets() {
    let world = World::alone();
    let url = secret("https://127.0.0.1:1/quitquitquit");
    let proa = || world.proa().env("SSL_CERT_FILE", "/dev/null");
    let finished = proa().flags(["-p", &url]).run(["true"]).expect(0, &["127.0.0.1:1"]);
    assert_no_secret(&world, &finished);
    let finished = proa().flags(["--wait-http-get", &url]).run(["true"]).expect(2, &["127.0.0.1:1"]);
    assert_no_secret(&world, &finished);
}

#[test]
fn a_wrong_url_is_refused_without_showing_its_secrets() {
    let world = World::alone();
    for url in [
        "http://user:s3cr3t-word@localhost:99999/quit?token=s3cr3t-token",
        "http://user:s3cr3t-word@localhost:0/quit?token=s3cr3t-token",
        "htp://user:s3cr3t-word@localhost/quit?token=s3cr3t-token",
        "http://user:s3cr3t-word@:80/quit?token=s3cr3t-token",
        "user:s3cr3t-word@localhost/quit?token=s3cr3t-token",
        "http://localhost/quit http://localhost:0/quit?token=s3cr3t-token",
        // A password whose slash should have been `%2F`.
        "http://user:s3cr3t/word@localhost/quit",
    ] {
        for flag in ["--shutdown-http-post", "--shutdown-http-get", "--wait-http-get"] {
            let finished = world.proa().flags([flag, url]).run(["true"]).expect(2, &[flag]);
            assert_no_secret(&world, &finished);
            assert!(world.termination_message().contains(flag), "{}", world.termination_message());
        }
        let finished = world.proa().env("PROA_SHUTDOWN_HTTP_POST", url).run(["true"]);
        assert_no_secret(&world, &finished.expect(2, &["--shutdown-http-post"]));
        let finished = world.proa().sidecar("web").flags(["-p", url]).start_bare().finish();
        assert_no_secret(&world, &finished.expect(2, &["--shutdown-http-post"]));
    }
}

// Strangers in the network namespace.

fn abstract_name(world: &World, container: &str) -> SocketAddr {
    let name = format!("proa/{}/{container}", world.uid());
    SocketAddr::from_abstract_name(name).expect("a short name")
}

/// Somebody in another mount namespace has the name of main's proa; this process, that is.
fn beside_a_stranger(more: &[&str]) {
    let world = World::alone();
    let Some(main) = world.mounted_in(more, "main", "pod") else { return };
    let _stranger = UnixListener::bind_addr(&abstract_name(&world, "main")).expect("a free name");
    let finished = main.run(["sh", "-c", "echo up; exit 4"]).expect(4, &[]);
    assert_eq!(finished.stdout, "up\n");
    let warned = finished.stderr.lines().any(|line| line.contains("WARN") && line.contains("`main`"));
    assert!(warned, "{}", finished.stderr);
    assert_eq!(world.termination_message(), "");
}

#[test]
fn a_stranger_that_has_taken_mains_name_does_not_stop_main() {
    beside_a_stranger(&["--uts"]);
}

#[test]
fn a_stranger_of_another_process_namespace_does_not_stop_main_either() {
    beside_a_stranger(&["--uts", "--pid", "--fork", "--mount-proc"]);
}

#[test]
fn clients_that_say_nothing_do_not_keep_main_from_notifying_a_wrapped_sidecar() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let Some((main, sidecar)) = both(&world) else { return };
    let sidecar = sidecar.flag("--api=off").start(["sh", "-c", "echo up; while :; do sleep 0.01; done"]);
    sidecar.wait_stdout("up");
    let silent: Vec<_> = (0..30)
        .map(|_| UnixStream::connect_addr(&abstract_name(&world, "web/q")).expect("it listens"))
        .collect();
    let started = Instant::now();
    main.flag("--api=off").run(["true"]).expect(0, &[]);
    sidecar.finish().expect(0, &[]);
    // One after the other they would have taken it half a minute.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop(silent);
}

// The status endpoint.

/// The answer to a liveness probe, and how long it took.
fn probe_liveness(at: &str) -> (String, Duration) {
    let asked = Instant::now();
    (crate::status::ask(at, "GET /livez"), asked.elapsed())
}

#[track_caller]
fn assert_alive((answer, took): (String, Duration)) {
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(took < Duration::from_secs(1), "{took:?}");
}

fn serving(world: &World, at: &str, held: &Held) -> Running {
    let running = world.proa().flags(["--api=off", "--status-address", at]).start(&held.command);
    running.wait_stdout("up");
    running
}

#[test]
fn idle_clients_do_not_make_a_liveness_probe_fail() {
    let world = World::alone();
    let (at, held) = (address(21), Held::in_dir(&world.dir, ""));
    let running = serving(&world, &at, &held);
    let mut idle: Vec<_> = (0..200).map(|_| TcpStream::connect(&at).expect("it listens")).collect();
    for half in idle.iter_mut().step_by(2) {
        // It may have been dropped for a newer one.
        let _ = half.write_all(b"GET /livez HTTP/1.1\r\nhost:");
    }
    assert_alive(probe_liveness(&at));
    held.let_go();
    running.finish().expect(0, &[]);
}

#[test]
fn clients_with_endless_headers_cost_no_memory() {
    let world = World::alone();
    let (at, held) = (address(22), Held::in_dir(&world.dir, ""));
    let running = serving(&world, &at, &held);
    assert_alive(probe_liveness(&at));
    let before = peak_memory(running.pid());
    let header = format!("x: {}\r\n", "x".repeat(995));
    let endless = || {
        let mut client = TcpStream::connect(&at).expect("it listens");
        client.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let _ = client.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n");
        // A server that reads no more closes the connection.
        let _ = client.write_all(header.repeat(300).as_bytes());
        client
    };
    let clients = thread::scope(|scope| {
        let clients: Vec<_> = (0..64).map(|_| scope.spawn(endless)).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>()
    });
    let probed = probe_liveness(&at);
    let grown = peak_memory(running.pid()).saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more");
    assert_alive(probed);
    drop(clients);
    held.let_go();
    running.finish().expect(0, &[]);
}

// Signals before the command.

#[test]
fn a_signal_that_the_gate_has_no_use_for_is_dropped_and_named() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let held = Held::in_dir(&world.dir, "exit 3");
    let running = world.proa().flag("--shutdown-when=never").start(&held.command);
    running.wait_stderr("waiting for web");
    running.signal(libc::SIGUSR1);
    running.signal(40);
    world.make_ready("web");
    running.wait_stdout("up");
    held.let_go();
    running.finish().expect(3, &["SIGUSR1 came before the command", "SIGRTMIN+6 came before the command"]);
}

#[test]
fn a_signal_after_the_gate_and_before_the_command_still_ends_the_wait() {
    let (world, quit) = (World::alone(), Endpoint::ok());
    let pipe = world.dir.join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let running = world.proa().flags(["-p", &quit.url(), "--env-file"]).flag(&pipe).start(["echo", "never"]);
    // Opens only once somebody reads (fifo(7)), who then waits for what is never written.
    let mut writer = None;
    eventually("proa reads the file", || {
        writer = fs::OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&pipe).ok();
        writer.is_some()
    });
    let asked = Instant::now();
    running.signal(libc::SIGTERM);
    let finished = running.finish().expect(128 + libc::SIGTERM, &[]);
    assert!(asked.elapsed() < Duration::from_secs(8), "it waited for the file: {:?}", asked.elapsed());
    assert_eq!(finished.stdout, "");
    assert!(quit.request().starts_with("POST "), "the sidecars are ended all the same");
}

// The termination message.

/// The kubelet keeps the end of what is longer.
const ROOM: usize = 4096;

#[test]
fn a_termination_message_of_many_containers_keeps_its_beginning() {
    let names: Vec<_> = (10..99).map(|number| format!("sidecar-{number}-{}", "x".repeat(50))).collect();
    let lines = |line: &dyn Fn(&str) -> String| names.iter().map(|name| line(name)).collect::<String>();
    let world = World::of(&format!(
        "
metadata: {{name: pod, namespace: default}}
spec:
  restartPolicy: Never
  containers:
{}  - {{name: main, image: i}}
status:
  phase: Running
  containerStatuses:
{}  - {{name: main, image: i, imageID: i, ready: false, restartCount: 0, state: {{running: {{}}}}}}
",
        lines(&|name| format!("  - {{name: {name}, image: i}}\n")),
        lines(&|name| format!(
            "  - {{name: {name}, image: i, imageID: i, ready: false, restartCount: 0, state: {{running: {{}}}}}}\n"
        )),
    ));
    let flags = ["--ready-timeout=3s", "--shutdown-when=never"];
    world.proa().flags(flags).run(["true"]).expect(75, &[names.last().unwrap()]);
    let message = world.termination_message();
    assert!(message.len() <= ROOM, "{} bytes", message.len());
    assert!(message.starts_with("proa: ") && message.contains(&names[0]), "{message}");
}

#[test]
fn a_long_usage_error_is_cut_at_its_end_and_between_characters() {
    let world = World::alone();
    for padding in ["", "x", "xx"] {
        let flag = format!("--wait-tcp={padding}{}", "\u{20ac}".repeat(2000));
        world.proa().flag(flag).run(["true"]).expect(2, &["--wait-tcp"]);
        let message = world.termination_message();
        assert!(message.len() <= ROOM, "{} bytes", message.len());
        assert!(message.starts_with("proa: ") && message.contains(padding), "{message}");
        assert!(message.len() > ROOM / 2, "{message}");
    }
}

// Streams that cannot be written.

const FULL: &str = "/dev/full";

/// A redirection to a pipe that nobody reads any more.
fn to_a_broken_pipe(world: &World, stream: u8) -> String {
    let pipe = world.dir.join(&format!("broken-{stream}"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // Who opens it for both does not wait for the other end.
    format!("9<>{0} {stream}>{0} 9<&-", pipe.display())
}

/// What leaves nothing but a text on stdout, or a file and a text.
fn questions(world: &World) -> [Vec<String>; 4] {
    let volume = world.dir.join("proa").display().to_string();
    [vec!["known".into()], vec!["--help".into()], vec!["--version".into()], vec!["install".into(), volume]]
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure_of_its_own() {
    let world = World::alone();
    for question in questions(&world) {
        let proa = world.proa().through(with_streams(&format!("1>{FULL}")));
        let finished = proa.flags(&question).start_bare().finish();
        // A binary that is installed is so, whoever is told.
        let expected = if question[0] == "install" { 0 } else { 73 };
        assert_eq!(finished.code(), expected, "{question:?}: {}", finished.stderr);
        assert!(!finished.stderr.contains("panicked"), "{question:?}: {}", finished.stderr);
    }
}

#[test]
fn an_answer_that_nobody_reads_any_more_is_no_failure() {
    let world = World::alone();
    let broken = to_a_broken_pipe(&world, 1);
    for question in questions(&world) {
        for redirection in [&broken, "1>&-"] {
            let proa = world.proa().through(with_streams(redirection));
            let finished = proa.flags(&question).start_bare().finish();
            assert_eq!(finished.code(), 0, "{question:?} {redirection}: {}", finished.stderr);
            assert!(!finished.stderr.contains("panicked"), "{question:?}: {}", finished.stderr);
        }
    }
}

#[test]
fn no_code_depends_on_a_stderr_that_can_be_written() {
    let world = World::alone();
    let full = format!("2>{FULL}");
    for redirection in [full.as_str(), "2>&-", &to_a_broken_pipe(&world, 2)] {
        let proa = || world.proa().through(with_streams(redirection));
        let ended = proa().run(["sh", "-c", "echo up; exit 3"]);
        assert_eq!((ended.code(), ended.stdout.as_str()), (3, "up\n"), "{redirection}");
        let ended = proa().env("PROA_LOG_FORMAT", "json").run(["sh", "-c", "exit 3"]);
        assert_eq!(ended.code(), 3, "{redirection}");
        assert_eq!(proa().run(["/no/such/program"]).code(), 127, "{redirection}");
        assert_eq!(proa().flag("--no-such-flag").run(["true"]).code(), 2, "{redirection}");
        assert!(world.termination_message().contains("--no-such-flag"), "{redirection}");
        for question in questions(&world) {
            assert_eq!(proa().flags(&question).start_bare().finish().code(), 0, "{question:?} {redirection}");
        }
    }
}

/// A log collector that hangs must not keep a signal from the command, nor its exit code from Kubernetes.
#[test]
fn a_stderr_that_is_full_holds_nothing_up() {
    use std::io::{Read as _, Write as _};
    let world = World::alone();
    let path = world.dir.join("full");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let flags = nix::libc::O_NONBLOCK;
    let mut pipe = fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path).unwrap();
    while pipe.write(&[b'x'; 4096]).is_ok() {}
    let proa = || world.proa().through(with_streams(&format!("2>{}", path.display())));
    assert_eq!(proa().run(["sh", "-c", "exit 3"]).code(), 3);
    assert_eq!(proa().flag("--no-such-flag").run(["true"]).code(), 2);
    assert!(world.termination_message().contains("--no-such-flag"));
    let script = "trap 'exit 5' USR1; echo up; while :; do sleep 0.01; done";
    let running = proa().start(["sh", "-c", script]);
    running.wait_stdout("up");
    // There is room again, and the log says that some of it is lost.
    let mut read = vec![0; 1 << 20];
    while pipe.read(&mut read).is_ok() {}
    running.signal(nix::libc::SIGUSR1);
    assert_eq!(running.finish().code(), 5);
    let size = pipe.read(&mut read).unwrap();
    let log = String::from_utf8_lossy(&read[..size]);
    assert!(log.contains(" lines of the log are lost: stderr was full\n"), "{log}");
    assert!(log.contains("exit with code 5"), "{log}");
}

#[test]
fn no_code_depends_on_a_stdout_that_can_be_written() {
    let world = World::alone();
    for redirection in ["1>/dev/full", "1>&-", "1>&- 2>&-", "1>/dev/full 2>/dev/full"] {
        let proa = || world.proa().through(with_streams(redirection));
        assert_eq!(proa().run(["sh", "-c", "exit 3"]).code(), 3, "{redirection}");
        assert_eq!(proa().flag("--no-such-flag").run(["true"]).code(), 2, "{redirection}");
    }
}

// The command and its surroundings.

#[test]
fn an_argument_list_that_is_too_long_is_wrong_usage() {
    let world = World::alone();
    // One string may have 128 KiB with its name and its end, all together a quarter of the stack's limit, and never more than
    // 6 MiB (execve(2)). Each file here is one that proa reads.
    let one = vec![format!("A={}\n", "x".repeat(128 * 1024))];
    let half = |from| {
        let lines = (from..from + 35).map(|number| format!("A{number}={}\n", "x".repeat(100_000)));
        lines.collect::<Vec<_>>().concat()
    };
    let together: Vec<String> = vec![half(0), half(35)];
    for files in [one, together] {
        let mut proa = world.proa();
        for (number, variables) in files.into_iter().enumerate() {
            let file = world.dir.join(&number.to_string());
            fs::write(&file, variables).unwrap();
            proa = proa.flag(format!("--env-file={}", file.display()));
        }
        proa.run(["echo", "never"]).expect(2, &["rgument list"]);
        assert!(world.termination_message().contains("rgument list"), "{}", world.termination_message());
    }
}

/// A process that the command has left behind in its group; it ends at the latest with the test.
struct Leftover {
    pid: i32,
    log: std::path::PathBuf,
}

impl Leftover {
    /// Runs a command that leaves one behind and ends with 3.
    fn of(world: &World, forward_to: &str) -> Self {
        let log = world.dir.join(forward_to);
        let leftover = "trap 'echo asked >>$0; exit' TERM; trap 'echo there >>$0; exit' WINCH; echo up >>$0; \
                        while :; do sleep 0.01; done";
        let script = "sh -c \"$1\" \"$0\" >/dev/null 2>&1 & echo $!; \
                      until [ -e \"$0\" ]; do sleep 0.01; done; exit 3";
        let running = world.proa().flags(["--forward-to", forward_to]).start([
            "sh".as_ref(),
            "-c".as_ref(),
            script.as_ref(),
            log.as_os_str(),
            leftover.as_ref(),
        ]);
        let pid = running.wait_stdout("\n").trim().parse().expect("a process");
        let leftover = Self { pid, log };
        running.finish().expect(3, &[]);
        leftover
    }

    fn has_said(&self, sought: &str) -> bool {
        fs::read_to_string(&self.log).unwrap().contains(sought)
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        send(self.pid, libc::SIGKILL);
    }
}

#[test]
fn what_is_left_of_the_commands_group_is_asked_to_end_where_signals_go_to_the_group() {
    let world = World::alone();
    let leftover = Leftover::of(&world, "group");
    eventually("the rest of the group gets SIGTERM", || leftover.has_said("asked"));
}

#[test]
fn what_is_left_of_the_commands_group_is_left_alone_where_signals_go_to_the_child() {
    let world = World::alone();
    let leftover = Leftover::of(&world, "child");
    // A shell acts on the lower number first, so that an earlier SIGTERM would show.
    send(leftover.pid, libc::SIGWINCH);
    eventually("it answers", || leftover.has_said("there"));
    assert!(!leftover.has_said("asked"));
}

fn working_directory(pid: i32) -> std::path::PathBuf {
    fs::read_link(format!("/proc/{pid}/cwd")).expect("a process")
}

/// proa started in the world's own directory, with paths relative to it.
fn relative(world: &World) -> Proa {
    let directory = world.dir.join(".");
    for (name, text) in [("variables", "A=1\n"), ("message", ""), ("here", "")] {
        fs::write(directory.join(name), text).unwrap();
    }
    symlink(world.cluster.service_account_dir(), directory.join("account")).unwrap();
    world.proa().through(in_directory(&directory)).flags([
        "--env-file=variables",
        "--termination-message-path=message",
        "--service-account-dir=account",
        "--wait-file=here",
    ])
}

#[test]
fn while_the_command_runs_proa_holds_no_directory_and_the_commands_is_its_own() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    world.make_ready("web");
    let held = Held::in_dir(&world.dir, "exit 4");
    let script = format!("echo $A; pwd -P; {}", held.command[2]);
    let running = relative(&world).start(["sh", "-c", &script]);
    let here = fs::canonicalize(world.dir.join(".")).unwrap();
    running.wait_stdout(&format!("1\n{}\nup\n", here.display()));
    eventually("proa is at /", || working_directory(running.pid()) == Path::new("/"));
    held.let_go();
    // Seen with a token that is read anew.
    world.set_state("web", "terminated: {exitCode: 9}");
    running.finish().expect(4, &["`web` ended with exit code 9"]);
}

#[test]
fn paths_relative_to_where_proa_was_started_hold_to_its_end() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let proa = relative(&world).sidecar("web").flag("--until-exit=web");
    proa.run(["sleep", "1h"]).expect(2, &["which is this container"]);
    let message = fs::read_to_string(world.dir.join("message")).unwrap();
    assert!(message.contains("which is this container"), "{message}");
}

#[test]
fn a_wrapped_sidecars_proa_holds_no_directory_either() {
    let world = World::with("Never", &[Beside::Regular("web")]);
    let held = Held::in_dir(&world.dir, "");
    let running = relative(&world).sidecar("web").start(&held.command);
    running.wait_stdout("up");
    eventually("proa is at /", || working_directory(running.pid()) == Path::new("/"));
    held.let_go();
    running.finish().expect(0, &[]);
}
