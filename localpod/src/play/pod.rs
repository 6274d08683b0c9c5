//! One Pod's life: starts and stops its containers as [`next`] says, and reports their state to the API.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod, PodStatus};
use nix::sys::signal::Signal;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::Stage;
use super::env::Environment;
use super::probe::{Plan, Purpose, Question, Threshold};
use super::process::{self, Ended, Process, Program};
use super::restart::{BackOff, RestartPolicy};
use super::state::{Next, Role, Running, Standing, State, Terminated, next, stops_after};
use super::status::{Phase, pod_status};
use crate::event::{Stream, What};
use crate::random;
use crate::sync::lock;

/// What every container is left between its stop signal and its end, however little grace there was.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// The most the kubelet keeps of a termination message.
const MESSAGE_LIMIT: usize = 4096;

/// The most it takes from the logs for want of one.
const LOG_LIMIT: usize = 2048;
const LOG_LINES: usize = 80;

/// How long a hook may take that nothing else limits.
const HOOK_PATIENCE: Duration = Duration::from_secs(3600);

/// What a Pod is told.
pub(super) enum Message {
    Ended { index: usize, run: u64, ended: Ended },
    Verdict { index: usize, run: u64, purpose: Purpose, good: bool, grace: Option<Duration> },
    PostStart { index: usize, run: u64, result: Result<(), String> },
    BackOffOver { index: usize, restarts: i32 },
    Delete { grace: Option<Duration> },
}

/// How a Pod ended.
pub(super) struct PodEnd {
    pub(super) phase: Phase,
    pub(super) deleted: bool,
    pub(super) containers: Vec<Standing>,
}

/// A container's main process and what accompanies it.
struct Live {
    process: Arc<Process>,
    program: Program,
    since: tokio::time::Instant,
    termination_file: PathBuf,
    companions: Vec<Companion>,
}

/// A task that ends with the run it belongs to.
struct Companion {
    task: AbortHandle,
    /// Set for probes that are of no use to a Pod that stops.
    purpose: Option<Purpose>,
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct Worker {
    stage: Arc<Stage>,
    pod: Pod,
    specs: Vec<Container>,
    standings: Vec<Standing>,
    live: Vec<Option<Live>>,
    /// The indices of what runs, for those who wait for their turn to stop.
    alive: watch::Sender<BTreeSet<usize>>,
    sender: mpsc::UnboundedSender<Message>,
    receiver: mpsc::UnboundedReceiver<Message>,
    runs: u64,
    stopping: bool,
    deleted: bool,
    begun: Timestamp,
    published: Option<PodStatus>,
    /// Restarts after which a failed container stays ended, where a Job limits them.
    restart_limit: Option<i32>,
}

impl Worker {
    /// Creates the Pod's object; nothing runs yet.
    pub(super) fn create(stage: Arc<Stage>, pod: Pod, restart_limit: Option<i32>) -> Worker {
        let pod = stage.cluster.put(pod);
        let spec = pod.spec.clone().unwrap_or_default();
        let policy =
            spec.restart_policy.as_deref().and_then(RestartPolicy::parse).unwrap_or(RestartPolicy::Always);
        let init = spec.init_containers.unwrap_or_default();
        let init_count = init.len();
        let specs: Vec<Container> = init.into_iter().chain(spec.containers).collect();
        let standings: Vec<Standing> = specs
            .iter()
            .enumerate()
            .map(|(index, container)| {
                let own = container.restart_policy.as_deref().and_then(RestartPolicy::parse);
                let role = match own {
                    _ if index >= init_count => Role::Main,
                    Some(RestartPolicy::Always) => Role::Sidecar,
                    _ => Role::Init,
                };
                Standing {
                    name: container.name.clone(),
                    image: container.image.clone().unwrap_or_default(),
                    role,
                    policy: own.unwrap_or(policy),
                    rules: container.restart_policy_rules.clone().unwrap_or_default(),
                    state: State::Created,
                    last: None,
                    restarts: 0,
                    passed: false,
                    back_off: BackOff::new(stage.options.back_off),
                }
            })
            .collect();
        let (sender, receiver) = mpsc::unbounded_channel();
        Worker {
            stage,
            live: specs.iter().map(|_| None).collect(),
            pod,
            specs,
            standings,
            alive: watch::Sender::default(),
            sender,
            receiver,
            runs: 0,
            stopping: false,
            deleted: false,
            begun: Timestamp::now(),
            published: None,
            restart_limit,
        }
    }

