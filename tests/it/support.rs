//! A Pod behind localpod's API, and proa as the entrypoint of its container `main`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write as _};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Container, ContainerStatus, Pod};
use localpod::Cluster;
use nix::libc;

pub(crate) mod http;

/// How long anything may take before a test fails. Nothing waits for this long unless it is broken.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The real binary.
pub(crate) const PROA: &str = env!("CARGO_BIN_EXE_proa");

/// The program that does as its arguments say.
pub(crate) fn puppet() -> PathBuf {
    let path = Path::new(PROA).with_file_name("examples").join("puppet");
    assert!(path.exists(), "no {}: run `cargo test`, or `cargo build --examples` once", path.display());
    path
}

/// A directory of its own, removed on drop.
pub(crate) struct Dir(PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("proa-it-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A Pod `pod` in namespace `default` with our container `main`, served by an API server of its own.
pub(crate) struct World {
    pub(crate) cluster: Cluster,
    pub(crate) dir: Dir,
}

/// A container beside `main`.
#[derive(Clone, Copy)]
pub(crate) enum Beside {
    Regular(&'static str),
    Native(&'static str),
}

impl World {
    /// No sidecars, restart policy `Never`.
    pub(crate) fn alone() -> Self {
        Self::with("Never", &[])
    }

    /// Sidecars that run and are not ready.
    pub(crate) fn with(policy: &str, beside: &[Beside]) -> Self {
        let mut init = String::new();
        let mut regular = String::new();
        let mut init_statuses = String::new();
        let mut statuses = String::new();
        for container in beside {
            let status = |name: &str| {
                format!(
                    "  - {{name: {name}, image: i, imageID: i, ready: false, started: true, restartCount: 0, \
                     state: {{running: {{}}}}}}\n"
                )
            };
            match container {
                Beside::Regular(name) => {
                    let _ = writeln!(regular, "  - {{name: {name}, image: i}}");
                    statuses += &status(name);
                }
                Beside::Native(name) => {
                    let _ = writeln!(init, "  - {{name: {name}, image: i, restartPolicy: Always}}");
                    init_statuses += &status(name);
                }
            }
        }
        Self::of(&format!(
            "
metadata: {{name: pod, namespace: default}}
spec:
  restartPolicy: {policy}
  terminationGracePeriodSeconds: 30
  initContainers:
{init}
  containers:
{regular}
  - {{name: main, image: i}}
status:
  phase: Running
  initContainerStatuses:
{init_statuses}
  containerStatuses:
{statuses}
  - {{name: main, image: i, imageID: i, ready: false, restartCount: 0, state: {{running: {{}}}}}}
"
        ))
    }

    pub(crate) fn of(yaml: &str) -> Self {
        let cluster = Cluster::start().expect("an API server");
        cluster.apply(serde_saphyr::from_str::<Pod>(yaml).expect("a Pod"));
        Self { cluster, dir: Dir::new() }
    }

    /// The Pod's UID.
    pub(crate) fn uid(&self) -> String {
        let pod = self.cluster.pod("default", "pod").expect("a Pod");
        pod.metadata.uid.expect("a UID")
    }

    /// proa in a mount namespace of its own with what the kubelet mounts there: the termination message file of
    /// this container, and /etc/hosts.
    pub(crate) fn mounted(&self, container: &str, hostname: &str) -> Option<Proa> {
        self.mounted_in(&["--uts"], container, hostname)
    }

    /// The same, in these namespaces beside the mount namespace; `--uts` is to be one of them.
    pub(crate) fn mounted_in(&self, namespaces: &[&str], container: &str, hostname: &str) -> Option<Proa> {
        let mut wrapper = unshare(namespaces)?;
        let pod = self.dir.join(&format!("pods/{}", self.uid()));
        let files = pod.join("containers").join(container);
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("5f0c6d11"), "").unwrap();
        fs::write(pod.join("etc-hosts"), "127.0.0.1 localhost\n").unwrap();
        let message = self.dir.join("message");
        fs::write(&message, "").unwrap();
        let script = format!(
            "hostname {hostname} && mount --bind {0}/containers/{container}/5f0c6d11 {1} && \
             mount --bind {0}/etc-hosts /etc/hosts && exec \"$@\"",
            pod.display(),
            message.display()
        );
        wrapper.extend(["sh", "-c", &script, "sh"].map(str::to_owned));
        let proa = self.proa().through(wrapper);
        Some(proa.without("PROA_CONTAINER").without("PROA_POD_NAME").without("PROA_TERMINATION_MESSAGE_PATH"))
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut Pod)) {
        self.cluster.update("default", "pod", change);
    }

    /// Changes one regular container's spec.
    pub(crate) fn update_container(&self, name: &str, change: impl FnOnce(&mut Container)) {
        self.update(|pod| {
            let containers = &mut pod.spec.as_mut().unwrap().containers;
            change(containers.iter_mut().find(|container| container.name == name).unwrap());
        });
    }

    /// Changes one container's status.
    pub(crate) fn update_status(&self, name: &str, change: impl FnOnce(&mut ContainerStatus)) {
        self.update(|pod| {
            let status = pod.status.get_or_insert_default();
            let regular = status.container_statuses.iter_mut().flatten();
            let init = status.init_container_statuses.iter_mut().flatten();
            let found = regular.chain(init).find(|status| status.name == name);
            change(found.unwrap_or_else(|| panic!("no container {name}")));
        });
    }

    pub(crate) fn make_ready(&self, name: &str) {
        self.update_status(name, |status| status.ready = true);
    }

    /// Sets the state from YAML such as `terminated: {exitCode: 1}`.
    pub(crate) fn set_state(&self, name: &str, state: &str) {
        let state = serde_saphyr::from_str(&format!("{{{state}}}")).expect("a container state");
        self.update_status(name, |status| {
            status.ready = false;
            status.state = Some(state);
        });
    }

    pub(crate) fn proa(&self) -> Proa {
        let message = self.dir.join("termination-log");
        fs::write(&message, "").expect("a termination message file");
        let mut env: BTreeMap<OsString, OsString> =
            self.cluster.env().into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        env.insert("PATH".into(), std::env::var_os("PATH").unwrap_or_default());
        env.insert("PROA_CONTAINER".into(), "main".into());
        env.insert("PROA_POD_NAME".into(), "pod".into());
        env.insert("PROA_TERMINATION_MESSAGE_PATH".into(), message.into());
        Proa { program: vec![PROA.into()], flags: Vec::new(), env, setup: Vec::new() }
    }

    pub(crate) fn termination_message(&self) -> String {
        fs::read_to_string(self.dir.join("termination-log")).expect("a termination message file")
    }
}

/// Writes a file that is to be executed. Not by this process: another test's child, forked meanwhile, would hold it
/// open for writing, and what is open for writing cannot be executed (execve(2), ETXTBSY).
pub(crate) fn write_executable(path: &Path, content: &[u8]) {
    use std::io::Write as _;
    use std::os::unix::fs::PermissionsExt;
    let mut cat = Command::new("sh");
    let mut cat = cat.args(["-c", "cat > \"$0\""]).arg(path).stdin(Stdio::piped()).spawn().expect("sh runs");
    cat.stdin.take().expect("piped").write_all(content).expect("cat reads");
    assert!(cat.wait().expect("cat ends").success());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("our own file");
}

type Setup = Box<dyn FnMut() -> std::io::Result<()> + Send + Sync>;

/// How proa is started.
pub(crate) struct Proa {
    program: Vec<OsString>,
    flags: Vec<OsString>,
    env: BTreeMap<OsString, OsString>,
    setup: Vec<Setup>,
}

impl Proa {
    pub(crate) fn flags<I: AsRef<OsStr>>(mut self, flags: impl IntoIterator<Item = I>) -> Self {
        self.flags.extend(flags.into_iter().map(|flag| flag.as_ref().to_owned()));
        self
    }

    pub(crate) fn flag(self, flag: impl AsRef<OsStr>) -> Self {
        self.flags([flag])
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.into(), value.as_ref().to_owned());
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.env.remove(OsStr::new(name));
        self
    }

    /// Runs proa through another program, e.g. `unshare`.
    pub(crate) fn through<I: AsRef<OsStr>>(mut self, wrapper: impl IntoIterator<Item = I>) -> Self {
        self.program = wrapper.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self.program.push(PROA.into());
        self
    }

    /// As it starts over after a panic, by the name that `src/crash.rs` gives it then: its command runs already.
    pub(crate) fn after_a_panic(mut self) -> Self {
        // A group of its own for the command, as proa gives it.
        let script = "words=(\"$@\"); until [ \"$1\" = -- ]; do shift; done; shift; set -m; \"$@\" & \
                      exec -a \"proa after a panic: command $!\" \"$0\" \"${words[@]}\"";
        let proa = self.program.pop().expect("never empty");
        self.program.extend(["bash".into(), "-c".into(), script.into(), proa]);
        self
    }

    /// Runs in the process that becomes proa, before it does.
    pub(crate) fn setup(
        mut self,
        setup: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.setup.push(Box::new(setup));
        self
    }

    /// Starts proa with this command.
    pub(crate) fn start<I: AsRef<OsStr>>(self, command: impl IntoIterator<Item = I>) -> Running {
        let command: Vec<OsString> = command.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self.spawn([vec!["--".into()], command].concat())
    }

    /// As the entrypoint of container `name`: `proa sidecar`.
    pub(crate) fn sidecar(mut self, name: &str) -> Self {
        self.flags.insert(0, "sidecar".into());
        self.env("PROA_CONTAINER", name)
    }

    /// Starts proa with its flags and nothing else.
    pub(crate) fn start_bare(self) -> Running {
        self.spawn(Vec::new())
    }

    #[expect(unsafe_code, reason = "the set-up runs between fork and exec")]
    fn spawn(self, rest: Vec<OsString>) -> Running {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).args(&self.flags).args(rest).env_clear().envs(&self.env);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        for setup in self.setup {
            use std::os::unix::process::CommandExt;
            // SAFETY: the tests' set-ups make plain system calls alone.
            unsafe { command.pre_exec(setup) };
        }
        Running::new(command.spawn().expect("proa starts"))
    }

    /// Starts proa and waits for its end.
    pub(crate) fn run<I: AsRef<OsStr>>(self, command: impl IntoIterator<Item = I>) -> Finished {
        self.start(command).finish()
    }
}

