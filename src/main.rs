//! Parses, runs, reports, exits.

use std::env;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use nix::unistd::Pid;
use proa::budget::StopRequests;
use proa::cli::flags::Output;
use proa::cli::{self, Answer, Cli, QuitCli, SidecarCli, Task, WaitCli};
use proa::crash::{self, Progress};
use proa::exit::{Code, Conclusion, Outcome};
use proa::identity::Mounts;
use proa::memory::Clearing;
use proa::mode::sidecar::CommandDuty;
use proa::mode::wrap::{mistake, resumed};
use proa::mode::{
    helper, install, patiently, quit, sidecar, unable, unable_quit, unable_sidecar, wait, wrap,
};
use proa::peer::Presence;
use proa::plan::quit::QuitPlan;
use proa::plan::sidecar::{Duty, SidecarPlan};
use proa::plan::wait::WaitPlan;
use proa::plan::{self, Environment, Plan};
use proa::policy::LogFormat;
use proa::shutdown::Sight;
use proa::signal::origin::Origin;
use proa::signal::stream::Signals;
use proa::{report, telemetry};

/// Runs before `main`, and before the runtime's own start-up code.
#[cfg(not(test))]
#[expect(unsafe_code, reason = "the only code that runs before the runtime is a constructor")]
// SAFETY: the linker and the C library call every function of this section once, before main, while
// the process has a single thread; the function makes plain system calls and uses a OnceLock.
#[unsafe(link_section = ".init_array")]
#[used]
static CONSTRUCTOR: extern "C" fn() = {
    extern "C" fn constructor() {
        Origin::capture();
    }
    constructor
};

#[global_allocator]
static ALLOCATOR: Clearing = Clearing;

fn main() -> ExitCode {
    // musl has opened the mask for those that it keeps for itself, when the language runtime installed its handlers.
    let _ = Origin::block();
    let panicked = crash::prepare(Code::Internal as u8);
    // Who does not know who it is, is not known to the others either.
    let mut asked = StopRequests::default();
    let mounts = patiently(&Sight::none(), &mut asked, || Ok(Mounts::of_this_process()?));
    let mounts = mounts.unwrap_or_default();
    if let Some(progress) = panicked {
        return start_over(progress, &mounts, asked);
    }
    let (conclusion, message_path) = match cli::read() {
        Ok(Task::Main(cli)) => return main_container(*cli, &mounts, asked),
        Ok(Task::Sidecar(cli)) => sidecar_container(*cli, &mounts, None),
        Ok(Task::Wait(cli)) => wait_alone(*cli, &mounts),
        Ok(Task::Quit(cli)) => quit_alone(*cli, &mounts),
        Ok(Task::Install(destination)) => {
            telemetry::set_up(LogFormat::Text, None);
            match install::install(&destination) {
                Ok(target) => {
                    // It is there, whether this can be printed or not.
                    let _ = print(&install::said(&target));
                    return ExitCode::SUCCESS;
                }
                Err(error) => (Outcome::NotInstalled(error).into(), message_path()),
            }
        }
        Err(Answer::Asked(text)) => return print(&text),
        Err(Answer::Usage { text, readable: Some(cli) }) => {
            return mistaken(Outcome::Usage(text), *cli, &mounts, None, asked);
        }
        Err(Answer::Usage { text, readable: None }) => (Outcome::Usage(text).into(), message_path()),
    };
    end(&conclusion, message_path.as_deref(), &mounts)
}

/// After a panic: brings to an end what can be. `asked`: when we were asked to stop, so far.
fn start_over(progress: Progress, mounts: &Mounts, mut asked: StopRequests) -> ExitCode {
    let cli = match (cli::read(), progress) {
        (Ok(Task::Main(cli)), _) => cli,
        (Ok(Task::Sidecar(cli)), Progress::Running(pid)) => {
            let (conclusion, message_path) = sidecar_container(*cli, mounts, Some(pid));
            return end(&conclusion, message_path.as_deref(), mounts);
        }
        (task, _) => {
            let output = task.as_ref().ok().and_then(Task::output);
            telemetry::set_up(output.map_or(LogFormat::Text, |output| output.log_format), None);
            let message_path = output.and_then(|output| output.termination_message_path.clone());
            return end(&Outcome::Panicked(progress.code()).into(), message_path.as_deref(), mounts);
        }
    };
    let (code, presence) = match progress {
        Progress::Begun => (None, None),
        Progress::Decided(code) => (Some(code), None),
        Progress::Running(pid) => {
            telemetry::set_up(cli.output.log_format, cli.output.log_level);
            let ended = resumed::wait(pid, cli.environment.forward_to, mounts, &mut asked);
            let ended = ended.inspect_err(|error| tracing::error!("the command is left running: {error:#}"));
            ended.map_or((None, None), |(code, presence)| (Some(code), presence))
        }
    };
    mistaken(Outcome::Panicked(code), *cli, mounts, presence, asked)
}

fn end(conclusion: &Conclusion, message_path: Option<&Path>, mounts: &Mounts) -> ExitCode {
    report::report(conclusion, message_path, mounts);
    ExitCode::from(conclusion.outcome.code())
}

