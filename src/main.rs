//! Parses, runs, reports, exits.

use std::env;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use proa::cli::{self, Answer, Cli, SidecarCli, Task};
use proa::exit::{Code, Outcome};
use proa::identity::Mounts;
use proa::mode::sidecar::CommandDuty;
use proa::mode::{helper, install, sidecar, wrap};
use proa::plan::sidecar::{Duty, SidecarPlan};
use proa::plan::{self, Environment, Plan};
use proa::policy::LogFormat;
use proa::signal::stream::Signals;
use proa::{report, telemetry};

fn main() -> ExitCode {
    let mounts = Mounts::of_this_process();
    let (outcome, message_path) = match cli::read() {
        Ok(Task::Main(cli)) => main_container(*cli, &mounts),
        Ok(Task::Sidecar(cli)) => sidecar_container(*cli, &mounts),
        Ok(Task::Install(destination)) => match install::install(&destination) {
            Ok(target) => {
                // It is there, whoever is told.
                let _ = print(&install::said(&target));
                return ExitCode::SUCCESS;
            }
            Err(error) => {
                telemetry::set_up(LogFormat::Text);
                (Outcome::NotInstalled(error), message_path())
            }
        },
        Err(Answer::Asked(text)) => return print(&text),
        Err(Answer::Usage(text)) => (Outcome::Usage(text), message_path()),
    };
    report::report(&outcome, message_path.as_deref(), &mounts);
    ExitCode::from(outcome.code())
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

fn main_container(cli: Cli, mounts: &Mounts) -> (Outcome, Option<PathBuf>) {
    telemetry::set_up(cli.output.log_format);
    let message_path = cli.output.termination_message_path.clone();
    let outcome = match (Plan::new(cli, &environment()), Signals::register()) {
        (Err(invalid), _) => Outcome::Invalid(invalid),
        (_, Err(error)) => Outcome::Failed(error.into()),
        (Ok(plan), Ok(signals)) => wrap::run(&plan, mounts, &signals),
    };
    (outcome, message_path)
}

fn sidecar_container(cli: SidecarCli, mounts: &Mounts) -> (Outcome, Option<PathBuf>) {
    telemetry::set_up(cli.output.log_format);
    let message_path = cli.output.termination_message_path.clone();
    let outcome = match (SidecarPlan::new(cli, &environment()), Signals::register()) {
        (Err(invalid), _) => Outcome::Invalid(invalid),
        (_, Err(error)) => Outcome::Failed(error.into()),
        (Ok(plan), Ok(signals)) => match &plan.duty {
            Duty::Command(command, env_files, stop) => {
                let duty = CommandDuty { command, env_files, stop: *stop };
                sidecar::run(&plan, duty, mounts, &signals)
            }
            Duty::Help { ready_file, shutdown } => {
                helper::run(&plan, ready_file.as_deref(), shutdown, mounts, &signals)
            }
        },
    };
    (outcome, message_path)
}

fn environment() -> Environment {
    let variable = |name: &str| Some((name.to_owned(), env::var(name).ok()?));
    plan::VARIABLES.into_iter().filter_map(variable).collect()
}

/// Where no command line has told it.
fn message_path() -> Option<PathBuf> {
    env::var_os("PROA_TERMINATION_MESSAGE_PATH").map(PathBuf::from)
}