    pub(super) fn sender(&self) -> mpsc::UnboundedSender<Message> {
        self.sender.clone()
    }

    /// Whether this one Pod is all a Job gets.
    pub(super) fn limits_restarts(&self) -> bool {
        self.restart_limit.is_some()
    }

    fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    fn log(&self, what: What) {
        self.stage.log.write(self.name(), what);
    }

    fn grace(&self) -> Duration {
        let seconds =
            self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(30);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }

    /// Lives the Pod's life to its end.
    pub(super) async fn run(mut self) -> PodEnd {
        self.publish(false);
        loop {
            match next(&self.standings, self.stopping) {
                Next::Start(index) => {
                    self.start(index).await;
                    self.publish(false);
                    continue;
                }
                Next::Stop => {
                    let grace = self.grace();
                    self.stop_all(grace);
                    continue;
                }
                Next::Over => break,
                Next::Wait => self.publish(false),
            }
            // This end holds a sender as well, so there is always another message to wait for.
            let Some(message) = self.receiver.recv().await else { break };
            self.handle(message);
        }
        for container in &mut self.standings {
            if container.last.is_some() && matches!(container.state, State::Again | State::BackOff { .. }) {
                container.state = State::Ended;
            }
        }
        self.publish(true);
        if self.deleted {
            self.stage.cluster.remove(self.namespace(), self.name());
            self.log(What::PodDeleted);
        }
        PodEnd { phase: Phase::of(&self.standings, true), deleted: self.deleted, containers: self.standings }
    }

    /// Reports the status, if it changed.
    fn publish(&mut self, over: bool) {
        // While a Pod is being deleted its containers' statuses are not updated, until all of them are over.
        if self.deleted && !over {
            return;
        }
        let status = pod_status(&self.standings, self.begun, over, self.published.as_ref());
        if self.published.as_ref() == Some(&status) {
            return;
        }
        let phase = Phase::of(&self.standings, over);
        if self.published.as_ref().and_then(|published| published.phase.as_deref()) != Some(phase.name()) {
            self.log(What::PodPhase { phase: phase.name() });
        }
        self.stage.cluster.update(self.namespace(), self.name(), |pod| pod.status = Some(status.clone()));
        self.published = Some(status);
    }

    async fn start(&mut self, index: usize) {
        let spec = &self.specs[index];
        let container = spec.name.clone();
        if self.stage.options.unpullable.contains(&container) {
            self.standings[index].state = State::Unpullable;
            self.log(What::ImageNotPulled { container });
            return;
        }
        if self.standings[index].last.is_some() {
            self.standings[index].restarts += 1;
        }
        self.runs += 1;
        let run = self.runs;
        let id = format!("localpod://{}", random::token().unwrap_or_default());
        let (program, termination_file) = match self.program(index, run) {
            Ok(prepared) => prepared,
            Err(message) => return self.not_started(index, id, message),
        };
        let Some(entry) = self.stage.registry.enter() else {
            // The play is being torn down.
            self.standings[index].state = State::Ended;
            return;
        };
        let (started, answer) = oneshot::channel();
        let started = {
            let stage = Arc::clone(&self.stage);
            let pod = self.name().to_owned();
            move |answer: Result<Arc<Process>, String>| {
                if let Ok(process) = &answer {
                    let pid = process.pid.as_raw().cast_unsigned();
                    stage.log.write(&pod, What::ContainerStarted { container, pid });
                }
                drop(stage);
                // Nobody is left to hear it when the play was dropped.
                drop(started.send(answer));
            }
        };
        let sender = self.sender.clone();
        let on_line = self.on_line(self.specs[index].name.clone());
        let output = self.stage.options.output;
        process::run(entry, program.clone(), output, on_line, started, move |ended| {
            drop(sender.send(Message::Ended { index, run, ended }));
        });
        let process = match answer.await {
            Ok(Ok(process)) => process,
            Ok(Err(message)) => return self.not_started(index, id, message),
            Err(_) => return self.not_started(index, id, "the process could not be followed".to_owned()),
        };
        self.live[index] = Some(Live {
            process,
            program,
            since: tokio::time::Instant::now(),
            termination_file,
            companions: Vec::new(),
        });
        self.alive.send_modify(|alive| {
            alive.insert(index);
        });
        let hook = self.specs[index].lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.clone());
        self.standings[index].state = State::Running(Running {
            run,
            id,
            since: Timestamp::now(),
            hooked: hook.is_some(),
            started: false,
            ready: false,
        });
        match hook {
            Some(hook) => {
                let ran = self.hook(index, &hook);
                let sender = self.sender.clone();
                self.accompany(index, None, async move {
                    let result =
                        timeout(HOOK_PATIENCE, ran).await.unwrap_or_else(|_| Err("it hangs".to_owned()));
                    drop(sender.send(Message::PostStart { index, run, result }));
                });
            }
            None => self.begin(index),
        }
    }