/// Says what is wrong before anything else, then ends the sidecars, which takes its time. `cli`: what can be read of the command
/// line. `presence`: ours, if we have one. `asked`: whether we were asked to stop.
fn mistaken(
    outcome: Outcome,
    cli: Cli,
    mounts: &Mounts,
    presence: Option<Presence>,
    mut asked: StopRequests,
) -> ExitCode {
    telemetry::set_up(cli.output.log_format, cli.output.log_level);
    let message_path = cli.output.termination_message_path.clone();
    let mut conclusion = Conclusion::from(outcome);
    let code = end(&conclusion, message_path.as_deref(), mounts);
    let environment = environment();
    // It may be the system that something is wrong with.
    let whole = match cli::read() {
        Ok(Task::Main(cli)) => Plan::new(*cli, &environment).ok(),
        _ => None,
    };
    let plan = whole.unwrap_or_else(|| Plan::after_mistake(cli, &environment));
    match registered(&mut asked) {
        Ok(signals) => {
            let outcome = &conclusion.outcome;
            conclusion.remaining = mistake::end_sidecars(&plan, outcome, mounts, &signals, presence, asked);
            if conclusion.remaining.is_some() {
                report::write_message(&conclusion, message_path.as_deref(), mounts);
            }
        }
        Err(error) => tracing::error!("shutting down the sidecars failed: {error:#}"),
    }
    code
}

/// Says what was asked for. A reader who has seen enough is none who has not seen it.
fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            // With luck this can be seen.
            let _ = writeln!(io::stderr(), "error: cannot write to stdout: {error}");
            ExitCode::from(Code::CannotWrite as u8)
        }
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

/// Where it fails, nobody shuts the sidecars down.
fn registered(asked: &mut StopRequests) -> anyhow::Result<Signals> {
    patiently(&Sight::none(), asked, || Signals::register().context("cannot receive signals: signalfd(2)"))
}

fn main_container(cli: Cli, mounts: &Mounts, mut asked: StopRequests) -> ExitCode {
    set_up(&cli.output);
    let message_path = cli.output.termination_message_path.clone();
    let outcome = match (Plan::new(cli, &environment()), registered(&mut asked)) {
        (Err(invalid), _) => Outcome::Invalid(invalid),
        (_, Err(error)) => unable(error),
        (Ok(plan), Ok(signals)) => {
            return end(&wrap::run(&plan, mounts, &signals, asked), message_path.as_deref(), mounts);
        }
    };
    match cli::readable() {
        Some(cli) => mistaken(outcome, cli, mounts, None, asked),
        None => end(&outcome.into(), message_path.as_deref(), mounts),
    }
}

/// `running`: its command, if proa has started over.
fn sidecar_container(
    cli: SidecarCli,
    mounts: &Mounts,
    running: Option<Pid>,
) -> (Conclusion, Option<PathBuf>) {
    set_up(&cli.output);
    let message_path = cli.output.termination_message_path.clone();
    let conclusion = match (SidecarPlan::new(cli, &environment()), registered(&mut StopRequests::default())) {
        (Err(invalid), _) => Outcome::Invalid(invalid).into(),
        (_, Err(error)) => unable_sidecar(error).into(),
        (Ok(plan), Ok(signals)) => match &plan.duty {
            Duty::Command(command, env_files, stop) => {
                let duty = CommandDuty { command, env_files, stop: *stop, running };
                sidecar::run(&plan, duty, mounts, &signals).into()
            }
            Duty::Help { ready_file, shutdown } => {
                helper::run(&plan, ready_file.as_deref(), shutdown, mounts, &signals)
            }
        },
    };
    (conclusion, message_path)
}

fn wait_alone(cli: WaitCli, mounts: &Mounts) -> (Conclusion, Option<PathBuf>) {
    set_up(&cli.output);
    let message_path = cli.output.termination_message_path.clone();
    let outcome = match (WaitPlan::new(cli, &environment()), registered(&mut StopRequests::default())) {
        (Err(invalid), _) => Outcome::Invalid(invalid),
        (_, Err(error)) => unable(error),
        (Ok(plan), Ok(signals)) => wait::run(&plan, mounts, &signals),
    };
    (outcome.into(), message_path)
}

fn quit_alone(cli: QuitCli, mounts: &Mounts) -> (Conclusion, Option<PathBuf>) {
    set_up(&cli.output);
    let message_path = cli.output.termination_message_path.clone();
    let outcome = match (QuitPlan::new(cli, &environment()), registered(&mut StopRequests::default())) {
        (Err(invalid), _) => Outcome::Invalid(invalid),
        (_, Err(error)) => unable_quit(error),
        (Ok(plan), Ok(signals)) => quit::run(&plan, mounts, &signals),
    };
    (outcome.into(), message_path)
}

/// Sets up logging, and says which variables have no effect.
fn set_up(output: &Output) {
    telemetry::set_up(output.log_format, output.log_level);
    for unknown in cli::unknown_variables() {
        tracing::warn!("{unknown}");
    }
}

fn environment() -> Environment {
    let variable = |name: &str| Some((name.to_owned(), env::var(name).ok()?));
    plan::VARIABLES.into_iter().filter_map(variable).collect()
}

/// Where no command line has told it.
fn message_path() -> Option<PathBuf> {
    env::var_os("PROA_TERMINATION_MESSAGE_PATH").filter(|path| !path.is_empty()).map(PathBuf::from)
}
