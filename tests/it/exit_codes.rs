//! proa exits with the command's exit code, 128+n after signal n, and codes of its own for its own failures.

use std::fs;
use std::thread;

use crate::support::{Held, World, puppet, write_executable};

/// Runs cases side by side, as many at a time as a small machine bears.
fn side_by_side<T: Send + Sync + Copy>(cases: &[T], run: impl Fn(T) + Sync) {
    for chunk in cases.chunks(8) {
        thread::scope(|scope| {
            for case in chunk {
                scope.spawn(|| run(*case));
            }
        });
    }
}

#[test]
fn every_exit_code_of_the_command_is_proas() {
    let world = World::alone();
    let codes: Vec<i32> = (0..=255).collect();
    side_by_side(&codes, |code| {
        let found = world.proa().run([puppet().into_os_string(), "exit".into(), code.to_string().into()]);
        assert_eq!(found.code(), code, "stderr:\n{}", found.stderr);
    });
}

#[test]
fn a_command_that_a_signal_ends_leads_to_128_and_its_number() {
    let world = World::alone();
    // Those whose default action ends a process (signal(7)).
    let ending: Vec<i32> = (1..=15).chain([16]).chain(24..=27).chain(29..=31).chain(34..=64).collect();
    side_by_side(&ending, |number| {
        let found = world.proa().run(["sh", "-c", &format!("ulimit -c 0; kill -{number} $$")]);
        assert_eq!(found.code(), 128 + number, "stderr:\n{}", found.stderr);
    });
}

#[test]
fn a_command_that_is_not_there_leads_to_127() {
    let world = World::alone();
    let script = world.dir.join("script");
    write_executable(&script, b"#!/no/such/interpreter\n");
    for program in ["no-such-program", "/no/such/program", "/dev/null/x", script.to_str().unwrap()] {
        world.proa().run([program]).expect(127, &["cannot run", program]);
        assert!(world.termination_message().contains(program), "{}", world.termination_message());
    }
}

#[test]
fn a_command_that_may_not_be_executed_leads_to_126() {
    let world = World::alone();
    let file = world.dir.join("file");
    fs::write(&file, "text\n").unwrap();
    world.proa().run([&file]).expect(126, &["cannot run", "ermission denied"]);
    world.proa().run(["/"]).expect(126, &["cannot run"]);
    write_executable(&file, &[0x7f, b'E', b'L', b'F', 0, 0]);
    world.proa().run([&file]).expect(126, &["cannot run"]);
}

#[test]
fn problems_after_the_command_ended_do_not_change_its_code() {
    let world = World::with("Never", &[crate::support::Beside::Regular("web")]);
    world.make_ready("web");
    let held = Held::in_dir(&world.dir, "exit 7");
    let running = world
        .proa()
        .flags(["-g", &crate::support::http::refusing_url(), "--shutdown-timeout=1s", "-k", "nobody"])
        .start(&held.command);
    running.wait_stdout("up");
    let down = world.cluster.refuse();
    held.let_go();
    running.finish().expect(7, &["connection refused", "shareProcessNamespace"]);
    down.clear();
}