    /// The program of a container's next run, and the file for its last words.
    fn program(&self, index: usize, run: u64) -> Result<(Program, PathBuf), String> {
        let spec = &self.specs[index];
        let options = &self.stage.options;
        let directory = self.stage.scratch.path().join(format!("{}-{}-{run}", self.name(), spec.name));
        let termination_file = directory.join("termination-log");
        fs::create_dir(&directory)
            .and_then(|()| fs::write(&termination_file, []))
            .map_err(|error| format!("cannot make the termination message file: {error}"))?;

        let mut given = self.stage.cluster.env();
        if self.pod.spec.as_ref().and_then(|spec| spec.automount_service_account_token) == Some(false) {
            given.retain(|(name, _)| name != "PROA_SERVICE_ACCOUNT_DIR");
        }
        given.extend([
            ("PROA_TERMINATION_MESSAGE_PATH".to_owned(), termination_file.display().to_string()),
            ("PROA_CONTAINER".to_owned(), spec.name.clone()),
            ("PROA_POD_NAME".to_owned(), self.name().to_owned()),
        ]);
        given.extend(options.env.iter().cloned());
        let bin_dirs: Vec<String> =
            options.bin_dirs.iter().map(|directory| directory.display().to_string()).collect();
        let env = Environment::of(&self.pod, spec, &bin_dirs.join(":"), &given);
        let words = spec.command.iter().flatten().chain(spec.args.iter().flatten());
        let mut words: Vec<String> = words.map(|word| env.expand(word)).collect();
        let name = words.remove(0);
        let path = process::resolve(&name, env.get("PATH").unwrap_or_default(), &options.bin_dirs)?;
        let directory = spec.working_dir.as_deref().unwrap_or("/");
        if !Path::new(directory).is_dir() {
            return Err(format!(
                "chdir to cwd (\"{directory}\") set in config.json failed: no such file or directory"
            ));
        }
        let cookie = format!("{}/{}/{}", self.stage.id, self.name(), spec.name);
        Ok((Program { path, args: words, env, directory: directory.into(), cookie }, termination_file))
    }

    fn on_line(&self, container: String) -> process::OnLine {
        let stage = Arc::clone(&self.stage);
        let pod = self.name().to_owned();
        Arc::new(move |stream: Stream, line: String| {
            let mut outputs = lock(&stage.outputs);
            outputs.push(super::Line { container: container.clone(), stream, text: line.clone() });
            drop(outputs);
            stage.log.write(&pod, What::Output { container: container.clone(), stream, line });
        })
    }

