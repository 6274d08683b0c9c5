//! proa collects every orphan, as PID 1 and as a subreaper, and no orphan decides the outcome.

use crate::support::{World, children, eventually, puppet, stat, unshare};

fn zombies(parent: i32) -> usize {
    children(parent).into_iter().filter(|pid| stat(*pid).is_some_and(|(state, _)| state == 'Z')).count()
}

#[test]
fn orphans_are_collected_while_the_command_runs() {
    let world = World::alone();
    // Twenty grandchildren whose parents have ended when they do.
    let script = "for i in $(seq 20); do (sh -c 'sleep 0.01; exit 3' &) ; done; echo up; read line; exit 0";
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let running =
        world.proa().setup(move || Ok(nix::unistd::dup2_stdin(&reader)?)).start(["sh", "-c", script]);
    running.wait_stdout("up");
    let proa = running.pid();
    eventually("only the command is left", || children(proa).len() == 1);
    assert_eq!(zombies(proa), 0);
    drop(writer);
    running.finish().expect(0, &[]);
}

#[test]
fn an_orphans_end_is_not_the_commands() {
    let world = World::alone();
    let running =
        world.proa().start(["sh", "-c", "(sh -c 'exit 42' &); (sh -c 'kill -9 $$' &); sleep 0.1; exit 6"]);
    running.finish().expect(6, &[]);
}

#[test]
fn as_pid_1_too() {
    let Some(wrapper) = unshare(&["--pid", "--fork", "--mount-proc"]) else { return };
    let world = World::alone();
    let script = "(sh -c 'sleep 0.01' &) ; (sh -c 'exit 1' &); \
                  while [ $(ls -d /proc/[0-9]* | wc -l) -gt 4 ]; do sleep 0.01; done; \
                  grep -l '^State:.Z' /proc/[0-9]*/status; cat /proc/1/comm; exit 8";
    let finished = world.proa().through(wrapper).run(["sh", "-c", script]).expect(8, &[]);
    assert_eq!(finished.stdout, "proa\n", "no zombies, and proa is PID 1");
}

#[test]
fn a_command_that_leaves_processes_behind_ends_all_the_same() {
    let world = World::alone();
    let mut running = world.proa().start([puppet().into_os_string(), "spawn-tree".into()]);
    let text = running.wait_stdout("child ");
    let left: i32 = text.split_whitespace().last().and_then(|pid| pid.parse().ok()).expect("the child's ID");
    running.signal(nix::libc::SIGTERM);
    assert_eq!(running.end().code(), Some(128 + nix::libc::SIGTERM));
    assert!(stat(left).is_some(), "it ignores SIGTERM");
    crate::support::send(left, nix::libc::SIGKILL);
}
