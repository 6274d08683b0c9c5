//! Parses, runs, reports, exits.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

use proa::cli::{Answer, Cli};
use proa::exit::Outcome;
use proa::identity::Mounts;
use proa::plan::{self, Plan};
use proa::signal::stream::Signals;
use proa::{report, run, telemetry};

fn main() -> ExitCode {
    let mounts = Mounts::of_this_process();
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(Answer::Asked(text)) => {
            print!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(Answer::Usage(text)) => {
            let outcome = Outcome::Usage(text);
            let path = env::var_os("PROA_TERMINATION_MESSAGE_PATH").map(PathBuf::from);
            report::report(&outcome, path.as_deref(), &mounts);
            return ExitCode::from(outcome.code());
        }
    };
    telemetry::set_up(cli.log_format);
    let message_path = cli.termination_message_path.clone();
    let variable = |name: &str| Some((name.to_owned(), env::var(name).ok()?));
    let environment = plan::VARIABLES.into_iter().filter_map(variable).collect();
    let outcome = match (Plan::new(cli, &environment), Signals::register()) {
        (Err(invalid), _) => Outcome::Invalid(invalid),
        (_, Err(error)) => Outcome::Failed(error.into()),
        (Ok(plan), Ok(signals)) => run::run(&plan, &mounts, &signals),
    };
    report::report(&outcome, message_path.as_deref(), &mounts);
    ExitCode::from(outcome.code())
}