    /// A command that cannot be run ends like a container that ran, with a code of the runtime's.
    fn not_started(&mut self, index: usize, id: String, message: String) {
        let container = self.specs[index].name.clone();
        self.log(What::ContainerNotStarted { container, message: message.clone() });
        let now = Timestamp::now();
        self.over(
            index,
            Terminated {
                code: 128,
                signal: None,
                reason: "StartError",
                message: Some(message),
                // As the kubelet reports what never ran.
                started_at: Timestamp::UNIX_EPOCH,
                finished_at: now,
                id,
            },
        );
    }

    /// Runs `task` for as long as the container's present run.
    fn accompany(
        &mut self,
        index: usize,
        purpose: Option<Purpose>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let Some(live) = &mut self.live[index] else { return };
        // The task holds the stage, and the end of the play waits for all that do.
        let Some(entry) = self.stage.registry.enter() else { return };
        let task = tokio::spawn(async move {
            let _entry = entry;
            task.await;
        });
        live.companions.push(Companion { task: task.abort_handle(), purpose });
    }

    /// The container counts as running: its startup probe begins, or it has started.
    fn begin(&mut self, index: usize) {
        let plans = Plan::all(&self.specs[index], self.stage.options.probe_second);
        match plans.into_iter().find(|plan| plan.purpose == Purpose::Startup) {
            Some(startup) => self.probe(index, startup),
            None => self.has_started(index),
        }
    }

    fn has_started(&mut self, index: usize) {
        let container = &mut self.standings[index];
        if container.role == Role::Sidecar {
            container.passed = true;
        }
        let Some(running) = container.running_mut() else { return };
        running.started = true;
        let plans = Plan::all(&self.specs[index], self.stage.options.probe_second);
        let later: Vec<Plan> = plans.into_iter().filter(|plan| plan.purpose != Purpose::Startup).collect();
        if self.specs[index].readiness_probe.is_none() {
            self.set_ready(index, true);
        }
        for plan in later {
            self.probe(index, plan);
        }
    }

    fn set_ready(&mut self, index: usize, ready: bool) {
        let is_init = self.standings[index].role == Role::Init;
        let Some(running) = self.standings[index].running_mut() else { return };
        if is_init || running.ready == ready {
            return;
        }
        running.ready = ready;
        let container = self.specs[index].name.clone();
        self.log(if ready {
            What::ContainerReady { container }
        } else {
            What::ContainerUnready { container }
        });
    }

    fn probe(&mut self, index: usize, plan: Plan) {
        let (Some(live), Some(running)) = (&self.live[index], self.standings[index].running()) else {
            return;
        };
        let (run, since) = (running.run, live.since);
        let program = live.program.clone();
        let stage = Arc::clone(&self.stage);
        let (pod, container) = (self.name().to_owned(), self.specs[index].name.clone());
        let sender = self.sender.clone();
        let purpose = plan.purpose;
        self.accompany(index, Some(purpose), async move {
            let mut ticks = plan.pace.ticks(since);
            let mut threshold = Threshold::default();
            loop {
                ticks.tick().await;
                let answer = ask(&stage, &program, &plan.question, plan.pace.timeout).await;
                if let Err(message) = &answer {
                    let (container, message) = (container.clone(), message.clone());
                    stage.log.write(&pod, What::ProbeFailed { container, probe: purpose.name(), message });
                }
                let Some(good) = threshold.count(answer.is_ok(), &plan.pace) else { continue };
                if sender.send(Message::Verdict { index, run, purpose, good, grace: plan.grace }).is_err() {
                    return;
                }
                // Startup is decided once, and a liveness failure is the end of this run.
                if purpose == Purpose::Startup || (purpose == Purpose::Liveness && !good) {
                    return;
                }
            }
        });
    }

