//! Command lines: none makes proa panic, and what is a plan is the same plan twice.

#![no_main]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;
use proa::cli::{Answer, Task, read_words};
use proa::plan::quit::QuitPlan;
use proa::plan::sidecar::SidecarPlan;
use proa::plan::wait::WaitPlan;
use proa::plan::{Environment, Invalid, Plan};

fn shown<P: std::fmt::Debug>(plan: Result<P, Invalid>) -> String {
    plan.map_or_else(|why| format!("invalid: {why}"), |plan| format!("{plan:?}"))
}

/// What follows from these words.
fn outcome(words: &[OsString]) -> String {
    let environment = Environment::new();
    match read_words(words) {
        Ok(task) => {
            let _ = task.output();
            match task {
                Task::Main(cli) => {
                    let plan = Plan::new(*cli, &environment);
                    if let Ok(plan) = &plan {
                        assert!(!plan.command.program.is_empty(), "nothing to run");
                        let _ = (plan.asked(), plan.api_is_dispensable());
                    }
                    shown(plan)
                }
                Task::Sidecar(cli) => shown(SidecarPlan::new(*cli, &environment)),
                Task::Wait(cli) => shown(WaitPlan::new(*cli, &environment)),
                Task::Quit(cli) => shown(QuitPlan::new(*cli, &environment)),
                Task::Install(path) => format!("{}", path.display()),
            }
        }
        Err(Answer::Asked(text)) => text,
        Err(Answer::Usage { text, readable }) => {
            assert!(!text.trim().is_empty(), "a mistake without a word: {words:?}");
            let plan = readable.map(|cli| Plan::after_mistake(*cli, &environment));
            // What cannot be understood ends nobody by a flag.
            assert!(plan.as_ref().is_none_or(|plan| plan.shutdown.actions.is_empty()), "{words:?}");
            format!("{text}{plan:?}")
        }
    }
}

// One word a line.
fuzz_target!(|text: &[u8]| {
    let words = text.split(|byte| *byte == b'\n').map(|word| OsString::from_vec(word.to_vec()));
    let words: Vec<_> = std::iter::once(OsString::from("proa")).chain(words).collect();
    assert_eq!(outcome(&words), outcome(&words));
});