/// Lines as they come.
#[derive(Default)]
struct Lines {
    text: Mutex<(String, bool)>,
    changed: Condvar,
}

impl Lines {
    fn read(self: &Arc<Self>, from: impl Read + Send + 'static) {
        let lines = Arc::clone(self);
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut line = Vec::new();
            while from.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                lines.text.lock().unwrap().0.push_str(&String::from_utf8_lossy(&line));
                lines.changed.notify_all();
                line.clear();
            }
            lines.text.lock().unwrap().1 = true;
            lines.changed.notify_all();
        });
    }

    /// Waits until the text holds what is sought, or has ended.
    fn wait_for(&self, sought: impl Fn(&str) -> bool) -> String {
        let guard = self.text.lock().unwrap();
        let (guard, _) = self
            .changed
            .wait_timeout_while(guard, PATIENCE, |(text, ended)| !sought(text) && !*ended)
            .unwrap();
        guard.0.clone()
    }
}

/// A started proa. Killed, with its process group, if it is dropped before its end.
pub(crate) struct Running {
    child: Child,
    stdout: Arc<Lines>,
    stderr: Arc<Lines>,
    done: bool,
}

impl Running {
    fn new(mut child: Child) -> Self {
        let (stdout, stderr) = (Arc::<Lines>::default(), Arc::<Lines>::default());
        stdout.read(child.stdout.take().expect("piped"));
        stderr.read(child.stderr.take().expect("piped"));
        Self { child, stdout, stderr, done: false }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    #[track_caller]
    pub(crate) fn wait_stdout(&self, sought: &str) -> String {
        let text = self.stdout.wait_for(|text| text.contains(sought));
        assert!(
            text.contains(sought),
            "no {sought:?} in stdout:\n{text}\nstderr:\n{}",
            self.stderr.wait_for(|_| true)
        );
        text
    }

    #[track_caller]
    pub(crate) fn wait_stderr(&self, sought: &str) -> String {
        let text = self.stderr.wait_for(|text| text.contains(sought));
        assert!(text.contains(sought), "no {sought:?} in stderr:\n{text}");
        text
    }

    pub(crate) fn stdout_so_far(&self) -> String {
        self.stdout.wait_for(|_| true)
    }

    pub(crate) fn stderr_so_far(&self) -> String {
        self.stderr.wait_for(|_| true)
    }

    pub(crate) fn signal(&self, number: i32) {
        send(self.pid(), number);
    }

    /// Waits for proa's end. What it left behind may still hold its output open.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("proa can be waited for") {
                break status;
            }
            let stderr = self.stderr_so_far();
            assert!(Instant::now() < deadline, "proa does not end; stderr:\n{stderr}");
            thread::sleep(Duration::from_millis(2));
        };
        self.done = true;
        status
    }

    /// Waits for proa's end, and for that of its output.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Finished {
        let status = self.end();
        Finished { status, stdout: self.stdout.wait_for(|_| false), stderr: self.stderr.wait_for(|_| false) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.done {
            for child in children(self.pid()) {
                send(-child, libc::SIGKILL);
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// What a run came to.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// The exit code; proa is never ended by a signal itself.
    #[track_caller]
    pub(crate) fn code(&self) -> i32 {
        assert_eq!(self.status.signal(), None, "proa was killed; stderr:\n{}", self.stderr);
        self.status.code().expect("an exit code")
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32, stderr: &[&str]) -> Self {
        assert_eq!(self.code(), code, "stderr:\n{}", self.stderr);
        for sought in stderr {
            assert!(self.stderr.contains(sought), "no {sought:?} in stderr:\n{}", self.stderr);
        }
        self
    }
}

/// Where the proas of this Pod find one another.
pub(crate) fn socket(world: &World, name: &str) -> SocketAddr {
    SocketAddr::from_abstract_name(format!("proa/{}/{name}", world.uid())).expect("a short name")
}

/// Says this to the proa that listens there; what it answers.
pub(crate) fn say(world: &World, to: &str, text: &str) -> String {
    let mut stream = UnixStream::connect_addr(&socket(world, to)).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    answer
}

/// Sends a signal by number, to a group if the ID is negative.
#[expect(unsafe_code, reason = "nix knows no real-time signals")]
pub(crate) fn send(pid: i32, number: i32) {
    // SAFETY: two integers; no memory of ours is touched.
    unsafe { libc::kill(pid, number) };
}

/// The processes whose parent this is.
pub(crate) fn children(parent: i32) -> Vec<i32> {
    let pids = fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| stat(*pid).is_some_and(|(_, ppid)| ppid == parent)).collect()
}

/// State and parent of a process.
pub(crate) fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

/// Waits until something that can be looked at, but does not tell, is so.
#[track_caller]
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A command that says `up`, and goes on once it is let go, or its test is over: with SIGKILL a proa leaves it behind.
pub(crate) struct Held {
    pub(crate) command: [String; 3],
    file: PathBuf,
}

impl Held {
    /// `then`: what the shell does last, if anything.
    pub(crate) fn in_dir(dir: &Dir, then: &str) -> Self {
        let file = dir.join("let-go");
        let (go, test) = (file.display(), dir.0.display());
        let script = format!("echo up; until [ -e {go} ] || ! [ -d {test} ]; do sleep 0.01; done; {then}");
        Self { command: ["sh".into(), "-c".into(), script], file }
    }

    pub(crate) fn let_go(&self) {
        fs::write(&self.file, "").expect("a file");
    }
}

/// The arguments that put a program in namespaces of its own, as root there: a stand-in for a container.
/// `None` where the system does not let an ordinary user do that; CI must.
pub(crate) fn unshare(more: &[&str]) -> Option<Vec<String>> {
    let mut words = vec!["unshare".to_owned(), "--user".into(), "--map-root-user".into(), "--mount".into()];
    words.extend(more.iter().map(|word| (*word).to_owned()));
    let possible = Command::new(&words[0])
        .args(&words[1..])
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !possible {
        assert!(std::env::var_os("CI").is_none(), "unshare must work in CI");
        eprintln!("skipped: unshare does not work here");
    }
    possible.then_some(words)
}

/// For [`Proa::through`]: starts it in this directory.
pub(crate) fn in_directory(directory: &Path) -> [OsString; 4] {
    ["sh".into(), "-c".into(), "cd \"$0\" && exec \"$@\"".into(), directory.into()]
}

/// For [`Proa::through`]: starts it with these redirections of its streams, in the shell's notation.
pub(crate) fn with_streams(redirections: &str) -> [String; 4] {
    ["sh".into(), "-c".into(), format!("exec \"$@\" {redirections}"), "sh".into()]
}

/// The most memory that a process has had resident so far, in KiB.
pub(crate) fn peak_memory(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    peak.trim().trim_end_matches(" kB").parse().expect("a number")
}