    /// A hook's run, to be awaited elsewhere.
    fn hook(
        &self,
        index: usize,
        hook: &LifecycleHandler,
    ) -> impl Future<Output = Result<(), String>> + use<> {
        let stage = Arc::clone(&self.stage);
        let program = self.live[index].as_ref().map(|live| live.program.clone());
        let pause = hook.sleep.as_ref().and_then(|sleep| u64::try_from(sleep.seconds).ok());
        let question = match (&hook.exec, &hook.http_get) {
            (Some(exec), _) => Some(Question::Exec(exec.command.clone().unwrap_or_default())),
            (None, Some(get)) => Question::of_http(get, &self.specs[index]),
            (None, None) => None,
        };
        async move {
            if let Some(seconds) = pause {
                sleep(Duration::from_secs(seconds)).await;
                return Ok(());
            }
            match (program, question) {
                (Some(program), Some(question)) => ask(&stage, &program, &question, HOOK_PATIENCE).await,
                _ => Err("it names a port the container does not have".to_owned()),
            }
        }
    }

    /// Begins to stop a running container; its end is reported like any other.
    fn stop(&mut self, index: usize, grace: Duration, after: Vec<usize>) {
        let Some(live) = &self.live[index] else { return };
        let process = Arc::clone(&live.process);
        let lifecycle = self.specs[index].lifecycle.clone().unwrap_or_default();
        let signal: Signal =
            lifecycle.stop_signal.and_then(|signal| signal.parse().ok()).unwrap_or(Signal::SIGTERM);
        let pre_stop = lifecycle.pre_stop.map(|hook| self.hook(index, &hook));
        let mut alive = self.alive.subscribe();
        let stage = Arc::clone(&self.stage);
        let (pod, container) = (self.name().to_owned(), self.specs[index].name.clone());
        self.accompany(index, None, async move {
            let begun = Instant::now();
            let left = || grace.saturating_sub(begun.elapsed());
            if let Some(hook) = pre_stop {
                let result = timeout(left(), hook).await.unwrap_or_else(|_| Err("out of grace".to_owned()));
                if let Err(message) = result {
                    let container = container.clone();
                    stage.log.write(&pod, What::HookFailed { container, hook: "preStop", message });
                }
            }
            // Out of time is out of turn: then it is stopped all the same.
            drop(
                timeout(left(), alive.wait_for(|alive| after.iter().all(|index| !alive.contains(index))))
                    .await,
            );
            stage.log.write(&pod, What::ContainerStopping { container, signal: signal.as_str() });
            process.signal(signal);
            sleep(left().max(LEAST_GRACE)).await;
            // Not on this task, which the container's end aborts.
            tokio::task::spawn_blocking(move || process.kill());
        });
    }

    fn stop_all(&mut self, grace: Duration) {
        self.stopping = true;
        for index in 0..self.live.len() {
            if let Some(live) = &mut self.live[index] {
                live.companions.retain(|companion| companion.purpose == Some(Purpose::Readiness));
            }
            self.stop(index, grace, stops_after(&self.standings, index));
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Ended { index, run, ended } if self.is_current(index, run) => self.ended(index, ended),
            Message::PostStart { index, run, result } if self.is_current(index, run) => match result {
                Ok(()) => {
                    if let Some(running) = self.standings[index].running_mut() {
                        running.hooked = false;
                    }
                    self.begin(index);
                }
                Err(message) => {
                    let container = self.specs[index].name.clone();
                    self.log(What::HookFailed { container, hook: "postStart", message });
                    self.stop(index, self.grace(), Vec::new());
                }
            },
            Message::Verdict { index, run, purpose, good, grace } if self.is_current(index, run) => {
                match (purpose, good) {
                    (Purpose::Readiness, ready) => self.set_ready(index, ready),
                    (Purpose::Startup, true) => self.has_started(index),
                    (Purpose::Liveness, true) => {}
                    (Purpose::Startup | Purpose::Liveness, false) => {
                        self.stop(index, grace.unwrap_or_else(|| self.grace()), Vec::new());
                    }
                }
            }
            Message::BackOffOver { index, restarts } => {
                let container = &mut self.standings[index];
                if container.restarts == restarts && matches!(container.state, State::BackOff { .. }) {
                    container.state = State::Again;
                }
            }
            Message::Delete { grace } if !self.deleted => {
                let grace = grace.unwrap_or_else(|| self.grace());
                self.publish(false);
                self.deleted = true;
                self.stage.cluster.mark_deleted(self.namespace(), self.name(), grace);
                self.log(What::PodDeleting { grace });
                self.stop_all(grace);
            }
            // About a run that is over, or a deletion that is under way.
            Message::Ended { .. }
            | Message::PostStart { .. }
            | Message::Verdict { .. }
            | Message::Delete { .. } => {}
        }
    }

