//! The log stands in the application's stream: each line says that it is proa's, and no variable that is meant for the
//! application changes it.

use serde_json::Value;

use crate::support::http::Endpoint;
use crate::support::{Beside, Finished, World};

const ENDED: &str = "terminated: {exitCode: 3, reason: Error}";

/// A run beside a sidecar that is waited for, shut down by a request, and fails.
fn run(flags: &[&str], variables: &[(&str, &str)]) -> Finished {
    let quit = Endpoint::ok();
    let world = World::with("Never", &[Beside::Regular("web")]);
    let mut proa = world.proa().flag(format!("-p=http://localhost:{}/quit", quit.port())).flags(flags);
    for (name, value) in variables {
        proa = proa.env(name, value);
    }
    let running = proa.start(["sh", "-c", "exit 5"]);
    world.make_ready("web");
    quit.request();
    world.set_state("web", ENDED);
    running.finish().expect(5, &[])
}

fn lines(finished: &Finished) -> Vec<&str> {
    finished.stderr.lines().collect()
}

#[test]
fn each_line_says_that_it_is_proas() {
    let finished = run(&[], &[]);
    for line in lines(&finished) {
        let words: Vec<_> = line.split_whitespace().take(3).collect();
        let [time, level, proa] = words[..] else { panic!("{line}") };
        assert!(time.ends_with('Z') && ["INFO", "WARN"].contains(&level) && proa == "proa:", "{line}");
    }
    for part in ["proa: gate open after ", "proa: command ended: exit code 5", "proa: exit with code 5"] {
        assert!(finished.stderr.contains(part), "no {part:?} in {}", finished.stderr);
    }
}

#[test]
fn json_has_fields_for_programs_beside_the_message() {
    let finished = run(&["--log-format=json"], &[]);
    let parsed: Vec<Value> =
        lines(&finished).into_iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    for line in &parsed {
        assert_eq!(line["logger"], "proa", "{line}");
        assert!(line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string());
    }
    let of = |text: &str| {
        let found = parsed.iter().find(|line| line["message"].as_str().unwrap().contains(text));
        found.unwrap_or_else(|| panic!("no {text:?} in {}", finished.stderr))
    };
    let open = of("gate open");
    assert!(open["seconds"].is_f64() && open["phase"] == "gate", "{open}");
    assert_eq!(of("command started")["phase"], "command");
    let ended = of("command ended");
    assert_eq!((&ended["exit_code"], &ended["phase"]), (&5.into(), &"command".into()));
    let asked = of("/quit: 200");
    assert_eq!((&asked["status"], &asked["phase"]), (&200.into(), &"shutdown".into()));
    assert!(asked["url"].as_str().unwrap().ends_with("/quit"), "{asked}");
    let failed = of("sidecar `web` ended");
    assert_eq!((&failed["container"], &failed["exit_code"]), (&"web".into(), &3.into()));
    assert!(of("every sidecar has exited")["seconds"].is_f64());
    assert_eq!(of("exit with code 5")["exit_code"], 5);
}

#[test]
fn the_log_level_is_proas_alone() {
    for level in ["warn", "error"] {
        let quiet = run(&[&format!("--log-level={level}")], &[]);
        assert!(!quiet.stderr.contains("INFO"), "{}", quiet.stderr);
        assert_eq!(quiet.stderr.contains("WARN"), level == "warn", "{}", quiet.stderr);
    }
    for detailed in [run(&["--log-level=trace"], &[]), run(&[], &[("PROA_LOG_LEVEL", "debug")])] {
        assert!(detailed.stderr.contains("DEBUG"), "{}", detailed.stderr);
        for line in lines(&detailed) {
            assert!(line.contains(" proa: "), "a library's: {line}");
        }
    }
    // Whoever says it here says it for certain.
    let quiet = run(&["--log-level=error"], &[("RUST_LOG", "proa=trace")]);
    assert_eq!(quiet.stderr, "");
    let finished = World::alone().proa().flag("--log-level=loud").run(["echo", "up"]);
    assert_eq!(finished.expect(2, &["--log-level", "error, warn, info, debug, trace"]).stdout, "");
}

#[test]
fn a_rust_log_that_is_meant_for_the_command_changes_nothing() {
    for filter in ["trace", "debug,hyper=trace", "my_service=debug", "not a filter!", "proactive=trace"] {
        let finished = run(&[], &[("RUST_LOG", filter)]);
        assert!(finished.stderr.contains("gate open"), "{filter}: {}", finished.stderr);
        for line in lines(&finished) {
            assert!(line.contains(" proa: ") && !line.contains("RUST_LOG"), "{filter}: {line}");
            assert!(!line.contains("DEBUG") && !line.contains("TRACE"), "{filter}: {line}");
        }
    }
}

#[test]
fn a_rust_log_that_names_proa_counts() {
    for filter in ["proa=debug", "my_service=warn,proa=debug"] {
        let finished = run(&[], &[("RUST_LOG", filter)]);
        assert!(lines(&finished).iter().any(|line| line.contains("DEBUG proa: ")), "{}", finished.stderr);
    }
}

#[test]
fn the_command_gets_its_rust_log() {
    let finished =
        World::alone().proa().env("RUST_LOG", "my_service=debug").run(["sh", "-c", "echo $RUST_LOG"]);
    assert_eq!(finished.expect(0, &[]).stdout, "my_service=debug\n");
}