    fn is_current(&self, index: usize, run: u64) -> bool {
        self.standings[index].running().is_some_and(|running| running.run == run)
    }

    fn ended(&mut self, index: usize, ended: Ended) {
        let Some(running) = self.standings[index].running().cloned() else { return };
        let live = self.live[index].take();
        let reason = if ended.code == 0 { "Completed" } else { "Error" };
        let container = self.specs[index].name.clone();
        let message = live.and_then(|live| self.last_words(index, &live.termination_file, ended.code));
        self.log(What::ContainerExited {
            container,
            code: ended.code,
            signal: ended.signal,
            reason: reason.to_owned(),
        });
        // After the event, so that what waits for its turn comes after it in the log, too.
        self.alive.send_modify(|alive| {
            alive.remove(&index);
        });
        self.over(
            index,
            Terminated {
                code: ended.code,
                signal: ended.signal,
                reason,
                message,
                started_at: running.since,
                finished_at: Timestamp::now(),
                id: running.id,
            },
        );
    }

    /// The termination message, or the end of the log where the container asked for that.
    fn last_words(&self, index: usize, file: &Path, code: i32) -> Option<String> {
        let mut written = fs::read(file).unwrap_or_default();
        written.truncate(MESSAGE_LIMIT);
        let spec = &self.specs[index];
        let falls_back = spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if written.is_empty() && falls_back && code != 0 {
            let outputs = lock(&self.stage.outputs);
            let lines =
                outputs.iter().filter(|line| line.container == spec.name).map(|line| line.text.as_str());
            let lines: Vec<&str> = lines.collect();
            let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n").into_bytes();
            written = tail[tail.len().saturating_sub(LOG_LIMIT)..].to_vec();
        }
        Some(String::from_utf8_lossy(&written).into_owned()).filter(|message| !message.is_empty())
    }

    /// Records the end of a run and decides whether there is another.
    fn over(&mut self, index: usize, last: Terminated) {
        let restarts: i32 = self.standings.iter().map(|container| container.restarts).sum();
        let limited = last.code != 0 && self.restart_limit.is_some_and(|limit| restarts >= limit);
        let pod = format!("{}_{}", self.name(), self.namespace());
        let uid = self.pod.metadata.uid.clone().unwrap_or_default();
        let stopping = self.stopping;
        let container = &mut self.standings[index];
        let code = last.code;
        container.last = Some(last);
        if container.role == Role::Init && code == 0 {
            container.passed = true;
        }
        if stopping || !container.starts_again(code) || (limited && container.role != Role::Sidecar) {
            container.state = State::Ended;
            return;
        }
        let after = container.back_off.after_exit(Instant::now());
        if after.is_zero() {
            container.state = State::Again;
        } else {
            let name = &container.name;
            let message = format!("back-off {after:?} restarting failed container={name} pod={pod}({uid})");
            container.state = State::BackOff { message };
            let restarts = container.restarts;
            let sender = self.sender.clone();
            tokio::spawn(async move {
                sleep(after).await;
                drop(sender.send(Message::BackOffOver { index, restarts }));
            });
        }
        let container = self.specs[index].name.clone();
        self.log(What::ContainerRestarting { container, after });
    }
}

/// Asks a probe's or hook's question of a running container.
async fn ask(stage: &Stage, program: &Program, question: &Question, limit: Duration) -> Result<(), String> {
    let Question::Exec(words) = question else { return question.ask(limit).await };
    let (name, args) = words.split_first().ok_or("it has no command")?;
    let path = process::resolve(name, program.env.get("PATH").unwrap_or_default(), &stage.options.bin_dirs)?;
    let program = Program { path, args: args.to_vec(), ..program.clone() };
    let entry = stage.registry.enter().ok_or("the play is over")?;
    process::exec(entry, program, limit).await
}
